-- Keys and unique values that are swapped, go round in threes and are shifted by one, in one transaction and in
-- several of one batch.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, u integer UNIQUE, w text UNIQUE, v text);

-- name: rows
INSERT INTO t SELECT i, i * 10, 'w' || i, 'row ' || i FROM generate_series(1, 6) i;

-- name: work
BEGIN;
UPDATE t SET id = 0 WHERE id = 1;
UPDATE t SET id = 1 WHERE id = 2;
UPDATE t SET id = 2 WHERE id = 0;
COMMIT;

UPDATE t SET id = 0 WHERE id = 1;

UPDATE t SET id = 1 WHERE id = 2;

UPDATE t SET id = 2 WHERE id = 3;

UPDATE t SET id = 3, v = 'round' WHERE id = 0;

BEGIN;
UPDATE t SET id = id + 100, u = u + 1000;
UPDATE t SET id = id - 99, u = 1070 - u;
COMMIT;

UPDATE t SET id = id - 6;

UPDATE t SET id = (SELECT max(id) FROM t) + 1 WHERE id = (SELECT min(id) FROM t);

UPDATE t SET u = NULL WHERE id = 2;

UPDATE t SET u = 60 WHERE u = 50;

UPDATE t SET u = coalesce(u, 50);

UPDATE t SET w = 'between' WHERE id = 2;

UPDATE t SET w = 'w1', u = -u WHERE id = 1;

UPDATE t SET w = 'w6', v = 'last' WHERE id = 2;

BEGIN;
UPDATE t SET id = id + 50, u = NULL;
UPDATE t SET id = id - 48, u = id, w = id || ' for a while';
COMMIT;

BEGIN;
DELETE FROM t WHERE id = 3;
UPDATE t SET id = 3 WHERE id = 4;
INSERT INTO t VALUES (4, 51, 'w5', 'in its place');
COMMIT;
