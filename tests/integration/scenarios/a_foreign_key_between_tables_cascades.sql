-- A foreign key between tables cascades.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);
CREATE TABLE item (t integer REFERENCES t ON UPDATE CASCADE ON DELETE CASCADE, line integer,
            v text, PRIMARY KEY (t, line));

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;
INSERT INTO item SELECT 1 + i % 5, i, 'item' FROM generate_series(1, 20) i;

-- name: work
UPDATE t SET id = id + 100 WHERE id < 3;

DELETE FROM t WHERE id = 3;

BEGIN;
INSERT INTO t VALUES (9);
INSERT INTO item VALUES (9, 1, 'x');
UPDATE t SET id = 10 WHERE id = 9;
DELETE FROM t WHERE id = 4;
COMMIT;
