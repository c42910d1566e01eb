-- A second unique key is swapped over several statements.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, u integer UNIQUE, v text);

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
BEGIN;
UPDATE t SET u = NULL WHERE id = 1;
UPDATE t SET u = 10 WHERE id = 2;
UPDATE t SET u = 20 WHERE id = 1;
COMMIT;

BEGIN;
UPDATE t SET u = -1, v = 'ring' WHERE id = 3;
UPDATE t SET u = 30 WHERE id = 4;
UPDATE t SET u = 40, v = NULL WHERE id = 5;
UPDATE t SET u = 50 WHERE id = 3;
COMMIT;
