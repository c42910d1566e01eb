-- A second unique key is swapped in one statement.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, u integer UNIQUE DEFERRABLE, v text);

-- name: slave
CREATE TABLE t (id integer PRIMARY KEY, u integer UNIQUE, v text);

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
UPDATE t SET u = 60 - u;

UPDATE t SET u = 10 + u % 50;

UPDATE t SET u = u + 10, v = 'up';
