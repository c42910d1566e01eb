"""Filters in Python: the slave has the rows for which the condition is true; errors are told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from pyreplica.config import ReplicationConfig
from pyreplica.errors import DatabaseError, PyReplicaError, Refused
from pyreplica.replication.addition import Addition, remove_tables
from pyreplica.replication.repair import repair
from pyreplica.replication.setup import install, uninstall
from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.integration.test_docs import ROOT, blocks, read, section
from tests.integration.test_filters import (
    CUSTOMER,
    HISTORY,
    ROWS,
    STATEMENTS,
    TABLES,
    Filtered,
    problems,
    refused,
    rows,
)
from tests.integration.test_random_histories import TABLES as HISTORIES_TABLES
from tests.integration.test_random_histories import TRIGGER
from tests.support import (
    Silence,
    assert_same,
    config,
    connect,
    connected,
    copied,
    copy,
    running,
    sql,
    value,
)

EU = 'new["region"] == "eu" and new["deleted"] is None'
LINES = """
import re

if new["deleted"] is not None:
    return False
return re.fullmatch("e.", new["region"] or "")
"""
IN_SQL = "region = 'eu' AND deleted IS NULL"


def filtered(python: str = EU, **more: Any) -> dict[str, Any]:
    """The setting `filters` for the table."""
    return {"public.customer": {"python": python, **more}}


def made_of(databases: Databases, tables: str, **options: Any) -> ReplicationConfig:
    """A replication that is copied, whatever language other tests have the capture in."""
    return copied(databases, tables, capture="plpython3u", **options)


def expect(databases: Databases, made: ReplicationConfig, where: str = IN_SQL) -> None:
    """The slave has caught up, and has just the rows of the master that the filter lets through."""
    wait(made, 30)
    wanted = f"SELECT * FROM public.customer WHERE {where} ORDER BY id"
    assert rows(databases.slave) == rows(databases.master, wanted)


def functions(databases: Databases) -> int:
    """How many functions filters have become."""
    return int(
        value(
            databases.master, "SELECT count(*) FROM pg_proc WHERE proname ~ '^python_filter_[0-9]'"
        )
    )


# What the slave has


@pytest.mark.parametrize("python", [EU, LINES], ids=["an expression", "lines"])
@pytest.mark.usefixtures("apply_path")
def test_rows_enter_leave_and_move(databases: Databases, python: str) -> None:
    made = made_of(databases, CUSTOMER + ROWS, filters=filtered(python))
    with running(made):
        expect(databases, made)
        assert len(rows(databases.slave)) == 1
        for statement in HISTORY:
            sql(databases.master, statement)
            expect(databases, made)
        assert_same(made)
    assert value(databases.slave, "SELECT count(*) FROM pyreplica.replica_conflict") == 0


@pytest.mark.usefixtures("apply_path")
def test_tables_that_restate_their_rows_are_filtered_alike(databases: Databases) -> None:
    if value(databases.master, "SELECT current_setting('server_version_num')::int") < 150000:
        pytest.skip("there is no MERGE")
    names = ("parent", "child", "parts", "late", "tree", "again")
    # the slave is partitioned otherwise, namely not at all
    flat = "\n".join(line for line in TABLES.splitlines() if " PARTITION OF " not in line)
    made = made_of(
        databases,
        TABLES,
        slave=flat.replace(" PARTITION BY RANGE (id)", ""),
        filters={f"public.{name}": {"python": 'new["v"] % 2 == 0'} for name in names},
    )
    with running(made):
        for statement in STATEMENTS:
            sql(databases.master, statement)
            wait(made, 30)
            for name in names:
                own = "" if name == "parts" else "ONLY "
                query = f"SELECT * FROM {own}public.{name}"
                wanted = rows(databases.master, f"{query} WHERE v % 2 = 0 ORDER BY id")
                assert rows(databases.slave, f"{query} ORDER BY id") == wanted, (statement, name)
        assert_same(made)


@pytest.mark.parametrize("trigger", ["SELECT 1", TRIGGER], ids=["plain", "with a trigger"])
@pytest.mark.usefixtures("apply_path")
def test_after_any_history_the_slave_has_what_the_filters_let_through(
    databases: Databases, trigger: str
) -> None:
    """Judged by conditions in SQL that mean the same."""
    made = made_of(
        databases,
        HISTORIES_TABLES,
        filters={
            "public.a": {
                "python": 'new["u"] is not None and new["u"] % 2 == 0 or new["v"] == "c"',
                "columns": ["id", "u", "v"],
            },
            "public.b": {"python": 'new["v"] >= 0 and new["x"] != "yx"'},
            "public.c": {"python": '(new["id"] if new["up"] is None else new["up"]) < 12'},
        },
    )
    sql(databases.master, trigger)
    attributes: dict[str, Any] = {"made": made, "databases": databases}
    machine: Callable[[], RuleBasedStateMachine] = type("OfThisTest", (Filtered,), attributes)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=5,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_slaves_with_conditions_in_python_in_sql_and_with_none(databases: Databases) -> None:
    filters = {
        "eu": (filtered(), IN_SQL),
        "us": ({"public.customer": {"where": "region = 'us'"}}, "region = 'us'"),
        "even": (filtered('new["id"] % 2 == 0', columns=["id", "region"]), "id % 2 = 0"),
        "all": ({}, "true"),
    }
    sql(databases.master, CUSTOMER + ROWS)
    with ExitStack() as stack:
        made = {}
        for name, (given, _) in filters.items():
            database = f"{databases.name[:50]}_{name}"
            databases.slave_cluster.create_database(database)
            stack.callback(databases.slave_cluster.drop_database, database)
            theirs = replace(databases, slave=databases.slave_cluster.dsn(database))
            made[name] = config(theirs, name, filters=given)
            sql(theirs.slave, CUSTOMER)
            install(made[name])
            copy(made[name])
        daemons = [stack.enter_context(running(one)) for one in made.values()]
        for statement in HISTORY:
            sql(databases.master, statement)
            for name, (_, where) in filters.items():
                wait(made[name], 30)
                query = "SELECT id, region FROM public.customer WHERE {} ORDER BY id"
                wanted = rows(databases.master, query.format(where))
                assert rows(made[name].slave, query.format("true")) == wanted, (statement, name)
        for one in made.values():
            assert_same(one)
            assert value(one.slave, "SELECT count(*) FROM pyreplica.replica_conflict") == 0
        assert not any(one.error for one in daemons)


def test_repair_follows_the_filter(databases: Databases) -> None:
    made = made_of(databases, CUSTOMER + ROWS, filters=filtered())
    sql(
        databases.slave,
        "DELETE FROM public.customer",
        "INSERT INTO public.customer VALUES (2, 'not for us', 'us'), (3, 'nowhere', 'eu')",
    )
    with connected(made):
        (found,) = repair(made, apply=True)
        assert (found.state, found.insert, found.delete) == ("repaired", 1, 2)
        expect(databases, made)


# Values

TYPES = """
CREATE TYPE public.mood AS ENUM ('sad', 'glad');
CREATE TYPE public.pair AS (a integer, b text);
CREATE DOMAIN public.price AS numeric(8, 2) CHECK (value >= 0);
CREATE TABLE public.customer (
    id integer PRIMARY KEY, small smallint, big bigint, oid_ oid, real_ real, double_ float8,
    price public.price, flag boolean, raw bytea, name text, code char(3), day date, at timestamptz,
    length interval, doc jsonb, list integer[], grid text[][], days date[], span int4range,
    mood public.mood, moods public.mood[], pair public.pair, nothing text
);
"""
VALUES = """
INSERT INTO public.customer VALUES (
    {id}, 1, 2, 3, 0.5, 0.1, 1.10, true, '\\x00ff', 'Ä ''%"\\', 'a', '2020-02-01',
    '2020-02-01 12:00+02', '1 day 2 hours', '{{"a": 1}}', '{{1,null}}', '{{{{a,b}},{{c,d}}}}',
    '{{2020-02-01}}', '[1,5)', 'glad', '{{sad,glad}}', '(1,x)', NULL)
