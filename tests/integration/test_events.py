"""What a replication tells of itself: its statuses, and the events somebody may be told of."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from pyreplica.config.policies import OnError
from pyreplica.daemon.lag import LagWatch
from pyreplica.master import log
from pyreplica.model import EventKind, State, Status, Step
from pyreplica.replication import telling
from tests.conftest import Databases
from tests.support import (
    Running,
    assert_same,
    blocked,
    config,
    connect,
    copied,
    eventually,
    running,
    sql,
    value,
)

TABLE = "CREATE TABLE public.t (id int PRIMARY KEY, v text NOT NULL)"


def kinds(ran: Running) -> list[tuple[EventKind, bool]]:
    return [(event.kind, event.over) for event in ran.events]


def test_a_run_is_told_of_by_its_statuses_and_its_beginning_and_end(databases: Databases) -> None:
    made = copied(databases, TABLE, max_log_size="1GB")
    before = datetime.now(timezone.utc)
    with running(made) as ran:
        ran.until_asleep()
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x'), (2, 'y')")
        assert_same(made)
        ran.until_asleep()
        status = ran.replication.status
        assert status.state is State.WAITING
        assert (status.batch, status.changes) == (2, 2)
        assert status.in_step_at is not None
        assert status.since is not None
        assert before < status.since <= datetime.now(timezone.utc)
        assert before < status.in_step_at
        assert status.lag(datetime.now(timezone.utc)) == 0
        assert status.log_bytes is not None
        assert status.log_percent == 0
        assert status.conflicts_waiting == 0
        assert (status.error, status.hint, status.error_since) == (None, None, None)
    assert kinds(ran) == [(EventKind.STARTED, False), (EventKind.STOPPED, False)]
    assert [event.what for event in ran.events] == [
        "shop: the daemon has started",
        "shop: the daemon has stopped",
    ]
    assert ran.statuses[0].state is State.CATCHING_UP
    assert ran.statuses[-1].state is State.STOPPED
    assert all(one.replication == "shop" for one in ran.events)


def test_an_error_is_told_once_and_so_is_that_it_is_over(databases: Databases) -> None:
    made = copied(databases, TABLE)
    sql(databases.slave, "INSERT INTO public.t VALUES (1, 'somebody else')")
    with running(made) as ran:
        ran.until_asleep()
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        error = ran.until_told(EventKind.ERROR)
        assert "insert_exists" in error.what
        assert error.hint.startswith("Repair the row on the slave")
        tries = len(ran.said("next try"))
        ran.until(lambda: len(ran.said("next try")) > tries + 2, "it does not try again")
        status = ran.replication.status
        assert status.error == error.what
        assert status.hint == error.hint
        assert status.error_since == error.since
        sql(databases.slave, "DELETE FROM public.t")
        over = ran.until_told(EventKind.RECOVERED)
        assert over.since == error.since
        assert error.what in over.what
        assert_same(made)
        assert ran.replication.status.error is None
    assert [kind.value for kind, _ in kinds(ran)] == ["started", "error", "recovered", "stopped"]


def test_an_error_that_lasts_is_told_again_after_an_hour(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = copied(databases, TABLE)
    sql(databases.slave, "INSERT INTO public.t VALUES (1, 'somebody else')")
    with running(made) as ran:
        ran.until_asleep()
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        first = ran.until_told(EventKind.ERROR)
        monkeypatch.setattr(telling, "ALERT_EVERY", 0.0)
        ran.until(lambda: len(ran.told(EventKind.ERROR)) > 1, "it is not told again")
        again = ran.told(EventKind.ERROR)[1]
        assert (again.what, again.since) == (first.what, first.since)
        assert again.at > first.at


def test_a_replication_that_an_error_ends_says_so(databases: Databases) -> None:
    with running(config(databases)) as ran:
        ran.until(lambda: ran.error, "it goes on")
    assert [kind.value for kind, _ in kinds(ran)] == ["started", "error", "stopped"]
    last = ran.statuses[-1]
    assert last.state is State.STOPPED
    assert ran.error is not None
    assert last.error == ran.error.line
    assert last.error_since is not None
    error, stopped = ran.events[1:]
    assert "PyReplica's master side is not installed" in error.what
    assert error.what in stopped.what
    assert error.hint == stopped.hint != ""


def test_a_conflict_is_told_of_with_its_table_and_key(databases: Databases) -> None:
    made = copied(databases, f"{TABLE}; INSERT INTO public.t VALUES (1, 'x'), (2, 'y')")
    sql(databases.slave, "DELETE FROM public.t")
    with running(replace(made, on_error=OnError.QUARANTINE)) as ran:
        ran.until_asleep()
        sql(databases.master, "DELETE FROM public.t WHERE id = 1")
        met = ran.until_told(EventKind.CONFLICT)
        assert "conflict delete_missing on public.t: 1 row" in met.what
        assert met.hint == "See `pyreplica conflicts list shop --all`."
        sql(databases.slave, "INSERT INTO public.t VALUES (3, 'somebody else')")
        sql(databases.master, "INSERT INTO public.t VALUES (3, 'z')")
        ran.until(lambda: len(ran.told(EventKind.CONFLICT)) == 2, "it is not told of")
        waits = ran.told(EventKind.CONFLICT)[1]
        assert "1 row of public.t cannot be applied and wait" in waits.what
        assert waits.hint == "See `pyreplica conflicts list shop`."
        ran.until(lambda: ran.replication.status.conflicts_waiting == 1, "it is not counted")
    with running(replace(made, on_error=OnError.QUARANTINE)) as ran:
        ran.until(lambda: ran.replication.status.conflicts_waiting == 1, "it is not counted anew")


def test_a_batch_that_takes_long_does_not_look_like_waiting(databases: Databases) -> None:
    made = copied(databases, TABLE)
    goes_on = threading.Event()

    def hook(step: Step, batch: int) -> None:
        if step is Step.FETCHED:
            goes_on.wait(60)

    with running(made, hook) as ran:
        ran.until_asleep()
        try:
            sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
            ran.until(lambda: ran.steps[-1][0] is Step.FETCHED, "it is not read")
            status = ran.replication.status
            assert status.state is State.CATCHING_UP
            assert status.in_step_at is not None
            assert status.lag(status.in_step_at + timedelta(seconds=70)) == 70
        finally:
            goes_on.set()
        assert_same(made)


def test_a_large_batch_does_not_look_like_waiting_while_it_is_read(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = copied(databases, TABLE)
    monkeypatch.setattr(log, "FETCH_ROWS", 1)
    with running(made) as ran, connect(databases.slave) as somebody:
        ran.until_asleep()
        id_ = value(databases.slave, "SELECT id FROM pyreplica.replica_cursor")
        somebody.execute(f"BEGIN; LOCK TABLE pyreplica.stage_{id_}")
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x'), (2, 'y')")
        eventually(blocked(databases.slave), "the batch is not staged")
        assert ran.replication.status.state is State.CATCHING_UP
        somebody.execute("COMMIT")
        assert_same(made)


def test_a_lag_over_the_limit_is_told_once_and_that_it_is_over_too(databases: Databases) -> None:
    made = config(databases, lag_alert="10s")
    start = datetime.now(timezone.utc)

    def after(seconds: float) -> datetime:
        return start + timedelta(seconds=seconds)

    connecting = Status("shop", State.CONNECTING)
    behind = Status("shop", State.CATCHING_UP, in_step_at=after(20))
    failed = replace(behind, state=State.FAILED, error="shop: slave: connection lost")
    watch = LagWatch(made, start)
    assert watch.look(connecting, after(10)) is None
    told = watch.look(connecting, after(11))
    assert told is not None
    assert (told.kind, told.since, told.over) == (EventKind.LAG, start, False)
    assert told.what == "shop: the slave may be 0:00:11 behind the master"
    assert watch.look(connecting, after(12)) is None
    over = watch.look(behind, after(21))
    assert over is not None
    assert over.over
    assert watch.look(replace(behind, state=State.WAITING), after(500)) is None
    told = watch.look(failed, after(31))
    assert told is not None
    assert told.hint == "What fails: shop: slave: connection lost."
    for other in (State.STANDBY, State.PAUSED):
        assert watch.look(replace(failed, state=other), after(600)) is None
    assert LagWatch(replace(made, lag_alert=None), start).look(failed, after(9000)) is None
