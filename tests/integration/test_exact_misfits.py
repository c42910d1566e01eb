"""A slave's column keeps every value of the master's, or the table is refused; nothing is cut."""

from __future__ import annotations

from contextlib import closing

import pytest

from pyreplica.errors import Refused
from pyreplica.master import Master
from pyreplica.replication.setup import install
from pyreplica.slave import Slave
from pyreplica.slave.misfit import misfit
from tests.conftest import Databases
from tests.support import assert_same, config, copied, copy, running, sql, value

TYPES = """
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('a', 'b');
CREATE TYPE app."Mood(3)" AS ENUM ('a', 'b');
CREATE TYPE app.pair AS (x int, y varchar(5));
CREATE TYPE app.whole AS (p app.pair, n int);
CREATE DOMAIN app.word AS varchar(5);
CREATE DOMAIN app.words AS app.word[];
CREATE DOMAIN app.price AS numeric(10,2);
CREATE TYPE app.span AS RANGE (subtype = text, collation = "C");
"""
OTHER_TYPES = """
CREATE SCHEMA app;
CREATE TYPE app.mood AS ENUM ('b', 'a', 'c');
CREATE TYPE app."Mood" AS ENUM ('a', 'b');
CREATE TYPE app.pair AS (y varchar(5), x int);
CREATE TYPE app.whole AS (p app.pair, n int);
CREATE DOMAIN app.word AS varchar(3);
CREATE DOMAIN app.words AS app.word[];
CREATE DOMAIN app.price AS numeric(10,1);
CREATE TYPE app.span AS RANGE (subtype = text, collation = "POSIX");
"""

KEEPING = [
    ("int", "int"),
    ("smallint", "integer"),
    ("smallint", "bigint"),
    ("int", "numeric"),
    ("bigint", "numeric"),
    ("varchar(5)", "varchar(5)"),
    ("varchar(5)", "varchar(6)"),
    ("varchar(5)", "varchar"),
    ("varchar(5)", "text"),
    ("varchar", "text"),
    ("text", "varchar"),
    ("numeric(10,2)", "numeric"),
    ("timestamp(3)", "timestamp"),
    ("time(3)", "time"),
    ("timestamptz(0)", "timestamptz"),
    ("interval(3)", "interval"),
    ("varbit(5)", "varbit"),
    ("varchar(5)[]", "varchar[]"),
    ('text COLLATE "C"', 'text COLLATE "POSIX"'),
    ("app.mood", "app.mood"),
    ("app.mood[]", "app.mood[]"),
]

CUTTING = [
    ("int", "smallint"),
    ("bigint", "int"),
    ("numeric", "bigint"),
    ("numeric", "float8"),
    ("numeric", "numeric(10,2)"),
    ("numeric(10,3)", "numeric(10,2)"),
    ("numeric(10,2)", "numeric(12,2)"),
    ("float8", "float4"),
    ("float4", "float8"),
    ("text", "varchar(5)"),
    ("varchar(5)", "varchar(4)"),
    ("varchar(5)", "char(5)"),
    ("char(5)", "char(6)"),
    ("char(5)", "text"),
    ("text", "name"),
    ("text", '"char"'),
    ("json", "jsonb"),
    ("jsonb", "json"),
    ("timestamp", "timestamp(3)"),
    ("timestamp", "timestamptz"),
    ("timestamptz", "timestamp"),
    ("time", "time(0)"),
    ("interval", "interval(0)"),
    ("interval", "interval year to month"),
    ("bit(3)", "bit(4)"),
    ("varbit", "varbit(5)"),
    ("int[]", "bigint[]"),
    ("varchar(5)[]", "varchar(3)[]"),
    ("text", "bytea"),
    ("app.mood", "text"),
    ('app."Mood(3)"', 'app."Mood"'),
    ("varchar(5)", "app.word"),
    ("app.word", "varchar(5)"),
    # of the same name, and made otherwise on the slave
    ("app.word", "app.word"),
    ("app.word[]", "app.word[]"),
    ("app.words", "app.words"),
    ("app.price", "app.price"),
    ("app.pair", "app.pair"),
    ("app.pair[]", "app.pair[]"),
    ("app.whole", "app.whole"),
    ("app.span", "app.span"),
]


