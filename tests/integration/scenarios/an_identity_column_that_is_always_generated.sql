-- An identity column that is always generated.

-- name: tables
CREATE TABLE t (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    n integer GENERATED ALWAYS AS IDENTITY (START 100),
    v text
);

-- name: work
INSERT INTO t (v) VALUES ('a'), ('b'), ('c');

UPDATE t SET v = 'x' WHERE id = 2;

UPDATE t SET n = DEFAULT WHERE id = 1;

BEGIN;
UPDATE t SET n = DEFAULT, v = 'y' WHERE id = 3;
UPDATE t SET v = 'z' WHERE id = 1;
COMMIT;
