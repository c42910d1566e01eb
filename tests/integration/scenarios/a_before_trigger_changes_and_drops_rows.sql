-- A BEFORE trigger changes and drops rows.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: master
CREATE FUNCTION amend() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF new.n IS NULL THEN RETURN NULL; END IF;
    new.v := upper(new.v);
    RETURN new;
END $$;
CREATE TRIGGER amend BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION amend();

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
INSERT INTO t VALUES (6, 1, 'a'), (7, NULL, 'b');

UPDATE t SET n = n + 1;

UPDATE t SET n = NULL WHERE id = 3;
