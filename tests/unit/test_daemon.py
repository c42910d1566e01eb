"""What the daemon tells systemd, its log's lines, and when a replication counts as stuck."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pyreplica.config import Config, parse
from pyreplica.daemon.listeners import Listeners
from pyreplica.daemon.logs import JsonFormatter, TextFormatter
from pyreplica.daemon.member import Member, patience
from pyreplica.daemon.pidfile import AlreadyRunning, Pidfile, holder
from pyreplica.daemon.summary import summary
from pyreplica.daemon.systemd import Systemd
from pyreplica.model import Event, EventKind, State, Status
from pyreplica.replication.loop import Replication

NOW = datetime(2030, 1, 1, tzinfo=timezone.utc)


# systemd


def test_the_service_manager_is_told_through_an_abstract_socket_too() -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as heard:
        heard.bind(f"\0pyreplica-test-{os.getpid()}")
        environ = {"NOTIFY_SOCKET": f"@pyreplica-test-{os.getpid()}", "OTHER": "stays"}
        systemd = Systemd(environ)
        # no command that the daemon runs speaks in its name
        assert environ == {"OTHER": "stays"}
        systemd.alive()  # nobody wants to know
        systemd.status("2 in step")
        systemd.status("2 in step")
        systemd.ready()
        assert [heard.recv(1000) for _ in range(2)] == [b"STATUS=2 in step", b"READY=1"]


@pytest.mark.parametrize(
    ("environ", "watchdog"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "nonsense"}, None),
    ],
)
def test_the_watchdog_is_fed_when_it_is_ours(
    environ: dict[str, str], watchdog: float | None
) -> None:
    assert Systemd(dict(environ)).watchdog == watchdog


def test_a_service_manager_that_is_gone_disturbs_nobody(tmp_path: Path) -> None:
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


def test_the_summary_names_those_that_are_not_in_step() -> None:
    def status(name: str, state: State, lag: float | None = None, error: str = "") -> Status:
        at = None if lag is None else NOW - timedelta(seconds=lag)
        return Status(name, state, in_step_at=at, error=error or None)

    in_step = [status("a", State.WAITING), status("b", State.CATCHING_UP, 0.2)]
    assert summary(in_step, NOW) == "2 in step"
    assert summary([], NOW) == "0 in step"
    late = status("shop", State.CATCHING_UP, 12)
    assert summary([*in_step, late], NOW) == "2 in step; shop 12 s behind"
    failed = status("c", State.FAILED, 99, "c: slave: cannot connect")
    others = [status("d", State.STANDBY), status("e", State.PAUSED), status("f", State.CATCHING_UP)]
    assert summary([failed, *others], NOW) == (
        "1 standby; 1 paused; c failed: c: slave: cannot connect; f catching up"
    )
    assert summary([failed] * 7, NOW).endswith("; and 2 more")
    ended = status("g", State.STOPPED, error="g: the slave was dropped")
    told_to = status("h", State.STOPPED)
    assert summary([ended, told_to], NOW) == "1 stopped; g has ended: g: the slave was dropped"


# Stuck


def test_a_replication_is_stuck_when_it_neither_goes_on_nor_waits_for_a_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "replications: {shop: {master: dbname=a, slave: dbname=b, retry_max: 1h}}"
    (made,) = parse(text, "test.yaml", {}).select([])
    member = Member(made, Listeners([]), lambda step, batch: None, lambda: None)
    signs: list[float] = []
    monkeypatch.setattr(
        "pyreplica.daemon.member.last_sign", lambda owner: signs[-1] if signs else None
    )
    limit = patience(made)
    assert limit > made.keepalive + made.retry_max + made.connect_timeout + made.peer_timeout
    now = time.monotonic()
    member.replication.beat = now - limit + 30
    assert member.stuck() is None
    member.replication.beat = now - limit - 30
    silent = member.stuck()
    assert silent is not None
    assert silent >= limit
    signs.append(now - 5)  # its server is at work for it
    assert member.stuck() is None
    member.replication.stop()
    assert member.replication.run() is None


# The log


def record(name: str, message: str, level: int = logging.INFO, **extra: str) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": name, "levelno": level, **extra})
    made.levelname, made.msg = logging.getLevelName(level), message
    return made


def test_a_line_of_json_says_whose_it_is_and_keeps_the_hint_apart() -> None:
    formatter = JsonFormatter(["shop"])
    made = record("pyreplica.shop", "é\nfailed (do it)", logging.ERROR, what="é", hint="Do it.")
    made.created, made.msecs = 1893456000.25, 250.0
    line = formatter.format(made)
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2030-01-01T00:00:00.250Z",
        "level": "error",
        "replication": "shop",
        "message": "é",
        "hint": "Do it.",
    }
    assert "replication" not in json.loads(formatter.format(record("pyreplica.database", "x")))
    try:
        raise RuntimeError("oops")
    except RuntimeError:
        made = record("pyreplica", "x")
        made.exc_info = sys.exc_info()
    assert "RuntimeError: oops" in json.loads(formatter.format(made))["exception"]


def test_a_line_of_text_has_the_time_unless_the_journal_has_it() -> None:
    made = record("pyreplica.shop", "connected")
    assert TextFormatter(journal=True).format(made) == "INFO pyreplica.shop: connected"
    assert TextFormatter().format(made).endswith(" INFO pyreplica.shop: connected")
    assert TextFormatter().format(made)[:2] in ("19", "20")


# A defect


class Heard:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.statuses: list[Status] = []
        self.events: list[Event] = []

    def start(self) -> None:
        """Nothing."""

    def status(self, status: Status) -> None:
        self.statuses.append(status)

    def event(self, event: Event) -> None:
        self.events.append(event)

    def reload(self, config: Config) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


def test_a_replication_that_a_defect_ends_says_so_in_its_status_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(replication: Replication) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr(Replication, "_connected", broken)
    (made,) = parse("replications: {shop: {master: dbname=a, slave: dbname=b}}", "", {}).select([])
    heard = Heard()
    listeners = Listeners([heard])
    listeners.start()
    member = Member(made, listeners, lambda step, batch: None, lambda: None)
    member.start()
    member.join(30)
    assert not member.alive
    last = heard.statuses[-1]
    assert last.state is State.STOPPED
    assert last.error == "shop: unexpected RuntimeError: oops"
    assert "report it" in (last.hint or "")
    (stopped,) = heard.events
    assert (stopped.kind, stopped.hint) == (EventKind.STOPPED, last.hint)


# The pidfile


def test_a_pidfile_is_held_once_and_says_what_became_of_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "made" / "pid"
    assert holder(path) is None
    with Pidfile(path) as held:
        found = holder(path)
        assert found is not None
        assert (found.pid, found.reloaded.number) == (os.getpid(), 0)
        with pytest.raises(AlreadyRunning, match=f"already: process {os.getpid()}"), Pidfile(path):
            pass
        held.reloaded("a long line of what was done", None)
        held.reloaded("1", AlreadyRunning("x", where="y", hint="z"))
        found = holder(path)
        assert found is not None
        reloaded = found.reloaded
        assert (reloaded.number, reloaded.done) == (2, "1")
        assert (reloaded.error, reloaded.hint) == ("y: x", "z")
    assert not path.exists()
    path.write_text("123\nnonsense")
    assert holder(path) is None
    with Pidfile(path):
        pass
