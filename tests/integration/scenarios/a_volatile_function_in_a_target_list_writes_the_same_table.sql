-- A volatile function in a target list writes the same table.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: master
CREATE FUNCTION touch(which integer) RETURNS integer LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE t SET v = v || '!' WHERE id = which;
    INSERT INTO t VALUES (100 + which, 0, 'side') ON CONFLICT (id) DO UPDATE SET n = t.n + 1;
    RETURN which;
END $$;

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
INSERT INTO t SELECT 10 + i, touch(i), 'new' FROM generate_series(1, 5) i;

UPDATE t SET n = touch(id + 1) WHERE id IN (1, 3);

SELECT touch(i) FROM generate_series(1, 5) i;
