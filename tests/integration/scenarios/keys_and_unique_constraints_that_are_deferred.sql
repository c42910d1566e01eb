-- Primary keys and unique constraints that are checked at the end, and not on the slave.

-- name: tables
CREATE TABLE late (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text);
CREATE TABLE statement (id integer PRIMARY KEY DEFERRABLE, u integer UNIQUE DEFERRABLE, v text);
CREATE TABLE second (id integer PRIMARY KEY, u integer UNIQUE DEFERRABLE INITIALLY DEFERRED, v text);

-- name: slave
CREATE TABLE late (id integer PRIMARY KEY, v text);
CREATE TABLE statement (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, u integer UNIQUE, v text);
CREATE TABLE second (id integer PRIMARY KEY, u integer UNIQUE, v text);

-- name: rows
INSERT INTO late SELECT i, 'row ' || i FROM generate_series(1, 6) i;
INSERT INTO statement SELECT i, i, 'row ' || i FROM generate_series(1, 6) i;
INSERT INTO second SELECT i, i, 'row ' || i FROM generate_series(1, 6) i;

-- name: work
UPDATE late SET id = id + 1;

UPDATE late SET id = 9 - id;

BEGIN;
UPDATE late SET id = 3 WHERE v = 'row 1';
UPDATE late SET id = 4 WHERE v = 'row 2';
UPDATE late SET id = 5 WHERE v = 'row 3';
UPDATE late SET id = 6 WHERE v = 'row 4';
UPDATE late SET id = 7 WHERE v = 'row 5';
UPDATE late SET id = 8 WHERE v = 'row 6';
COMMIT;

BEGIN;
INSERT INTO late VALUES (3, 'twice');
UPDATE late SET v = v || ', both of them' WHERE id = 3;
DELETE FROM late WHERE id = 3 AND v LIKE 'row%';
UPDATE late SET id = 4 WHERE id = 3;
DELETE FROM late WHERE id = 4 AND v NOT LIKE 'twice%';
COMMIT;

UPDATE statement SET id = 7 - id, u = u + 1;

UPDATE statement SET u = 10 - u WHERE id < 6;

BEGIN;
SET CONSTRAINTS ALL DEFERRED;
UPDATE statement SET id = 2, u = 7 WHERE v = 'row 3';
UPDATE statement SET id = 4, u = (SELECT u FROM statement WHERE v = 'row 1') WHERE v = 'row 5';
UPDATE statement SET u = 0 WHERE v IN ('row 1');
UPDATE statement SET u = -1 WHERE u = 7 AND v <> 'row 3';
COMMIT;

UPDATE second SET u = 7 - u;

BEGIN;
UPDATE second SET u = 2 WHERE id = 1;
UPDATE second SET u = 3, v = 'ring' WHERE id = 2;
UPDATE second SET u = 4 WHERE id = 3;
UPDATE second SET u = 5 WHERE id = 4;
UPDATE second SET u = 6 WHERE id = 5;
UPDATE second SET u = 1 WHERE id = 6;
INSERT INTO second VALUES (7, 6, 'in between');
DELETE FROM second WHERE id = 5;
COMMIT;
