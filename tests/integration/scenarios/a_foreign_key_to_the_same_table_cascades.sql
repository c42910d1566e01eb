-- A foreign key to the same table cascades updates and deletes.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, parent integer, v text);
ALTER TABLE t ADD FOREIGN KEY (parent) REFERENCES t ON UPDATE CASCADE ON DELETE CASCADE;

-- name: rows
INSERT INTO t SELECT i, nullif(i / 2, 0), 'node ' || i FROM generate_series(1, 15) i;

-- name: work
UPDATE t SET id = id + 100;

UPDATE t SET id = 7 WHERE id = 102;

DELETE FROM t WHERE id = 103;
