-- An AFTER DELETE trigger inserts the key again.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: master
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF old.n < 1000 THEN
        INSERT INTO t VALUES (old.id, old.n * 10, old.v || ' again');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER keep AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION keep();

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
DELETE FROM t WHERE id < 4;

DELETE FROM t;

DELETE FROM t; DELETE FROM t;
