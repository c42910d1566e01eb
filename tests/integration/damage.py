"""Tables of all kinds, and ways in which a slave's rows can get wrong."""

from __future__ import annotations

from dataclasses import dataclass

from pyreplica.config import ReplicationConfig
from tests.conftest import Databases
from tests.support import connect, copied


@dataclass(frozen=True)
class Shape:
    """A kind of table: a key, and a column v of text.

    Args:
        plain: schema and name, as PyReplica writes them.
        name: the same as SQL.
        columns: what follows the name in CREATE TABLE.
        keys: six keys: the values of the key's columns, as SQL.
        slave: what follows the name on the slave where that is something else.
        key: the key's columns, as SQL.
    """

    plain: str
    name: str
    columns: str
    keys: tuple[str, ...]
    slave: str | None = None
    key: tuple[str, ...] = ("id",)

    def definition(self, *, slave: bool) -> str:
        """What follows the name in CREATE TABLE."""
        return self.columns if not slave or self.slave is None else self.slave

    def rows(self, *, slave: bool) -> str:
        """The table in a FROM clause, without those that inherit from it."""
        only = "" if "PARTITION BY" in self.definition(slave=slave) else "ONLY "
        return only + self.name

    def condition(self, n: int) -> str:
        """The condition for a key."""
        return f"({', '.join(self.key)}) = ({self.keys[n]})"


def _public(name: str, columns: str, keys: tuple[str, ...], slave: str | None = None) -> Shape:
    return Shape(f"public.{name}", f"public.{name}", columns, keys, slave)


_NUMBERS = ("1", "2", "3", "4", "5", "6")

