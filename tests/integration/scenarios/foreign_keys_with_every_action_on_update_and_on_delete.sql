-- Foreign keys with every action, on update and on delete.

-- name: tables
CREATE TABLE top (id integer PRIMARY KEY, v text);
CREATE TABLE cascaded (id integer PRIMARY KEY, top integer REFERENCES top ON DELETE CASCADE ON UPDATE CASCADE, v text);
CREATE TABLE nulled (id integer PRIMARY KEY, top integer REFERENCES top ON DELETE SET NULL ON UPDATE SET NULL);
CREATE TABLE defaulted (id integer PRIMARY KEY, top integer DEFAULT 1 REFERENCES top
    ON DELETE SET DEFAULT ON UPDATE SET DEFAULT);
CREATE TABLE restricted (id integer PRIMARY KEY, top integer REFERENCES top ON DELETE RESTRICT ON UPDATE RESTRICT);
CREATE TABLE late (id integer PRIMARY KEY, top integer REFERENCES top DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE keyed (top integer REFERENCES top ON DELETE CASCADE ON UPDATE CASCADE, n integer, v text,
    PRIMARY KEY (top, n));
CREATE TABLE beneath (id integer PRIMARY KEY, top integer, n integer,
    FOREIGN KEY (top, n) REFERENCES keyed ON DELETE SET NULL (n) ON UPDATE CASCADE);

-- name: rows
INSERT INTO top SELECT i, 'top ' || i FROM generate_series(1, 9) i;
INSERT INTO cascaded SELECT i, i % 9 + 1, 'row' FROM generate_series(1, 20) i;
INSERT INTO nulled SELECT i, i % 9 + 1 FROM generate_series(1, 20) i;
INSERT INTO defaulted SELECT i, i % 9 + 1 FROM generate_series(1, 20) i;
INSERT INTO restricted VALUES (1, 9);
INSERT INTO late SELECT i, i % 9 + 1 FROM generate_series(1, 20) i;
INSERT INTO keyed SELECT i % 9 + 1, i, 'row' FROM generate_series(1, 20) i;
INSERT INTO beneath SELECT i, i % 9 + 1, i FROM generate_series(1, 20) i;

-- name: work
BEGIN;
DELETE FROM late WHERE top = 2;
DELETE FROM top WHERE id = 2;
COMMIT;

BEGIN;
UPDATE top SET id = id * 10 WHERE id = 3;
UPDATE late SET top = 30 WHERE top = 3;
COMMIT;

BEGIN;
DELETE FROM top WHERE id = 4;
UPDATE top SET id = 40, v = 'in turn' WHERE id = 5;
UPDATE late SET top = 40 WHERE top IN (4, 5);
COMMIT;

BEGIN;
DELETE FROM top WHERE id = 6;
INSERT INTO top VALUES (6, 'again');
UPDATE beneath SET n = NULL WHERE top = 7;
COMMIT;

BEGIN;
UPDATE top SET id = id + 100 WHERE id IN (7, 8);
UPDATE top SET id = id - 100 WHERE id IN (107, 108);
COMMIT;

UPDATE keyed SET n = n + 100 WHERE v = 'row' AND n > 10;

DELETE FROM keyed WHERE n < 5;

BEGIN;
DELETE FROM restricted;
SAVEPOINT a;
DELETE FROM top WHERE id = 9;
UPDATE late SET top = 1 WHERE top = 9;
SET CONSTRAINTS ALL IMMEDIATE;
COMMIT;

TRUNCATE top CASCADE;
