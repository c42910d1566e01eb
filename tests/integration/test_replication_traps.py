"""Statements whose log is easy to get wrong, from the master's trigger to the slave's rows.

A scenario is a file of the folder scenarios: SQL that makes the tables (on the slave other ones,
where it has a block for it), what the master alone has, rows that are there before the copy, and
the work, whose transactions are separated by empty lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from pyreplica.database import Connection
from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.support import LIMIT, Running, assert_same, connect, copied, running, sql, value

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.sql"))


@pytest.fixture(params=SCENARIOS, ids=[path.stem for path in SCENARIOS])
def scenario(request: pytest.FixtureRequest) -> dict[str, str]:
    """The blocks of a scenario's file by name."""
    parts = re.split(r"^-- name: (\w+)\n", request.param.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def in_both_schemas(text: str) -> str:
    """The same SQL for the tables that are written live and for those of the backlog."""
    return f"SET search_path = live; {text}; SET search_path = backlog; {text};" if text else ""


def tables(text: str) -> str:
    return "CREATE SCHEMA live; CREATE SCHEMA backlog;" + in_both_schemas(text)


def transactions(session: Connection, schema: str, work: str, one_message: bool) -> Iterator[None]:
    """Do the work, and stop after each transaction.

    Args:
        one_message: whether a transaction's statements are sent together. The master's capture
            sees them otherwise than statements that come one after another.
    """
    session.execute(f"SET search_path = {schema}, public")
    for transaction in re.split(r"\n\n+", work.strip()):
        if transaction.startswith("COPY"):
            statement, _, rows = transaction.partition("\n")
            session.copy_in(statement, BytesIO((rows + "\n").encode()).read)
        elif transaction.startswith("BEGIN;") and not one_message:
            for statement in re.split(r";\n", transaction):
                session.execute(statement)
        else:
            session.execute(transaction)
        yield


def assert_no_trouble(daemon: Running) -> None:
    """No conflict, no failed batch: what is applied is what is expected there."""
    assert [line for line in daemon.lines if line.startswith(("WARNING", "ERROR"))] == []


@pytest.mark.usefixtures("apply_path")
def test_the_slave_equals_the_master_after(databases: Databases, scenario: dict[str, str]) -> None:
    """Each transaction in a batch of its own, then all of them in one batch to be folded."""
    made = copied(
        databases,
        tables(scenario["tables"])
        + in_both_schemas(scenario.get("master", ""))
        + in_both_schemas(scenario.get("rows", "")),
        slave=tables(scenario.get("slave", scenario["tables"])),
    )
    with connect(databases.master) as session:
        with running(made) as daemon:
            for _ in transactions(session, "live", scenario["work"], one_message=False):
                wait(made, LIMIT)
            assert_same(made)
            assert_no_trouble(daemon)
        for _ in transactions(session, "backlog", scenario["work"], one_message=True):
            pass
    with running(made) as daemon:
        assert_same(made)
        assert_no_trouble(daemon)


@pytest.mark.usefixtures("apply_path")
def test_a_swap_leaves_alone_what_only_the_slave_has_in_a_row(databases: Databases) -> None:
    table = "CREATE TABLE public.t (id integer PRIMARY KEY, {} u integer UNIQUE, v text)"
    made = copied(
        databases,
        table.format("") + "; INSERT INTO public.t VALUES (1, 10, 'a'), (2, 20, 'b')",
        slave=table.format("note text DEFAULT 'no note',"),
    )
    sql(databases.slave, "UPDATE public.t SET note = 'note ' || id")
    with running(made):
        sql(
            databases.master,
            "BEGIN; UPDATE public.t SET u = NULL WHERE id = 1; UPDATE public.t SET u = 10, v = 'c' "
            "WHERE id = 2; UPDATE public.t SET u = 20 WHERE id = 1; COMMIT",
        )
        assert_same(made)
    notes = "SELECT string_agg(note, ', ' ORDER BY id) FROM public.t"
    assert value(databases.slave, notes) == "note 1, note 2"


@pytest.mark.usefixtures("apply_path")
def test_the_slaves_own_triggers_and_foreign_keys_stay_silent(databases: Databases) -> None:
    tables_ = """
        CREATE TABLE public.a (id integer PRIMARY KEY, v text);
        CREATE TABLE public.b (id integer PRIMARY KEY,
            a integer REFERENCES public.a ON DELETE CASCADE);
        CREATE FUNCTION public.mark() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN new.v := new.v || ' by a trigger'; RETURN new; END $$;
        CREATE TRIGGER mark BEFORE INSERT OR UPDATE ON public.a
            FOR EACH ROW EXECUTE FUNCTION public.mark();
    """
    made = copied(databases, tables_)
    with running(made):
        sql(
            databases.master,
            "INSERT INTO public.a VALUES (1, 'x'), (2, 'y')",
            "INSERT INTO public.b VALUES (1, 1), (2, 2)",
            "UPDATE public.a SET v = 'z'",
            "DELETE FROM public.a WHERE id = 1",
        )
        assert_same(made)
    assert value(databases.slave, "SELECT v FROM public.a") == "z by a trigger"
