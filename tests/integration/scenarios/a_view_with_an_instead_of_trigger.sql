-- A view with an INSTEAD OF trigger.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: master
CREATE VIEW seen AS SELECT id, v FROM t;
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO t VALUES (new.id, 0, new.v) ON CONFLICT (id) DO UPDATE SET v = new.v, n = t.n + 1;
    RETURN new;
END $$;
CREATE TRIGGER instead INSTEAD OF INSERT OR UPDATE ON seen FOR EACH ROW EXECUTE FUNCTION instead();

-- name: work
INSERT INTO seen VALUES (6, 'x'), (7, 'y');

UPDATE seen SET v = 'z' WHERE id = 6;