def test_every_pair_of_types_is_taken_or_refused_by_the_name_of_the_column(
    databases: Databases,
) -> None:
    pairs = [*KEEPING, *CUTTING]
    sql(
        databases.master,
        TYPES,
        *(
            f"CREATE TABLE public.t{n} (id int PRIMARY KEY, c {ours})"
            for n, (ours, _) in enumerate(pairs)
        ),
    )
    sql(
        databases.slave,
        OTHER_TYPES,
        *(
            f"CREATE TABLE public.t{n} (id int PRIMARY KEY, c {theirs})"
            for n, (_, theirs) in enumerate(pairs)
        ),
    )
    made = config(databases)
    install(made)
    with closing(Master(made)) as master, closing(Slave(made)) as slave:
        problems = {t.name: misfit(t, slave.describe(t)) for t in master.tables()}
    refused = [pair for n, pair in enumerate(pairs) if problems[f"t{n}"] is not None]
    assert refused == CUTTING
    for n, _ in enumerate(pairs):
        problem = problems[f"t{n}"]
        assert problem is None or problem[0].startswith(f"column c of table public.t{n} is ")
        assert problem is None or "on the slave" in problem[1]


def test_the_message_about_a_type_of_the_same_name_says_how_it_is_made(
    databases: Databases,
) -> None:
    table = "CREATE TABLE public.t (id int PRIMARY KEY, c app.whole)"
    sql(databases.master, TYPES, table)
    sql(databases.slave, OTHER_TYPES, table)
    made = config(databases)
    install(made)
    with pytest.raises(Refused) as refused:
        copy(made)
    assert "column c of table public.t is app.whole on both sides" in refused.value.what
    assert "app.pair is (x integer, y character varying(5))" in refused.value.what
    assert "app.pair is (y character varying(5), x integer)" in refused.value.what
    assert refused.value.hint == "Make the type on the slave like the master's."


REFUSED_LATER = [
    # what the slave is altered to, the value, what the slave says of it
    ("ALTER TYPE app.mood RENAME VALUE 'b' TO 'z'", "m", "'b'", "invalid input value for enum"),
    ("ALTER DOMAIN app.word ADD CHECK (value <> 'no')", "w", "'no'", "violates check constraint"),
    ("ALTER TABLE public.t ADD CHECK (n < 5)", "n", "7", "violates check constraint"),
    ("DROP TABLE app.named", "r", "'app.named'", 'relation "app.named" does not exist'),
]


@pytest.mark.parametrize(
    ("altered", "column", "new", "said"), REFUSED_LATER, ids=[said for *_, said in REFUSED_LATER]
)
def test_a_value_that_only_the_slave_refuses_stops_it_by_table_and_key_until_repaired(
    databases: Databases, apply_path: str, altered: str, column: str, new: str, said: str
) -> None:
    made = copied(
        databases,
        f"{TYPES} CREATE TABLE app.named (id int PRIMARY KEY); CREATE TABLE public.t "
        "(id int PRIMARY KEY, n int, m app.mood, w app.word, r regclass); "
        "INSERT INTO public.t VALUES (1, 1, 'a', 'w')",
    )
    sql(databases.slave, altered)
    with running(made) as replication:
        sql(databases.master, f"UPDATE public.t SET {column} = {new}")
        line = replication.until_said('cannot update public.t {"id": "1"}')
        assert said in line
        assert value(databases.slave, f"SELECT {column} FROM public.t") != new.strip("'")
        sql(databases.slave, "DELETE FROM public.t", "DROP TABLE public.t")
        sql(databases.slave, *repaired())
        assert_same(made)


def repaired() -> list[str]:
    """Makes the slave's table and its types as the master has them."""
    return [
        "DROP SCHEMA app CASCADE",
        TYPES,
        "CREATE TABLE app.named (id int PRIMARY KEY); CREATE TABLE public.t "
        "(id int PRIMARY KEY, n int, m app.mood, w app.word, r regclass); "
        "INSERT INTO public.t VALUES (1, 1, 'a', 'w')",
    ]


def test_a_domain_that_was_narrowed_on_the_slave_cuts_nothing(
    databases: Databases, apply_path: str
) -> None:
    table = "CREATE TABLE public.t (id int PRIMARY KEY, w app.word)"
    made = copied(databases, f"{TYPES} {table}")
    sql(
        databases.slave,
        "DROP TABLE public.t",
        "DROP DOMAIN app.words",
        "DROP DOMAIN app.word",
        "CREATE DOMAIN app.word AS varchar(3)",
        table,
    )
    with running(made) as replication:
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'abcde')")
        line = replication.until_said("column w of table public.t is app.word on both sides")
        assert "on the slave app.word is character varying(3)" in line
        assert value(databases.slave, "SELECT count(*) FROM public.t") == 0
