-- A partitioned table, partitioned otherwise on the slave.

-- name: tables
CREATE TABLE t (id integer, region text, n integer, v text, PRIMARY KEY (id, region))
    PARTITION BY LIST (region);
CREATE TABLE t_north PARTITION OF t FOR VALUES IN ('n', 'ne');
CREATE TABLE t_south PARTITION OF t FOR VALUES IN ('s') PARTITION BY RANGE (id);
CREATE TABLE t_south_low PARTITION OF t_south FOR VALUES FROM (0) TO (100);
CREATE TABLE t_south_high PARTITION OF t_south FOR VALUES FROM (100) TO (1000);
CREATE TABLE t_other PARTITION OF t DEFAULT;

-- name: slave
CREATE TABLE t (id integer, region text, n integer, v text, PRIMARY KEY (id, region))
    PARTITION BY HASH (id);
CREATE TABLE t_0 PARTITION OF t FOR VALUES WITH (MODULUS 3, REMAINDER 0);
CREATE TABLE t_1 PARTITION OF t FOR VALUES WITH (MODULUS 3, REMAINDER 1);
CREATE TABLE t_2 PARTITION OF t FOR VALUES WITH (MODULUS 3, REMAINDER 2);

-- name: work
INSERT INTO t SELECT i, (ARRAY['n', 'ne', 's', 'x'])[1 + i % 4], i, 'v' FROM generate_series(1, 200) i;

UPDATE t SET n = n + 1 WHERE id % 3 = 0;

UPDATE t SET region = 's' WHERE id % 5 = 0 AND region = 'n';

UPDATE t_south SET id = id + 700 WHERE id BETWEEN 90 AND 99;

DELETE FROM t_north WHERE id < 20;

INSERT INTO t_north VALUES (1001, 'n', 1, 'into the partition');

UPDATE t_other SET v = 'other' WHERE id % 2 = 1;

TRUNCATE t_north;

INSERT INTO t VALUES (1001, 'ne', 1, 'after the truncate');