"""
OBJECTS = r"""
from decimal import Decimal

# as repr() also tells True from 1, and 1 from 1.0
return repr([
    new["id"] > 0, new["small"], new["big"], new["oid_"], new["real_"], new["double_"],
    new["price"], new["flag"], new["raw"], new["name"], new["code"], new["day"], new["at"],
    new["length"], new["doc"], new["list"], new["grid"], new["days"], new["span"],
    new["mood"], new["moods"], new["pair"], new["nothing"],
]) == repr([
    True, 1, 2, 3, 0.5, 0.1,
    Decimal("1.10"), True, b"\x00\xff", "Ä '%\"\\", "a  ", "2020-02-01", "2020-02-01 10:00:00+00",
    "1 day 02:00:00", '{"a": 1}', [1, None], [["a", "b"], ["c", "d"]], ["2020-02-01"], "[1,5)",
    "glad", "{sad,glad}", "(1,x)", None,
])
"""


def test_values_are_objects_by_the_columns_type_whatever_the_session_has_set(
    databases: Databases,
) -> None:
    tables = TYPES + VALUES.format(id=1)
    made = made_of(databases, tables, filters=filtered(OBJECTS))
    with running(made):
        with connect(databases.master) as session:
            session.execute(
                "SET DateStyle = 'German'; SET TimeZone = 'Asia/Tokyo'; "
                "SET bytea_output = 'escape'; SET IntervalStyle = 'sql_standard'; "
                "SET extra_float_digits = -5"
            )
            session.execute(VALUES.format(id=2))
            session.execute(VALUES.format(id=3))
            session.execute("UPDATE public.customer SET small = 0 WHERE id = 3")
        assert_same(made)
    # the copy and the capture have seen the same
    assert rows(databases.slave, "SELECT id FROM public.customer ORDER BY 1") == [(1,), (2,)]


def test_the_words_of_a_condition_and_its_columns_mean_themselves(databases: Databases) -> None:
    python = """
