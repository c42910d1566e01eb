-- A foreign key to the same table sets null.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, parent integer, v text);
ALTER TABLE t ADD FOREIGN KEY (parent) REFERENCES t ON UPDATE SET NULL ON DELETE SET NULL;

-- name: rows
INSERT INTO t SELECT i, nullif(i / 2, 0), 'node ' || i FROM generate_series(1, 15) i;

-- name: work
UPDATE t SET id = id + 100 WHERE id = 2;

DELETE FROM t WHERE id IN (3, 102);
