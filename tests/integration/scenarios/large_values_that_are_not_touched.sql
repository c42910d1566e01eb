-- Large values that are not touched.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, big text);

-- name: work
INSERT INTO t SELECT i, i, string_agg(md5((i * j)::text), '')
FROM generate_series(1, 5) i, generate_series(1, 3000) j GROUP BY i;

UPDATE t SET n = n + 1;

UPDATE t SET id = id + 10 WHERE id < 3;

UPDATE t SET big = big || 'x' WHERE id = 4;
