-- WITH DELETE, INSERT of the same keys.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
WITH d AS (DELETE FROM t WHERE id <= 3 RETURNING *) INSERT INTO t SELECT id + 10, n, v FROM d;

WITH u AS (UPDATE t SET n = n + 1 WHERE id > 10 RETURNING id) DELETE FROM t WHERE id = 4;

WITH i AS (INSERT INTO t VALUES (1, 1, 'new') RETURNING id) UPDATE t SET v = 'with' WHERE id = 5;
