-- Keys that are shifted over one another in one statement.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY DEFERRABLE, n integer, v text);

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
UPDATE t SET id = id + 1;

UPDATE t SET id = 8 - id;

UPDATE t SET id = id - 1, v = 'back';
