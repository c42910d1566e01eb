-- A second unique key moves from a deleted to a new to an updated row.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, u integer UNIQUE, v text);

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
BEGIN;
DELETE FROM t WHERE id = 1;
UPDATE t SET u = 10 WHERE id = 2;
INSERT INTO t VALUES (6, 20, 'new');
COMMIT;

BEGIN;
DELETE FROM t WHERE id = 3;
INSERT INTO t VALUES (3, 40, 'again') ON CONFLICT (u) DO UPDATE SET u = 30, v = 'met';
INSERT INTO t VALUES (3, 40, 'back');
COMMIT;

BEGIN;
UPDATE t SET u = 500 WHERE id = 5;
INSERT INTO t VALUES (7, 50, 'seven');
DELETE FROM t WHERE id = 7;
UPDATE t SET u = 50 WHERE id = 6;
COMMIT;
