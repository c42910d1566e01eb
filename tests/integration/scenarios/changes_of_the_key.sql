-- Changes of the key.

-- name: tables
CREATE TABLE t (a integer, b text, n integer, v text, PRIMARY KEY (b, a));

-- name: rows
INSERT INTO t SELECT i, 'key', i, 'v' FROM generate_series(1, 5) i;

-- name: work
UPDATE t SET a = -a;

UPDATE t SET a = -a, n = n + 1;

UPDATE t SET b = 'other ' || b, v = NULL WHERE a < 3;

BEGIN;
UPDATE t SET a = 100 WHERE a = 4;
UPDATE t SET a = 4 WHERE a = 100;
COMMIT;

BEGIN;
UPDATE t SET a = 100 WHERE a = 4;
UPDATE t SET a = 4 WHERE a = 5;
UPDATE t SET a = 5 WHERE a = 100;
COMMIT;
