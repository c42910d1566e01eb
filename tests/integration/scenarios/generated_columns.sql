-- Generated columns.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, twice integer GENERATED ALWAYS AS (n * 2) STORED);

-- name: work
INSERT INTO t VALUES (1, 1), (2, 2);

UPDATE t SET n = 5;

UPDATE t SET id = 3 WHERE id = 1;
