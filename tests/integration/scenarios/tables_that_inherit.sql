-- Tables that inherit.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);
CREATE TABLE child (extra text, PRIMARY KEY (id)) INHERITS (t);
CREATE TABLE grandchild (PRIMARY KEY (id)) INHERITS (child);

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
INSERT INTO child VALUES (1, 1, 'child', 'e'), (11, 1, 'child', 'e');

INSERT INTO grandchild VALUES (1, 1, 'grandchild', 'e'), (21, 1, 'grandchild', 'e');

UPDATE t SET n = n + 1;

UPDATE ONLY t SET v = 'only';

UPDATE child SET v = upper(v), extra = NULL;

UPDATE t SET id = id + 100 WHERE id = 1;

DELETE FROM t WHERE id IN (2, 11);

DELETE FROM ONLY child;

BEGIN;
UPDATE t SET n = 0;
DELETE FROM t WHERE id = 3;
INSERT INTO t VALUES (3, 3, 'x');
COMMIT;

TRUNCATE ONLY t;

TRUNCATE t;
