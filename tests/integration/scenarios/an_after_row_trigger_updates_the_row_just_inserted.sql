-- An AFTER ROW trigger updates the row just inserted.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: master
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE t SET v = v || ' seen' WHERE id = new.id AND v NOT LIKE '%seen%seen%';
    RETURN NULL;
END $$;
CREATE TRIGGER again AFTER INSERT OR UPDATE OF n ON t FOR EACH ROW EXECUTE FUNCTION again();

-- name: work
INSERT INTO t VALUES (1, 1, 'a'), (2, 2, 'b');

UPDATE t SET n = n + 1;

UPDATE t SET id = id + 10, n = 0;

INSERT INTO t VALUES (11, 5, 'c') ON CONFLICT (id) DO UPDATE SET n = 50;
