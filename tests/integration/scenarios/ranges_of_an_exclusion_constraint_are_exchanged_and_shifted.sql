-- Ranges of exclusion constraints are exchanged, shifted, split and merged.

-- name: tables
CREATE TABLE booked (id integer PRIMARY KEY, room int4range, during int4range, v text,
    EXCLUDE USING gist (room WITH &&, during WITH &&) WHERE (v <> 'free'));
CREATE TABLE late (id integer PRIMARY KEY, during int4range,
    EXCLUDE USING gist (during WITH &&) DEFERRABLE INITIALLY DEFERRED);

-- name: slave
CREATE TABLE booked (id integer PRIMARY KEY, room int4range, during int4range, v text,
    EXCLUDE USING gist (room WITH &&, during WITH &&) WHERE (v <> 'free'));
CREATE TABLE late (id integer PRIMARY KEY, during int4range, EXCLUDE USING gist (during WITH &&));

-- name: rows
INSERT INTO booked SELECT i, '[1,1]', int4range(i * 10, i * 10 + 10), 'row' FROM generate_series(1, 5) i;
INSERT INTO late SELECT i, int4range(i * 10, i * 10 + 10) FROM generate_series(1, 5) i;

-- name: work
BEGIN;
UPDATE booked SET v = 'free' WHERE id = 1;
UPDATE booked SET during = '[10,20)' WHERE id = 2;
UPDATE booked SET during = '[20,30)', v = 'swapped' WHERE id = 1;
COMMIT;

UPDATE booked SET during = int4range(lower(during) - 5, upper(during) - 5), v = 'shifted' WHERE id = 2;

BEGIN;
UPDATE booked SET during = '[30,33)' WHERE id = 3;
INSERT INTO booked VALUES (6, '[0,5)', '[33,36)', 'split'), (7, '[1,2)', '[36,40)', 'split');
COMMIT;

BEGIN;
DELETE FROM booked WHERE id IN (3, 7);
UPDATE booked SET during = '[30,40)', room = '[1,2)' WHERE id = 6;
INSERT INTO booked VALUES (3, '[2,3)', '[30,40)', 'another room');
COMMIT;

UPDATE late SET during = int4range(lower(during) + 10, upper(during) + 10);

UPDATE late SET during = int4range(80 - lower(during), 90 - lower(during));

BEGIN;
UPDATE late SET during = '[20,50)' WHERE during = '[20,30)';
DELETE FROM late WHERE during IN ('[30,40)', '[40,50)');
INSERT INTO late VALUES (9, '[0,20)');
COMMIT;
