-- A column is added between changes of the same rows.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: slave
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text, w text DEFAULT 'new');

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
BEGIN;
INSERT INTO t VALUES (6, 6, 'six'), (7, 7, 'seven'), (8, 8, 'eight');
UPDATE t SET n = 0 WHERE id = 1;
ALTER TABLE t ADD COLUMN w text DEFAULT 'new';
DELETE FROM t WHERE id = 6;
UPDATE t SET w = 'changed' WHERE id IN (1, 7);
DELETE FROM t WHERE id = 2;
INSERT INTO t VALUES (2, 2, 'two', 'w');
COMMIT;

BEGIN;
UPDATE t SET v = 'x', n = 1;
ALTER TABLE t DROP COLUMN w;
UPDATE t SET v = 'y';
DELETE FROM t WHERE id = 8;
INSERT INTO t VALUES (6);
COMMIT;
