-- Keys of several columns that are neither first nor in the columns' order, on the slave in another one.

-- name: tables
CREATE TABLE scattered (
    v text, b text, n numeric, a integer, d date, PRIMARY KEY (a, d, b) INCLUDE (n)
);
CREATE TABLE at_the_end (note text, w integer[], id uuid, at timestamptz, PRIMARY KEY (at, id));
CREATE TABLE all_of_it (c "char", b boolean, a bytea, PRIMARY KEY (a, b, c));

-- name: slave
CREATE TABLE scattered (
    d date, a integer, n numeric, v text, b text, PRIMARY KEY (b, a, d)
);
CREATE TABLE at_the_end (id uuid, at timestamptz, w integer[], note text, PRIMARY KEY (id, at));
CREATE TABLE all_of_it (a bytea, b boolean, c "char", UNIQUE (c, b, a) INCLUDE (a));

-- name: rows
INSERT INTO scattered SELECT 'v' || i, chr(64 + i), i, i % 3, date '2024-02-28' + i % 2 FROM generate_series(1, 12) i;
INSERT INTO at_the_end
SELECT 'n', ARRAY[i, NULL], md5(i::text)::uuid, timestamptz '2024-03-31 01:59:59.123456+01' + i * interval '1 h'
FROM generate_series(1, 6) i;
INSERT INTO all_of_it SELECT 'x', i % 2 = 0, decode(to_hex(i + 16), 'hex') FROM generate_series(1, 6) i;

-- name: work
INSERT INTO scattered VALUES ('new', 'A', NULL, -1, '0044-03-15 BC'), ('new', 'A', 0.50, -1, 'infinity');

UPDATE scattered SET n = n * 1.50 WHERE a = 1;

UPDATE scattered SET a = a + 1, v = v || '!' WHERE d = '2024-02-28';

UPDATE scattered SET d = d + 1 WHERE a = -1 AND isfinite(d);

UPDATE scattered SET b = b || b, a = -a;

DELETE FROM scattered WHERE b IN ('AA', 'CC');

UPDATE at_the_end SET w = '[5:6]={7,8}' WHERE extract(minute FROM at) = 59 AND note = 'n';

UPDATE at_the_end SET at = at + interval '1 us', note = NULL;

DELETE FROM at_the_end WHERE id = md5('3')::uuid;

UPDATE all_of_it SET c = 'y' WHERE b;

UPDATE all_of_it SET a = a || '\x00' WHERE c = 'x';

BEGIN;
DELETE FROM all_of_it WHERE c = 'y';
INSERT INTO all_of_it VALUES ('', false, ''), ('z', true, '\x5c27');
COMMIT;
