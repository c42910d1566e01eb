-- Values change hands under unique indexes that are partial, on expressions, take NULLs for equal, or are only on
-- the slave.

-- name: tables
CREATE TABLE partial (id integer PRIMARY KEY, u integer, live boolean, v text);
CREATE UNIQUE INDEX ON partial (u) WHERE live;
CREATE TABLE expression (id integer PRIMARY KEY, mail text, v text);
CREATE UNIQUE INDEX ON expression (lower(mail)) INCLUDE (v);
CREATE TABLE one_null (id integer PRIMARY KEY, a integer, b integer, UNIQUE NULLS NOT DISTINCT (a, b));
CREATE TABLE only_there (id integer PRIMARY KEY, a integer NOT NULL, b text);

-- name: slave
CREATE TABLE partial (id integer PRIMARY KEY, u integer, live boolean, v text);
CREATE UNIQUE INDEX ON partial (u) WHERE live;
CREATE TABLE expression (id integer PRIMARY KEY, mail text, v text);
CREATE UNIQUE INDEX ON expression (lower(mail));
CREATE TABLE one_null (id integer PRIMARY KEY, a integer, b integer, UNIQUE NULLS NOT DISTINCT (a, b));
CREATE TABLE only_there (id integer PRIMARY KEY, a integer NOT NULL UNIQUE, b text);
CREATE UNIQUE INDEX ON only_there (left(b, 1), a) WHERE a > 0;

-- name: rows
INSERT INTO partial SELECT i, 1, i = 1, 'row' FROM generate_series(1, 4) i;
INSERT INTO expression SELECT i, 'Name' || i || '@x', 'row' FROM generate_series(1, 4) i;
INSERT INTO one_null VALUES (1, NULL, NULL), (2, NULL, 2), (3, 3, NULL), (4, 4, 4);
INSERT INTO only_there SELECT i, i, chr(64 + i) FROM generate_series(1, 6) i;

-- name: work
BEGIN;
UPDATE partial SET live = false WHERE live;
UPDATE partial SET live = true, v = 'next' WHERE id = 2;
COMMIT;

BEGIN;
UPDATE partial SET u = 5 WHERE id = 2;
INSERT INTO partial VALUES (5, 1, true, 'new');
COMMIT;

BEGIN;
DELETE FROM partial WHERE id = 5;
UPDATE partial SET live = true WHERE id = 3;
INSERT INTO partial VALUES (5, 1, false, 'back');
COMMIT;

BEGIN;
UPDATE expression SET mail = 'x' WHERE id = 1;
UPDATE expression SET mail = 'NAME1@X' WHERE id = 2;
UPDATE expression SET mail = 'name2@x', v = 'swapped' WHERE id = 1;
COMMIT;

UPDATE expression SET mail = upper(mail) WHERE id > 2;

BEGIN;
UPDATE one_null SET a = 4, b = 5 WHERE id = 1;
UPDATE one_null SET b = NULL WHERE id = 2;
UPDATE one_null SET a = NULL, b = 2 WHERE id = 3;
INSERT INTO one_null VALUES (5, 3, NULL);
COMMIT;

BEGIN;
UPDATE only_there SET a = -1 WHERE id = 1;
UPDATE only_there SET a = 1 WHERE id = 2;
UPDATE only_there SET a = 2 WHERE id = 3;
UPDATE only_there SET a = 3, b = 'ring' WHERE id = 1;
COMMIT;

UPDATE only_there SET a = 7 - a;

DELETE FROM only_there WHERE a = 6;

INSERT INTO only_there VALUES (7, 6, 'F');

UPDATE only_there SET id = id + 10, a = a - 1;
