-- A table whose columns are all in its key.

-- name: tables
CREATE TABLE t (a integer, b integer, PRIMARY KEY (a, b));

-- name: work
INSERT INTO t SELECT i, i FROM generate_series(1, 9) i;

UPDATE t SET b = b + 1;

DELETE FROM t WHERE a < 4;
