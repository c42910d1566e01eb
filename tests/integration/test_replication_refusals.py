"""What does not belong together is refused, in one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.errors import NotInstalled, PyReplicaError, Refused
from pyreplica.model import SQL_VERSION, EventKind, State
from pyreplica.replication.report import report
from pyreplica.replication.setup import install
from tests.conftest import Databases
from tests.support import (
    assert_same,
    config,
    config_file,
    copied,
    copy,
    cursors,
    daemon,
    eventually,
    pyreplica,
    running,
    sql,
    value,
)

TABLE = "CREATE TABLE public.t (id integer PRIMARY KEY, v text)"


def refusal(made: ReplicationConfig) -> PyReplicaError:
    """The error that a daemon ends with by itself."""
    with running(made) as daemon_:
        daemon_.until(lambda: daemon_.error, "it goes on")
    assert daemon_.error is not None
    assert not daemon_.error.retry
    assert daemon_.error.hint
    return daemon_.error


@pytest.fixture
def two_batches(databases: Databases) -> ReplicationConfig:
    """A replication whose slave has the copy and two batches; no daemon runs."""
    made = copied(databases, TABLE)
    move_a_batch(made, databases, 1)
    move_a_batch(made, databases, 2)
    return made


def move_a_batch(made: ReplicationConfig, databases: Databases, number: int) -> None:
    sql(databases.master, f"INSERT INTO public.t VALUES ({number}, 'x')")
    with running(made):
        assert_same(made)


def test_another_master_under_the_same_name_is_refused(databases: Databases) -> None:
    made = copied(databases, TABLE)
    databases.slave_cluster.create_database(databases.name + "_other")
    try:
        other_dsn = databases.slave_cluster.dsn(databases.name + "_other")
        other = config(
            Databases(
                other_dsn,
                databases.slave,
                databases.name,
                databases.slave_cluster,
                databases.slave_cluster,
            )
        )
        sql(other_dsn, TABLE)
        install(other)
        error = refusal(other)
    finally:
        databases.slave_cluster.drop_database(databases.name + "_other")
    assert isinstance(error, NotInstalled)  # that master knows nothing of this slave
    with running(made):
        assert_same(made)


@pytest.mark.parametrize("side", ["master", "slave"])
def test_a_database_that_is_not_the_recorded_one_is_refused(
    databases: Databases, side: str
) -> None:
    made = copied(databases, TABLE)
    if side == "master":
        sql(databases.slave, "UPDATE pyreplica.replica_cursor SET master_system = '42'")
    else:
        sql(databases.master, "UPDATE pyreplica.replica_slave SET slave_database = 'another'")
    error = refusal(made)
    assert isinstance(error, Refused)
    assert error.line.startswith(f"shop: {side}: this is database {databases.name} of system ")
    assert "but the replication was set up with" in error.line


def test_a_master_that_recorded_less_than_the_slave_has_is_refused(
    databases: Databases, two_batches: ReplicationConfig
) -> None:
    sql(databases.master, "UPDATE pyreplica.replica_slave SET batch = batch - 1")
    error = refusal(two_batches)
    assert error.line == "shop: the master recorded batch 2, the slave has batch 3"
    assert "restored from a backup, or failed over with loss" in error.hint


def test_a_slave_that_has_less_than_the_master_recorded_is_refused(
    databases: Databases, two_batches: ReplicationConfig
) -> None:
    sql(databases.slave, "UPDATE pyreplica.replica_cursor SET batch = batch - 1")
    error = refusal(two_batches)
    assert error.line == "shop: the master recorded batch 3, the slave has batch 2"
    assert "The slave was restored from a backup" in error.hint


def test_a_cursor_at_the_same_batch_but_another_moment_is_refused(
    databases: Databases, two_batches: ReplicationConfig
) -> None:
    sql(databases.slave, "UPDATE pyreplica.replica_cursor SET snapshot = '3:3:'")
    assert isinstance(refusal(two_batches), Refused)


def test_in_one_phase_a_master_that_lost_a_batch_is_refused(databases: Databases) -> None:
    """One batch ahead is how a crash leaves the slave; not with a moment the master had not yet."""
    made = copied(databases, TABLE, commit="one-phase")
    move_a_batch(made, databases, 1)
    sql(
        databases.slave,
        "UPDATE pyreplica.replica_cursor SET batch = batch + 1, "
        "snapshot = (pg_snapshot_xmax(snapshot)::text::bigint + 1000 || ':' || "
        "pg_snapshot_xmax(snapshot)::text::bigint + 1000 || ':')::pg_snapshot",
    )
    error = refusal(made)
    assert error.line == "shop: the master recorded batch 2, the slave has batch 3"


@pytest.mark.usefixtures("apply_path")
def test_a_cursor_that_is_tampered_with_while_the_daemon_runs_is_noticed_at_the_next_batch(
    databases: Databases,
) -> None:
    made = copied(databases, TABLE)
    with running(made) as daemon_:
        daemon_.until_asleep()
        sql(databases.slave, "UPDATE pyreplica.replica_cursor SET batch = batch + 5")
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        daemon_.until(lambda: daemon_.error, "it goes on")
    assert isinstance(daemon_.error, Refused)
    assert value(databases.slave, "SELECT count(*) FROM public.t") == 0


def test_a_second_daemon_waits_for_the_first_and_takes_over_when_that_is_killed(
    databases: Databases, tmp_path: Path
) -> None:
    made = copied(databases, TABLE)
    path = config_file(tmp_path, databases, retry_first="10ms", retry_max="50ms")
    with daemon(path) as first:
        first.until_said("connected")
        with running(made) as second:
            line = second.until_said("another daemon or copy is at work for this replication")
            assert line.startswith("INFO standing by: shop: slave: ")
            assert f": pid {first.process.pid} on " in line
            second.until(
                lambda: second.statuses and second.statuses[-1].state is State.STANDBY,
                "it does not stand by",
            )
            sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
            assert_same(made)
            assert second.batches() == []
            # the one that works is not said to fail because of the one that waits
            eventually(lambda: report(made).state == "in step", report(made).state)
            first.kill()
            second.until_asleep()
            assert [one.kind for one in second.events] == [EventKind.STARTED]
            assert f"in the place of pid {first.process.pid} on " in second.events[0].what
            sql(databases.master, "INSERT INTO public.t VALUES (2, 'x')")
            assert_same(made)
            assert len(second.batches()) == 1


def test_a_copy_is_refused_while_the_daemon_runs(databases: Databases) -> None:
    made = copied(databases, TABLE)
    with running(made) as daemon_:
        daemon_.until_asleep()
        with pytest.raises(Refused, match="another daemon or copy is at work"):
            copy(made, truncate=True)
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        assert_same(made)


def test_a_daemon_for_a_slave_that_was_never_copied_ends_with_the_command_to_copy(
    databases: Databases, tmp_path: Path
) -> None:
    sql(databases.master, TABLE)
    path = config_file(tmp_path, databases)
    pyreplica(path, "install")
    with daemon(path) as started:
        assert started.process.wait(30) == 1
    assert "the slave has not been copied yet" in started.log
    assert "pyreplica copy shop" in started.log


@pytest.fixture(params=["master", "slave"])
def side_and_dsn(request: pytest.FixtureRequest, databases: Databases) -> tuple[str, str]:
    """Each side and its database."""
    side = str(request.param)
    return side, databases.master if side == "master" else databases.slave


def test_a_side_that_is_not_installed_is_refused(
    databases: Databases, side_and_dsn: tuple[str, str]
) -> None:
    side, dsn = side_and_dsn
    made = copied(databases, TABLE)
    sql(dsn, f"DELETE FROM pyreplica.replica_version WHERE side = '{side}'")
    error = refusal(made)
    assert isinstance(error, NotInstalled)
    assert f"PyReplica's {side} side is not installed" in error.line


def test_a_newer_version_of_the_sql_is_refused(
    databases: Databases, side_and_dsn: tuple[str, str]
) -> None:
    side, dsn = side_and_dsn
    made = copied(databases, TABLE)
    sql(dsn, f"UPDATE pyreplica.replica_version SET version = {SQL_VERSION + 1}")
    error = refusal(made)
    assert isinstance(error, NotInstalled)
    assert f"shop: {side}: the installed SQL has version {SQL_VERSION + 1}" in error.line
    assert "newer release" in error.hint


def test_a_master_that_was_told_to_forget_the_slave_is_refused(databases: Databases) -> None:
    made = copied(databases, TABLE)
    sql(databases.master, "DELETE FROM pyreplica.replica_slave")
    error = refusal(made)
    assert error.line == "shop: the master does not know this slave any more"
    assert "pyreplica copy shop" in error.hint


def test_a_table_that_was_never_copied_is_passed_over_and_said(databases: Databases) -> None:
    made = copied(databases, TABLE)
    sql(
        databases.master,
        "CREATE TABLE public.late (id integer PRIMARY KEY)",
        "SELECT pyreplica.add_table('public.late')",
    )
    sql(databases.slave, "CREATE TABLE public.late (id integer PRIMARY KEY)")
    with running(made) as daemon_:
        sql(
            databases.master,
            "BEGIN; INSERT INTO public.late VALUES (1); INSERT INTO public.t VALUES (1, 'x');"
            "COMMIT",
        )
        daemon_.until_said("table public.late is captured on the master but was never copied")
        eventually(lambda: value(databases.slave, "SELECT count(*) FROM public.t"), "no row")
    assert value(databases.slave, "SELECT count(*) FROM public.late") == 0
    copy(made, truncate=True)
    with running(made):
        sql(databases.master, "INSERT INTO public.late VALUES (2)")
        assert_same(made)
    before, after = cursors(made)
    assert before == after
