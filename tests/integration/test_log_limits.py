"""A slave that is past the limits of the log: warned of, dropped, refused, and copied anew."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.errors import Dropped
from pyreplica.master import Master
from pyreplica.model import Step
from pyreplica.replication import loop
from pyreplica.replication.limits import LogWatch
from pyreplica.replication.report import report
from pyreplica.replication.setup import install
from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.integration.cli_support import refused, status
from tests.support import (
    assert_same,
    blocked,
    config,
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

TABLE = "CREATE TABLE public.t (id integer PRIMARY KEY, n integer NOT NULL, v text)"
STATE = "SELECT state FROM pyreplica.replica_slave WHERE replication = 'shop'"
COUNT = "SELECT count(*) FROM public.t"
MIB = 1 << 20


def work(databases: Databases, first: int = 1, rows: int = 5000) -> None:
    """A transaction that leaves a snapshot behind; 5,000 rows are about a megabyte of log."""
    sql(
        databases.master,
        "INSERT INTO public.t SELECT i, 0, repeat(md5(i::text), 3) "
        f"FROM generate_series({first}, {first + rows - 1}) i",
    )


def dropped(databases: Databases) -> bool:
    return bool(value(databases.master, STATE) == "dropped")


def limit(databases: Databases, assignments: str) -> None:
    sql(
        databases.master,
        f"UPDATE pyreplica.replica_slave SET {assignments} WHERE replication = 'shop'",
    )


@pytest.fixture
def other(databases: Databases) -> Iterator[ReplicationConfig]:
    """A second slave of the same master, without limits, in a database of its own."""
    name = databases.name[:50] + "_other"
    databases.slave_cluster.create_database(name)
    dsn = databases.slave_cluster.dsn(name)
    sql(dsn, TABLE)
    yield config(replace(databases, slave=dsn), "other")
    databases.slave_cluster.drop_database(name)


# Without a daemon


def test_a_slave_whose_daemon_is_gone_is_dropped_by_the_writers_and_copied_anew(
    databases: Databases, tmp_path: Path
) -> None:
    limits = {"max_log_size": "1MB", "max_log_age": "1d"}
    made = copied(databases, TABLE, **limits)
    path = config_file(tmp_path, databases, **limits)
    with running(made) as ran:
        ran.until_asleep()
    work(databases, 1, 1000)
    (shown,) = status(path)
    assert shown["state"] == "stopped"
    assert 0 < shown["log_bytes"] < MIB
    assert 0 < shown["log_percent"] < 100
    assert shown["log_age_seconds"] > 0

    work(databases, 1001)
    assert dropped(databases)
    says = ": the slave was dropped on "
    hint = "Copy it anew: `pyreplica copy shop --truncate`."
    (shown,) = status(path)
    assert shown["state"] == "needs a new copy"
    assert says in shown["error"]
    assert "past max_log_size (1024 kB)" in shown["error"]
    assert hint in shown["hint"]
    assert "needs a new copy" in pyreplica(path, "status", code=1).stdout
    ran_to_its_end = pyreplica(path, "run", code=1).stderr
    assert says in ran_to_its_end
    assert hint in ran_to_its_end
    for command in ("wait", "compare"):
        refused(path, command, says=says, hint=hint)
    refused(path, "copy", says="the slave is copied already", hint="--truncate")

    pyreplica(path, "copy", "--truncate")
    with running(made) as ran:
        work(databases, 10_001, 500)
        assert_same(made)
        assert ran.said("conflict") == []
    assert value(databases.master, STATE) == "ready"
    assert report(made).state == "stopped"


def test_a_batch_in_doubt_of_a_dropped_slave_is_decided_before_it_is_refused(
    databases: Databases,
) -> None:
    made = copied(databases, TABLE, max_log_size="1MB")

    def hook(step: Step, batch: int) -> None:
        if step is Step.PREPARED and batch == 2:
            work(databases, 101)

    sql(databases.master, "INSERT INTO public.t VALUES (1, 1)")
    with running(made, hook) as ran:
        ran.until_said("the slave was dropped")
    assert isinstance(ran.error, Dropped)
    assert dropped(databases)
    assert prepared(databases) == []
    # the master has not recorded it, so the slave does not have it
    assert value(databases.slave, COUNT) == 0


def test_in_one_phase_nothing_is_applied_that_was_read_when_the_slave_was_dropped(
    databases: Databases,
) -> None:
    made = copied(databases, TABLE, max_log_size="1MB", commit="one-phase")
    seen: list[Step] = []
    with running(made, lambda step, batch: seen.append(step)) as ran:
        ran.until_asleep()
        seen.clear()
        limit(databases, "state = 'dropped', dropped_at = now(), dropped_why = 'for a test'")
        sql(databases.master, "INSERT INTO public.t VALUES (1, 1)")
        ran.until(lambda: ran.error, "it goes on")
    assert isinstance(ran.error, Dropped)
    assert ran.error.line.endswith("for a test")
    assert seen == []
    assert value(databases.slave, COUNT) == 0


def test_a_copy_during_which_the_log_grows_past_the_limit_is_refused(
    databases: Databases,
) -> None:
    sql(databases.master, TABLE)
    sql(databases.slave, TABLE)
    made = config(databases, max_log_size="1MB")
    install(made)
    with ThreadPoolExecutor(1) as thread, connect(databases.slave) as blocker:
        blocker.execute("BEGIN; LOCK TABLE public.t IN SHARE MODE")
        copying = thread.submit(copy, made)
        eventually(blocked(databases.slave), "the copy does not wait")
        work(databases)
        assert dropped(databases)
        blocker.execute("COMMIT")
        with pytest.raises(Dropped, match="past max_log_size"):
            copying.result()
    assert report(made).state == "not copied"
    copy(made)
    with running(made):
        assert_same(made)


# With daemons


def test_the_daemon_of_another_slave_drops_it_and_goes_on(
    databases: Databases, other: ReplicationConfig
) -> None:
    made = copied(databases, TABLE)
    install(other)
    copy(other)
    work(databases)
    limit(databases, f"max_log_size = {MIB}")
    with running(other) as ran:
        eventually(lambda: dropped(databases), "nobody drops it")
        assert_same(other)
        work(databases, 10_001)
        assert_same(other)
        ran.until_asleep()
        assert rotated(databases.master) == "switched"
        sql(databases.master, "UPDATE public.t SET n = 1 WHERE id = 1")
        assert_same(other)
        eventually(
            lambda: value(databases.master, "SELECT pyreplica.rotate_log(0)") == "truncated",
            "the log is kept for the dropped slave",
        )
        with pytest.raises(Dropped):
            wait(made, 5)
        assert_same(other)
        assert ran.said("conflict") == []


def test_each_threshold_is_warned_of_once_and_again_after_it_has_fallen_below(
    databases: Databases, caplog: pytest.LogCaptureFixture
) -> None:
    made = copied(databases, TABLE)
    work(databases)
    watch = LogWatch(made)

    def said(assignments: str) -> str:
        caplog.clear()
        limit(databases, assignments)
        with closing(Master(made)) as master:
            watch.look(master)
        return "\n".join(record.getMessage() for record in caplog.records)

    def at(percent: int) -> str:
        # measured each time: autovacuum may have added a map to the log meanwhile
        with closing(Master(made)) as master:
            kept = master.record.log_kept()
        assert kept is not None
        return f"max_log_size = {kept.bytes * 100 // percent}"

    assert said("max_log_size = NULL") == ""
    assert said(at(40)) == ""
    assert re.search(r"the master keeps .* of log for the slave, 60% of max_log_size", said(at(60)))
    assert said(at(70)) == ""
    assert "90% of max_log_size" in said(at(90))
    assert said(at(60)) == ""
    assert "90% of max_log_size" in said(at(90))
    assert said(at(40)) == ""
    assert "60% of max_log_size" in said(at(60))
    sql(databases.master, "UPDATE pyreplica.replica_log SET at = at - interval '6 h'")
    limit(databases, "snapshot_at = now() - interval '1 d'")
    # it was at 60 % already, of another limit
    assert said("max_log_size = NULL, max_log_age = '10 h'") == ""
    line = said("max_log_age = '7 h'")
    assert line.startswith("changes wait in the master's log for 6:00:")
    assert "86% of max_log_age (7:00:00); past 100 % the slave is dropped" in line
    assert "`pyreplica status shop`" in line


def test_a_daemon_whose_slave_is_away_warns_and_then_stops_when_the_slave_is_dropped(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "ROTATE_EVERY", 0.0)
    made = copied(databases, TABLE)
    databases.slave_cluster.stop()
    with running(replace(made, max_log_size=MIB)) as ran:
        eventually(
            lambda: value(databases.master, "SELECT max_log_size FROM pyreplica.replica_slave"),
            "the master is not told",
        )
        work(databases, 1, 3000)
        ran.until_said("% of max_log_size (1.0 MB)")
        assert len(ran.said("WARNING")) == 1
        work(databases, 3001)
        ran.until(lambda: ran.error, "it goes on")
    assert isinstance(ran.error, Dropped)
    assert dropped(databases)
    (line,) = ran.said("the slave was dropped")
    assert line.startswith("ERROR shop: master: ")
    assert "(The master keeps no log for it any more. Copy it anew: `pyreplica copy shop" in line
    assert report(made).state == "needs a new copy"


def test_a_slave_that_cannot_apply_is_dropped_by_its_own_daemon(databases: Databases) -> None:
    made = copied(databases, TABLE, max_log_size="1MB", keepalive="1s")
    sql(databases.slave, "INSERT INTO public.t VALUES (1, 1)")
    with running(made) as ran, connect(databases.master) as writer:
        ran.until_asleep()
        # writers with an old snapshot do not look after the log
        writer.execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO public.t "
            "SELECT i, 0, repeat(md5(i::text), 3) FROM generate_series(1, 5000) i; COMMIT"
        )
        ran.until_said("insert_exists")
        ran.until(lambda: ran.error, "it goes on")
    assert isinstance(ran.error, Dropped)
