"""Exactly once: whatever dies at whatever step of a batch, the batch is on the slave once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.demo.cluster import Cluster
from pyreplica.errors import TimedOut
from pyreplica.model import Step
from pyreplica.replication.wait import wait
from pyreplica.slave import Slave
from tests.conftest import Databases
from tests.support import (
    assert_same,
    blocked,
    config_file,
    connect,
    copied,
    cursors,
    daemon,
    eventually,
    prepared,
    running,
    sql,
    stalling_daemon,
    value,
)

TABLE = (
    "CREATE TABLE public.t (id integer PRIMARY KEY, v text);"
    "INSERT INTO public.t SELECT i, 'first' FROM generate_series(1, 10) i"
)
BATCH_2 = "INSERT INTO public.t VALUES (11, 'second')"
BATCH_3 = (
    "BEGIN; UPDATE public.t SET v = 'third' WHERE id < 6; DELETE FROM public.t WHERE id > 8;"
    "INSERT INTO public.t VALUES (12, 'third'); COMMIT"
)
CHANGES = 1 + 5 + 3 + 1
"""The changes of both batches; a batch that is applied twice counts twice."""

STEPS = (Step.FETCHED, Step.PREPARED, Step.CONFIRMED, Step.COMMITTED)
STAGED = pytest.mark.parametrize("staged", [False, True], ids=["folded", "staged"])


def is_shown(databases: Databases) -> bool:
    """Whether the third batch is visible on the slave; all of it or nothing."""
    query = (
        "SELECT count(*) FILTER (WHERE v = 'third'), count(*) FILTER (WHERE id BETWEEN 9 AND 11) "
        "FROM public.t"
    )
    with connect(databases.slave) as session:
        found = session.one(query)
    assert found in ((0, 3), (6, 0))
    return bool(found == (6, 0))


def assert_applied_once(made: ReplicationConfig, databases: Databases) -> None:
    assert_same(made)
    assert is_shown(databases)
    assert prepared(databases) == []
    # in one phase the slave has the batch before the daemon tells the master
    eventually(lambda: len(set(cursors(made))) == 1, "the master was not told")
    assert value(databases.slave, "SELECT changes FROM pyreplica.replica_cursor") == CHANGES


@STAGED
@pytest.mark.parametrize("step", STEPS, ids=[step.value for step in STEPS])
@pytest.mark.parametrize("commit", ["two-phase", "one-phase"])
def test_a_daemon_killed_after_a_step_leaves_the_batch_to_be_decided_by_the_master(
    databases: Databases, tmp_path: Path, commit: str, step: Step, staged: bool
) -> None:
    made = copied(databases, TABLE, commit=commit)
    path = config_file(tmp_path, databases, commit=commit)
    with stalling_daemon(path, step, 3, staged=staged) as killed:
        sql(databases.master, BATCH_2)
        assert_same(made)
        sql(databases.master, BATCH_3)
        killed.until_said(f"stalled: shop {step.value} 3")
        killed.kill()

    # what the slave does and shows is what PREPARE, the master's record and COMMIT make of it
    two_phase = commit == "two-phase"
    in_doubt = two_phase and step in (Step.PREPARED, Step.CONFIRMED)
    visible = step is Step.COMMITTED or (not two_phase and step is not Step.FETCHED)
    assert len(prepared(databases)) == in_doubt
    assert is_shown(databases) == visible
    recorded = step in (Step.CONFIRMED, Step.COMMITTED)
    assert [c.batch for c in cursors(made)] == [3 if recorded else 2, 3 if visible else 2]

    with daemon(path) as real:
        assert_applied_once(made, databases)
        real.stop()
    assert cursors(made)[0].batch == 3
    assert ("batch 3 was not confirmed: roll back" in real.log) == (
        two_phase and step is Step.PREPARED
    )
    assert ("batch 3 was confirmed: commit" in real.log) == (two_phase and step is Step.CONFIRMED)
    assert "conflict" not in real.log


@STAGED
def test_a_daemon_killed_while_the_slave_applies_a_batch_leaves_nothing_half_done(
    databases: Databases, tmp_path: Path, staged: bool
) -> None:
    made = copied(databases, TABLE)
    path = config_file(tmp_path, databases, retry_first="10ms", retry_max="100ms")
    with connect(databases.slave) as somebody, stalling_daemon(path, staged=staged) as killed:
        sql(databases.master, BATCH_2)
        assert_same(made)
        somebody.execute("BEGIN; SELECT FROM public.t WHERE id = 3 FOR UPDATE")
        sql(databases.master, BATCH_3)
        eventually(blocked(databases.slave), "the batch does not wait for the row")
        killed.kill()
        with daemon(path) as real:
            # the killed one's session is still there, and may yet prepare the batch
            real.until_said("another daemon or copy is at work")
            assert not is_shown(databases)
            somebody.execute("COMMIT")
            assert_applied_once(made, databases)
    assert "conflict" not in real.log


@STAGED
def test_a_daemon_killed_while_the_master_confirms_finds_the_batch_confirmed(
    databases: Databases, tmp_path: Path, staged: bool
) -> None:
    made = copied(databases, TABLE)
    path = config_file(tmp_path, databases, retry_first="10ms", retry_max="100ms")
    with connect(databases.master) as somebody, stalling_daemon(path, staged=staged) as killed:
        sql(databases.master, BATCH_2)
        assert_same(made)
        somebody.execute("BEGIN; SELECT FROM pyreplica.replica_slave FOR UPDATE")
        sql(databases.master, BATCH_3)
        eventually(blocked(databases.master), "the confirmation does not wait for the row")
        killed.kill()
        assert len(prepared(databases)) == 1
        with daemon(path) as real:
            real.until_said("another daemon or copy is at work")
            assert len(prepared(databases)) == 1
            somebody.execute("COMMIT")
            assert_applied_once(made, databases)
    assert "batch 3 was confirmed: commit" in real.log


def test_a_confirmation_that_was_rolled_back_rolls_the_batch_back(
    databases: Databases, tmp_path: Path
) -> None:
    made = copied(databases, TABLE)
    path = config_file(tmp_path, databases)
    with connect(databases.master) as somebody, stalling_daemon(path) as killed:
        sql(databases.master, BATCH_2)
        assert_same(made)
        somebody.execute("BEGIN; SELECT FROM pyreplica.replica_slave FOR UPDATE")
        sql(databases.master, BATCH_3)
        eventually(blocked(databases.master), "the confirmation does not wait for the row")
        killed.kill()
        terminate(databases.master)
    with daemon(path) as real:
        assert_applied_once(made, databases)
    assert "batch 3 was not confirmed: roll back" in real.log


def terminate(dsn: str) -> None:
    """End PyReplica's sessions with a database, and wait until they are gone."""
    theirs = (
        "FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name LIKE 'pyreplica shop:%'"
    )
    sql(dsn, f"SELECT pg_terminate_backend(pid) {theirs}")
    eventually(lambda: value(dsn, f"SELECT count(*) {theirs}") == 0, "the session is still there")


