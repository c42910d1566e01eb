"""A batch that stays in doubt is told of, with its age, and by hand nothing can go wrong unseen."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.errors import Refused
from pyreplica.model import Step
from pyreplica.replication import doubt
from pyreplica.replication.report import report
from tests.conftest import Databases
from tests.support import (
    assert_same,
    config,
    config_file,
    copied,
    prepared,
    running,
    sql,
    stalling_daemon,
    value,
)

TABLE = "CREATE TABLE public.t (id integer PRIMARY KEY, v text)"
ALERT = "1s"


@pytest.fixture
def made(databases: Databases) -> ReplicationConfig:
    """A replication that warns soon."""
    copied(databases, TABLE)
    return config(databases, in_doubt_alert=ALERT)


def leave_in_doubt(databases: Databases, folder: Path, step: Step = Step.PREPARED) -> str:
    """Have a daemon die after a step of batch 2; gives the prepared transaction's name."""
    with stalling_daemon(config_file(folder, databases), step, 2) as killed:
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'in doubt')")
        killed.until_said(f"stalled: shop {step.value} 2")
        killed.kill()
    (gid,) = prepared(databases)
    return gid


def test_a_batch_that_stays_in_doubt_is_told_of_while_the_master_is_away(
    databases: Databases,
    made: ReplicationConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gid = leave_in_doubt(databases, tmp_path)
    databases.master_cluster.stop("immediate")
    shown = report(made)
    assert shown.state == "unreachable"
    assert shown.in_doubt == (2,)
    assert shown.in_doubt_seconds is not None
    assert shown.in_doubt_seconds > 0
    with running(made) as daemon:
        line = daemon.until_said("is in doubt")
        assert line.startswith("WARNING shop: slave: batch 2 is in doubt for 0:00:0")
        assert gid in line
        assert "docs/protocol.md" in line
        seen = len(daemon.statuses)
        daemon.until(lambda: len(daemon.statuses) > seen + 20, "it does not try again")
        assert len(daemon.said("is in doubt")) == 1
        monkeypatch.setattr(doubt, "AGAIN", 1.0)
        daemon.until(lambda: len(daemon.said("is in doubt")) == 3, "it does not say so again")
        databases.master_cluster.start()
        assert_same(made)
    assert prepared(databases) == []


def test_a_batch_in_doubt_is_told_of_while_the_daemon_itself_waits_for_the_master(
    databases: Databases, made: ReplicationConfig
) -> None:
    goes_on = threading.Event()

    def hook(step: Step, batch: int) -> None:
        if (step, batch) == (Step.PREPARED, 2):
            goes_on.wait()

    with running(made, hook) as daemon:
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        try:
            daemon.until_said("batch 2 is in doubt")
        finally:
            goes_on.set()
        assert_same(made)
        daemon.until_asleep()


def test_a_batch_in_doubt_is_told_of_when_the_replication_ends(
    databases: Databases, tmp_path: Path
) -> None:
    made = copied(databases, TABLE)
    leave_in_doubt(databases, tmp_path)
    sql(databases.master, "UPDATE pyreplica.replica_slave SET slave_system = '1'")
    with running(made) as daemon:
        daemon.until(lambda: daemon.error, "it does not end")
        assert isinstance(daemon.error, Refused)
        assert daemon.said("batch 2 is in doubt")


def test_nothing_is_asked_while_nothing_is_in_doubt(
    databases: Databases, made: ReplicationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(doubt, "Slave", asked.append)
    with running(made) as daemon:
        for number in range(3):
            sql(
                databases.master, f"INSERT INTO public.t VALUES ({number}, 'x'); SELECT pg_sleep(1)"
            )
            assert_same(made)
        daemon.until_asleep()
    assert asked == []


@pytest.mark.parametrize("by_hand", ["COMMIT PREPARED", "ROLLBACK PREPARED"])
@pytest.mark.parametrize("step", [Step.PREPARED, Step.CONFIRMED], ids=lambda step: step.value)
def test_a_batch_that_was_decided_by_hand_goes_on_or_is_refused(
    databases: Databases, made: ReplicationConfig, tmp_path: Path, step: Step, by_hand: str
) -> None:
    gid = leave_in_doubt(databases, tmp_path, step)
    recorded = value(
        databases.master, "SELECT batch FROM pyreplica.replica_slave WHERE replication = 'shop'"
    )
    right = "COMMIT PREPARED" if recorded >= 2 else "ROLLBACK PREPARED"
    sql(databases.slave, f"{by_hand} '{gid}'")
    with running(made) as daemon:
        if by_hand == right:
            sql(databases.master, "INSERT INTO public.t VALUES (2, 'after')")
            assert_same(made)
        else:
            daemon.until(lambda: daemon.error, "it does not end")
            assert isinstance(daemon.error, Refused)
            assert "copy shop --truncate" in daemon.error.hint
