-- MERGE that inserts, updates and deletes.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
MERGE INTO t USING (VALUES (1, 0), (2, 5), (3, 9), (8, 8), (9, 9)) s (id, n) ON t.id = s.id
WHEN MATCHED AND s.n = 0 THEN DELETE
WHEN MATCHED THEN UPDATE SET n = s.n
WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.n, 'merged');
