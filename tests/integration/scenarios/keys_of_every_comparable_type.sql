-- Keys of types whose equality, order or text is not a plain one.

-- name: tables
CREATE TYPE mood AS ENUM ('sad', 'so "so"', 'happy');
CREATE TYPE pair AS (a integer, b text);
CREATE DOMAIN code AS text CHECK (value <> '');
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE by_enum (k mood PRIMARY KEY, v integer);
CREATE TABLE by_row (k pair PRIMARY KEY, v integer);
CREATE TABLE by_array (k text[] PRIMARY KEY, v integer);
CREATE TABLE by_range (k numrange PRIMARY KEY, v integer);
CREATE TABLE by_numeric (k numeric PRIMARY KEY, v integer);
CREATE TABLE by_float (k double precision PRIMARY KEY, v integer);
CREATE TABLE by_interval (k interval PRIMARY KEY, v integer);
CREATE TABLE by_blanks (k char(4) PRIMARY KEY, v integer);
CREATE TABLE by_jsonb (k jsonb PRIMARY KEY, v integer);
CREATE TABLE by_domain (k code PRIMARY KEY, v integer);
CREATE TABLE by_letters (k text COLLATE nocase PRIMARY KEY, v integer);
CREATE TABLE by_address (k inet PRIMARY KEY, v integer);

-- name: rows
INSERT INTO by_enum VALUES ('sad', 1), ('happy', 2);
INSERT INTO by_row VALUES ('(1,"a,b")', 1), ('(2,)', 2), ('(,"")', 3);
INSERT INTO by_array VALUES ('{}', 1), ('{NULL,"NULL"}', 2), ('[0:1]={a,b}', 3), ('{a,b}', 4);
INSERT INTO by_range VALUES ('empty', 1), ('[1,2)', 2), ('(,)', 3), ('[1.0,2.0]', 4);
INSERT INTO by_numeric VALUES (1.0, 1), ('NaN', 2), ('Infinity', 3), (1e-20, 4);
INSERT INTO by_float VALUES ('-0', 1), ('NaN', 2), (1e-310, 3), (0.1, 4);
INSERT INTO by_interval VALUES ('1 mon', 1), ('1 day -00:00:01', 2), ('-1 year', 3);
INSERT INTO by_blanks VALUES ('a', 1), ('  b', 2), ('', 3);
INSERT INTO by_jsonb VALUES ('null', 1), ('{"a": 1.0}', 2), ('"null"', 3), ('[]', 4);
INSERT INTO by_domain VALUES ('x', 1), (' ', 2);
INSERT INTO by_letters VALUES ('a', 1), ('B', 2);
INSERT INTO by_address VALUES ('10.0.0.1/8', 1), ('::1', 2), ('10.0.0.1', 3);

-- name: work
UPDATE by_enum SET v = 9; UPDATE by_row SET v = 9; UPDATE by_array SET v = 9; UPDATE by_range SET v = 9;
UPDATE by_numeric SET v = 9; UPDATE by_float SET v = 9; UPDATE by_interval SET v = 9;
UPDATE by_blanks SET v = 9; UPDATE by_jsonb SET v = 9; UPDATE by_domain SET v = 9;
UPDATE by_letters SET v = 9; UPDATE by_address SET v = 9;

UPDATE by_enum SET k = 'so "so"' WHERE k = 'sad';

UPDATE by_row SET k.b = 'c' WHERE (k).a = 2;

UPDATE by_array SET k = array_append(k, '{"') WHERE cardinality(k) < 3;

UPDATE by_range SET k = '[1.00,2)' WHERE k = '[1,2)';

UPDATE by_numeric SET k = 1.000 WHERE k = 1;

UPDATE by_numeric SET k = 1.00, v = 5 WHERE k = 1;

UPDATE by_float SET k = 0 WHERE k = 0;

UPDATE by_interval SET k = '30 days' WHERE k = '1 mon';

UPDATE by_interval SET k = '720:00', v = 7 WHERE k = '1 mon';

UPDATE by_jsonb SET k = '{"a": 1.00}' WHERE k = '{"a": 1}';

UPDATE by_letters SET k = upper(k), v = v + 1;

UPDATE by_letters SET k = lower(k);

UPDATE by_address SET k = set_masklen(k, 16) WHERE masklen(k) < 32;

BEGIN;
DELETE FROM by_letters WHERE k = 'A';
INSERT INTO by_letters VALUES ('A', 0);
DELETE FROM by_numeric WHERE k = 1;
INSERT INTO by_numeric VALUES (1, 0);
COMMIT;

DELETE FROM by_enum; DELETE FROM by_row; DELETE FROM by_array WHERE v = 9; DELETE FROM by_range;
DELETE FROM by_numeric WHERE k > 0; DELETE FROM by_float; DELETE FROM by_interval; DELETE FROM by_blanks;
DELETE FROM by_jsonb; DELETE FROM by_domain WHERE k = ' '; DELETE FROM by_letters; DELETE FROM by_address;
