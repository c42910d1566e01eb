-- TRUNCATE of a partitioned table among other changes.

-- name: tables
CREATE TABLE t (id integer, region text, n integer, v text, PRIMARY KEY (id, region))
    PARTITION BY LIST (region);
CREATE TABLE t_north PARTITION OF t FOR VALUES IN ('n', 'ne');
CREATE TABLE t_south PARTITION OF t FOR VALUES IN ('s') PARTITION BY RANGE (id);
CREATE TABLE t_south_low PARTITION OF t_south FOR VALUES FROM (0) TO (100);
CREATE TABLE t_south_high PARTITION OF t_south FOR VALUES FROM (100) TO (1000);
CREATE TABLE t_other PARTITION OF t DEFAULT;

-- name: slave
CREATE TABLE t (id integer, region text, n integer, v text, PRIMARY KEY (id, region));

-- name: rows
INSERT INTO t SELECT i, 's', i, 'v' FROM generate_series(1, 200) i;

-- name: work
BEGIN;
UPDATE t SET n = 0;
TRUNCATE t;
INSERT INTO t VALUES (1, 'n', 1, 'x');
COMMIT;

BEGIN;
INSERT INTO t VALUES (2, 's', 1, 'x');
TRUNCATE t_south_low;
INSERT INTO t VALUES (3, 's', 1, 'x'), (300, 's', 1, 'x');
COMMIT;

BEGIN;
TRUNCATE t_south;
INSERT INTO t VALUES (2, 's', 2, 'y');
COMMIT;
