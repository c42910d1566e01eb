-- Users' triggers: before and after, of rows and of statements, that change, suppress, cascade, raise, and write again.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);
CREATE TABLE total (id integer PRIMARY KEY, rows bigint, sum bigint);
CREATE TABLE history (n integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, op text, old_id integer, new_id integer);
CREATE TABLE mirror (id integer PRIMARY KEY, v text);

-- name: master
CREATE FUNCTION before_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        RETURN CASE WHEN old.v = 'keep' THEN NULL ELSE old END;
    ELSIF new.v = 'skip' THEN
        RETURN NULL;
    ELSIF new.v = 'raise' THEN
        RAISE EXCEPTION 'not this one';
    ELSIF new.v = 'renumber' THEN
        new.id := new.id + 1000;
    END IF;
    new.v := trim(new.v);
    RETURN new;
END $$;
CREATE TRIGGER before_row BEFORE INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION before_row();
CREATE FUNCTION after_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO history (op, old_id, new_id) VALUES (TG_OP, old.id, new.id);
    IF TG_OP = 'DELETE' THEN
        DELETE FROM mirror WHERE id = old.id;
    ELSE
        INSERT INTO mirror VALUES (new.id, new.v) ON CONFLICT (id) DO UPDATE SET v = excluded.v;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER after_row AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION after_row();
CREATE FUNCTION statement_() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE total SET rows = (SELECT count(*) FROM t), sum = (SELECT sum(n) FROM t);
    IF TG_WHEN = 'BEFORE' AND TG_OP <> 'DELETE' AND pg_trigger_depth() = 1 THEN
        UPDATE t SET n = n + 1 WHERE id = 8 AND n < 50;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER a_statement AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON t EXECUTE FUNCTION statement_();
CREATE TRIGGER z_statement AFTER UPDATE OF n ON t EXECUTE FUNCTION statement_();
CREATE TRIGGER before_statement BEFORE INSERT OR UPDATE OR DELETE ON t EXECUTE FUNCTION statement_();
CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE t SET v = new.v WHERE id = new.id AND v IS DISTINCT FROM new.v;
    RETURN NULL;
END $$;
CREATE TRIGGER back AFTER UPDATE ON mirror FOR EACH ROW WHEN (pg_trigger_depth() < 3) EXECUTE FUNCTION back();

-- name: rows
INSERT INTO total VALUES (1, 0, 0);
INSERT INTO t SELECT i, i, 'row ' || i FROM generate_series(1, 8) i;

-- name: work
INSERT INTO t VALUES (10, 10, ' trimmed '), (11, 11, 'skip'), (12, 12, 'renumber'), (13, 13, 'keep');

UPDATE t SET v = 'skip' WHERE id IN (1, 2);

UPDATE t SET v = 'renumber', n = n * 2 WHERE id IN (3, 4);

DO $$BEGIN INSERT INTO t VALUES (20, 20, 'x'); UPDATE t SET v = 'raise' WHERE id = 5; EXCEPTION WHEN raise_exception THEN UPDATE t SET v = 'caught' WHERE id = 5; END$$;

DELETE FROM t WHERE id > 4 AND id < 14;

UPDATE mirror SET v = v || ' by the mirror' WHERE id IN (1, 13);

INSERT INTO t VALUES (1, 0, 'conflict'), (30, 0, 'skip'), (31, 0, ' new') ON CONFLICT (id) DO UPDATE SET v = excluded.v, id = t.id + 50;

BEGIN;
UPDATE t SET id = id + 2000 WHERE id > 1000;
DELETE FROM t WHERE id = 13;
INSERT INTO t VALUES (13, 1, 'x') ON CONFLICT DO NOTHING;
UPDATE mirror SET id = -id WHERE id = 13;
COMMIT;

TRUNCATE t;

INSERT INTO t VALUES (1, 1, 'x');
