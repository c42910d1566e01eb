-- TRUNCATE of one, of several, with CASCADE, before and after other changes.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);
CREATE TABLE child (id integer PRIMARY KEY, t integer REFERENCES t);
CREATE TABLE other (id integer PRIMARY KEY);

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;
INSERT INTO child SELECT i, i FROM generate_series(1, 5) i;
INSERT INTO other VALUES (1);

-- name: work
UPDATE child SET t = 2;

TRUNCATE child;

INSERT INTO child VALUES (1, 1), (2, 2);

BEGIN;
INSERT INTO t VALUES (6, 6, 'six');
TRUNCATE t CASCADE;
INSERT INTO t VALUES (7, 7, 'seven');
INSERT INTO child VALUES (1, 7);
COMMIT;

TRUNCATE child, other;

INSERT INTO other VALUES (1), (2);

BEGIN;
DELETE FROM other;
TRUNCATE other;
TRUNCATE other;
INSERT INTO other VALUES (5);
COMMIT;

BEGIN;
TRUNCATE t, child;
ROLLBACK;

UPDATE t SET v = 'still here';
