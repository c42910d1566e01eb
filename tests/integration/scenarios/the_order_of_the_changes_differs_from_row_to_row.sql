-- The order of the changes differs from row to row.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: work
DO $$
BEGIN
    FOR i IN 1..50 LOOP
        IF i % 5 = 0 THEN
            INSERT INTO t VALUES (i, i, 'i');
        ELSIF i % 5 = 1 THEN
            INSERT INTO t VALUES (i, i, 'i'); DELETE FROM t WHERE id = i;
        ELSIF i % 5 = 2 THEN
            INSERT INTO t VALUES (i, i, 'i'); UPDATE t SET n = -i WHERE id = i;
            UPDATE t SET v = 'u' WHERE id = i;
        ELSIF i % 5 = 3 THEN
            INSERT INTO t VALUES (i, i, 'i'); DELETE FROM t WHERE id = i;
            INSERT INTO t VALUES (i, NULL, 'again'); UPDATE t SET id = i + 1000 WHERE id = i;
        ELSE
            INSERT INTO t VALUES (i, i, 'i');
            UPDATE t SET id = -i WHERE id = i; UPDATE t SET id = i WHERE id = -i;
        END IF;
    END LOOP;
END $$;

DELETE FROM t WHERE id % 3 = 0;

INSERT INTO t SELECT i, 0, 'back' FROM generate_series(3, 30, 3) i;

UPDATE t SET v = NULL, n = 7 WHERE id % 2 = 0;
