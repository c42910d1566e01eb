"""pause and resume: the daemon rests, and that outlives daemons and servers; nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.errors import Dropped, TimedOut
from pyreplica.model import EventKind, State, Step
from pyreplica.replication.pause import pause, resume
from pyreplica.replication.report import report
from tests.conftest import Databases
from tests.integration.cli_support import refused, status
from tests.support import (
    Running,
    assert_same,
    config_file,
    connect,
    copied,
    cursors,
    eventually,
    prepared,
    pyreplica,
    running,
    sql,
    value,
)

TABLE = "CREATE TABLE public.t (id integer PRIMARY KEY)"


@pytest.fixture
def shop(databases: Databases) -> ReplicationConfig:
    """A replication that is copied, and no daemon runs."""
    return copied(databases, TABLE, keepalive="1s", retry_first="10ms", retry_max="100ms")


def until_paused(daemon: Running) -> None:
    daemon.until(
        lambda: daemon.statuses and daemon.statuses[-1].state is State.PAUSED, "it is not paused"
    )


def count(databases: Databases) -> int:
    return int(value(databases.slave, "SELECT count(*) FROM public.t"))


def test_a_paused_replication_moves_nothing_keeps_its_place_and_catches_up_afterwards(
    databases: Databases, shop: ReplicationConfig
) -> None:
    with running(shop) as daemon:
        daemon.until_asleep()
        done = pause(shop, "ann@desk", "new disks", timeout=30)
        assert done.daemon
        until_paused(daemon)
        sql(databases.master, "INSERT INTO public.t SELECT generate_series(1, 100)")
        found = report(shop)
        assert (found.state, found.daemon, found.lag_changes) == ("paused", True, 100)
        assert (found.paused_by, found.pause_reason) == ("ann@desk", "new disks")
        # nobody else takes its place meanwhile
        with running(shop) as other:
            other.until_said("another daemon or copy is at work")
        assert count(databases) == 0
        paused = daemon.until_told(EventKind.PAUSED)
        assert paused.what == "shop: paused by ann@desk: new disks"
        assert "`pyreplica resume shop`" in paused.hint
        assert paused.since == found.paused_at
        assert not daemon.told(EventKind.RESUMED)
        resume(shop, timeout=30)
        assert_same(shop)
        assert report(shop).state == "in step"
        assert daemon.until_told(EventKind.RESUMED).what == "shop: goes on after the pause"
        assert not daemon.told(EventKind.ERROR)
        assert [line for line in daemon.lines if "ERROR" in line or "WARNING" in line] == []


def test_a_paused_daemon_rings_for_nobody_and_asks_nothing_but_for_the_log(
    databases: Databases, shop: ReplicationConfig
) -> None:
    with running(shop) as daemon:
        daemon.until_asleep()
        assert value(databases.master, "SELECT last_value FROM pyreplica.doorbell") > 1
        pause(shop, None, None, timeout=30)
        until_paused(daemon)
        assert value(databases.master, "SELECT last_value FROM pyreplica.doorbell") <= 1
        # it still is woken by what others are rung for, and goes on resting
        sql(databases.master, *["SELECT pg_notify('pyreplica', 'x')"] * 5)
        eventually(lambda: len([1 for s in daemon.statuses if s.log_bytes is not None]) > 0)
        assert daemon.statuses[-1].state is State.PAUSED


def test_the_batch_at_hand_is_finished_first(databases: Databases, shop: ReplicationConfig) -> None:
    asked: list[str] = []

    def hook(step: Step, batch: int) -> None:
        if step is Step.PREPARED and not asked:
            asked.append(value(databases.slave, "SELECT pyreplica.pause('shop', 'in the middle')"))

    with running(shop, hook) as daemon:
        daemon.until_asleep()
        sql(databases.master, "INSERT INTO public.t VALUES (1)")
        until_paused(daemon)
        sql(databases.master, "INSERT INTO public.t VALUES (2)")
        assert asked == ["shop: is to be paused"]
        assert count(databases) == 1
        assert prepared(databases) == []
        assert cursors(shop)[0] == cursors(shop)[1]
        resume(shop, timeout=30)
        assert_same(shop)


def test_a_pause_outlives_the_daemon_and_the_servers(
    databases: Databases, shop: ReplicationConfig
) -> None:
    pause(shop, None, None, timeout=30)
    sql(databases.master, "INSERT INTO public.t VALUES (1)")
    with running(shop) as daemon:
        until_paused(daemon)
        for cluster in (databases.slave_cluster, databases.master_cluster):
            seen = len(daemon.said("connected, at batch"))
            cluster.stop()
            daemon.until(
                lambda: daemon.said("cannot connect") or daemon.said("connection lost"),
                "it has not noticed",
            )
            # it may be what the pause is for: nobody is told
            assert daemon.statuses[-1].state is State.PAUSED
            assert not daemon.told(EventKind.ERROR)
            cluster.start()
            daemon.until(
                lambda seen=seen: len(daemon.said("connected, at batch")) > seen,  # type: ignore[misc]
                "it does not come back",
            )
        eventually(lambda: report(shop).state == "paused")
        assert daemon.statuses[-1].state is State.PAUSED
        assert count(databases) == 0
        # it was so all the time
        assert len(daemon.told(EventKind.PAUSED)) == 1
        assert not daemon.told(EventKind.RESUMED)
    with running(shop) as daemon:
        until_paused(daemon)
        # who was told that the daemon has started is told that it rests
        daemon.until_told(EventKind.PAUSED)
        resume(shop, timeout=30)
        assert_same(shop)


def test_who_resumes_while_the_daemon_was_cut_off_is_heard_when_it_is_back(
    databases: Databases, shop: ReplicationConfig
) -> None:
    with running(shop) as daemon:
        pause(shop, None, None, timeout=30)
        until_paused(daemon)
        sql(databases.master, "INSERT INTO public.t VALUES (1)")
        sql(
            databases.slave,
            "BEGIN; DELETE FROM pyreplica.replica_pause; "
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid(); COMMIT",
        )
        daemon.until_said("goes on")
        daemon.until_told(EventKind.RESUMED)
        assert_same(shop)


def test_a_pause_that_comes_with_an_answer_just_before_the_sleep_is_heard(
    databases: Databases,
) -> None:
    shop = copied(databases, TABLE, keepalive="1d")
    asked: list[str] = []

    def hook(step: Step, batch: int) -> None:
        if step is Step.WAITING and not asked:
            asked.append(value(databases.slave, "SELECT pyreplica.pause('shop')"))
            session = daemon.replication._session
            assert session is not None
            # the notification is taken off the socket: select() does not see it any more
            session.slave.connection.query("SELECT pg_sleep(0.1)")
            session.slave.connection.query("SELECT 1")
            assert session.slave.connection._connection.notifies

    with running(shop, hook) as daemon:
        until_paused(daemon)


def test_a_failing_replication_can_be_paused_without_waiting_for_its_next_try(
    databases: Databases,
) -> None:
    made = copied(databases, TABLE, retry_first="1h", retry_max="1h")
    sql(databases.slave, "INSERT INTO public.t VALUES (1)")
    with running(made) as daemon:
        daemon.replication._backoff.delay = lambda: 3600.0  # type: ignore[method-assign]
        sql(databases.master, "INSERT INTO public.t VALUES (1)")
        daemon.until_said("next try in 3600")
        assert pause(made, None, None, timeout=30).daemon
        until_paused(daemon)
        sql(databases.slave, "DELETE FROM public.t")
        resume(made, timeout=30)
        assert_same(made)


def test_the_limits_of_the_log_count_on_and_drop_a_paused_slave(databases: Databases) -> None:
    made = copied(databases, TABLE, keepalive="1s", max_log_size="1MB")
    with running(made) as daemon:
        daemon.until_asleep()
        done = pause(made, None, None, timeout=30)
        assert done.kept is not None
        assert done.kept.max_size == 1 << 20
        until_paused(daemon)
        sql(databases.master, "INSERT INTO public.t SELECT generate_series(1, 20000)")
        daemon.until(lambda: daemon.error, "it was not dropped")
    assert isinstance(daemon.error, Dropped)
    last = daemon.statuses[-1]
    assert (last.state, last.error, last.note) == (State.STOPPED, daemon.error.line, None)
    assert report(made).state == "needs a new copy"


def test_a_pause_that_the_daemon_does_not_get_to_times_out_and_stays(
    databases: Databases, shop: ReplicationConfig
) -> None:
    with running(shop) as daemon, connect(databases.slave) as blocker:
        daemon.until_asleep()
        blocker.execute("BEGIN; LOCK TABLE public.t")
        sql(databases.master, "INSERT INTO public.t VALUES (1)")
        with pytest.raises(TimedOut, match="is still busy after"):
            pause(shop, None, None, timeout=0.2)
        assert report(shop).state == "pausing"
        blocker.execute("ROLLBACK")
        until_paused(daemon)
        eventually(lambda: report(shop).state == "paused")
        assert count(databases) == 1


def test_pausing_one_of_two_replications_of_a_slave_leaves_the_other_alone(
    databases: Databases, shop: ReplicationConfig
) -> None:
    answer = value(databases.slave, "SELECT pyreplica.pause('shop')")
    assert answer == "shop: is to be paused"
    sql(databases.slave, "SELECT pg_notify('pyreplica_pause', 'other')")
    with running(shop) as daemon:
        until_paused(daemon)
        value(databases.slave, "SELECT pyreplica.resume('shop')")
        daemon.until_asleep()
        before = len(daemon.statuses)
        sql(databases.slave, "SELECT pg_notify('pyreplica_pause', 'other')")
        sql(databases.master, "INSERT INTO public.t VALUES (1)")
        assert_same(shop)
        assert State.PAUSED not in [one.state for one in daemon.statuses[before:]]


def test_pause_and_resume_on_the_command_line(databases: Databases, tmp_path: Path) -> None:
    shop = copied(databases, TABLE, max_log_size="10MB")
    path = config_file(tmp_path, databases, max_log_size="10MB")
    with running(shop):
        said = pyreplica(path, "pause", "shop", "--reason", "new disks").stdout
        assert said.startswith("shop: paused, at batch 1\n  the master keeps ")
        assert "% of max_log_size (10 MB); that counts on" in said
        assert "  go on with: pyreplica resume shop\n" in said
        again = pyreplica(path, "pause", "shop", "--reason", "other").stdout
        assert again.startswith("shop: is paused already, since ")
        shown = pyreplica(path, "status", code=1).stdout
        assert "new disks" in shown
        (found,) = status(path)
        assert (found["state"], found["pause_reason"], found["daemon"]) == (
            "paused",
            "new disks",
            True,
        )
        assert pyreplica(path, "resume").stdout == "shop: goes on\n"
        assert pyreplica(path, "resume").stdout == "shop: was not paused\n"
    said = pyreplica(path, "pause").stdout
    assert "no daemon is at work, and one that is started will rest as well" in said
    assert "no daemon is at work: `pyreplica run shop`" in pyreplica(path, "resume").stdout


def test_what_was_never_copied_cannot_be_paused(databases: Databases, tmp_path: Path) -> None:
    path = config_file(tmp_path, databases)
    for command in ("pause", "resume"):
        refused(path, command, says="is not installed in this database", hint="pyreplica install")
    pyreplica(path, "install")
    for command in ("pause", "resume"):
        refused(path, command, says="has not been copied yet", hint="pyreplica copy")


def test_a_removed_replication_leaves_no_pause_behind(
    databases: Databases, shop: ReplicationConfig, tmp_path: Path
) -> None:
    pause(shop, None, None, timeout=30)
    sql(
        databases.slave,
        "INSERT INTO pyreplica.replica_cursor (replication, master_system, master_database) "
        "VALUES ('other', 'x', 'y')",
    )
    pyreplica(config_file(tmp_path, databases), "uninstall")
    assert value(databases.slave, "SELECT count(*) FROM pyreplica.replica_pause") == 0
