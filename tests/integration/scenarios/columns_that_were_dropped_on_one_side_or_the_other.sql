-- Columns that were dropped, on one side or the other, so that the numbers of the columns differ.

-- name: tables
CREATE TABLE dropped_here (gone integer, id integer, gone_too text, v text, n integer, PRIMARY KEY (id));
ALTER TABLE dropped_here DROP gone, DROP gone_too;
CREATE TABLE dropped_there (id integer, n integer GENERATED ALWAYS AS (id + 1) STORED, v text, PRIMARY KEY (id));
CREATE TABLE key_dropped (old integer PRIMARY KEY, v text, id integer);
ALTER TABLE key_dropped DROP old, ADD PRIMARY KEY (id), ADD last text DEFAULT 'last';

-- name: slave
CREATE TABLE dropped_here (v text, id integer PRIMARY KEY, n integer);
CREATE TABLE dropped_there (a xml, id integer PRIMARY KEY, b text NOT NULL, v text,
    n integer GENERATED ALWAYS AS (id + 1) STORED);
ALTER TABLE dropped_there DROP a, DROP b;
CREATE TABLE key_dropped (last text, x integer, id integer PRIMARY KEY, v text);
ALTER TABLE key_dropped DROP x;

-- name: rows
INSERT INTO dropped_here SELECT i, 'row', i FROM generate_series(1, 4) i;
INSERT INTO dropped_there (id, v) SELECT i, 'row' FROM generate_series(1, 4) i;
INSERT INTO key_dropped SELECT 'row', i FROM generate_series(1, 4) i;

-- name: work
UPDATE dropped_here SET n = NULL WHERE id = 1;

INSERT INTO dropped_here VALUES (5, 'new', 5);

UPDATE dropped_here SET id = id + 10, v = 'moved' WHERE id IN (2, 5);

DELETE FROM dropped_here WHERE id = 3;

UPDATE dropped_there SET v = 'x', id = id * 10;

INSERT INTO dropped_there (v, id) VALUES ('y', 1);

INSERT INTO key_dropped VALUES ('new', 9), ('new', 8);

UPDATE key_dropped SET last = NULL, id = -id WHERE id > 3;
