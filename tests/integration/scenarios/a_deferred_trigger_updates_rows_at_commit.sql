-- A deferred trigger updates rows at commit.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: master
CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE t SET n = n + 1 WHERE id = coalesce(new.id, old.id + 1) AND n < 60;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT OR UPDATE OR DELETE ON t
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late();

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
BEGIN;
INSERT INTO t VALUES (6, 6, 'f');
UPDATE t SET v = 'x' WHERE id = 1;
DELETE FROM t WHERE id = 2;
COMMIT;

BEGIN;
UPDATE t SET id = 20 WHERE id = 6;
SET CONSTRAINTS ALL IMMEDIATE;
UPDATE t SET n = 0 WHERE id = 20;
COMMIT;
