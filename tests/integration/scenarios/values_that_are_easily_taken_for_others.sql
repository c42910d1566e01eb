-- Values that are easily taken for others.

-- name: tables
CREATE TABLE t (id numeric PRIMARY KEY, f double precision, j jsonb, v text, a integer[]);

-- name: work
INSERT INTO t VALUES (1.0, '-0', 'null', '', '[2:3]={1,NULL}'), (2, 'NaN', NULL, NULL, '{}'),
    (3, '-Infinity', '"null"', E'\\ \n "', NULL), ('NaN', 0.1, '{"a": 1.50}', '{}', '{{1},{2}}');

UPDATE t SET id = 1.00 WHERE id = 1;

UPDATE t SET f = 0 WHERE id = 1;

UPDATE t SET v = NULL, j = 'null' WHERE id = 3;

UPDATE t SET v = '', a = '{NULL}' WHERE id = 2;

BEGIN;
UPDATE t SET id = 2.0 WHERE id = 2;
UPDATE t SET id = 2.00 WHERE id = 2;
COMMIT;

DELETE FROM t WHERE id = 'NaN';