SHAPES = (
    _public("numbers", "(id int PRIMARY KEY, v text)", _NUMBERS),
    _public(
        "uuids",
        "(id uuid PRIMARY KEY, v text)",
        tuple(f"uuid '{n}0000000-0000-4000-8000-00000000000{n}'" for n in range(1, 7)),
    ),
    _public(
        "texts",
        "(id text PRIMARY KEY, v text)",
        ("'a'", "'B'", "'Ä'", "'it''s \"quoted\" \\ {x}'", "''", "'日本'"),
    ),
    _public(
        "moments",
        "(id timestamptz PRIMARY KEY, v text)",
        (
            "timestamptz '2020-01-01 00:00:00.123456+00'",
            "timestamptz '2020-01-01 00:00+02'",
            "'infinity'",
            "'-infinity'",
            "timestamptz '0044-03-15 12:00 BC'",
            "timestamptz '9999-12-31 23:59:59.999999+00'",
        ),
    ),
    _public(
        "decimals",
        "(id numeric PRIMARY KEY, v text)",
        ("1.0", "2.00", "'NaN'", "0.000000000000000000001", "-1e30", "1e-5"),
    ),
    _public(
        "documents",
        "(id jsonb PRIMARY KEY, v text)",
        ("jsonb '1'", "jsonb '\"1\"'", "jsonb 'null'", "jsonb '{\"a\": [1]}'", "'[]'", "'true'"),
    ),
    _public(
        "lists",
        "(id text[] PRIMARY KEY, v text)",
        ("'{a}'::text[]", "'{}'", "'{a,NULL}'", "'{\"a,b\"}'", "'[2:3]={a,b}'", "'{{a},{b}}'"),
    ),
    _public(
        "bytes",
        "(id bytea PRIMARY KEY, v text)",
        ("bytea '\\x00'", "'\\x'", "'\\xff00'", "'\\x27'", "'\\x5c'", "'\\x0a'"),
    ),
    _public(
        "padded",
        "(id char(3) PRIMARY KEY, v text)",
        ("'a'::bpchar", "'ab'", "'abc'", "''", "'b'", "'c'"),
    ),
    Shape(
        'Ünïcode, Ö."T" %s',
        '"Ünïcode, Ö"."""T"" %s"',
        '("Kéy %" int, "k 2" text, v text, PRIMARY KEY ("k 2", "Kéy %"))',
        ("1, 'a'", "1, 'b'", "2, 'a'", "2, 'b'", "3, '(1,a)'", "4, ','"),
        key=('"Kéy %"', '"k 2"'),
    ),
    _public(
        "cut",
        "(id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id); "
        "CREATE TABLE public.cut_1 PARTITION OF public.cut FOR VALUES FROM (0) TO (3); "
        "CREATE TABLE public.cut_2 PARTITION OF public.cut DEFAULT",
        _NUMBERS,
        slave="(id int, v text, PRIMARY KEY (id))",
    ),
    _public(
        "whole",
        "(id int PRIMARY KEY, v text)",
        _NUMBERS,
        slave="(id int PRIMARY KEY, v text) PARTITION BY HASH (id); "
        "CREATE TABLE public.whole_1 PARTITION OF public.whole "
        "FOR VALUES WITH (MODULUS 2, REMAINDER 0); "
        "CREATE TABLE public.whole_2 PARTITION OF public.whole "
        "FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    ),
    _public(
        "turned",
        "(id int PRIMARY KEY, v text, w int DEFAULT 7, g int GENERATED ALWAYS AS (id * 2) STORED)",
        _NUMBERS,
        slave="(mine text DEFAULT 'mine', g int GENERATED ALWAYS AS (id * 3) STORED, w bigint, "
        "v text, id bigint PRIMARY KEY)",
    ),
    _public(
        "parent",
        "(id int PRIMARY KEY, v text); "
        "CREATE TABLE public.child (PRIMARY KEY (id)) INHERITS (public.parent); "
        "INSERT INTO public.child VALUES (1, 'child''s'), (100, 'child''s')",
        _NUMBERS,
        slave="(id int PRIMARY KEY, v text); "
        "CREATE TABLE public.child (PRIMARY KEY (id)) INHERITS (public.parent)",
    ),
    _public(
        "identity",
        "(id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text)",
        _NUMBERS,
    ),
)
"""Every kind of key and of table. The sixth key is for a row that only the slave gets."""

_VALUES = ("one", "two", "three", "four", "five")


def make(databases: Databases) -> ReplicationConfig:
    """A replication of all shapes with five rows each; the slave equals the master."""
    master = slave = 'CREATE SCHEMA "Ünïcode, Ö"; '
    for shape in SHAPES:
        master += f"CREATE TABLE {shape.name} {shape.definition(slave=False)}; "
        slave += f"CREATE TABLE {shape.name} {shape.definition(slave=True)}; "
        for key, value in zip(shape.keys, _VALUES, strict=False):
            master += (
                f"INSERT INTO {shape.name} ({', '.join(shape.key)}, v) OVERRIDING SYSTEM VALUE "
                f"VALUES ({key}, '{value}'); "
            )
    return copied(databases, master, slave=slave)


def damage(databases: Databases) -> None:
    """In each table a row is gone, one is changed, two have exchanged values, one is too many."""
    with connect(databases.slave) as session:
        for shape in SHAPES:
            rows = shape.rows(slave=True)
            session.execute(
                f"DELETE FROM {rows} WHERE {shape.condition(0)}; "
                f"UPDATE {rows} SET v = NULL WHERE {shape.condition(1)}; "
                f"UPDATE {rows} SET v = CASE v WHEN 'three' THEN 'four' ELSE 'three' END "
                "WHERE v IN ('three', 'four'); "
                f"INSERT INTO {shape.name} ({', '.join(shape.key)}, v) OVERRIDING SYSTEM VALUE "
                f"VALUES ({shape.keys[5]}, 'extra')"
            )


def contents(databases: Databases, shape: Shape, *, slave: bool) -> dict[tuple[str, ...], str]:
    """A table's rows by their keys, without any help of PyReplica."""
    key = ", ".join(f"concat({column})" for column in shape.key)
    with connect(databases.slave if slave else databases.master) as session:
        found = session.query(f"SELECT ARRAY[{key}], v FROM {shape.rows(slave=slave)}")
    return {tuple(key): v for key, v in found}


def expected(databases: Databases, shape: Shape) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """The differences that damage() has made: kind, and the key's names and values."""
    there = contents(databases, shape, slave=False)
    here = contents(databases, shape, slave=True)
    kinds = dict.fromkeys(there.keys() - here.keys(), "missing")
    kinds |= dict.fromkeys(here.keys() - there.keys(), "extra")
    kinds |= {key: "differs" for key in there.keys() & here.keys() if there[key] != here[key]}
    assert sorted(kinds.values()) == ["differs"] * 3 + ["extra", "missing"], (shape.name, kinds)
    names = [name.strip('"') for name in shape.key]
    return {(kind, frozenset(zip(names, key, strict=True))) for key, kind in kinds.items()}
