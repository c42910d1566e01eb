"""One daemon with several replications: who is told of what, reload, one that fails or lags."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyreplica.daemon import member, service
from pyreplica.daemon.bell import Bell
from pyreplica.daemon.systemd import Systemd
from pyreplica.demo.cluster import Cluster
from pyreplica.model import Event, EventKind, State, Status, Step
from tests.conftest import Databases
from tests.integration.cli_support import write_config
from tests.integration.service_support import (
    Manager,
    Told,
    moves,
    serving,
    settings,
    shared_databases,
    two,
)
from tests.support import eventually, sql


@pytest.fixture(scope="module")
def databases(master_cluster: Cluster, slave_cluster: Cluster) -> Iterator[Databases]:
    """Those of all tests here."""
    with shared_databases("test_service", master_cluster, slave_cluster) as made:
        yield made


class Failing(Told):
    """A listener that can do nothing."""

    def status(self, status: Status) -> None:
        raise RuntimeError("no")

    def event(self, event: Event) -> None:
        raise RuntimeError("no")

    def stop(self) -> None:
        raise RuntimeError("no")


def test_all_listeners_are_told_and_one_that_fails_disturbs_nobody(
    databases: Databases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Told()
    with serving(two(databases, tmp_path), listeners=[Failing(), other]) as served:
        for name in ("one", "two"):
            other.until_state(name, State.WAITING)
        moves(databases, "two")
    assert served.result is True
    for told in (served.told, other):
        assert told.calls[0] == "start"
        assert told.calls[-1] == "stop"
        assert told.of("one")[0].state is State.CONNECTING
        assert told.of("one")[-1].state is State.STOPPED
        assert told.kinds("two") == [EventKind.STARTED, EventKind.STOPPED]
    assert "Failing has failed" in caplog.text


def test_a_replication_that_fails_or_ends_disturbs_no_other(
    databases: Databases, tmp_path: Path
) -> None:
    path = two(databases, tmp_path)
    away = {**settings(databases, "one"), "master": "host=127.0.0.1 port=1 dbname=x"}
    never = settings(databases, "one")
    good = settings(databases, "two")
    write_config(path, {"away": away, "never": never, "two": good})
    with serving(path) as served:
        served.told.until_told("away", EventKind.ERROR)
        served.told.until_told("never", EventKind.STOPPED)
        moves(databases, "two")
        moves(databases, "two")
        assert served.told.kinds("two") == [EventKind.STARTED]
    assert served.result is False
    assert list(served.service.errors) == ["never"]


def test_a_reload_starts_restarts_and_stops_and_the_others_do_not_notice(
    databases: Databases, tmp_path: Path
) -> None:
    path = two(databases, tmp_path)
    one, both = settings(databases, "one"), settings(databases, "two")
    write_config(path, {"one": one})
    with serving(path) as served:
        told = served.told
        told.until_state("one", State.WAITING)
        write_config(path, {"one": one, "two": both})
        assert served.reload() == ("added: two; 1 as before", "")
        told.until_state("two", State.WAITING)
        write_config(path, {"one": one, "two": {**both, "batch_rows": 5}})
        assert served.reload() == ("changed: two; 1 as before", "")
        assert [one.state for one in told.of("two")][-1] is not State.STOPPED
        told.until_state("two", State.WAITING)
        moves(databases, "two")
        assert served.reload() == ("2 as before", "")
        assert told.kinds("one") == [EventKind.STARTED]
        assert [s.state for s in told.of("one")].count(State.CONNECTING) == 1
        write_config(path, {"two": {**both, "batch_rows": 5}})
        assert served.reload() == ("removed: one; 1 as before", "")
        assert told.of("one")[-1].state is State.STOPPED
        assert told.kinds("one") == [EventKind.STARTED, EventKind.STOPPED]
        started, stopped = EventKind.STARTED, EventKind.STOPPED
        assert told.kinds("two") == [started, stopped, started]
        assert told.calls.count("reload") == 4


def test_a_configuration_that_is_not_right_is_refused_and_the_one_before_goes_on(
    databases: Databases, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = two(databases, tmp_path)
    with serving(path, "one") as served:
        served.told.until_state("one", State.WAITING)
        right = path.read_text()
        path.write_text(right.replace("tables:", "tabels:", 1))
        done, error = served.reload()
        assert done == ""
        assert "unknown key" in error
        event = served.told.until_told("", EventKind.ERROR)
        assert event.what.endswith(error)
        assert "the one before goes on" in event.what
        assert event.hint == "did you mean tables?"
        assert f"the configuration was not taken, the one before goes on: {error}" in caplog.text
        write_config(path, {"two": settings(databases, "two")})
        assert "there is no replication named one" in served.reload()[1]
        moves(databases, "one")
        assert served.told.kinds("one") == [EventKind.STARTED]
        assert "reload" not in served.told.calls
        path.write_text(right)
        assert served.reload() == ("1 as before", "")
        assert served.told.until_told("", EventKind.RECOVERED).since is not None
        assert served.reload() == ("1 as before", "")
        assert served.told.kinds("").count(EventKind.RECOVERED) == 1


def test_the_main_thread_of_an_idle_daemon_sleeps_until_something_moves(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    wait = Bell.wait

    def noted(bell: Bell, timeout: float) -> None:
        slept.append(timeout)
        wait(bell, timeout)

    monkeypatch.setattr(service, "TICK", 0.1)
    monkeypatch.setattr(Bell, "wait", noted)
    with serving(two(databases, tmp_path)):
        eventually(lambda: slept and slept[-1] == service.REST, "it does not rest")
        for _ in range(2):
            rested = len(slept)
            moves(databases, "one")
            eventually(lambda: 0.1 in slept[rested:], "it was not woken")  # noqa: B023
            eventually(lambda: slept[-1] == service.REST, "it does not rest again")


def test_a_replication_that_has_ended_is_started_again_by_a_reload(
    databases: Databases, tmp_path: Path
) -> None:
    path = two(databases, tmp_path)
    where = "WHERE replication = 'two'"
    sql(databases.master, f"UPDATE pyreplica.replica_slave SET state = 'copying' {where}")
    with serving(path) as served:
        served.told.until_told("two", EventKind.STOPPED)
        eventually(lambda: list(served.service.errors) == ["two"])
        sql(databases.master, f"UPDATE pyreplica.replica_slave SET state = 'ready' {where}")
        assert served.reload() == ("started again: two; 1 as before", "")
        served.told.until_state("two", State.WAITING)
        moves(databases, "two")
        assert served.service.errors == {}
    assert served.result is True


def test_the_watchdog_is_fed_only_while_no_replication_is_stuck(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = two(databases, tmp_path, defaults={"keepalive": "1s"})
    monkeypatch.setattr(member, "patience", lambda config: 5.0)
    goes_on, sticks = threading.Event(), threading.Event()

    def observe(name: str, step: Step, batch: int) -> None:
        # not in what the test before may have left to be moved
        if (name, step) == ("one", Step.FETCHED) and sticks.is_set():
            goes_on.wait(60)

    with closing(Manager(tmp_path / "notify")) as manager:
        systemd = Systemd({"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "300000"})
        with serving(path, observe=observe, systemd=systemd) as served:
            try:
                served.told.until_state("one", State.WAITING)
                # longer than it may do nothing, but for its sleep
                for _ in range(60):
                    manager.until("WATCHDOG=1")
                assert EventKind.ERROR not in served.told.kinds("one")
                sticks.set()
                sql(databases.master, "INSERT INTO public.one VALUES (-1)")
                stuck = served.told.until_told("one", EventKind.ERROR)
                assert "the replication has been stuck for " in stuck.what
                moves(databases, "two")
                manager.waiting()
                assert not any("WATCHDOG" in said for said in manager.waiting(pause=1.0))
            finally:
                goes_on.set()
            manager.until("WATCHDOG=1")


def test_a_lag_is_told_of_while_the_replication_itself_is_stuck(
    databases: Databases, tmp_path: Path
) -> None:
    path = two(databases, tmp_path)
    one = settings(databases, "one", lag_alert="1s")
    write_config(path, {"one": one, "two": settings(databases, "two")})
    goes_on, sticks = threading.Event(), threading.Event()

    def observe(name: str, step: Step, batch: int) -> None:
        # not in what the test before may have left to be moved
        if (name, step) == ("one", Step.FETCHED) and sticks.is_set():
            goes_on.wait(60)

    def lags(*, over: bool) -> list[Event]:
        told = served.told.events
        return [event for event in told if event.kind is EventKind.LAG and event.over is over]

    with serving(path, observe=observe) as served:
        try:
            served.told.until_state("one", State.WAITING)
            # on a busy machine it may have taken so long to begin
            before = len(lags(over=False))
            served.told.until(lambda: len(lags(over=True)) == before, "it stays behind")
            sticks.set()
            sql(databases.master, "INSERT INTO public.one VALUES (0)")
            served.told.until(lambda: len(lags(over=False)) > before, "it is not told of")
        finally:
            goes_on.set()
        lag = lags(over=False)[-1]
        assert lag.what.startswith("one: the slave may be 0:00:0")
        assert lag.since is not None
        assert (lag.at - lag.since).total_seconds() > 1
        served.told.until(lambda: len(lags(over=True)) > before, "it is not over")
        assert EventKind.LAG not in served.told.kinds("two")
