-- INSERT, UPDATE and DELETE in all their forms.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, u integer UNIQUE, n integer DEFAULT 0, v text);
CREATE TABLE other (id integer PRIMARY KEY, n integer, v text);

-- name: rows
INSERT INTO t SELECT i, i * 10, i, 'row ' || i FROM generate_series(1, 10) i;
INSERT INTO other SELECT i, i % 3, 'other ' || i FROM generate_series(1, 10) i;

-- name: work
INSERT INTO t VALUES (11, 110, DEFAULT, 'one');

INSERT INTO t (v, id) VALUES ('two', 12), (NULL, 13), ('', 14);

INSERT INTO t (id, v) SELECT id + 20, v FROM other WHERE n = 1 RETURNING id;

INSERT INTO t (id, u, v) VALUES (1, 10, 'x'), (99, 20, 'second key'), (15, 150, 'new') ON CONFLICT DO NOTHING;

INSERT INTO t AS old (id, u, v) VALUES (98, 30, 'x'), (97, 970, 'new') ON CONFLICT (u) DO UPDATE SET v = excluded.v || old.v, n = old.n + 1;

INSERT INTO t (id, u) VALUES (5, 1), (6, 2) ON CONFLICT (id) DO UPDATE SET u = excluded.u WHERE t.id = 5;

INSERT INTO t (id, u) VALUES (77, 40) ON CONFLICT (u) DO UPDATE SET id = 400, u = NULL, v = 'moved';

UPDATE t SET v = o.v, n = t.n + o.n FROM other o WHERE o.id = t.id;

UPDATE t SET v = o.v FROM (SELECT DISTINCT ON (n) * FROM other ORDER BY n, id) o WHERE o.n = t.n % 3;

UPDATE t SET n = o.id FROM other o WHERE o.n = 1 AND t.id = 1;

UPDATE t SET (n, v) = (SELECT max(id), string_agg(v, ',' ORDER BY id) FROM other WHERE other.n = t.id % 3) WHERE id < 5;

UPDATE t SET id = id, v = v, n = CASE WHEN id % 2 = 0 THEN n + 1 ELSE n END;

UPDATE t SET id = o.id + 1000, u = NULL FROM other o WHERE o.id = t.id AND o.n = 2;

DELETE FROM t USING other o WHERE o.id = t.id AND o.n = 0;

DELETE FROM t WHERE id IN (SELECT id FROM t ORDER BY id DESC LIMIT 2 FOR UPDATE SKIP LOCKED);

MERGE INTO t USING other o ON t.id = o.id
WHEN MATCHED AND o.n = 1 THEN UPDATE SET v = 'merged', u = o.id + 500
WHEN MATCHED THEN DELETE
WHEN NOT MATCHED AND o.n = 2 THEN INSERT (id, v, u) VALUES (o.id, 'new', NULL)
WHEN NOT MATCHED THEN DO NOTHING;

MERGE INTO t USING (SELECT id, lead(id) OVER (ORDER BY id) AS next FROM other) o ON t.id = o.id
WHEN MATCHED AND o.next IS NOT NULL THEN UPDATE SET id = -t.id, n = o.next
WHEN NOT MATCHED THEN INSERT VALUES (o.id, -o.id);

SELECT * FROM t FOR UPDATE;

DELETE FROM t WHERE false;

UPDATE t SET v = NULL WHERE v IS NULL;

CREATE TABLE as_ AS SELECT * FROM t; INSERT INTO t (id, v) SELECT max(id) + 1, 'after' FROM as_; DROP TABLE as_;

DELETE FROM t;
