-- ON CONFLICT DO UPDATE and DO NOTHING.

-- name: tables
CREATE TABLE t (id integer PRIMARY KEY, n integer, v text);

-- name: rows
INSERT INTO t SELECT i, i * 10, 'row ' || i FROM generate_series(1, 5) i;

-- name: work
INSERT INTO t VALUES (5, 0, 'x'), (6, 0, 'y') ON CONFLICT (id) DO UPDATE SET n = t.n + 1, v = excluded.v;

INSERT INTO t VALUES (5, 0, 'z'), (7, 0, 'y') ON CONFLICT DO NOTHING;

INSERT INTO t VALUES (1, 0, 'z') ON CONFLICT (id) DO UPDATE SET id = 50, v = 'moved';
