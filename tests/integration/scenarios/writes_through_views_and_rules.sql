-- Views that can be updated, with CHECK OPTION, and rules.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);
CREATE TABLE audit (id integer PRIMARY KEY, op text, v text);
CREATE SEQUENCE audit_id;

-- name: master
CREATE VIEW small AS SELECT id AS key, n, v FROM t WHERE n < 100 WITH LOCAL CHECK OPTION;
CREATE VIEW smaller AS SELECT key, v, n FROM small WHERE n < 50 WITH CASCADED CHECK OPTION;
CREATE VIEW joined AS SELECT t.id, t.v, count(a.id) AS audits FROM t LEFT JOIN audit a ON a.v = t.v GROUP BY t.id, t.v;
CREATE RULE joined_insert AS ON INSERT TO joined DO INSTEAD (
    INSERT INTO t VALUES (new.id, 0, new.v); INSERT INTO audit VALUES (nextval('audit_id'), 'joined', new.v));
CREATE RULE joined_update AS ON UPDATE TO joined DO INSTEAD UPDATE t SET id = new.id, v = new.v WHERE id = old.id;
CREATE RULE joined_delete AS ON DELETE TO joined DO INSTEAD DELETE FROM t WHERE id = old.id;
CREATE RULE audit_update AS ON UPDATE TO t WHERE new.v IS DISTINCT FROM old.v
    DO ALSO INSERT INTO audit VALUES (nextval('audit_id'), 'update', old.v);
CREATE RULE keep AS ON DELETE TO t WHERE old.n = 7 DO INSTEAD UPDATE t SET n = -7 WHERE id = old.id;

-- name: rows
INSERT INTO t SELECT i, i, 'row ' || i FROM generate_series(1, 10) i;

-- name: work
INSERT INTO small VALUES (20, 20, 'small'), (21, 99, 'small');

DO $$BEGIN INSERT INTO smaller VALUES (22, 'x', 10), (23, 'too large', 60); EXCEPTION WHEN with_check_option_violation THEN INSERT INTO smaller VALUES (24, 'checked', 1); END$$;

UPDATE smaller SET key = key + 100, v = upper(v) WHERE n > 5;

UPDATE small SET v = 'by the view' WHERE key = 1;

DELETE FROM small WHERE n < 3;

INSERT INTO joined VALUES (30, 'joined', 0), (31, 'joined', 0);

UPDATE joined SET id = id + 1000, v = 'by the rule' WHERE id IN (30, 31);

DELETE FROM joined WHERE id = 3;

DELETE FROM t WHERE n IN (4, 7, 8);

BEGIN;
UPDATE t SET v = v || '?';
DELETE FROM joined WHERE v LIKE 'by%';
COMMIT;
