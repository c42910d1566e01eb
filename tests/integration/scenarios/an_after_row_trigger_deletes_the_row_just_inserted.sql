-- An AFTER ROW trigger deletes the row just inserted.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: master
CREATE FUNCTION reject() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM t WHERE id = new.id AND n < 0;
    RETURN NULL;
END $$;
CREATE TRIGGER reject AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION reject();

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
INSERT INTO t VALUES (6, 1, 'a'), (7, -1, 'b');

UPDATE t SET n = -1 WHERE id < 3;
