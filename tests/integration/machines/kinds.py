"""The types of columns that random schemas are made of, with a few values of each.

The values are few, so that keys meet, foreign keys find what they refer to, and unique values
change hands. Among them are such as are equal to one another and yet not the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

SETUP = """
CREATE SCHEMA kinds;
CREATE EXTENSION citext SCHEMA kinds;
CREATE EXTENSION hstore SCHEMA kinds;
CREATE COLLATION kinds.any_case (
    provider = icu, locale = 'und-u-ks-level2', deterministic = false
);
CREATE TYPE kinds.mood AS ENUM ('sad', 'Ok', '"glad", so');
CREATE TYPE kinds.pair AS (n integer, "the text" text);
CREATE DOMAIN kinds.short AS text CHECK (length(value) < 12);
CREATE DOMAIN kinds.small AS integer CHECK (value < 100);
CREATE DOMAIN kinds.whole_pair AS kinds.pair CHECK ((value).n IS NOT NULL);
CREATE DOMAIN kinds.numbers AS kinds.small[] CHECK (cardinality(value) < 5);
-- text that is stored out of line, because it does not compress
CREATE FUNCTION kinds.long(seed integer) RETURNS text LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT string_agg(md5((seed * 1000 + i)::text), '') FROM generate_series(1, 100) i
$$;
"""
"""SQL that makes what the types below are made of; once for each database."""


@dataclass(frozen=True)
class Kind:
    """A type of a column.

    Attributes:
        type: as SQL.
        texts: values in the form that the type reads.
        more: further values, as SQL expressions.
        sorts: whether there is a btree operator class.
        hashes: whether there is a hash operator class.
    """

    type: str
    texts: tuple[str, ...]
    more: tuple[str, ...] = ()
    sorts: bool = True
    hashes: bool = True

    @property
    def values(self) -> tuple[str, ...]:
        """The values as SQL expressions."""
        base = self.type.partition(" COLLATE ")[0]
        return (*(f"{literal(text)}::{base}" for text in self.texts), *self.more)

    @property
    def is_number(self) -> bool:
        """Whether there is arithmetic with it."""
        return self.type in ("smallint", "integer", "bigint", "numeric")

    @property
    def is_text(self) -> bool:
        """Whether it is text, to functions of text."""
        return self.type.startswith(("text", "character varying"))


def literal(text: str) -> str:
    """A string as SQL."""
    return "'" + text.replace("'", "''") + "'"


_WORDS = ("a", "A", "b", "", "é", "O'Neil \\n", '{"x": 1}', "NULL")

INTEGER = Kind("integer", ("1", "2", "3", "4", "-5"))
BIGINT = replace(INTEGER, type="bigint")
TEXT = Kind("text", _WORDS)
RANGE = Kind("int4range", ("[1,3)", "[3,5)", "[2,4)", "empty", "(,7)"))

OF_KEYS: tuple[Kind, ...] = (
    INTEGER,
    TEXT,
    Kind("smallint", ("1", "2", "3", "-4")),
    BIGINT,
    Kind("numeric", ("1", "1.0", "1.00", "2", "NaN", "-0.10")),
    Kind("numeric(8,2)", ("1", "1.10", "2.55")),
    Kind("double precision", ("0", "-0", "1.5", "NaN", "Infinity", "4.9e-324")),
    Kind("real", ("0", "-0", "0.1", "-Infinity")),
    Kind('text COLLATE "C"', _WORDS),
    Kind("text COLLATE kinds.any_case", ("a", "A", "b", "é", "É", "ss")),
    Kind("kinds.citext", ("a", "A", "b", "B", "é")),
    Kind("character varying(12)", _WORDS),
    Kind("character(4)", ("a", "a ", "ab", "é")),
    Kind('"char"', ("a", "b", "")),
    Kind("name", ("a", "A", "it's")),
    Kind("boolean", ("t", "f")),
    Kind("date", ("2024-02-29", "0044-03-15 BC", "infinity")),
    Kind("timestamp", ("2024-02-29 12:00:00.000001", "2024-02-29 12:00", "-infinity")),
    Kind("timestamptz", ("2024-03-31 02:30+01", "2024-03-31 01:30+00", "0001-01-01 00:00+00 BC")),
    Kind("time", ("00:00", "24:00", "12:34:56.789")),
    Kind("timetz", ("12:00+00", "13:00+01", "24:00-12")),
    Kind("interval", ("1 day", "24 hours", "1 mon", "30 days", "-1 day +00:00:01")),
    Kind("uuid", ("00000000-0000-0000-0000-000000000001", "ffffffff-0000-0000-0000-000000000000")),
    Kind("bytea", ("\\x00ff", "\\x", "\\x5c27")),
    Kind("kinds.mood", ("sad", "Ok", '"glad", so')),
    Kind("kinds.short", ("a", "b", "it's", "")),
    Kind("kinds.small", ("1", "2", "3")),
    Kind("kinds.pair", ("(1,a)", "(1,)", '(,"a ""b"", c")', '(2,"")')),
    Kind("integer[]", ("{1,2}", "[2:3]={1,2}", "{}", "{NULL}", "{{1},{2}}")),
    Kind("text[]", ("{a,b}", '{"a,b"}', '{NULL,"NULL",""}')),
    Kind("jsonb", ('{"a": 1}', '{"a": 1.0}', "null", '"a"')),
    Kind("inet", ("10.0.0.1", "10.0.0.1/8", "::1")),
    Kind("bit(4)", ("0101", "1111"), hashes=False),
    Kind("varbit", ("", "01", "010"), hashes=False),
    Kind("money", ("1.00", "-2.50"), hashes=False),
    Kind("pg_lsn", ("0/0", "1/2")),
    Kind("oid", ("1", "4294967295")),
    RANGE,
    Kind("numrange", ("[1.0,2.0]", "[1,2]", "(,)")),
    Kind("tsvector", ("a b", "'a':1A 'b'", ""), hashes=False),
)
"""Types that can be in a primary key."""

OTHERS: tuple[Kind, ...] = (
    Kind("text", ("a", "b"), ("kinds.long(1)", "kinds.long(2)")),
    Kind("json", ('{"b": 1,  "a": 2}', "null", '{"a": 1, "a": 2}'), sorts=False, hashes=False),
    Kind("jsonb", ("null", '{"a": null}', '"x"'), ("to_jsonb(kinds.long(3))",)),
    Kind("kinds.hstore", ("a=>1", 'a=>NULL,b=>"x, y"', ""), sorts=False, hashes=False),
    Kind("kinds.whole_pair", ("(1,a)", "(1,)")),
    Kind("kinds.numbers", ("{1,2}", "[0:1]={1,NULL}")),
    Kind("kinds.pair[]", ('{"(1,a)"}', '{NULL,"(,)"}', "{}")),
    Kind("kinds.mood[]", ("{sad}", '{"\\"glad\\", so"}')),
    Kind("point", ("(0,-0)", "(1.5,NaN)"), sorts=False, hashes=False),
    Kind("box", ("(1,1),(0,0)",), sorts=False, hashes=False),
    Kind("tstzrange", ("[2024-01-01 00:00+00,)", "empty")),
    Kind("macaddr", ("08:00:2b:01:02:03",)),
    Kind("xml", ("<a>1</a>", "text"), sorts=False, hashes=False),
    Kind("bytea", ("\\x00",), ("kinds.long(4)::bytea",)),
)
"""Further types, of columns that are not in a key."""
