-- Foreign keys in a circle, to the table itself with every action at once, and from a row to itself.

-- name: tables
CREATE TABLE egg (id integer PRIMARY KEY, hen integer, v text);
CREATE TABLE hen (id integer PRIMARY KEY, egg integer REFERENCES egg ON DELETE CASCADE ON UPDATE CASCADE, v text);
ALTER TABLE egg ADD FOREIGN KEY (hen) REFERENCES hen ON DELETE SET NULL ON UPDATE CASCADE
    DEFERRABLE INITIALLY DEFERRED;
CREATE TABLE node (id integer PRIMARY KEY, a integer REFERENCES node ON DELETE CASCADE ON UPDATE CASCADE,
    b integer REFERENCES node ON DELETE SET NULL ON UPDATE CASCADE,
    c integer DEFAULT 1 REFERENCES node ON DELETE SET DEFAULT ON UPDATE SET NULL,
    d integer REFERENCES node ON DELETE NO ACTION ON UPDATE NO ACTION DEFERRABLE, v text);
CREATE TABLE loop (id integer PRIMARY KEY REFERENCES loop (id) ON UPDATE CASCADE, v text);

-- name: rows
BEGIN;
INSERT INTO egg SELECT i, i % 5 + 1, 'egg' FROM generate_series(1, 10) i;
INSERT INTO hen SELECT i, i * 2, 'hen' FROM generate_series(1, 5) i;
COMMIT;
INSERT INTO node SELECT i, nullif(i / 2, 0), nullif(i / 3, 0), greatest(i - 1, 1), i, 'node' FROM generate_series(1, 20) i;
INSERT INTO loop SELECT i, 'loop' FROM generate_series(1, 3) i;

-- name: work
UPDATE egg SET id = id + 100;

UPDATE hen SET id = id + 100, v = 'moved' WHERE id < 4;

DELETE FROM egg WHERE id = 102;

BEGIN;
DELETE FROM hen WHERE id = 5;
INSERT INTO hen VALUES (5, 101, 'again');
UPDATE egg SET hen = 5, v = 'adopted' WHERE hen IS NULL;
COMMIT;

DELETE FROM egg WHERE id % 2 = 0;

UPDATE node SET v = 'x' WHERE id > 5;

UPDATE node SET id = 100, d = 100 WHERE id = 20;

UPDATE node SET id = id + 200, d = d + 200, b = NULL WHERE id IN (2, 4, 9);

DELETE FROM node WHERE id = 202;

BEGIN;
SET CONSTRAINTS ALL DEFERRED;
UPDATE node SET id = 33 WHERE id = 3;
UPDATE node SET d = 33, v = 'late' WHERE d = 3;
COMMIT;

DELETE FROM node WHERE id = 33;

BEGIN;
UPDATE node SET a = NULL;
DELETE FROM node WHERE id <> 1;
INSERT INTO node VALUES (2, 2, 2, 2, 2, 'itself');
UPDATE node SET id = 3, d = 3 WHERE id = 2;
COMMIT;

UPDATE loop SET id = id + 10;

BEGIN;
UPDATE loop SET id = 1 WHERE id = 11;
UPDATE loop SET v = 'x';
DELETE FROM loop WHERE id = 12;
COMMIT;

TRUNCATE egg, hen, node, loop;
