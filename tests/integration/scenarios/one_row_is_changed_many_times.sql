-- One row is changed many times.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
DO $$ BEGIN FOR i IN 1..500 LOOP UPDATE t SET n = i WHERE id = 1; END LOOP; END $$;

DO $$ BEGIN FOR i IN 1..200 LOOP DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, i, 'x'); END LOOP; END $$;
