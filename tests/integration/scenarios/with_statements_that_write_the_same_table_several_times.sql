-- Several parts of one WITH statement write the same table, or other ones.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);
CREATE TABLE done (id integer PRIMARY KEY, v text);

-- name: rows
INSERT INTO t SELECT i, i, 'row ' || i FROM generate_series(1, 12) i;

-- name: work
WITH a AS (INSERT INTO t VALUES (20, 0, 'a') RETURNING id), b AS (UPDATE t SET v = 'b' WHERE id < 3 RETURNING id),
    c AS (DELETE FROM t WHERE id = 5 RETURNING id)
UPDATE t SET n = n + 1 WHERE id IN (7, 8);

WITH moved AS (DELETE FROM t WHERE id IN (1, 2) RETURNING *), added AS (INSERT INTO done SELECT id, v FROM moved RETURNING id)
INSERT INTO t SELECT id + 100, 0, 'moved' FROM added;

WITH d AS (DELETE FROM t WHERE id IN (3, 4) RETURNING *)
INSERT INTO t SELECT id, n, 'again' FROM d WHERE id = 4 ON CONFLICT (id) DO UPDATE SET v = 'conflict';

WITH u AS (UPDATE t SET id = id + 1000 WHERE id > 100 RETURNING id)
INSERT INTO t SELECT id - 1000, 1, 'in the place of' FROM u ON CONFLICT DO NOTHING;

WITH RECURSIVE r(i) AS (SELECT 30 UNION ALL SELECT i + 1 FROM r WHERE i < 35), x AS (INSERT INTO t SELECT i, i, 'r' FROM r RETURNING id, v)
INSERT INTO done SELECT * FROM x;

BEGIN;
WITH a AS (UPDATE t SET v = 'first' WHERE id = 7 RETURNING id), b AS (DELETE FROM t WHERE id = 8) SELECT 1;
WITH a AS (DELETE FROM t WHERE id = 7), b AS (INSERT INTO t VALUES (8, 8, 'eight')) UPDATE t SET n = -n WHERE id = 9;
WITH a AS (INSERT INTO t VALUES (7, 7, 'seven') RETURNING id) UPDATE done SET v = 'x' FROM a;
COMMIT;
