-- A trigger takes a change of the key back: what it puts there is there still, on the slave.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, v text);

-- name: master
CREATE FUNCTION take_back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE t SET id = old.id WHERE id = new.id;
    RETURN NULL;
END $$;
CREATE TRIGGER take_back AFTER UPDATE ON t FOR EACH ROW WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION take_back();

-- name: rows
INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c');

-- name: work
UPDATE t SET id = id + 10 WHERE id = 1;

UPDATE t SET id = id + 10, v = 'd' WHERE id < 3;

UPDATE t SET id = id + 5 WHERE id = 3;
