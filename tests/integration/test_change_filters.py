"""Filters in Python that are given the event and the old row: the slave gets the changes chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import yaml

from pyreplica.config import ReplicationConfig
from pyreplica.database import Connection
from pyreplica.errors import DatabaseError, Refused
from pyreplica.replication.addition import Addition
from pyreplica.replication.compare import compare
from pyreplica.replication.repair import repair
from pyreplica.replication.setup import install
from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.integration.test_docs import ROOT, blocks, section
from tests.integration.test_filters import CUSTOMER, HISTORY, ROWS, problems, rows
from tests.integration.test_python_filters import filtered, functions, made_of
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

COLUMNS = ("id", "name", "region", "deleted", "secret")
KEPT = 'event != "DELETE"'
FIRST = 'event == "INSERT"'
MOVED = 'old is None or not new or old["region"] != new["region"]'
WORDY = '(event == "DELETE" and old["id"] % 2) or (new and "!" in (new["name"] or "")) or (\n'
WORDY += '    old is not None and new is not None and old["region"] is None)'

Row = tuple[Any, ...]
State = Mapping[Any, Row]
Event = tuple[str, Any, Row | None, Row | None]


class Model:
    """What a slave has that gets the changes for which a condition is true."""

    def __init__(self, python: str, columns: tuple[str, ...] = COLUMNS) -> None:
        self._passes: Callable[..., Any] = eval(f"lambda event, old, new: {python}")
        self._columns = columns
        self.slave: dict[Any, Row] = {}

    def change(self, event: str, key: Any, old: Row | None, new: Row | None) -> None:
        """One change of a row."""
        if self._passes(event, self._named(old), self._named(new)):
            if new is None:
                self.slave.pop(key, None)
            else:
                self.slave[key] = new

    def change_all(self, before: State, after: State) -> None:
        """What a statement has done."""
        for event in changes(before, after):
            self.change(*event)

    @property
    def rows(self) -> list[Row]:
        """All that the slave has, by its key."""
        return [self.slave[key] for key in sorted(self.slave)]

    def _named(self, row: Row | None) -> dict[str, Any] | None:
        return None if row is None else dict(zip(self._columns, row, strict=True))


def changes(before: State, after: State) -> list[Event]:
    """The changes that make the one state of a table the other."""
    found: list[Event] = []
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old != new:
            event = "INSERT" if old is None else "DELETE" if new is None else "UPDATE"
            found.append((event, key, old, new))
    return found


def state(session: Connection, table: str = "customer") -> dict[Any, Row]:
    """The rows of a table by their key."""
    return {row[0]: row for row in session.query(f"SELECT * FROM public.{table}")}


def conflicts(made: ReplicationConfig) -> int:
    """How many conflicts the slave has met."""
    return int(value(made.slave, "SELECT count(*) FROM pyreplica.replica_conflict"))


# What the slave has


@pytest.mark.parametrize(
    "python", [KEPT, FIRST, MOVED, WORDY], ids=["no deletes", "inserts", "moves", "wordy"]
)
def test_the_slave_gets_what_is_chosen_and_others_what_is_theirs(
    databases: Databases, python: str
) -> None:
    filters = {
        "some": filtered(python),
        "us": {"public.customer": {"where": "region = 'us'"}},
        "even": filtered('new["id"] % 2 == 0'),
        "all": {},
    }
    wheres = {"us": "region = 'us'", "even": "id % 2 = 0", "all": "true"}
    sql(databases.master, CUSTOMER + ROWS)
    model = Model(python)
    with ExitStack() as stack:
        made = {}
        for name, given in filters.items():
            database = f"{databases.name[:50]}_{name}"
            databases.slave_cluster.create_database(database)
            stack.callback(databases.slave_cluster.drop_database, database)
            theirs = replace(databases, slave=databases.slave_cluster.dsn(database))
            made[name] = config(theirs, name, filters=given)
            sql(theirs.slave, CUSTOMER)
            install(made[name])
            copy(made[name])
        session = stack.enter_context(connect(databases.master))
        model.change_all({}, state(session))
        daemons = [stack.enter_context(running(one)) for one in made.values()]
        for statement in HISTORY:
            before = state(session)
            session.execute(statement)
            after = state(session)
            if statement.startswith("TRUNCATE"):
                model.slave.clear()
            elif statement.startswith("WITH d AS (DELETE"):
                rest = {key: row for key, row in before.items() if after.get(key) == row}
                model.change_all(before, rest)
                model.change_all(rest, after)
            else:
                model.change_all(before, after)
            for name, one in made.items():
                wait(one, 30)
                if name == "some":
                    assert rows(one.slave) == model.rows, statement
                else:
                    query = f"SELECT * FROM public.customer WHERE {wheres[name]} ORDER BY id"
                    assert rows(one.slave) == rows(databases.master, query), (statement, name)

        # a row that is logged once more, because another slave lacks it, is no change
        sql(made["all"].slave, "DELETE FROM public.customer")
        sql(made["some"].slave, "TRUNCATE public.customer")
        repair(made["all"], apply=True)
        for name, one in made.items():
            wait(one, 30)
            if name != "some":
                assert_same(one)
            assert conflicts(one) == 0
        assert rows(made["some"].slave) == []
        assert not any(one.error for one in daemons)


STATEMENTS = (
    "INSERT INTO public.customer VALUES ({k}, 'a', 'eu'), ({k} + 10, 'b', 'us') "
    "ON CONFLICT DO NOTHING",
    "INSERT INTO public.customer VALUES ({k}, 'c', NULL), ({l} + 10, 'd', 'us') "
    "ON CONFLICT (id) DO UPDATE SET region = 'eu', name = excluded.name",
    "UPDATE public.customer SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END "
    "WHERE id % 3 = {k} % 3",
    "UPDATE public.customer SET name = name || '!' WHERE id = {k} AND length(name) < 4",
    "UPDATE public.customer SET region = region",
    "UPDATE public.customer SET id = id + 20 WHERE id IN ({k}, {l} + 10)",
    "UPDATE public.customer SET id = id - 20, name = 'back' WHERE id > 20",
    "DELETE FROM public.customer WHERE id IN ({k}, {l} + 10)",
    "TRUNCATE public.customer",
)


@pytest.mark.parametrize("python", [KEPT, MOVED, WORDY], ids=["no deletes", "moves", "wordy"])
@pytest.mark.usefixtures("apply_path")
def test_after_any_history_the_slave_has_what_a_model_has(
    databases: Databases, python: str
) -> None:
    """Transactions of several statements, some taken back, also to savepoints."""
    made = made_of(databases, CUSTOMER + ROWS, filters=filtered(python))
    random, model = Random(python), Model(python)
    with running(made), connect(databases.master) as session:
        model.change_all({}, state(session))
        for number in range(30):
            session.execute("BEGIN")
            at_first = dict(model.slave)
            for _ in range(random.randint(1, 4)):
                session.execute("SAVEPOINT s")
                before, kept = state(session), dict(model.slave)
                weights = [3] * (len(STATEMENTS) - 1) + [1]
                statement = random.choices(STATEMENTS, weights)[0]
                try:
                    session.execute(
                        statement.format(k=random.randint(1, 6), l=random.randint(1, 6))
                    )
                except DatabaseError:  # two rows would have the same key
                    session.execute("ROLLBACK TO s")
                    continue
                if statement.startswith("TRUNCATE"):
                    model.slave.clear()
                else:
                    model.change_all(before, state(session))
                if random.random() < 0.2:
                    session.execute("ROLLBACK TO s")
                    model.slave = kept
            if random.random() < 0.2:
                session.execute("ROLLBACK")
                model.slave = at_first
            else:
                session.execute("COMMIT")
            if number % 5 == 4:
                wait(made, 30)
                assert rows(databases.slave) == model.rows
    assert conflicts(made) == 0


def test_many_rows_in_a_statement(databases: Databases) -> None:
    python = 'event != "DELETE" or old["id"] % 1000 == 0'
    made = made_of(databases, CUSTOMER, filters=filtered(python))
    model = Model(python)
    with running(made), connect(databases.master) as session:
        for statement in (
            "INSERT INTO public.customer SELECT i, 'n' || i, 'eu' FROM generate_series(1, 5000) i",
            "UPDATE public.customer SET region = 'us' WHERE id % 2 = 0",
            "UPDATE public.customer SET id = id + 5000",
            "DELETE FROM public.customer WHERE id > 100",
        ):
            before = state(session)
            session.execute(statement)
            model.change_all(before, state(session))
            wait(made, 60)
            assert rows(databases.slave) == model.rows
    assert len(model.slave) > 7000
    assert conflicts(made) == 0


# What restates its rows

NESTED = """
CREATE FUNCTION public.more() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF tg_op = 'INSERT' AND new.name = 'twice' THEN
        UPDATE public.customer SET region = 'later' WHERE id = new.id;
    ELSIF tg_op = 'INSERT' AND new.name = 'gone' THEN
        DELETE FROM public.customer WHERE id = new.id;
    ELSIF tg_op = 'UPDATE' AND new.region = 'archive' THEN
        DELETE FROM public.customer WHERE id = new.id;
    ELSIF tg_op = 'DELETE' AND old.name = 'again' THEN
        INSERT INTO public.customer VALUES (old.id, 'is back', 'here');
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER more AFTER INSERT OR UPDATE OR DELETE ON public.customer
    FOR EACH ROW EXECUTE FUNCTION public.more();
