-- Partitioned tables of every kind, with rows that move, also out of and into the default partition.

-- name: tables
CREATE TABLE hashed (id integer, v text, PRIMARY KEY (id)) PARTITION BY HASH (id);
CREATE TABLE hashed_0 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE hashed_1 PARTITION OF hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE dated (v text, at date, id integer, u integer, PRIMARY KEY (id, at), UNIQUE (u, at))
    PARTITION BY RANGE (at);
CREATE TABLE dated_2023 PARTITION OF dated FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
CREATE TABLE dated_2024 (id integer NOT NULL, x integer, u integer, at date NOT NULL, v text);
ALTER TABLE dated_2024 DROP x;
ALTER TABLE dated ATTACH PARTITION dated_2024 FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
CREATE TABLE dated_rest PARTITION OF dated DEFAULT;
CREATE TABLE listed (id integer, kind text, sub integer, v text, PRIMARY KEY (kind, sub, id)) PARTITION BY LIST (kind);
CREATE TABLE listed_a PARTITION OF listed FOR VALUES IN ('a') PARTITION BY RANGE (sub);
CREATE TABLE listed_a_low PARTITION OF listed_a FOR VALUES FROM (0) TO (5);
CREATE TABLE listed_a_rest PARTITION OF listed_a DEFAULT PARTITION BY HASH (id);
CREATE TABLE listed_a_rest_0 PARTITION OF listed_a_rest FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TABLE listed_rest PARTITION OF listed DEFAULT;

-- name: slave
CREATE TABLE hashed (v text, id integer PRIMARY KEY);
CREATE TABLE dated (id integer, at date, v text, u integer, PRIMARY KEY (id, at), UNIQUE (u, id)) PARTITION BY LIST (id);
CREATE TABLE dated_1 PARTITION OF dated FOR VALUES IN (1, 2, 3);
CREATE TABLE dated_rest PARTITION OF dated DEFAULT;
CREATE TABLE listed (id integer, kind text, sub integer, v text, PRIMARY KEY (kind, sub, id)) PARTITION BY RANGE (sub);
CREATE TABLE listed_x PARTITION OF listed FOR VALUES FROM (MINVALUE) TO (MAXVALUE) PARTITION BY LIST (kind);
CREATE TABLE listed_a PARTITION OF listed_x FOR VALUES IN ('a', 'b');
CREATE TABLE listed_b PARTITION OF listed_x DEFAULT;

-- name: rows
INSERT INTO hashed SELECT i, 'row' FROM generate_series(1, 20) i;
INSERT INTO dated SELECT 'row', date '2023-12-25' + i, i, i FROM generate_series(1, 20) i;
INSERT INTO listed SELECT i, (ARRAY['a', 'b', 'c'])[1 + i % 3], i, 'row' FROM generate_series(1, 20) i;

-- name: work
UPDATE hashed SET id = id + 100;

UPDATE hashed_0 SET v = 'in 0';

DELETE FROM hashed_1 WHERE id % 3 = 0;

UPDATE dated SET at = at + 366, v = 'next year' WHERE at > '2024-01-05';

UPDATE dated SET at = at - 400 WHERE id % 2 = 0;

INSERT INTO dated_rest VALUES ('direct', '2033-01-01', 99, 99);

UPDATE dated_rest SET v = 'rest', u = u + 100;

UPDATE dated SET u = 21 - u WHERE u < 20;

DELETE FROM dated_2023 WHERE id < 5;

UPDATE listed SET kind = 'a' WHERE kind = 'b';

UPDATE listed_a SET sub = 20 - sub, v = 'turned';

UPDATE listed SET kind = 'nobody''s', sub = 3 WHERE sub > 15;

WITH moved AS (DELETE FROM listed_rest RETURNING id) INSERT INTO listed SELECT id, 'a', 4, 'back' FROM moved;

INSERT INTO listed VALUES (2, 'a', 4, 'once more') ON CONFLICT (kind, sub, id) DO UPDATE SET v = excluded.v, sub = 2;

TRUNCATE listed_a_rest;

BEGIN;
TRUNCATE listed_a;
INSERT INTO listed SELECT i, 'a', i, 'after' FROM generate_series(1, 9) i;
UPDATE listed SET sub = 9 - sub;
DELETE FROM listed_a_rest;
COMMIT;
