-- A swap of rows that a trigger had logged as they stand.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, u integer UNIQUE, v text);

-- name: master
CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE t SET v = v || '!' WHERE id = 2 AND new.u < 0;
    RETURN NULL;
END $$;
CREATE TRIGGER again AFTER UPDATE OF u ON t FOR EACH ROW EXECUTE FUNCTION again();

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
BEGIN;
UPDATE t SET u = -1 WHERE id = 1;
UPDATE t SET u = 10 WHERE id = 2;
UPDATE t SET u = 20 WHERE id = 1;
COMMIT;