def at_step(step: Step, act: Callable[[], object]) -> Callable[[Step, int], None]:
    """Do something at a step of the third batch, once, while the replication waits for it."""
    done: list[Step] = []

    def hook(now: Step, batch: int) -> None:
        if now is step and batch == 3 and not done:
            done.append(now)
            act()

    return hook


@pytest.mark.usefixtures("apply_path")
@pytest.mark.parametrize("step", STEPS, ids=[step.value for step in STEPS])
@pytest.mark.parametrize("side", ["master", "slave"])
def test_a_session_that_is_terminated_after_a_step_costs_nothing_but_a_reconnect(
    databases: Databases, side: str, step: Step
) -> None:
    made = copied(databases, TABLE)
    dsn = databases.master if side == "master" else databases.slave
    with running(made, at_step(step, lambda: terminate(dsn))) as daemon_:
        sql(databases.master, BATCH_2)
        assert_same(made)
        sql(databases.master, BATCH_3)
        daemon_.until_said(f"shop: {side}: connection lost")
        assert_applied_once(made, databases)
    assert daemon_.said("conflict") == []


@pytest.mark.parametrize("step", STEPS, ids=[step.value for step in STEPS])
@pytest.mark.parametrize("side", ["master", "slave"])
@pytest.mark.parametrize("commit", ["two-phase", "one-phase"])
def test_a_server_that_crashes_after_a_step_costs_nothing_but_a_reconnect(
    databases: Databases, commit: str, side: str, step: Step
) -> None:
    made = copied(databases, TABLE, commit=commit)
    cluster = databases.master_cluster if side == "master" else databases.slave_cluster
    with running(made, at_step(step, lambda: crash(cluster))) as daemon_:
        sql(databases.master, BATCH_2)
        assert_same(made)
        sql(databases.master, BATCH_3)
        daemon_.until_said(f"shop: {side}: connection lost")
        assert_applied_once(made, databases)
    assert daemon_.said("conflict") == []


