-- Rules rewrite statements.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);CREATE TABLE audit (id integer PRIMARY KEY, v text);

-- name: master
CREATE RULE audit_insert AS ON INSERT TO t DO ALSO INSERT INTO audit VALUES (new.id, new.v);
CREATE RULE soft_delete AS ON DELETE TO t DO INSTEAD UPDATE t SET v = 'deleted' WHERE id = old.id;

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
INSERT INTO t VALUES (10, 1, 'x');

UPDATE t SET v = 'y' WHERE id < 3;

DELETE FROM t WHERE id = 3;
