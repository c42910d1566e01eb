"""Filters: a slave gets some rows and some columns, and always those that it is to get."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from pyreplica.config import ReplicationConfig
from pyreplica.database import sql as psycopg_sql
from pyreplica.errors import DatabaseError, PyReplicaError, Refused
from pyreplica.replication.addition import Addition, remove_tables
from pyreplica.replication.check import check
from pyreplica.replication.compare import compare
from pyreplica.replication.repair import repair
from pyreplica.replication.setup import install, uninstall
from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.integration.test_docs import ROOT, blocks, read, section
from tests.integration.test_random_histories import TABLES as HISTORIES_TABLES
from tests.integration.test_random_histories import TRIGGER, Histories
from tests.support import (
    Silence,
    assert_same,
    config,
    connect,
    connected,
    copied,
    copy,
    eventually,
    rotated,
    running,
    sql,
    value,
)

CUSTOMER = """
CREATE TABLE public.customer (
    id integer PRIMARY KEY, name text, region text, deleted date, secret text
);
"""
EU = "region = 'eu' AND deleted IS NULL"
ROWS = "INSERT INTO public.customer VALUES (1, 'a', 'eu', NULL, 's1'), (2, 'b', 'us', NULL, 's2')"


def filtered(where: str | None = EU, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """The setting `filters` for the table."""
    given = {"where": where, "columns": None if columns is None else list(columns)}
    return {"public.customer": {key: one for key, one in given.items() if one is not None}}


def rows(dsn: str, query: str = "SELECT * FROM public.customer ORDER BY id") -> list[Any]:
    """All that a query gives."""
    with connect(dsn) as session:
        return session.query(query)


def expect(databases: Databases, made: ReplicationConfig, query: str | None = None) -> None:
    """The slave has caught up, and has just the rows of the master that the filter lets through."""
    wait(made, 30)
    wanted = query or f"SELECT * FROM public.customer WHERE {EU} ORDER BY id"
    assert rows(databases.slave) == rows(databases.master, wanted)


HISTORY = (
    "INSERT INTO public.customer VALUES (3, 'c', 'eu', NULL, ''), (4, 'd', 'us', NULL, ''), "
    "(5, 'e', NULL, NULL, '')",
    # enter, leave, stay, stay out
    "UPDATE public.customer SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END",
    "UPDATE public.customer SET name = name || '!'",
    "UPDATE public.customer SET region = 'eu' WHERE id = 5",
    # keys
    "UPDATE public.customer SET id = id + 10",
    "UPDATE public.customer SET id = id - 1, region = CASE id WHEN 12 THEN 'us' ELSE 'eu' END",
    "INSERT INTO public.customer VALUES (10, 'x', 'us') "
    "ON CONFLICT (id) DO UPDATE SET name = 'up', region = 'us'",
    "INSERT INTO public.customer VALUES (10, 'x', 'us'), (50, 'y', 'eu') "
    "ON CONFLICT (id) DO UPDATE SET region = 'eu'",
    "WITH d AS (DELETE FROM public.customer WHERE id = 50 RETURNING *) "
    "INSERT INTO public.customer SELECT id, name, 'us' FROM d",
    "UPDATE public.customer SET deleted = '2020-01-01' WHERE id = 10",
    "UPDATE public.customer SET deleted = NULL",
    "DELETE FROM public.customer WHERE id < 12",
    "BEGIN; SAVEPOINT s; UPDATE public.customer SET region = 'eu'; ROLLBACK TO s; "
    "UPDATE public.customer SET region = 'eu' WHERE id = 50; COMMIT",
    "UPDATE public.customer SET region = region",
    "INSERT INTO public.customer SELECT i, 'many', CASE WHEN i % 3 = 0 THEN 'eu' ELSE 'us' END "
    "FROM generate_series(1000, 1500) i",
    "UPDATE public.customer SET region = CASE WHEN id % 2 = 0 THEN 'eu' ELSE 'us' END "
    "WHERE id >= 1000",
    "DELETE FROM public.customer WHERE id % 5 = 0",
    "TRUNCATE public.customer",
    "INSERT INTO public.customer VALUES (1, 'again', 'us'), (2, 'again', 'eu')",
)


@pytest.mark.parametrize("commit", ["two-phase", "one-phase"])
@pytest.mark.usefixtures("apply_path")
def test_rows_enter_leave_and_move(databases: Databases, commit: str) -> None:
    made = copied(databases, CUSTOMER + ROWS, filters=filtered(), commit=commit)
    with running(made):
        expect(databases, made)
        assert len(rows(databases.slave)) == 1
        for statement in HISTORY:
            sql(databases.master, statement)
            expect(databases, made)
        with connect(databases.master) as session:
            lines = iter([b"60\tc\teu\t\\N\t\n61\tc\tus\t\\N\t\n", b""])
            session.copy_in(
                psycopg_sql.SQL("COPY public.customer FROM STDIN"), lambda _: next(lines)
            )
        expect(databases, made)
        assert_same(made)
    assert value(databases.slave, "SELECT count(*) FROM pyreplica.replica_conflict") == 0


# More than one slave


def test_three_slaves_of_one_master_get_what_each_is_to_get(databases: Databases) -> None:
    wheres = {"eu": EU, "us": "region = 'us'", "all": None}
    names = {name: f"{databases.name[:50]}_{name}" for name in wheres}
    sql(databases.master, CUSTOMER + ROWS)
    with ExitStack() as stack:
        made = {}
        for name, where in wheres.items():
            databases.slave_cluster.create_database(names[name])
            stack.callback(databases.slave_cluster.drop_database, names[name])
            theirs = replace(databases, slave=databases.slave_cluster.dsn(names[name]))
            options = {} if where is None else {"filters": filtered(where)}
            made[name] = config(theirs, name, **options)
            sql(theirs.slave, CUSTOMER)
            install(made[name])
            copy(made[name])
        daemons = [stack.enter_context(running(one)) for one in made.values()]
        for statement in HISTORY:
            sql(databases.master, statement)
            for name, where in wheres.items():
                wait(made[name], 30)
                wanted = f"SELECT * FROM public.customer WHERE {where or 'true'} ORDER BY id"
                assert rows(made[name].slave) == rows(databases.master, wanted), statement
        for one in made.values():
            assert_same(one)
            assert value(one.slave, "SELECT count(*) FROM pyreplica.replica_conflict") == 0
        assert not any(one.error for one in daemons)
        # two bits, and a third that another one cannot come by while its filter is there
        sql(databases.master, "DELETE FROM pyreplica.replica_slave WHERE replication = 'eu'")
        eu = value(
            databases.master, "SELECT bit FROM pyreplica.replica_filter WHERE replication = 'eu'"
        )
        assert value(databases.master, "SELECT pyreplica.bit_for('new')") != eu
        sql(databases.master, "SELECT pyreplica.drop_filters('eu')")
        assert value(databases.master, "SELECT pyreplica.bit_for('new')") == eu


# Tables that restate


TABLES = """
CREATE TABLE public.parent (id integer PRIMARY KEY, v integer);
CREATE TABLE public.child (PRIMARY KEY (id)) INHERITS (public.parent);
CREATE TABLE public.parts (id integer, v integer, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM (0) TO (100);
CREATE TABLE public.parts_2 PARTITION OF public.parts FOR VALUES FROM (100) TO (200);
CREATE TABLE public.late (id integer, v integer, PRIMARY KEY (id) DEFERRABLE);
CREATE TABLE public.tree (
    id integer PRIMARY KEY, v integer,
    up integer REFERENCES public.tree ON UPDATE CASCADE ON DELETE SET NULL
);
CREATE TABLE public.again (id integer PRIMARY KEY, v integer);
CREATE FUNCTION public.again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.again SET v = v + 1 WHERE id = new.id AND v < 10;
    RETURN NULL;
END
$$;
CREATE TRIGGER again AFTER INSERT OR UPDATE ON public.again
    FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION public.again();
"""
STATEMENTS = (
    "INSERT INTO public.parent SELECT i, i FROM generate_series(1, 10) i",
    "INSERT INTO public.child SELECT i, i FROM generate_series(11, 20) i",
    "UPDATE public.parent SET v = v + 1",
    "UPDATE public.parent SET id = id + 100 WHERE id % 3 = 0",
    "UPDATE public.child SET v = v + 1",
    "UPDATE public.parent SET v = v",
    "DELETE FROM public.parent WHERE id % 5 = 0",
    "INSERT INTO public.parts SELECT i, i FROM generate_series(90, 110) i",
    "UPDATE public.parts SET v = v + 1",
    "UPDATE public.parts SET id = id + 50, v = v + 3 WHERE id < 105",
    "MERGE INTO public.parts p "
    "USING (VALUES (145, 45, 2), (106, 6, 4), (107, 7, 1), (400, 160, 8)) s (a, b, v) "
    "ON p.id = s.a WHEN MATCHED THEN UPDATE SET id = s.b, v = s.v "
    "WHEN NOT MATCHED THEN INSERT VALUES (s.b, s.v)",
    "DELETE FROM public.parts_2 WHERE v % 3 = 0",
    "CREATE TABLE public.parts_3 (id integer PRIMARY KEY, v integer); "
    "INSERT INTO public.parts_3 SELECT i, i FROM generate_series(200, 220) i; "
    "ALTER TABLE public.parts ATTACH PARTITION public.parts_3 FOR VALUES FROM (200) TO (300)",
    "ALTER TABLE public.parts DETACH PARTITION public.parts_3",
    "TRUNCATE public.parts_1",
    "DROP TABLE public.parts_2",
    "INSERT INTO public.late SELECT i, i FROM generate_series(1, 10) i",
    "UPDATE public.late SET id = id + 1",
    "UPDATE public.late SET v = v + 1",
    "UPDATE public.late SET v = v",
    "DELETE FROM public.late WHERE id < 4",
    "INSERT INTO public.tree SELECT i, i, nullif(i - 1, 0) FROM generate_series(1, 10) i",
    "UPDATE public.tree SET id = id + 100, v = v + 1 WHERE id % 2 = 0",
    "DELETE FROM public.tree WHERE id = 3",
    "INSERT INTO public.again SELECT i, i FROM generate_series(1, 12) i",
    "UPDATE public.again SET v = v + 1",
    "UPDATE public.again SET v = v",
    "TRUNCATE public.tree, public.again",
)


@pytest.mark.usefixtures("apply_path")
def test_tables_that_restate_their_rows_are_filtered_alike(databases: Databases) -> None:
    names = ("parent", "child", "parts", "late", "tree", "again")
    # the slave is partitioned otherwise, namely not at all
    flat = "\n".join(line for line in TABLES.splitlines() if " PARTITION OF " not in line)
    made = copied(
        databases,
        TABLES,
        slave=flat.replace(" PARTITION BY RANGE (id)", ""),
        filters={f"public.{name}": {"where": "v % 2 = 0"} for name in names},
    )
    if value(databases.master, "SELECT current_setting('server_version_num')::int") < 150000:
        pytest.skip("there is no MERGE")
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


class Filtered(Histories):
    """The same histories, of tables with filters."""

    def compare(self) -> None:
        """The slave has what the filters let through."""
        assert_same(self.made)
        for table, columns, where, order in (
            ("a", "id, u, v", A_WHERE, "id"),
            ("b", "x, y, v", B_WHERE, "x, y"),
            ("c", "id, up", C_WHERE, "id"),
        ):
            wanted = f"SELECT {columns} FROM public.{table} WHERE {where} ORDER BY {order}"
            found = f"SELECT {columns} FROM public.{table} ORDER BY {order}"
            assert rows(self.databases.slave, found) == rows(self.databases.master, wanted)
        assert value(self.databases.slave, "SELECT count(*) FROM public.a WHERE n IS NOT NULL") == 0
        conflicts = "SELECT count(*) FROM pyreplica.replica_conflict"
        assert value(self.databases.slave, conflicts) == 0


A_WHERE = "u % 2 = 0 OR v = 'c'"
B_WHERE = "v >= 0 AND x <> 'yx'"
C_WHERE = "coalesce(up, id) < 12"


@pytest.mark.parametrize("trigger", ["SELECT 1", TRIGGER], ids=["plain", "with a trigger"])
@pytest.mark.usefixtures("apply_path")
def test_after_any_history_the_slave_has_what_the_filters_let_through(
    databases: Databases, trigger: str
) -> None:
    made = copied(
        databases,
        HISTORIES_TABLES,
        filters={
            "public.a": {"where": A_WHERE, "columns": ["id", "u", "v"]},
            "public.b": {"where": B_WHERE},
            "public.c": {"where": C_WHERE},
        },
    )
    sql(databases.master, trigger)
    attributes: dict[str, Any] = {"made": made, "databases": databases}
    machine: Callable[[], RuleBasedStateMachine] = type("OfThisTest", (Filtered,), attributes)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=8,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# Columns

HIDING = """
CREATE TABLE public.customer (
    id integer PRIMARY KEY, name text, region text, deleted date, secret text NOT NULL
);
INSERT INTO public.customer VALUES (1, 'a', 'eu', NULL, 'hidden'), (2, 'b', 'us', NULL, 'hidden');
"""
VISIBLE = "SELECT id, name, region, deleted FROM public.customer"


@pytest.mark.usefixtures("apply_path")
def test_values_of_other_columns_never_reach_the_slave(databases: Databases) -> None:
    sql(databases.master, HIDING)
    made = config(databases, filters=filtered(columns=["name", "id", "region", "deleted"]))
    install(made)
    copy(made, schema=True)
    with running(made) as daemon:
        for statement in (
            "INSERT INTO public.customer VALUES (3, 'c', 'eu', NULL, 'hidden')",
            "UPDATE public.customer SET secret = 'hidden too'",
            "UPDATE public.customer SET secret = 'hidden', name = 'new' WHERE id = 1",
            "UPDATE public.customer SET region = 'eu', secret = 'hidden' WHERE id = 2",
            "UPDATE public.customer SET id = 33 WHERE id = 3",
            "ALTER TABLE public.customer ADD COLUMN later text DEFAULT 'hidden'",
            "INSERT INTO public.customer VALUES (4, 'd', 'eu', NULL, 'hidden', 'hidden')",
            "UPDATE public.customer SET later = 'hidden', secret = 'hidden!'",
        ):
            sql(databases.master, statement)
            wait(made, 30)
            wanted = rows(databases.master, f"{VISIBLE} WHERE {EU} ORDER BY id")
            assert rows(databases.slave, f"{VISIBLE} ORDER BY id") == wanted
            staged = rows(databases.slave, "SELECT stage::text FROM pyreplica.stage_1 stage")
            staged += rows(databases.slave, "SELECT net::text FROM pyreplica.net_1 net")
            assert "hidden" not in str(staged)
        assert (
            value(databases.slave, "SELECT count(*) FROM public.customer WHERE secret <> ''") == 0
        )
        assert_same(made)
        assert daemon.error is None
    assert value(databases.slave, "SELECT count(*) FROM pyreplica.replica_conflict") == 0


def test_an_update_of_hidden_columns_alone_is_no_change_for_the_slave(databases: Databases) -> None:
    made = copied(databases, HIDING, filters=filtered(None, ["id", "name"]), slave=CUSTOMER)
    sql(databases.master, "UPDATE public.customer SET secret = 'x'")
    assert value(databases.master, "SELECT count(*) FROM pyreplica.replica_log") == 2
    log_of = "SELECT count(*) FROM pyreplica.log_of('shop')"
    assert value(databases.master, log_of) == 0
    sql(databases.master, "UPDATE public.customer SET secret = 'y', name = 'n' WHERE id = 1")
    assert rows(databases.master, "SELECT \"row\", old FROM pyreplica.log_of('shop')") == [
        ({"name": "n"}, {"name": "a"})
    ]
    # who has no such filter gets all of it
    assert value(databases.master, log_of.replace("shop", "other")) == 3
    with running(made):
        assert_same(made)


# Conditions


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("region = ", "syntax error"),
        ("true); DROP TABLE public.customer; SELECT (1", "cannot be used"),
        ("region", "must be type boolean"),
        ("price > 1", 'column "price" does not exist'),
        ("deleted < now()", "must be marked IMMUTABLE"),
        ("random() < 0.5", "must be marked IMMUTABLE"),
        ("deleted::timestamptz > '2020-01-01'", "must be marked IMMUTABLE"),
        ("id IN (SELECT 1)", "cannot use subquery"),
        ("count(*) > 1", "aggregate functions are not allowed"),
        ("public.mine(region)", "it calls public.mine(text)"),
        ("region::public.short = 'eu'", "it calls domain public.short"),
        ("customer IS NOT NULL", "cannot be used"),
    ],
)
def test_a_condition_that_is_not_one_over_the_row_alone_is_refused(
    databases: Databases, where: str, words: str
) -> None:
    sql(
        databases.master,
        CUSTOMER,
        "CREATE FUNCTION public.mine(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'",
        "CREATE DOMAIN public.short AS text CHECK (length(value) < 5)",
    )
    sql(databases.slave, CUSTOMER)
    made = config(databases, filters=filtered(where))
    (line,) = [line for line in install(made) if line.refused]
    assert words in line.text
    with pytest.raises(Refused, match="cannot be used") as caught:
        copy(made)
    assert words in caught.value.what
    assert value(databases.master, "SELECT count(*) FROM pyreplica.replica_filter") == 0


@pytest.mark.usefixtures("apply_path")
def test_a_condition_that_fails_for_a_row_fails_the_writer_by_name(databases: Databases) -> None:
    made = copied(databases, CUSTOMER, filters=filtered("10 / (id - 5) > 0"))
    with running(made):
        sql(databases.master, "INSERT INTO public.customer VALUES (6), (1)")
        for statement in (
            "INSERT INTO public.customer VALUES (7), (5)",
            "UPDATE public.customer SET id = 5 WHERE id = 6",
        ):
            with pytest.raises(DatabaseError) as caught:
                sql(databases.master, statement)
            assert caught.value.sqlstate == "22012"
            assert "a filter of table public.customer failed: division by zero" in caught.value.what
            assert "of replication shop: 10 / (id - 5) > 0" in caught.value.details
            assert "pyreplica.set_filter('NAME', 'public.customer')" in caught.value.hint
        wait(made, 30)
        assert [row[0] for row in rows(databases.slave)] == [6]
        assert_same(made)
        # another error is told as what it is
        with pytest.raises(DatabaseError, match="duplicate key"):
            sql(databases.master, "INSERT INTO public.customer VALUES (6)")


def test_what_a_filter_names_cannot_be_taken_out_of_the_table(databases: Databases) -> None:
    made = copied(databases, CUSTOMER, filters=filtered(columns=["id", "name"]))
    for statement in (
        "ALTER TABLE public.customer RENAME COLUMN region TO area",
        "ALTER TABLE public.customer DROP COLUMN deleted",
        "ALTER TABLE public.customer ALTER COLUMN region TYPE varchar",
        "ALTER TABLE public.customer DROP COLUMN name",
    ):
        with pytest.raises(DatabaseError, match="the filter of replication shop names its column"):
            sql(databases.master, statement)
    sql(
        databases.master,
        "ALTER TABLE public.customer DROP COLUMN secret",
        "ALTER TABLE public.customer ALTER COLUMN name TYPE varchar",
        "INSERT INTO public.customer VALUES (1, 'a', 'eu'), (2, 'b', 'us')",
    )
    with running(made):
        assert_same(made)
    assert rows(databases.slave) == [(1, "a", None, None, None)]


# Changing a filter


def problems(made: ReplicationConfig) -> list[str]:
    """What `pyreplica check` finds wrong."""
    return [one.text for one in check(made) if one.level == "problem"]


def refused(made: ReplicationConfig) -> Refused:
    """What a daemon ends with at once."""
    with running(made) as daemon:
        daemon.until(lambda: daemon.error, "it goes on")
    assert isinstance(daemon.error, Refused)
    return daemon.error


def test_a_filter_that_was_changed_is_refused_until_the_table_is_copied_anew(
    databases: Databases,
) -> None:
    made = copied(databases, CUSTOMER + ROWS, filters=filtered())
    before = rows(databases.master, "SELECT relid, given FROM pyreplica.replica_filter")
    for filters in (filtered("region = 'us'"), filtered(EU, ["id"]), {}):
        other = config(databases, filters=filters)
        (line,) = [line for line in install(other) if line.refused]
        assert "is not the one that the slave was copied with" in line.text
        assert len(problems(other)) == 1
        (compared,) = compare(other)
        assert "is not the one that the slave was copied with" in str(compared.problem)
        error = refused(other)
        assert "the filter of table public.customer" in error.line
        assert "pyreplica remove-table shop public.customer" in error.hint
        with pytest.raises(Refused, match=r"the filter of table public\.customer"):
            Addition(other, ["public.customer"], Silence()).run()
    assert rows(databases.master, "SELECT relid, given FROM pyreplica.replica_filter") == before
    assert problems(made) == []

    # as the hint says: under the daemon, and while rows come and go
    other = config(databases, filters=filtered("region = 'us'", ["id", "region"]))
    sql(databases.master, "CREATE TABLE public.other (id integer PRIMARY KEY)")
    sql(databases.slave, "CREATE TABLE public.other (id integer PRIMARY KEY)")
    remove_tables(other, ["public.customer"])
    with connected(other):
        sql(databases.master, "INSERT INTO public.customer VALUES (3, 'c', 'us'), (4, 'd', 'eu')")
        (added,) = Addition(other, ["public.customer"], Silence(), truncate=True).run()
        assert (added.state, added.rows) == ("in step", 2)
        sql(databases.master, "UPDATE public.customer SET region = 'us' WHERE id = 4")
        wait(other, 30)
        assert rows(
            databases.slave, "SELECT id, name, region FROM public.customer ORDER BY id"
        ) == [
            (2, None, "us"),
            (3, None, "us"),
            (4, None, "us"),
        ]
        assert_same(other)
    assert problems(other) == []
    # a new copy takes another filter as well
    copy(made, truncate=True)
    with running(made):
        assert_same(made)
    assert [row[0] for row in rows(databases.slave)] == [1]


def test_a_daemon_with_an_older_configuration_leaves_the_table_out(databases: Databases) -> None:
    made = copied(databases, CUSTOMER + ROWS, filters=filtered())
    remove_tables(made, ["public.customer"])
    other = config(databases, filters=filtered("region = 'us'"))
    with connected(made) as daemon:
        with pytest.raises(PyReplicaError, match="has not joined"):
            Addition(other, ["public.customer"], Silence(), truncate=True).run(timeout=1)
        daemon.until_said("was added with another filter")
    with running(other):
        assert_same(other)
    assert [row[0] for row in rows(databases.slave)] == [2]


# The log


KEPT = """
SELECT count(*) FROM pyreplica.replica_log l, pyreplica.replica_slave s
WHERE l.txid >= pg_snapshot_xmax(s.snapshot)
"""


def test_changes_for_nobody_are_confirmed_and_go(databases: Databases) -> None:
    made = copied(databases, CUSTOMER, filters=filtered())
    with running(made) as daemon:
        daemon.until_asleep()
        for _ in range(3):
            sql(databases.master, "INSERT INTO public.customer VALUES (1, 'a', 'us')")
            sql(databases.master, "DELETE FROM public.customer")
            eventually(lambda: value(databases.master, KEPT) == 0, "they are not confirmed")
        assert rotated(databases.master) == "switched"
        sql(databases.master, "INSERT INTO public.customer VALUES (1, 'a', 'us')")
        eventually(
            lambda: value(databases.master, "SELECT count(*) FROM pyreplica.replica_log") <= 1,
            "the log stays",
        )
        daemon.until_asleep()
        assert rows(databases.slave) == []


def test_repair_follows_the_filter(databases: Databases) -> None:
    made = copied(databases, CUSTOMER + ROWS, filters=filtered())
    sql(
        databases.slave,
        "DELETE FROM public.customer",
        "INSERT INTO public.customer VALUES (2, 'not for us', 'us'), (3, 'nowhere', 'eu')",
    )
    with connected(made):
        (found,) = repair(made, apply=True)
        assert (found.state, found.insert, found.delete) == ("repaired", 1, 2)
        expect(databases, made)


def test_an_uninstalled_replication_leaves_no_filter_to_the_others(databases: Databases) -> None:
    made = copied(databases, CUSTOMER, filters=filtered())
    sql(
        databases.master,
        "INSERT INTO pyreplica.replica_slave (replication, bit, slave_system, slave_database) "
        "VALUES ('other', pyreplica.bit_for('other'), '1', 'x')",
    )
    uninstall(made)
    assert value(databases.master, "SELECT count(*) FROM pyreplica.replica_filter") == 0
    sql(databases.master, ROWS)
    assert rows(databases.master, "SELECT DISTINCT slaves FROM pyreplica.replica_log") == [(None,)]


# The documentation


def test_the_example_of_filters_md_does_what_it_says(databases: Databases) -> None:
    page = ROOT / "docs" / "filters.md"
    (given, *_), (script, *_) = blocks(read(page), "yaml"), blocks(read(page), "sql")
    table = "CREATE TABLE public.customer (id integer PRIMARY KEY, name text, region text"
    made = copied(
        databases,
        f"{table}, deleted date, secret text);",
        slave=f"{table});",
        **yaml.safe_load(given),
    )
    for statement in re.sub(r" +--.*", "", script).splitlines():
        sql(databases.master, statement)
    with running(made):
        assert_same(made)
    shown = section(page, "What it does").split("On the slave there is then:")[1]
    _, _, *lines = shown.split("|\n\n")[0].strip().splitlines()
    wanted = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    assert len(wanted) == 2
    assert rows(databases.slave, "SELECT id::text, name, region FROM public.customer") == wanted


# What a slave without filters pays


def test_the_log_is_read_by_its_index_and_not_through_a_function(databases: Databases) -> None:
    copied(databases, CUSTOMER)
    query = (
        "EXPLAIN SELECT id, \"row\" FROM pyreplica.log_of('shop') "
        "WHERE txid >= '5' AND txid < '9' AND pg_visible_in_snapshot(txid, '1:9:')"
    )
    plan = "\n".join(line for (line,) in rows(databases.master, query))
    assert "Function Scan on log_of" not in plan
    assert "Index Cond: ((txid >= '5'::xid8) AND (txid < '9'::xid8))" in plan


def test_tables_without_filters_are_captured_as_they_were(databases: Databases) -> None:
    two = CUSTOMER + CUSTOMER.replace("public.customer", "public.other")
    copied(databases, two, filters=filtered())
    statements = dict(
        rows(
            databases.master,
            "SELECT table_name, statements::text FROM pyreplica.replica_table WHERE active",
        )
    )
    assert "slaves" in statements["customer"]
    assert "slaves" not in statements["other"]
