-- A table that is partitioned on the slave alone.

-- name: tables
CREATE TABLE t (id integer, region text, n integer, v text, PRIMARY KEY (id, region));

-- name: slave
CREATE TABLE t (id integer, region text, n integer, v text, PRIMARY KEY (id, region))
    PARTITION BY LIST (region);
CREATE TABLE t_north PARTITION OF t FOR VALUES IN ('n', 'ne');
CREATE TABLE t_south PARTITION OF t FOR VALUES IN ('s') PARTITION BY RANGE (id);
CREATE TABLE t_south_low PARTITION OF t_south FOR VALUES FROM (0) TO (100);
CREATE TABLE t_south_high PARTITION OF t_south FOR VALUES FROM (100) TO (1000);
CREATE TABLE t_other PARTITION OF t DEFAULT;

-- name: work
INSERT INTO t SELECT i, (ARRAY['n', 'ne', 's', 'x'])[1 + i % 4], i, 'v' FROM generate_series(1, 200) i;

UPDATE t SET n = n + 1 WHERE id % 3 = 0;

UPDATE t SET region = 's' WHERE id % 5 = 0 AND region = 'n';

DELETE FROM t WHERE id < 20;

TRUNCATE t;

INSERT INTO t SELECT i, (ARRAY['n', 'ne', 's', 'x'])[1 + i % 4], i, 'v' FROM generate_series(1, 200) i;