def crash(cluster: Cluster) -> None:
    cluster.stop("immediate")
    cluster.start()


def test_a_batch_in_doubt_is_left_alone_while_the_master_cannot_be_asked(
    databases: Databases, tmp_path: Path
) -> None:
    made = copied(databases, TABLE)
    path = config_file(tmp_path, databases)
    with stalling_daemon(path, Step.CONFIRMED, 3) as killed:
        sql(databases.master, BATCH_2)
        assert_same(made)
        sql(databases.master, BATCH_3)
        killed.until_said("stalled: shop confirmed 3")
        killed.kill()
    databases.master_cluster.stop("immediate")
    with running(made) as daemon_:
        daemon_.until(lambda: len(daemon_.statuses) > 3, "it does not try again")
        assert len(prepared(databases)) == 1
        assert not is_shown(databases)
        databases.master_cluster.start()
        assert_applied_once(made, databases)


def test_a_batch_in_doubt_is_waited_for_although_its_log_is_gone(
    databases: Databases, tmp_path: Path
) -> None:
    made = copied(databases, TABLE)
    path = config_file(tmp_path, databases)
    with stalling_daemon(path, Step.CONFIRMED, 3) as killed:
        sql(databases.master, BATCH_2)
        assert_same(made)
        sql(databases.master, BATCH_3.replace("COMMIT", "SELECT pyreplica.rotate_log(0); COMMIT"))
        killed.until_said("stalled: shop confirmed 3")
        killed.kill()
    assert value(databases.master, "SELECT pyreplica.rotate_log(0)") == "truncated"
    with pytest.raises(TimedOut):
        wait(made, 0.05)
    with daemon(path):
        assert_applied_once(made, databases)


def test_other_peoples_prepared_transactions_are_left_alone(databases: Databases) -> None:
    made = copied(databases, TABLE)
    with closing(Slave(made)) as slave:
        like_ours = slave.gid(3).replace("shop", "shop2")
    sql(databases.slave, f"BEGIN; CREATE TABLE public.x (); PREPARE TRANSACTION '{like_ours}'")
    with running(made):
        sql(databases.master, BATCH_2)
        assert_same(made)
    assert prepared(databases) == [like_ours]


def test_the_slave_is_never_ahead_of_what_the_master_recorded(databases: Databases) -> None:
    made = copied(databases, TABLE)
    seen: list[tuple[Step, int, int]] = []

    def hook(step: Step, batch: int) -> None:
        if step in STEPS:
            master, slave = cursors(made)
            seen.append((step, master.batch, slave.batch))

    with running(made, hook):
        sql(databases.master, BATCH_2)
        assert_same(made)
        sql(databases.master, BATCH_3)
        assert_same(made)
    assert len(seen) == 8
    assert all(master >= slave for _, master, slave in seen)
