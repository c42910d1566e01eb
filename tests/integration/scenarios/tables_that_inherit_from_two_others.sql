-- A tree of inheritance with two parents that have a common one.

-- name: tables
CREATE TABLE top (id integer PRIMARY KEY, v text);
CREATE TABLE left_ (l text, PRIMARY KEY (id)) INHERITS (top);
CREATE TABLE right_ (r text, PRIMARY KEY (id)) INHERITS (top);
CREATE TABLE bottom (b text, PRIMARY KEY (id)) INHERITS (left_, right_);

-- name: rows
INSERT INTO top VALUES (1, 'top'), (2, 'top');
INSERT INTO left_ VALUES (1, 'left', 'l'), (3, 'left', 'l');
INSERT INTO right_ VALUES (1, 'right', 'r'), (4, 'right', 'r');
INSERT INTO bottom VALUES (1, 'bottom', 'l', 'r', 'b'), (5, 'bottom', 'l', 'r', 'b');

-- name: work
UPDATE top SET v = v || '!';

UPDATE left_ SET l = 'L', id = id + 100 WHERE id > 1;

UPDATE right_ SET r = NULL WHERE id = 1;

UPDATE ONLY right_ SET v = 'only';

DELETE FROM left_ WHERE id = 1;

BEGIN;
INSERT INTO bottom VALUES (1, 'new', 'l', NULL, '');
UPDATE top SET id = id - 1;
DELETE FROM top WHERE id = 2;
COMMIT;

TRUNCATE ONLY left_;

TRUNCATE right_;
