"""Tables that a large batch only inserts into: their rows are copied straight from the log."""

from __future__ import annotations

import pytest

from pyreplica.database import Connection
from pyreplica.errors import Dropped
from pyreplica.model import Step
from pyreplica.slave.inserts import FEWEST_ROWS, Inserts
from tests.conftest import Databases
from tests.support import assert_same, connect, copied, eventually, running, sql, value

TABLES = """
CREATE TABLE public.t (id int PRIMARY KEY, v text);
CREATE TABLE public.u (id int PRIMARY KEY, v text UNIQUE);
"""
MANY = 2_000


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The tables that were copied, batch by batch; also of attempts that failed."""
    seen: list[list[str]] = []
    original = Inserts.copy

    def copy(self: Inserts, target: Connection) -> int:
        seen.append([str(statements.table) for statements, _ in self.tables])
        return original(self, target)

    monkeypatch.setattr(Inserts, "copy", copy)
    return seen


def rows(table: str, since: int = 1, count: int = MANY) -> str:
    """New rows for a table."""
    return (
        f"INSERT INTO public.{table} SELECT g, 'row ' || g "
        f"FROM generate_series({since}, {since + count - 1}) g"
    )


def test_a_table_of_new_rows_alone_is_copied_and_the_others_are_staged(
    databases: Databases, copies: list[list[str]]
) -> None:
    made = copied(databases, TABLES)
    sql(
        databases.master,
        f"BEGIN; {rows('t')}; {rows('u')}; DELETE FROM public.u WHERE id = 7; COMMIT",
    )
    with running(made) as daemon:
        assert_same(made)
        assert copies == [["public.t"]]
        sql(databases.master, f"BEGIN; {rows('t', 5000)}; {rows('u', 5000)}; COMMIT")
        assert_same(made)
        assert copies[1:] == [["public.t", "public.u"]]
        assert daemon.replication.status.changes == 4 * MANY + 1


@pytest.mark.parametrize(
    "besides",
    [
        rows("u", 1, FEWEST_ROWS - 1),
        f"{rows('u')}; UPDATE public.u SET v = 'new' WHERE id = 1",
        f"{rows('u')}; TRUNCATE public.u; {rows('u')}",
        f"{rows('u')}; SET pyreplica.log_rewrites = on; ALTER TABLE public.u ADD w int DEFAULT 5; "
        "INSERT INTO public.u VALUES (-1, 'x', 6)",
    ],
    ids=["few rows", "an update", "a truncate", "DDL"],
)
def test_what_is_not_copied(databases: Databases, copies: list[list[str]], besides: str) -> None:
    made = copied(databases, TABLES)
    sql(databases.slave, "ALTER TABLE public.u ADD w int DEFAULT 5")
    sql(databases.master, f"BEGIN; {rows('t')}; {besides}; COMMIT")
    with running(made):
        eventually(
            lambda: value(databases.slave, "SELECT count(*) FROM public.t") == MANY, "it arrives"
        )
        query = "SELECT count(*), sum(id), string_agg(v, ',' ORDER BY id) FROM public.u"
        with connect(databases.master) as master, connect(databases.slave) as slave:
            assert master.one(query) == slave.one(query)
    assert "public.u" not in {table for tables in copies for table in tables}


def test_a_rule_that_is_always_on_is_heeded(databases: Databases, copies: list[list[str]]) -> None:
    made = copied(databases, TABLES)
    sql(
        databases.slave,
        "CREATE TABLE public.seen (id int)",
        "CREATE RULE seen AS ON INSERT TO public.t DO ALSO INSERT INTO public.seen VALUES (new.id)",
        "ALTER TABLE public.t ENABLE ALWAYS RULE seen",
    )
    sql(databases.master, rows("t"))
    with running(made):
        assert_same(made)
    assert value(databases.slave, "SELECT count(*) FROM public.seen") == MANY
    assert copies == []


def test_a_row_that_is_there_already_has_the_batch_judged(
    databases: Databases, copies: list[list[str]]
) -> None:
    made = copied(databases, TABLES, conflicts={"insert_exists": "apply"})
    sql(databases.slave, "INSERT INTO public.t VALUES (77, 'of the slave')")
    sql(databases.master, f"BEGIN; {rows('t')}; {rows('u')}; COMMIT")
    with running(made) as daemon:
        assert_same(made)
        assert copies == [["public.t", "public.u"]]
        daemon.until(
            lambda: any("conflict insert_exists on public.t: 1 row" in x for x in daemon.lines),
            "it is not told",
        )


def test_a_value_that_the_slave_refuses_is_named(databases: Databases) -> None:
    made = copied(databases, TABLES)
    sql(databases.slave, "ALTER TABLE public.t ADD CHECK (id <> 1234)")
    sql(databases.master, rows("t"))
    with running(made) as daemon:
        daemon.until(lambda: daemon.failing, "it does not fail")
        assert daemon.replication.status.error is not None
        assert 'public.t {"id": "1234"}' in daemon.replication.status.error
        sql(databases.slave, "ALTER TABLE public.t DROP CONSTRAINT t_id_check")
        assert_same(made)


def test_columns_of_the_slave_alone_and_identities_are_kept(
    databases: Databases, copies: list[list[str]]
) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, "
        "twice int GENERATED ALWAYS AS (id * 2) STORED)",
        slave="CREATE TABLE public.t (own text DEFAULT 'x', v text, twice int "
        "GENERATED ALWAYS AS (id * 2) STORED, "
        "id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
    )
    sql(
        databases.master,
        f"INSERT INTO public.t (v) SELECT E'tab\\t, \\\\, \\n and \\\\N ' || g "
        f"FROM generate_series(1, {MANY}) g",
    )
    sql(databases.master, "INSERT INTO public.t (v) SELECT NULL FROM generate_series(1, 1000)")
    with running(made):
        assert_same(made)
    assert value(databases.slave, "SELECT count(*) FROM public.t WHERE own = 'x'") == MANY + 1000
    assert copies


@pytest.mark.parametrize("commit", ["two-phase", "one-phase"])
def test_a_slave_that_is_dropped_while_it_copies_loses_nothing_unseen(
    databases: Databases, commit: str
) -> None:
    """What is read after the log was given up is not all there was: no batch of it may count."""
    made = copied(databases, TABLES, commit=commit)
    sql(databases.master, rows("t"))

    def drop(step: Step, batch: int) -> None:
        if step is Step.FETCHED:
            sql(
                databases.master,
                "UPDATE pyreplica.replica_slave SET state = 'dropped', dropped_at = now(), "
                "dropped_why = 'test'",
                "SELECT pyreplica.rotate_log(0)",
                "SELECT pyreplica.rotate_log(0)",
            )
            assert value(databases.master, "SELECT count(*) FROM pyreplica.replica_log") == 0

    with running(made, drop) as daemon:
        daemon.until(lambda: daemon.error, "it goes on")
    assert isinstance(daemon.error, Dropped)
    assert value(databases.slave, "SELECT count(*) FROM public.t") == 0
