-- Values of an exclusion constraint change hands.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, during int4range, v text, EXCLUDE USING gist (during WITH &&));

-- name: rows
INSERT INTO t VALUES (1, '[0,10)', 'a'), (2, '[10,20)', 'b'), (3, '[30,40)', 'c');

-- name: work
BEGIN;
UPDATE t SET during = NULL WHERE id = 1;
UPDATE t SET during = '[0,10)' WHERE id = 2;
UPDATE t SET during = '[10,20)' WHERE id = 1;
COMMIT;