word = 'it''s a %s \\\\ "$$" $body$ {} ä\u2028'  # new["nothing"]
text = '''two
  lines'''
return new['odd "name%s ''ä'] in (word, text)
""".replace("odd \"name%s ''ä", "odd \\\"name%s \\'ä")
    table = """
CREATE TABLE public.customer (id integer PRIMARY KEY, "odd ""name%s 'ä" text);
"""
    made = made_of(databases, table, filters=filtered(python))
    with connect(databases.master) as session, running(made):
        for key, text in enumerate(
            ('its a %s \\\\ "$$" $body$ {} ä\u2028', "two\n  lines", "two\n\tlines", "")
        ):
            session.execute("INSERT INTO public.customer VALUES (%s, %s)", (key, text))
        assert_same(made)
    kept = [key for (key,) in rows(databases.slave, "SELECT id FROM public.customer ORDER BY 1")]
    # two literals beside each other are one; a backslash that is doubled is one
    assert kept == [1]
    assert problems(made) == []


# Errors

BROKEN = """
first = new["name"]
return first.startswith("a")
"""


def test_a_condition_that_raises_fails_the_statement_and_says_where(databases: Databases) -> None:
    made = made_of(databases, CUSTOMER, filters=filtered(BROKEN))
    with running(made):
        sql(databases.master, "INSERT INTO public.customer VALUES (1, 'a'), (2, 'b')")
        for statement in (
            "INSERT INTO public.customer VALUES (3, 'a'), (4, NULL)",
            "UPDATE public.customer SET name = NULL WHERE id = 1",
        ):
            with pytest.raises(DatabaseError) as caught:
                sql(databases.master, statement)
            assert caught.value.sqlstate == "38000"
            assert (
                "a filter of table public.customer failed: the Python filter of table "
                "public.customer for replication shop raised AttributeError: 'NoneType' object "
                "has no attribute 'startswith' (line 2)"
            ) in caught.value.what
            assert 'return first.startswith("a")' in caught.value.details
            assert "A filter must have an answer for every row" in caught.value.hint
        # the same session can go on, and other errors are told as what they are
        with connect(databases.master) as session:
            with pytest.raises(DatabaseError, match="raised AttributeError"):
                session.execute("INSERT INTO public.customer VALUES (5)")
            session.execute("INSERT INTO public.customer VALUES (6, 'ab')")
            with pytest.raises(DatabaseError, match="duplicate key"):
                session.execute("INSERT INTO public.customer VALUES (6, 'ab')")
        wait(made, 30)
        assert [row[0] for row in rows(databases.slave)] == [1, 6]
        assert_same(made)
    assert value(databases.master, "SELECT count(*) FROM public.customer") == 3


def test_a_row_for_which_it_raises_passes_where_that_is_wanted(databases: Databases) -> None:
    tables = CUSTOMER + "INSERT INTO public.customer VALUES (1, 'a'), (2, NULL), (3, 'c')"
    made = made_of(databases, tables, filters=filtered(BROKEN, on_error="pass"))
    like = "name IS NULL OR name LIKE 'a%'"
    with running(made):
        expect(databases, made, like)
        with connect(databases.master) as session:
            for statement, warned in (
                ("INSERT INTO public.customer SELECT i FROM generate_series(10, 30) i", 1),
                ("INSERT INTO public.customer VALUES (40)", 1),
                ("INSERT INTO public.customer VALUES (41, 'a')", 0),
                ("UPDATE public.customer SET name = 'a' WHERE id = 10", 1),
                ("UPDATE public.customer SET name = NULL WHERE id = 3", 1),
                ("UPDATE public.customer SET name = 'b' WHERE id = 11", 1),
                ("DELETE FROM public.customer WHERE id = 41", 0),
            ):
                session.notices()
                session.execute(statement)
                told = [one for one in session.notices() if "raised AttributeError" in one]
                assert len(told) == warned, statement
                assert all("WARNING" in one and "table public.customer" in one for one in told)
                expect(databases, made, like)
        assert_same(made)
    assert value(databases.slave, "SELECT count(*) FROM pyreplica.replica_conflict") == 0


def test_a_row_that_is_there_and_makes_it_raise_stops_the_copy(databases: Databases) -> None:
    tables = CUSTOMER + "INSERT INTO public.customer VALUES (1, 'a'), (2, NULL)"
    sql(databases.master, tables)
    sql(databases.slave, CUSTOMER)
    made = config(databases, filters=filtered(BROKEN))
    install(made)
    with pytest.raises(PyReplicaError, match="for replication shop raised AttributeError"):
        copy(made)
    mended = config(databases, filters=filtered('(new["name"] or "").startswith("a")'))
    copy(mended)
    with running(mended):
        sql(databases.master, "UPDATE public.customer SET name = 'ab' WHERE id = 2")
        assert_same(mended)
    assert [row[0] for row in rows(databases.slave)] == [1, 2]


def test_a_condition_is_compiled_once_in_a_session(databases: Databases) -> None:
    made_of(databases, CUSTOMER, filters=filtered())
    # of what is compiled here only syntax trees are no text
    hook = """
