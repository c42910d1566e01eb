"""Commit order is not the order of the log's ids: what commits late is never passed over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyreplica.database import Connection
from tests.conftest import Databases
from tests.support import (
    assert_same,
    config_file,
    connect,
    copied,
    cursors,
    daemon,
    running,
    sql,
    value,
)

pytestmark = pytest.mark.usefixtures("apply_path")

TABLE = "CREATE TABLE public.note (id integer PRIMARY KEY, text text)"


@pytest.fixture
def sessions(databases: Databases) -> Iterator[list[Connection]]:
    """Three sessions on the master, which may leave transactions open."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(databases.master)) for _ in range(3)]


def add(session: Connection, number: int) -> None:
    session.execute("INSERT INTO public.note VALUES (%s, 'text')", (number,))


def ids(dsn: str) -> list[int]:
    with connect(dsn) as session:
        return [row[0] for row in session.query("SELECT id FROM public.note ORDER BY id")]


def log_ids(dsn: str) -> dict[str, int]:
    """The ids that the log gave to the notes."""
    with connect(dsn) as session:
        return dict(session.query("SELECT key ->> 'id', id FROM pyreplica.replica_log"))


def test_a_low_id_that_commits_last_reaches_the_slave(
    databases: Databases, sessions: list[Connection]
) -> None:
    made = copied(databases, TABLE)
    early, late, _ = sessions
    with running(made) as daemon_:
        early.execute("BEGIN")
        add(early, 1)
        add(late, 2)
        assert_same(made)
        assert ids(databases.slave) == [2]
        early.execute("COMMIT")
        assert_same(made)
    given = log_ids(databases.master)
    assert given["1"] < given["2"]
    assert ids(databases.slave) == [1, 2]
    assert len(daemon_.batches()) == 2


def test_a_low_id_that_commits_last_wakes_a_daemon_that_slept_all_the_while(
    databases: Databases, sessions: list[Connection]
) -> None:
    made = copied(databases, TABLE)
    early, late, _ = sessions
    with running(made) as daemon_:
        daemon_.until_asleep()
        early.execute("BEGIN")
        add(early, 1)
        add(late, 2)
        assert_same(made)
        daemon_.until_asleep()
        early.execute("COMMIT")
        assert_same(made)
    assert ids(databases.slave) == [1, 2]


def test_a_low_id_that_commits_after_a_restart_of_the_daemon_reaches_the_slave(
    databases: Databases, sessions: list[Connection]
) -> None:
    made = copied(databases, TABLE)
    early, late, _ = sessions
    early.execute("BEGIN")
    add(early, 1)
    with running(made):
        add(late, 2)
        assert_same(made)
    with running(made):
        add(late, 3)
        assert_same(made)
        early.execute("COMMIT")
        assert_same(made)
    assert ids(databases.slave) == [1, 2, 3]


def test_a_low_id_that_commits_while_no_daemon_runs_reaches_the_slave(
    databases: Databases, sessions: list[Connection], tmp_path: Path
) -> None:
    made = copied(databases, TABLE)
    path = config_file(tmp_path, databases)
    early, late, _ = sessions
    early.execute("BEGIN")
    add(early, 1)
    add(late, 2)
    with daemon(path) as killed:
        assert_same(made)
        killed.kill()
    early.execute("COMMIT")
    with daemon(path):
        assert_same(made)
    assert ids(databases.slave) == [1, 2]


def test_transactions_that_overlap_in_a_chain_are_all_replicated_once(
    databases: Databases, sessions: list[Connection]
) -> None:
    made = copied(databases, TABLE)
    with running(made) as daemon_:
        # each begins before the one before it commits: some transaction is always running
        for number in range(30):
            session = sessions[number % 3]
            session.execute("COMMIT; BEGIN" if number >= 3 else "BEGIN")
            add(session, number)
        for session in sessions:
            session.execute("COMMIT")
        assert_same(made)
        assert daemon_.said("conflict") == []
    assert ids(databases.slave) == list(range(30))


def test_a_row_that_two_transactions_change_keeps_the_change_that_came_second(
    databases: Databases, sessions: list[Connection]
) -> None:
    made = copied(databases, TABLE + "; INSERT INTO public.note VALUES (1, 'zero')")
    low, first, _ = sessions
    low.execute("BEGIN")
    # gives the transaction its number now, below that of the one it will overwrite
    low.execute("SELECT pg_current_xact_id()")
    first.execute("UPDATE public.note SET text = 'first'")
    low.execute("UPDATE public.note SET text = 'second'")
    with running(made):
        assert_same(made)
        assert value(databases.slave, "SELECT text FROM public.note") == "first"
        low.execute("COMMIT")
        assert_same(made)
    assert value(databases.slave, "SELECT text FROM public.note") == "second"


def test_what_is_rolled_back_to_a_savepoint_never_reaches_the_slave(
    databases: Databases, sessions: list[Connection]
) -> None:
    made = copied(databases, TABLE)
    session = sessions[0]
    with running(made):
        session.execute("BEGIN")
        add(session, 1)
        session.execute("SAVEPOINT outer_")
        add(session, 2)
        session.execute("SAVEPOINT inner_")
        add(session, 3)
        session.execute("UPDATE public.note SET text = 'lost'")
        session.execute("ROLLBACK TO inner_")
        add(session, 4)
        session.execute("RELEASE inner_")
        session.execute("ROLLBACK TO outer_")
        add(session, 5)
        session.execute("SAVEPOINT kept")
        add(session, 6)
        session.execute("RELEASE kept")
        session.execute("COMMIT")
        assert_same(made)
    assert ids(databases.slave) == [1, 5, 6]


def test_an_error_in_the_middle_of_a_savepoint_loses_only_what_was_after_it(
    databases: Databases,
) -> None:
    made = copied(databases, TABLE)
    with running(made):
        sql(
            databases.master,
            """
            DO $$
            BEGIN
                INSERT INTO public.note VALUES (1, 'kept');
                BEGIN
                    INSERT INTO public.note VALUES (2, 'lost');
                    INSERT INTO public.note VALUES (1, 'again');
                EXCEPTION WHEN unique_violation THEN
                    INSERT INTO public.note VALUES (3, 'kept');
                END;
            END
            $$
            """,
        )
        assert_same(made)
    assert ids(databases.slave) == [1, 3]


def test_a_transaction_that_rolls_back_leaves_nothing_and_no_batch(
    databases: Databases, sessions: list[Connection]
) -> None:
    made = copied(databases, TABLE)
    before, _ = cursors(made)
    with running(made) as daemon_:
        sessions[0].execute("BEGIN")
        add(sessions[0], 1)
        sessions[0].execute("ROLLBACK")
        daemon_.until_asleep()
        assert_same(made)
    assert cursors(made)[0].batch == before.batch
    assert ids(databases.slave) == []


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_writer_with_an_old_snapshot_is_replicated(
    databases: Databases, sessions: list[Connection], level: str
) -> None:
    made = copied(databases, TABLE)
    old, other, _ = sessions
    with running(made) as daemon_:
        old.execute(f"BEGIN ISOLATION LEVEL {level}")
        assert old.one("SELECT count(*) FROM public.note") == (0,)
        add(other, 1)
        assert_same(made)
        daemon_.until_asleep()
        add(old, 2)
        old.execute("COMMIT")
        assert_same(made)
    assert ids(databases.slave) == [1, 2]
