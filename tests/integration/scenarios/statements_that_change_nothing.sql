-- Statements that change nothing.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
UPDATE t SET n = n, v = v;

UPDATE t SET n = 1 WHERE false;

DELETE FROM t WHERE id = 0;

INSERT INTO t SELECT * FROM t WHERE false;

INSERT INTO t SELECT * FROM t ON CONFLICT DO NOTHING;

UPDATE t SET v = 'changed' WHERE id = 1;