DO LANGUAGE plpython3u $$
import sys

shared = GD
shared["compiled"] = 0


def count(event, arguments):
    if event == "compile" and arguments[1] == "<filter>" and not isinstance(arguments[0], str):
        shared["compiled"] += 1


sys.addaudithook(count)
$$
"""
    told = "DO LANGUAGE plpython3u $$plpy.warning('compiled %d times' % GD['compiled'])$$"
    with connect(databases.master) as session:
        session.execute(hook)
        for number in range(20):
            session.execute(f"INSERT INTO public.customer VALUES ({number}, 'a', 'eu')")
            session.execute("UPDATE public.customer SET region = 'us'")
        session.notices()
        session.execute(told)
        assert "compiled 1 times" in " ".join(session.notices())


# Conditions


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("new['region'] =", "invalid syntax (line 1)"),
        ("x = 1\nreturn x +", "invalid syntax (line 2)"),
        ("x = new['region']", "it never returns anything"),
        ("def f():\n    return True\nf()", "it never returns anything"),
        ("yield True\nreturn True", "must return its answer and not yield it (line 1)"),
        (
            "region == 'eu'",
            'it uses the name region, which means nothing; a column is new["column"]',
        ),
        ("plpy.execute('SELECT 1')", "it uses the name plpy, which means nothing"),
        ("new['price'] > 1", "there is no column price"),
        ("new['ctid'] is None", "there is no column ctid"),
        ("any(new.values())", "it may use `new` only as"),
        ("[new[c] for c in ('id',)]", "it may use `new` only as"),
        ("new['id'] = 3\nreturn True", "it may use `new` only as"),
        ("new = {}\nreturn True", "it may use `new` only as"),
        ("return (\n", "was never closed"),
    ],
)
def test_what_is_no_condition_over_a_row_is_refused(
    databases: Databases, python: str, words: str
) -> None:
    sql(databases.master, CUSTOMER)
    sql(databases.slave, CUSTOMER)
    made = config(databases, filters=filtered(python))
    (line,) = [line for line in install(made) if line.refused]
    assert "the filter of public.customer for replication shop cannot be used: " in line.text
    assert words in line.text
    with pytest.raises(Refused, match="cannot be used") as caught:
        copy(made)
    assert words in caught.value.what
    assert "See docs/filters.md" in caught.value.hint
    assert value(databases.master, "SELECT count(*) FROM pyreplica.replica_filter") == 0
    assert functions(databases) == 0


@pytest.mark.parametrize(
    "python",
    [
        "True",
        'any(c in (new["name"] or "") for c in "ab")',
        '{"eu": True}.get(new["region"])',
        '(lambda region: region == "eu")(new["region"])',
        'import os.path as p\nfrom re import match as m\nreturn p and m("e", new["region"] or "")',
        'try:\n    return len(new["name"]) > 1\nexcept TypeError as why:\n    return bool(why)',
        'def f(old):\n    return old == "eu"\nreturn f(new["region"])',
        'new["region"] == (\n    "eu"\n)  # a comment',
        'new["region"] == "eu"\nand new["id"] > 3  # as in YAML\'s |',
        '    x = new["id"]\n    return x > 3',
    ],
)
def test_what_python_takes_for_one_is_one(databases: Databases, python: str) -> None:
    made = made_of(databases, CUSTOMER + ROWS, filters=filtered(python))
    with running(made):
        sql(databases.master, "INSERT INTO public.customer VALUES (9, 'a', 'eu'), (10, NULL, NULL)")
        assert_same(made)
    assert problems(made) == []


def test_more_columns_than_a_function_can_have_are_refused(databases: Databases) -> None:
    columns = [f"c{number}" for number in range(101)]
    declared = ", ".join(f"{name} integer" for name in columns)
    table = f"CREATE TABLE public.customer (id integer PRIMARY KEY, {declared});"
    sql(databases.master, table)
    sql(databases.slave, table)
    for count in (101, 100):
        python = " or ".join(f'new["{name}"]' for name in columns[:count])
        made = config(databases, filters=filtered(python))
        said = " ".join(line.text for line in install(made) if line.refused)
        assert ("it names 101 columns, and 100 are the most" in said) == (count == 101)
    copy(made)
    with running(made):
        sql(databases.master, "INSERT INTO public.customer (id, c7) VALUES (1, 0), (2, 5)")
        assert_same(made)
    assert rows(databases.slave, "SELECT id FROM public.customer") == [(2,)]


# What it needs


def test_capture_in_plpgsql_is_refused_by_name(databases: Databases) -> None:
    sql(databases.master, CUSTOMER)
    sql(databases.slave, CUSTOMER)
    install(config(databases, capture="plpgsql"))
    made = config(databases, filters=filtered())
    (line,) = [line for line in install(made) if line.refused]
    assert "is in Python, and tables are captured in PL/pgSQL" in line.text
    assert "`capture: plpython3u`" in line.text
    with pytest.raises(Refused, match="is in Python, and tables are captured in PL/pgSQL"):
        copy(made)
    assert problems(made) == ["has a filter in Python, and the master captures tables in PL/pgSQL"]

    # and the other way round
    install(config(databases, capture="plpython3u", filters=filtered()))
    copy(made)
    other = config(databases, capture="plpgsql")
    with pytest.raises(DatabaseError, match="tables cannot be captured in plpgsql") as caught:
        install(other)
    assert "the filter of public.customer for replication shop is in Python" in caught.value.what
    assert "`where:`" in caught.value.hint
    with running(made):
        sql(databases.master, ROWS)
        expect(databases, made)
        assert_same(made)
    sql(databases.master, "SELECT pyreplica.drop_filters('shop')")
    sql(databases.master, "SELECT pyreplica.set_capture('plpgsql')")


def test_columns_that_it_names_cannot_be_taken_out_of_the_table(databases: Databases) -> None:
    made = made_of(databases, CUSTOMER, filters=filtered(LINES))
    for statement in (
        "ALTER TABLE public.customer RENAME COLUMN region TO area",
        "ALTER TABLE public.customer DROP COLUMN deleted",
        "ALTER TABLE public.customer ALTER COLUMN region TYPE varchar",
    ):
        with pytest.raises(DatabaseError, match="the filter of replication shop names its column"):
            sql(databases.master, statement)
    for dsn in (databases.master, databases.slave):
        sql(
            dsn,
            "ALTER TABLE public.customer DROP COLUMN secret",
            "ALTER TABLE public.customer ADD COLUMN later integer DEFAULT 3",
        )
    with running(made):
        sql(databases.master, "INSERT INTO public.customer VALUES (1, 'a', 'eu'), (2, 'b', 'us')")
        assert_same(made)
    assert [row[0] for row in rows(databases.slave)] == [1]
    # what it says of the table has the name of today
    sql(
        databases.master,
        "SELECT pyreplica.set_python_filter('shop', 'public.customer', '1 / new[\"id\"]')",
        "ALTER TABLE public.customer RENAME TO client",
    )
    with pytest.raises(DatabaseError, match=r"the Python filter of table public\.client for"):
        sql(databases.master, "INSERT INTO public.client VALUES (0)")


def test_a_table_and_its_types_can_be_dropped_in_spite_of_its_filter(databases: Databases) -> None:
    made_of(
        databases,
        TYPES,
        filters=filtered('new["mood"] == "sad" or new["price"] or new["moods"] or new["pair"]'),
    )
    sql(
        databases.master,
        "DROP TABLE public.customer",
        "DROP DOMAIN public.price",
        "DROP TYPE public.pair",
        "DROP TYPE public.mood",
    )


def test_what_cannot_have_a_filter_is_refused_and_nothing_is_left(databases: Databases) -> None:
    sql(
        databases.master,
        CUSTOMER,
        "CREATE TABLE public.parts (id integer PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE public.part PARTITION OF public.parts DEFAULT",
        "CREATE VIEW public.shown AS SELECT id FROM public.customer",
    )
    install(config(databases))
    for table, words in (("part", "it is a partition"), ("shown", "it is not a table")):
        with pytest.raises(DatabaseError, match=f"cannot have a filter: {words}"):
            sql(
                databases.master,
                f"SELECT pyreplica.set_python_filter('shop', 'public.{table}', 'new[\"id\"] > 1')",
            )
    with pytest.raises(DatabaseError, match="there is no column price"):
        sql(
            databases.master,
            "SELECT pyreplica.set_python_filter('shop', 'public.customer', 'True', "
            "columns => '{id,price}')",
        )
    assert functions(databases) == 0


# Setting and changing it


def test_a_filter_that_was_changed_is_refused_until_the_table_is_copied_anew(
    databases: Databases,
) -> None:
    made = made_of(databases, CUSTOMER + ROWS, filters=filtered())
    before = rows(databases.master, "SELECT relid, given, on_error FROM pyreplica.replica_filter")
    us = 'new["region"] == "us"'
    for filters in (
        filtered(us),
        filtered(on_error="pass"),
        filtered(columns=["id"]),
        {"public.customer": {"where": IN_SQL}},
        {},
    ):
        other = config(databases, filters=filters)
        (line,) = [line for line in install(other) if line.refused]
        assert "is not the one that the slave was copied with" in line.text
        assert len(problems(other)) == 1
        assert "the filter of table public.customer" in refused(other).line
        with pytest.raises(Refused, match=r"the filter of table public\.customer"):
            Addition(other, ["public.customer"], Silence()).run()
    query = "SELECT relid, given, on_error FROM pyreplica.replica_filter"
    assert rows(databases.master, query) == before
    assert problems(made) == []

    # as the hint says, from Python to Python, to SQL and back
    ways: Sequence[tuple[dict[str, Any], list[int]]] = (
        (filtered(us), [2, 3]),
        ({"public.customer": {"where": IN_SQL}}, [1]),
        (filtered(us, on_error="pass"), [2, 3]),
    )
    sql(databases.master, "INSERT INTO public.customer VALUES (3, 'c', 'us')")
    sql(databases.master, "CREATE TABLE public.other (id integer PRIMARY KEY)")
    sql(databases.slave, "CREATE TABLE public.other (id integer PRIMARY KEY)")
    for filters, wanted in ways:
        other = config(databases, filters=filters)
        remove_tables(other, ["public.customer"])
        with connected(other):
            Addition(other, ["public.customer"], Silence(), truncate=True).run()
            sql(databases.master, "UPDATE public.customer SET name = name || '!'")
            assert_same(other)
        assert [row[0] for row in rows(databases.slave)] == wanted
        assert functions(databases) == (1 if "python" in filters["public.customer"] else 0)
        assert problems(other) == []


def test_a_filter_that_is_taken_away_leaves_nothing_behind(databases: Databases) -> None:
    made = made_of(databases, CUSTOMER, filters=filtered())
    sql(
        databases.master,
        "SELECT pyreplica.set_python_filter('other', 'public.customer', $$ new[\"id\"] > 3 $$, "
        "on_error => 'pass', columns => '{id,name}')",
    )
    kept = (
        "SELECT given, on_error, columns FROM pyreplica.replica_filter WHERE replication = 'other'"
    )
    assert rows(databases.master, kept) == [('new["id"] > 3', "pass", ["id", "name"])]
    assert functions(databases) == 2
    sql(databases.master, "SELECT pyreplica.set_filter('other', 'public.customer')")
    assert functions(databases) == 1
    install(made)  # again
    assert functions(databases) == 1
    with running(made):
        sql(databases.master, ROWS)
        expect(databases, made)
    sql(databases.master, "SELECT pyreplica.drop_filters('shop')")
    assert functions(databases) == 0
    sql(databases.master, "INSERT INTO public.customer VALUES (7)")
    uninstall(made)
    gone = "SELECT count(*) FROM pg_namespace WHERE nspname = 'pyreplica'"
    assert value(databases.master, gone) == 0


def test_an_uninstall_takes_filters_along(databases: Databases) -> None:
    made = made_of(databases, CUSTOMER, filters=filtered())
    uninstall(made)
    sql(databases.master, ROWS)
    assert value(databases.master, "SELECT count(*) FROM pg_language WHERE lanname ~ 'python'") == 0


@pytest.mark.parametrize("on_error", ["'ignore'", "NULL"])
def test_another_on_error_is_refused(databases: Databases, on_error: str) -> None:
    sql(databases.master, CUSTOMER)
    install(config(databases))
    with pytest.raises(DatabaseError, match="on_error cannot be") as caught:
        sql(
            databases.master,
            f"SELECT pyreplica.set_python_filter('shop', 'public.customer', 'True', {on_error})",
        )
    assert "It is 'stop' or 'pass'" in caught.value.hint


# The documentation


def test_the_examples_of_filters_md_do_what_they_say(databases: Databases) -> None:
    page = ROOT / "docs" / "filters.md"
    given = blocks(section(page, "A condition in Python"), "yaml")
    assert len(given) == 2
    for number, text in enumerate(given):
        sql(databases.master, f"DROP TABLE IF EXISTS public.customer; {CUSTOMER}")
        sql(databases.slave, f"DROP TABLE IF EXISTS public.customer; {CUSTOMER}")
        made = config(databases, f"shop{number}", **yaml.safe_load(text))
        assert not [line for line in install(made) if line.refused]
        copy(made)
        with running(made):
            sql(
                databases.master,
                "INSERT INTO public.customer VALUES (1, 'Ada', 'eu'), (2, 'Bob', 'us'), "
                "(3, 'Cy', NULL), (4, 'Di', 'eu-west')",
            )
            assert_same(made)
        assert [row[0] for row in rows(databases.slave)] == [1, 4]
    assert read(page).count("set_python_filter") == 1
