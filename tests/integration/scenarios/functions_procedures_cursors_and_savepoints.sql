-- PL/pgSQL with exceptions that are caught, procedures that commit, cursors, and savepoints in one another.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);
CREATE TABLE other (id integer PRIMARY KEY, u integer UNIQUE);

-- name: master
CREATE FUNCTION tries(i integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    UPDATE t SET n = n + 1 WHERE id = i;
    BEGIN
        INSERT INTO t VALUES (i + 100, 0, 'tried');
        UPDATE t SET v = 'lost' WHERE id = i;
        INSERT INTO other VALUES (i, 1), (i + 1, 1);
    EXCEPTION WHEN unique_violation THEN
        UPDATE t SET v = 'caught ' || SQLSTATE WHERE id = i;
        BEGIN
            DELETE FROM t WHERE id = i;
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN
            INSERT INTO other VALUES (i, i);
        END;
    END;
    RETURN i;
END $$;
CREATE PROCEDURE in_steps(many integer) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1..many LOOP
        INSERT INTO t VALUES (200 + i, i, 'step') ON CONFLICT (id) DO UPDATE SET n = t.n + 1;
        UPDATE t SET v = v || i WHERE id = 201;
        IF i % 3 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
    END LOOP;
END $$;
CREATE FUNCTION walk() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c CURSOR FOR SELECT * FROM t WHERE id < 10 ORDER BY id FOR UPDATE;
BEGIN
    FOR r IN c LOOP
        CASE r.id % 3
            WHEN 0 THEN DELETE FROM t WHERE CURRENT OF c;
            WHEN 1 THEN UPDATE t SET v = 'walked', n = r.n * 2 WHERE CURRENT OF c;
            ELSE UPDATE t SET id = r.id + 500 WHERE CURRENT OF c;
        END CASE;
    END LOOP;
END $$;

-- name: rows
INSERT INTO t SELECT i, i, 'row ' || i FROM generate_series(1, 15) i;

-- name: work
SELECT tries(1);

SELECT tries(i) FROM generate_series(2, 4) i;

INSERT INTO other SELECT 700 + tries(i), 700 + i FROM generate_series(5, 6) i;

CALL in_steps(7);

CALL in_steps(4);

SELECT walk();

BEGIN;
DECLARE c CURSOR FOR SELECT * FROM t WHERE id > 9 ORDER BY id FOR UPDATE;
FETCH 2 FROM c;
UPDATE t SET v = 'current' WHERE CURRENT OF c;
FETCH 1 FROM c;
DELETE FROM t WHERE CURRENT OF c;
CLOSE c;
COMMIT;

BEGIN;
INSERT INTO t VALUES (50, 0, 'kept');
SAVEPOINT a;
UPDATE t SET v = 'lost' WHERE id = 50;
SAVEPOINT b;
DELETE FROM t WHERE id = 50;
RELEASE b;
ROLLBACK TO a;
UPDATE t SET n = 1 WHERE id = 50;
SAVEPOINT b;
INSERT INTO t VALUES (51, 0, 'kept, too');
SAVEPOINT c;
UPDATE t SET id = 52 WHERE id = 51;
ROLLBACK TO c;
UPDATE t SET n = 2 WHERE id = 51;
RELEASE b;
SAVEPOINT a;
TRUNCATE other;
ROLLBACK TO a;
COMMIT;

BEGIN;
SAVEPOINT a;
INSERT INTO t VALUES (60, 0, 'lost');
ROLLBACK TO a;
INSERT INTO t VALUES (60, 1, 'kept');
SAVEPOINT a;
DELETE FROM t WHERE id = 60;
ROLLBACK TO a;
UPDATE t SET n = 2 WHERE id = 60;
COMMIT;

BEGIN;
UPDATE t SET v = 'never';
ROLLBACK;

PREPARE twice (integer) AS UPDATE t SET n = n * 2 WHERE id = $1; EXECUTE twice (50); EXECUTE twice (51); DEALLOCATE twice;

DO $$BEGIN FOR i IN 1..5 LOOP INSERT INTO other VALUES (1000 + i, 1000 + i); COMMIT; UPDATE other SET u = -u WHERE id = 1000 + i; END LOOP; END$$;