"""


@pytest.mark.parametrize(
    ("python", "wanted"),
    [
        # the last row of each key that was not deleted, whatever code has changed it
        (
            KEPT,
            [(1, "twice", "later"), (2, "gone", "eu"), (3, "x", "archive"), (4, "is back", "here")],
        ),
        # its update does not pass; but as it was inserted it stands nowhere any more
        (FIRST, [(1, "twice", "later"), (2, "gone", "eu"), (3, "x", "eu"), (4, "is back", "here")]),
        ('event == "UPDATE"', [(1, "twice", "later"), (3, "x", "archive")]),
        ('event != "UPDATE"', [(1, "twice", "later"), (4, "is back", "here")]),
        ('event != "INSERT"', [(1, "twice", "later")]),
    ],
)
@pytest.mark.usefixtures("apply_path")
def test_changes_of_a_statements_own_code_are_judged_each(
    databases: Databases, python: str, wanted: list[Row]
) -> None:
    made = made_of(databases, CUSTOMER, filters=filtered(python))
    sql(databases.master, NESTED)
    with running(made):
        for statement in (
            "INSERT INTO public.customer VALUES (1, 'twice', 'eu')",
            "INSERT INTO public.customer VALUES (2, 'gone', 'eu')",
            "INSERT INTO public.customer VALUES (3, 'x', 'eu'), (4, 'again', 'eu')",
            "UPDATE public.customer SET region = 'archive' WHERE id = 3",
            "DELETE FROM public.customer WHERE id = 4",
        ):
            sql(databases.master, statement)
        wait(made, 30)
        query = "SELECT id, name, region FROM public.customer ORDER BY id"
        assert rows(databases.slave, query) == wanted
    assert conflicts(made) == 0


def test_rows_that_foreign_keys_change_several_times_pass(databases: Databases) -> None:
    """Nothing tells which of them has become which."""
    table = """
    CREATE TABLE public.customer (
        id integer PRIMARY KEY, v integer,
        up integer REFERENCES public.customer ON UPDATE CASCADE ON DELETE SET NULL
    );
    INSERT INTO public.customer SELECT i, i, nullif(i - 1, 0) FROM generate_series(1, 6) i;
    """
    python = 'event == "INSERT" or event == "UPDATE" and old["v"] == new["v"] == 3'
    made = made_of(databases, table, filters=filtered(python))
    with running(made):
        sql(databases.master, "UPDATE public.customer SET v = v + 10 WHERE id = 6")
        sql(databases.master, "UPDATE public.customer SET id = id + 100")
        wait(made, 30)
        query = "SELECT * FROM public.customer WHERE id > 100 ORDER BY id"
        assert rows(databases.slave, query) == rows(databases.master, query)
        sql(databases.master, "UPDATE public.customer SET up = NULL WHERE id IN (103, 104)")
        wait(made, 30)
        query = "SELECT id, up FROM public.customer WHERE id IN (103, 104) ORDER BY id"
        assert rows(databases.slave, query) == [(103, None), (104, 103)]
        assert len(rows(databases.slave)) == 12
    assert conflicts(made) == 0


PARTS = """
CREATE TABLE public.parts (id integer, v integer, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM (0) TO (100);
CREATE TABLE public.parts_2 PARTITION OF public.parts FOR VALUES FROM (100) TO (200);
"""


@pytest.mark.parametrize(
    "python",
    [KEPT, 'new is None and old["v"] % 2 == 0 or new is not None and new["v"] % 3 > 0'],
    ids=["no deletes", "some"],
)
@pytest.mark.usefixtures("apply_path")
def test_partitions(databases: Databases, python: str) -> None:
    if value(databases.master, "SELECT current_setting('server_version_num')::int") < 150000:
        pytest.skip("there is no MERGE")
    made = made_of(
        databases,
        PARTS,
        slave="CREATE TABLE public.parts (id integer PRIMARY KEY, v integer)",
        filters={"public.parts": {"python": python}},
    )
    model = Model(python, ("id", "v"))
    with running(made), connect(databases.master) as session:
        for statement in (
            "INSERT INTO public.parts SELECT i, i FROM generate_series(90, 110) i",
            "UPDATE public.parts_2 SET v = v + 1",
            "UPDATE public.parts SET id = id + 50, v = v + 3 WHERE id < 105",
            "MERGE INTO public.parts p "
            "USING (VALUES (145, 45, 2), (106, 6, 4), (107, 7, 1), (400, 160, 8)) s (a, b, v) "
            "ON p.id = s.a WHEN MATCHED THEN UPDATE SET id = s.b, v = s.v "
            "WHEN NOT MATCHED THEN INSERT VALUES (s.b, s.v)",
            "DELETE FROM public.parts_2 WHERE v % 3 = 0",
            "CREATE TABLE public.parts_3 (v integer, id integer PRIMARY KEY); "
            "INSERT INTO public.parts_3 SELECT i, i FROM generate_series(200, 220) i; "
            "ALTER TABLE public.parts ATTACH PARTITION public.parts_3 "
            "FOR VALUES FROM (200) TO (300)",
            "UPDATE public.parts_3 SET v = v + 1",
            "UPDATE public.parts SET id = id - 200 WHERE id = 205",
            "ALTER TABLE public.parts DETACH PARTITION public.parts_3",
            "TRUNCATE public.parts_1",
        ):
            before = state(session, "parts")
            session.execute(statement)
            model.change_all(before, state(session, "parts"))
            wait(made, 30)
            found = rows(databases.slave, "SELECT * FROM public.parts ORDER BY id")
            assert found == model.rows, statement
        with pytest.raises(DatabaseError, match="a filter chooses changes of the table") as caught:
            session.execute("DROP TABLE public.parts_2")
        assert "DETACH PARTITION public.parts_2" in caught.value.hint
        session.rollback()
        session.execute("TRUNCATE public.parts")
        wait(made, 30)
        assert rows(databases.slave, "SELECT * FROM public.parts") == []
        session.execute("DROP TABLE public.parts")
    assert conflicts(made) == 0


def test_altering_a_table_takes_nothing_from_the_slave(databases: Databases) -> None:
    python = 'event != "DELETE" and (new["name"] or "") != "mine"'
    tables = CUSTOMER + ROWS + ", (3, 'mine', 'eu', NULL, NULL)"
    made = made_of(databases, tables, filters=filtered(python))
    query = "SELECT id, secret, {} FROM public.customer ORDER BY id"
    with running(made):
        sql(databases.master, "DELETE FROM public.customer WHERE id = 1")
        wait(made, 30)
        for column, statement, wanted in (
            # one value for all rows, one for each, and values of another type
            ("a", "ADD COLUMN a integer DEFAULT 7", [(1, "s1", 7), (2, "s2", 7)]),
            (
                "b",
                "ADD COLUMN b integer DEFAULT floor(random())",
                [(1, "s1", None), (2, "s2", 0)],
            ),
            ("a", "ALTER COLUMN a TYPE text USING id || 'x'", [(1, "s1", "7"), (2, "s2", "2x")]),
        ):
            sql(
                databases.slave,
                f"ALTER TABLE public.customer {statement.split(' DEFAULT')[0]}".replace(
                    "id || 'x'", "a::text"
                ),
            )
            sql(databases.master, f"ALTER TABLE public.customer {statement}")
            wait(made, 30)
            assert rows(databases.slave, query.format(column)) == wanted
        sql(databases.master, "UPDATE public.customer SET name = 'theirs', secret = 's4'")
        wait(made, 30)
        assert rows(databases.slave, query.format("a")) == [
            (1, "s1", "7"),
            (2, "s4", "2x"),
            (3, "s4", "3x"),
        ]
    assert conflicts(made) == 0


# Copies and comparisons


def test_a_copy_takes_the_rows_whose_insert_passes(databases: Databases) -> None:
    tables = CUSTOMER + ROWS + ", (3, 'c', 'eu', NULL, 's3')"
    python = 'event == "INSERT" and new["region"] == "eu" or event == "UPDATE"'
    made_of(databases, tables, filters=filtered(python, columns=["id", "name", "region"]))
    eu = [(1, "a", "eu", None, None), (3, "c", "eu", None, None)]
    assert rows(databases.slave) == eu
    for dsn in (databases.master, databases.slave):
        sql(dsn, CUSTOMER.replace("customer", "later"))
    sql(databases.master, ROWS.replace("customer", "later"))
    other = config(
        databases,
        filters={
            "public.customer": {"python": python, "columns": ["id", "name", "region"]},
            "public.later": {"python": python},
        },
    )
    with connected(other):
        Addition(other, ["public.later"], Silence()).run()
        sql(
            databases.master,
            "UPDATE public.customer SET secret = 'new'",
            "UPDATE public.later SET name = 'up' WHERE id = 2",
            "DELETE FROM public.later",
        )
        wait(other, 30)
    # of an update of columns alone that it does not get the slave gets the row all the same
    assert rows(databases.slave) == [eu[0], (2, "b", "us", None, None), eu[1]]
    query = "SELECT id, name, secret FROM public.later ORDER BY id"
    assert rows(databases.slave, query) == [(1, "a", "s1"), (2, "up", "s2")]


def test_compare_and_repair_refuse_such_a_table_by_name(databases: Databases) -> None:
    other = "CREATE TABLE public.other (id integer PRIMARY KEY);"
    made = made_of(databases, CUSTOMER + other, filters=filtered(KEPT))
    with connected(made):
        sql(databases.master, ROWS, "DELETE FROM public.customer WHERE id = 1")
        found = {one.table: one for one in compare(made)}
        assert found["public.other"].equal
        assert found["public.customer"].problem is not None
        assert "its filter chooses changes" in found["public.customer"].problem
        assert "--table" in (found["public.customer"].hint or "")
        states = {one.table: one.state for one in repair(made, apply=True)}
        assert states == {"public.customer": "problem", "public.other": "equal"}
        assert len(rows(databases.slave)) == 2
    assert problems(made) == []


# Values

TYPES = """
CREATE TYPE public.mood AS ENUM ('sad', 'glad');
CREATE DOMAIN public.price AS numeric(8, 2);
CREATE TABLE public.customer (
    id integer PRIMARY KEY, flag boolean, price public.price, raw bytea, list integer[],
    mood public.mood, at timestamptz, doc jsonb, "odd ""%s" text, twice integer
        GENERATED ALWAYS AS (id * 2) STORED
);
"""
OBJECTS = """
from decimal import Decimal

if not old:
    return True
return event == "UPDATE" and repr([
    old["id"], old["flag"], old["price"], old["raw"], old["list"], old["mood"], old["at"],
    old["doc"], old['odd "%s'], old["twice"], new["flag"], new["list"], new["price"],
]) == repr([
    1, True, Decimal("1.10"), b"\\x00", [1, None], "glad", "2020-02-01 10:00:00+00", '{"a": 1}',
    "o%s", 2, False, None, Decimal("2.00"),
])
"""


def test_old_and_new_values_are_objects_by_the_columns_type(databases: Databases) -> None:
    made = made_of(databases, TYPES, filters=filtered(OBJECTS))
    insert = (
        "INSERT INTO public.customer VALUES ({}, true, 1.1, '\\x00', '{{1,null}}', 'glad', "
        "'2020-02-01 12:00+02', '{{\"a\": 1}}', 'o%s')"
    )
    with connect(databases.master) as session, running(made):
        session.execute("SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'German'")
        for key in (1, 2):
            session.execute(insert.format(key))
        session.execute("UPDATE public.customer SET flag = false, list = NULL, price = 2")
        wait(made, 30)
    query = "SELECT id, flag FROM public.customer ORDER BY id"
    assert rows(databases.slave, query) == [(1, False), (2, True)]


# Errors


def test_a_condition_that_raises_stops_the_statement_or_lets_the_change_pass(
    databases: Databases,
) -> None:
    python = 'new["name"] > old["name"]'
    tables = CUSTOMER + ROWS
    sql(databases.master, tables)
    sql(databases.slave, CUSTOMER)
    made = config(databases, filters=filtered(python), capture="plpython3u")
    install(made)
    with pytest.raises(DatabaseError, match="raised TypeError: 'NoneType' object"):
        copy(made)  # a row that is copied is an insert
    python = f'event == "INSERT" or {python}'
    made = config(databases, filters=filtered(python))
    copy(made, truncate=True)
    with running(made):
        sql(databases.master, "UPDATE public.customer SET name = 'z' WHERE id = 1")
        for statement in (
            "DELETE FROM public.customer",
            "UPDATE public.customer SET name = NULL WHERE id = 1",
        ):
            with pytest.raises(DatabaseError) as caught:
                sql(databases.master, statement)
            assert caught.value.sqlstate == "38000"
            assert (
                "a filter of table public.customer failed: the Python filter of table "
                "public.customer for replication shop raised TypeError: "
            ) in caught.value.what
        wait(made, 30)
        assert rows(databases.slave) == rows(databases.master)
        assert value(databases.slave, "SELECT name FROM public.customer WHERE id = 1") == "z"

    copy(config(databases, filters=filtered(python, on_error="pass")), truncate=True)
    with running(config(databases, filters=filtered(python, on_error="pass"))) as daemon:
        with connect(databases.master) as session:
            session.execute("UPDATE public.customer SET name = 'a' WHERE id = 1")
            session.execute("UPDATE public.customer SET name = NULL WHERE id = 2")
            session.execute("DELETE FROM public.customer WHERE id = 1")
        wait(made, 30)
        assert not daemon.error
    assert rows(databases.slave) == [(2, None, "us", None, "s2")]


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("old['price'] is None", "there is no column price"),
        ("event == 'UPDATE' and new['price']", "there is no column price"),
        ("any(old.values())", 'it may use `old` only as old["column"]'),
        ("(old or new)['id'] > 1", 'it may use `old` only as old["column"]'),
        ("old == new", "or to ask whether it is None"),
        ("x = old\nreturn x['id']", "or to ask whether it is None (line 1)"),
        ("del event\nreturn True", "it may not change `event` (line 1)"),
        ("old = 3\nreturn event == 'x'", "gives one of them another meaning"),
        ("[old for old in 'ab'] and event", "gives one of them another meaning"),
        ("lines > 3 and event", "it uses the name lines, which means nothing"),
    ],
)
def test_what_is_no_condition_over_changes_is_refused(
    databases: Databases, python: str, words: str
) -> None:
    sql(databases.master, CUSTOMER)
    sql(databases.slave, CUSTOMER)
    made = config(databases, filters=filtered(python), capture="plpython3u")
    (line,) = [line for line in install(made) if line.refused]
    assert "the filter of public.customer for replication shop cannot be used: " in line.text
    assert words in line.text
    assert functions(databases) == 0


def test_more_columns_than_its_function_can_have_are_refused(databases: Databases) -> None:
    names = [f"c{number}" for number in range(50)]
    declared = ", ".join(f"{name} integer" for name in names)
    table = f"CREATE TABLE public.customer (id integer PRIMARY KEY, {declared});"
    sql(databases.master, table)
    sql(databases.slave, table)
    for count in (50, 49):
        differs = [f'old["{n}"] != new["{n}"]' for n in names[:count]]
        python = " or ".join(["old is None", *differs, f'old["{names[-1]}"] == 1'])
        made = config(databases, filters=filtered(python), capture="plpython3u")
        said = " ".join(line.text for line in install(made) if line.refused)
        assert ("columns of `old` and `new`, and 99 are the most" in said) == (count == 50)
    copy(made)
    with running(made):
        sql(databases.master, "INSERT INTO public.customer (id, c7) VALUES (1, 0), (2, 5)")
        sql(databases.master, "UPDATE public.customer SET c49 = 2")
        sql(databases.master, "UPDATE public.customer SET c48 = 3 WHERE id = 1")
        wait(made, 30)
    query = "SELECT id, c49 FROM public.customer ORDER BY id"
    assert rows(databases.slave, query) == [(1, 2), (2, None)]


def test_tables_that_do_not_tell_which_change_it_is_are_refused(databases: Databases) -> None:
    tables = (
        CUSTOMER
        + """
    CREATE TABLE public.late (id integer PRIMARY KEY DEFERRABLE);
    CREATE TABLE public.parent (id integer PRIMARY KEY);
    CREATE TABLE public.child (PRIMARY KEY (id)) INHERITS (public.parent);
    """
    )
    sql(databases.master, tables)
    sql(databases.slave, tables)
    names = ("late", "parent", "child")
    made = config(
        databases,
        filters={f"public.{name}": {"python": KEPT} for name in names},
        capture="plpython3u",
    )
    # the filter of a table that inherits is looked at only when that one is captured
    for count in (2, 3):
        refused = [line.text for line in install(made) if line.refused]
        assert len(refused) == count, refused
        assert all("cannot be used: it is over changes, and " in text for text in refused)
        assert all("Without `event` and `old` it is over rows" in text for text in refused)

    made = config(databases, filters=filtered(KEPT))
    copy(made)
    for statement in (
        "CREATE TABLE public.heir (PRIMARY KEY (id)) INHERITS (public.customer)",
        "ALTER TABLE public.customer INHERIT public.parent",
        "ALTER TABLE public.customer DROP CONSTRAINT customer_pkey, "
        "ADD PRIMARY KEY (id) DEFERRABLE",
    ):
        with pytest.raises(DatabaseError, match="of replication shop is over changes, and "):
            sql(databases.master, statement)
    with running(made):
        sql(databases.master, ROWS, "DELETE FROM public.customer")
        wait(made, 30)
        assert len(rows(databases.slave)) == 2
    with pytest.raises(DatabaseError, match="names its column deleted"):
        sql(
            databases.master,
            "SELECT pyreplica.set_python_filter('shop', 'public.customer', "
            '\'event == "INSERT" or old["deleted"] is None\')',
            "ALTER TABLE public.customer DROP COLUMN deleted",
        )


def test_capture_in_plpgsql_refuses_it_by_name(databases: Databases) -> None:
    made = copied(databases, CUSTOMER, capture="plpgsql")
    other = config(databases, "other", filters=filtered(KEPT))
    (line,) = [line for line in install(other) if line.refused]
    assert "is in Python, and tables are captured in PL/pgSQL" in line.text
    with pytest.raises(Refused, match="tables are captured in PL/pgSQL"):
        copy(other, truncate=True)
    with running(made):
        sql(databases.master, ROWS)
        assert_same(made)


# The documentation


def test_the_examples_of_filters_md_do_what_they_say(databases: Databases) -> None:
    given = blocks(section(ROOT / "docs" / "filters.md", "Choosing changes"), "yaml")
    assert len(given) == 2
    wanted = ([1, 2, 3], [2])
    for number, text in enumerate(given):
        sql(databases.master, f"DROP TABLE IF EXISTS public.customer; {CUSTOMER}")
        sql(databases.slave, f"DROP TABLE IF EXISTS public.customer; {CUSTOMER}")
        made = config(databases, f"shop{number}", capture="plpython3u", **yaml.safe_load(text))
        assert not [line for line in install(made) if line.refused]
        copy(made)
        with running(made):
            sql(
                databases.master,
                "INSERT INTO public.customer VALUES (1, 'a', 'us'), (2, 'b', 'us'), (3, 'c', 'us')",
                "UPDATE public.customer SET name = 'z' WHERE id = 1",
                "UPDATE public.customer SET region = 'eu' WHERE id = 2",
                "DELETE FROM public.customer WHERE id IN (1, 3)",
            )
            wait(made, 30)
        assert [row[0] for row in rows(databases.slave)] == wanted[number]
