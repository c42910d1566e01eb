"""Applications that use PREPARE TRANSACTION on the master: nothing hinders them, nothing is lost.

A transaction that has executed NOTIFY cannot be prepared. So on a server that takes prepared
transactions writers do not ring, and the daemon looks at the log by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.demo.cluster import Cluster
from pyreplica.errors import DatabaseError
from pyreplica.master import Master
from pyreplica.replication.wait import wait
from tests.conftest import PREPARING_SETTINGS, Databases
from tests.support import (
    LIMIT,
    Running,
    assert_same,
    config_file,
    connect,
    copied,
    copy,
    eventually,
    prepared,
    pyreplica,
    rotated,
    running,
    sql,
    value,
)

TABLE = "CREATE TABLE public.t (id integer PRIMARY KEY, v text)"
RINGS = "SELECT pyreplica.rings()"
ROTATE = "SELECT pyreplica.rotate_log(0)"


@pytest.fixture(scope="module")
def master_cluster(servers_directory: Path) -> Iterator[Cluster]:
    """A server for masters that takes prepared transactions, in the place of the usual one."""
    with Cluster.create(servers_directory, "preparing", PREPARING_SETTINGS) as cluster:
        yield cluster


@pytest.fixture
def made(databases: Databases) -> Iterator[ReplicationConfig]:
    """A replication of one table. Nothing stays prepared after the test."""
    yield copied(databases, TABLE)
    databases.master_cluster.start()
    for gid in on_master(databases):
        sql(databases.master, f"ROLLBACK PREPARED '{gid}'")


def on_master(databases: Databases) -> list[str]:
    """The transactions that are prepared on the master."""
    with connect(databases.master) as session:
        return [gid for (gid,) in session.query("SELECT gid FROM pg_prepared_xacts")]


def prepare(databases: Databases, gid: str, *statements: str) -> None:
    """Do this in a transaction, and prepare it."""
    sql(databases.master, "; ".join(["BEGIN", *statements, f"PREPARE TRANSACTION '{gid}'"]))


def ids(dsn: str) -> list[int]:
    with connect(dsn) as session:
        return [id_ for (id_,) in session.query("SELECT id FROM public.t ORDER BY id")]


def until_there(databases: Databases, *expected: int) -> None:
    """Wait until the slave has exactly these rows."""
    eventually(lambda: ids(databases.slave) == list(expected), f"the slave has {expected}")


def until_asleep_again(daemon: Running) -> None:
    """Wait until it has looked once more and found nothing."""
    seen = len(daemon.steps)
    daemon.until(lambda: len(daemon.steps) > seen, "it does not look")
    daemon.until_asleep()


def until_moved(daemon: Running, batches: int) -> None:
    """Wait until it has committed so many batches."""
    daemon.until(lambda: len(daemon.batches()) >= batches, "it has not looked")


@pytest.mark.usefixtures("apply_path")
def test_a_prepared_transaction_reaches_the_slave_once_another_session_commits_it(
    databases: Databases, made: ReplicationConfig
) -> None:
    with running(made) as daemon:
        daemon.until_asleep()
        prepare(databases, "one", "INSERT INTO public.t VALUES (1, 'one')")
        prepare(databases, "two", "INSERT INTO public.t VALUES (2, 'two')")
        sql(databases.master, "INSERT INTO public.t VALUES (3, 'three')")
        until_there(databases, 3)
        sql(databases.master, "COMMIT PREPARED 'two'")
        until_there(databases, 2, 3)
        sql(databases.master, "COMMIT PREPARED 'one'")
        until_there(databases, 1, 2, 3)
        assert_same(made)
        assert daemon.said("conflict") == []


@pytest.mark.usefixtures("apply_path")
def test_a_prepared_transaction_that_is_rolled_back_never_reaches_the_slave(
    databases: Databases, made: ReplicationConfig
) -> None:
    with running(made) as daemon:
        daemon.until_asleep()
        prepare(databases, "one", "INSERT INTO public.t VALUES (1, 'one')")
        sql(databases.master, "ROLLBACK PREPARED 'one'", "INSERT INTO public.t VALUES (1, 'again')")
        until_there(databases, 1)
        assert_same(made)
        assert daemon.said("conflict") == []


@pytest.mark.usefixtures("apply_path")
def test_a_transaction_stays_prepared_while_others_commit_and_daemon_and_server_restart(
    databases: Databases, made: ReplicationConfig
) -> None:
    sql(databases.master, "INSERT INTO public.t SELECT i, 'old' FROM generate_series(1, 20) i")
    with running(made) as daemon:
        assert_same(made)
        prepare(
            databases,
            "long",
            "UPDATE public.t SET v = 'long' WHERE id < 10",
            "DELETE FROM public.t WHERE id = 10",
            "INSERT INTO public.t VALUES (100, 'long')",
        )
        for number in range(5):
            sql(databases.master, f"UPDATE public.t SET v = 'other {number}' WHERE id = 15")
            wait(made, LIMIT)
        assert value(databases.slave, "SELECT v FROM public.t WHERE id = 15") == "other 4"
        databases.master_cluster.stop("immediate")
        daemon.until_said("connection lost")
        databases.master_cluster.start()
        sql(databases.master, "INSERT INTO public.t VALUES (101, 'after the restart')")
        assert_same(made)
    with running(made) as daemon:
        sql(databases.master, "UPDATE public.t SET v = 'x' WHERE id > 100")
        assert_same(made)
        assert value(databases.slave, "SELECT count(*) FROM public.t WHERE v = 'long'") == 0
        sql(databases.master, "COMMIT PREPARED 'long'")
        eventually(
            lambda: value(databases.slave, "SELECT count(*) FROM public.t WHERE v = 'long'") == 10,
            "what was prepared is on the slave",
        )
        assert_same(made)
        assert daemon.said("conflict") == []


@pytest.mark.usefixtures("apply_path")
def test_a_transaction_is_committed_while_no_daemon_runs(
    databases: Databases, made: ReplicationConfig
) -> None:
    prepare(databases, "one", "INSERT INTO public.t VALUES (1, 'one')")
    with running(made):
        sql(databases.master, "INSERT INTO public.t VALUES (2, 'two')")
        assert_same(made)
    sql(databases.master, "COMMIT PREPARED 'one'")
    with running(made):
        assert_same(made)
    assert ids(databases.slave) == [1, 2]


def test_a_transaction_that_is_prepared_when_the_slave_is_copied_anew_comes_after_the_copy(
    databases: Databases, made: ReplicationConfig
) -> None:
    prepare(databases, "one", "INSERT INTO public.t VALUES (1, 'one')")
    copy(made, truncate=True)
    assert ids(databases.slave) == []
    with running(made):
        sql(databases.master, "COMMIT PREPARED 'one'")
        until_there(databases, 1)
        assert_same(made)


def test_the_log_of_a_prepared_transaction_is_kept_when_the_log_rotates(
    databases: Databases, made: ReplicationConfig
) -> None:
    with running(made) as daemon:
        prepare(databases, "one", "INSERT INTO public.t VALUES (1, 'one')")
        sql(databases.master, "INSERT INTO public.t VALUES (2, 'two')")
        assert_same(made)
        assert rotated(databases.master) == "switched"
        for number in range(3, 8):
            sql(databases.master, f"INSERT INTO public.t VALUES ({number}, 'later')")
            assert_same(made)
            assert value(databases.master, ROTATE) in ("waiting", None)
        sql(databases.master, "COMMIT PREPARED 'one'")
        until_there(databases, *range(1, 8))
        eventually(lambda: value(databases.master, ROTATE) == "truncated", "the log is kept")
        sql(databases.master, "UPDATE public.t SET v = 'last'")
        assert_same(made)
        assert daemon.said("conflict") == []


def test_what_nobody_rings_for_is_found_by_looking(
    databases: Databases, made: ReplicationConfig
) -> None:
    assert made.keepalive >= LIMIT  # the keepalive's look would be too late
    with running(made) as daemon:
        for number in range(5):
            until_asleep_again(daemon)
            sql(databases.master, f"INSERT INTO public.t VALUES ({number}, 'x')")
            until_moved(daemon, number + 1)
        assert_same(made)


def test_writers_are_not_asked_to_ring_where_they_do_not(
    databases: Databases, made: ReplicationConfig
) -> None:
    with running(made) as daemon:
        daemon.until_asleep()
        assert value(databases.master, "SELECT last_value < 2 FROM pyreplica.doorbell")


def test_an_idle_daemon_gives_the_log_back_where_nobody_rings(
    databases: Databases, made: ReplicationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Master.rotate, "__defaults__", (1,))
    with running(made) as daemon:
        sql(databases.master, "INSERT INTO public.t SELECT i FROM generate_series(1, 2000) i")
        assert_same(made)
        daemon.until_asleep()
        assert value(databases.master, "SELECT count(*) FROM pyreplica.replica_log") == 0


def test_where_writers_are_told_to_ring_they_do_and_cannot_prepare(databases: Databases) -> None:
    sql(databases.master, f'ALTER DATABASE "{databases.name}" SET pyreplica.notify = on')
    made = copied(databases, TABLE)
    assert value(databases.master, RINGS) is True
    with running(made) as daemon:
        daemon.until_asleep()
        steps = len(daemon.steps)
        with pytest.raises(DatabaseError, match="NOTIFY"):
            prepare(databases, "one", "INSERT INTO public.t VALUES (1, 'one')")
        # who says so for himself can, and is found when the daemon looks next
        prepare(
            databases,
            "two",
            "SET LOCAL pyreplica.notify = off",
            "INSERT INTO public.t VALUES (2, 'two')",
        )
        sql(databases.master, "COMMIT PREPARED 'two'")
        assert len(daemon.steps) == steps  # it sleeps, and nobody has woken it
        sql(databases.master, "INSERT INTO public.t VALUES (3, 'three')")
        until_there(databases, 2, 3)
        assert_same(made)
    assert prepared(databases) == []


def test_check_says_how_the_daemon_hears_of_changes(databases: Databases, tmp_path: Path) -> None:
    copied(databases, TABLE)
    path = config_file(tmp_path, databases)
    found = pyreplica(path, "check").stdout
    assert "note: max_prepared_transactions is 20: so that applications can use PREPARE" in found
    assert f"ALTER DATABASE {databases.name} SET pyreplica.notify = on" in found
    sql(databases.master, f'ALTER DATABASE "{databases.name}" SET pyreplica.notify = on')
    found = pyreplica(path, "check").stdout
    assert "note: writers wake the daemon with NOTIFY" in found
    assert "ALTER ROLE ... SET pyreplica.notify = off" in found


@pytest.mark.parametrize("messages", ["one", "several"])
def test_a_writer_that_prepares_does_not_look_after_the_log_of_which_it_would_keep_locks(
    made: ReplicationConfig, databases: Databases, messages: str
) -> None:
    state = "SELECT state FROM pyreplica.replica_slave"
    sql(databases.master, "UPDATE pyreplica.replica_slave SET max_log_size = 1000")
    work = "INSERT INTO public.t SELECT generate_series(%d, %d)"
    statements = ("BEGIN", work % (1, 5000), "PREPARE TRANSACTION 'p'")
    with connect(databases.master) as writer:
        for message in ["; ".join(statements)] if messages == "one" else statements:
            writer.execute(message)
    assert value(databases.master, state) == "ready"
    locked = "LOCK TABLE pyreplica.replica_slave, pyreplica.replica_segment NOWAIT"
    sql(databases.master, f"BEGIN; {locked}; COMMIT", "COMMIT PREPARED 'p'")
    sql(databases.master, work % (5001, 10_000))
    assert value(databases.master, state) == "dropped"
