"""How alerts are kept, tried again, given up and gathered: by a clock that is turned by hand."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import datetime, timezone

import pytest

from pyreplica.backoff import Backoff
from pyreplica.config.alerts import AlertsConfig
from pyreplica.daemon.alerts import channel as channels
from pyreplica.daemon.alerts.channel import Channel
from pyreplica.daemon.alerts.holding import Holder, Notice
from pyreplica.daemon.alerts.outbox import GIVE_UP, RETRY_LONGEST, ROOM, Outbox
from pyreplica.errors import PyReplicaError, Unreachable
from pyreplica.model import Event, EventKind

LIMIT = 30.0


class World:
    """A clock, and a server that is down or up."""

    def __init__(self) -> None:
        self.now = 0.0
        self.error: Exception | None = None
        self.tries = 0
        self.delivered: list[str] = []
        self.outbox: Outbox[str] = Outbox("mail", self.deliver, Backoff(5, 300, lambda: 1.0))

    def clock(self) -> float:
        return self.now

    def deliver(self, item: str) -> str | None:
        self.tries += 1
        if self.error is not None:
            raise self.error
        self.delivered.append(item)
        return None

    def put(self, *items: str) -> None:
        for item in items:
            self.outbox.put(item, f"about {item}", self.now)

    def work(self) -> None:
        self.outbox.work(self.clock)

    def work_until(self, at: float) -> None:
        """Let time pass."""
        while (due := self.outbox.next_try()) is not None and due <= at:
            self.now = max(self.now, due)
            self.work()
        self.now = at


DOWN = Unreachable("cannot be reached", where="mail server", hint="See it.")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.getLogger("pyreplica").propagate = True
    caplog.set_level(logging.INFO, "pyreplica")
    return caplog


def test_what_cannot_be_delivered_is_tried_again_with_growing_delays_and_in_order() -> None:
    world = World()
    world.error = DOWN
    world.put("a", "b")
    moments = []
    for _ in range(5):
        world.now = world.outbox.next_try() or 0.0
        moments.append(world.now)
        world.work()
    assert moments == [0, 5, 15, 35, 75]
    assert world.tries == 5, "the second one was not tried while the first could not be"
    world.error = None
    world.work_until(200)
    assert world.delivered == ["a", "b"]
    assert world.outbox.next_try() is None


def test_a_failure_is_said_once_and_so_is_its_end(said: pytest.LogCaptureFixture) -> None:
    world = World()
    world.error = DOWN
    world.put("a")
    world.work_until(600)
    world.error = None
    world.work_until(1200)
    assert [record.getMessage() for record in said.records] == [
        "alerts: mail server: cannot be reached; tried again later (See it.)",
        "alerts: a mail was delivered again",
    ]


def test_it_is_given_up_after_some_hours_with_a_line_in_the_log(
    said: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.error = DOWN
    world.put("a")
    world.work_until(GIVE_UP - 1)
    assert len(world.outbox) == 1
    world.work_until(GIVE_UP + 2 * RETRY_LONGEST)
    assert len(world.outbox) == 0
    assert world.outbox.given_up == 1
    assert "a mail is given up: about a: it was tried for 6 hours" in said.text


def test_what_is_refused_for_ever_is_given_up_at_once_and_does_not_stop_the_others(
    said: pytest.LogCaptureFixture,
) -> None:
    world = World()

    def deliver(item: str) -> None:
        if item == "bad":
            raise PyReplicaError("no", where="mail server")
        world.delivered.append(item)

    world.outbox = Outbox("mail", deliver)
    world.put("bad", "good")
    world.work()
    assert world.delivered == ["good"]
    assert "given up: about bad: mail server: no" in said.text


def test_what_is_refused_for_now_does_not_stop_the_others() -> None:
    world = World()

    def deliver(item: str) -> None:
        if item == "later" and world.now < 10:
            raise PyReplicaError("not now", retry=True)
        world.delivered.append(item)

    world.outbox = Outbox("mail", deliver)
    world.put("later", "good")
    world.work_until(60)
    assert world.delivered == ["good", "later"]


def test_of_what_was_delivered_in_part_only_the_rest_is_tried_again() -> None:
    world = World()

    def deliver(item: str) -> str | None:
        world.delivered.append(item)
        return item[1:] or None

    world.outbox = Outbox("mail", deliver)
    world.put("abc")
    world.work_until(60)
    assert world.delivered == ["abc", "bc", "c"]


def test_a_defect_costs_one_alert_and_not_the_others(said: pytest.LogCaptureFixture) -> None:
    world = World()
    world.error = RuntimeError("a defect")
    world.put("a")
    world.work()
    world.error = None
    world.put("b")
    world.work()
    assert world.delivered == ["b"]
    assert "please report it" in said.text


def test_the_room_is_bounded(said: pytest.LogCaptureFixture) -> None:
    world = World()
    world.error = DOWN
    world.put(*(str(n) for n in range(ROOM + 3)))
    assert len(world.outbox) == ROOM
    assert world.outbox.given_up == 3
    assert "given up: about 2: 200 are waiting already" in said.text


# The channel


class Way:
    """Tells by noting it down; its deliveries can be held up."""

    what = "note"
    gather = 2.0

    def __init__(self) -> None:
        self.made: list[tuple[list[str], int]] = []
        self.delivered: list[str] = []
        self.settings: AlertsConfig | None = None
        self.go = threading.Event()
        self.go.set()
        self.begun = threading.Event()

    def configure(self, settings: AlertsConfig) -> None:
        self.settings = settings

    def compose(self, notices: Sequence[Notice], lost: int) -> list[tuple[str, str]]:
        whats = [notice.event.what for notice in notices]
        self.made.append((whats, lost))
        return [(what, what) for what in whats]

    def deliver(self, item: str) -> None:
        self.begun.set()
        assert self.go.wait(LIMIT)
        self.delivered.append(item)

    def abandon(self) -> None:
        self.go.set()


def event(what: str, kind: EventKind = EventKind.ERROR, name: str = "shop") -> Event:
    return Event(kind, name, datetime.now(timezone.utc), what)


@pytest.fixture
def way() -> Way:
    return Way()


def test_what_happens_within_two_seconds_is_told_together(way: Way) -> None:
    now = 0.0
    channel = Channel(way, Holder(frozenset(EventKind), 3600), clock=lambda: now)
    channel.put(event("a", name="one"))
    channel.work()
    now = 1.5
    channel.put(event("b", name="two"))
    channel.work()
    assert way.made == []
    assert channel.next_due() == 2.0
    now = 2.0
    channel.work()
    assert way.made == [(["a", "b"], 0)]
    assert way.delivered == ["a", "b"]


def test_a_slow_delivery_never_makes_an_event_wait_and_the_overflow_is_counted(
    way: Way, said: pytest.LogCaptureFixture
) -> None:
    way.gather = 0.0
    way.go.clear()
    channel = Channel(way, Holder(frozenset(EventKind), 3600))
    channel.start()
    channel.put(event("first"))
    assert way.begun.wait(LIMIT)
    for n in range(channels.ROOM + 7):  # would wait for ever here
        channel.put(event("the same", name=f"shop{n}"))
    way.go.set()
    channel.end()
    channel.join(LIMIT)
    assert way.made[1][1] == 7
    assert len(way.made[1][0]) == channels.ROOM
    assert "7 events came too fast" in said.text


def test_the_end_delivers_what_is_there_without_gathering_and_what_was_held_back(way: Way) -> None:
    way.gather = 3600.0
    channel = Channel(way, Holder(frozenset(EventKind), 3600))
    channel.start()
    channel.put(event("an error"))
    channel.put(event("an error"))
    channel.put(event("stopped", EventKind.STOPPED))
    channel.end()
    channel.join(LIMIT)
    assert way.delivered == ["an error", "stopped", "an error"]


def test_the_end_tries_once_more_what_waits_for_its_next_try(way: Way) -> None:
    world = World()
    world.error = DOWN
    way.gather = 0.0
    channel = Channel(way, Holder(frozenset(EventKind), 3600), world.outbox, world.clock)
    channel.put(event("an error"))
    channel.work()
    channel.work()
    assert world.tries == 1, "it waits"
    world.error = None
    channel.work(ending=True)
    assert world.delivered == ["an error"]


def test_an_end_that_takes_too_long_is_given_up_with_a_line_in_the_log(
    way: Way, said: pytest.LogCaptureFixture
) -> None:
    way.gather = 0.0
    way.go.clear()
    channel = Channel(way, Holder(frozenset(EventKind), 3600))
    channel.start()
    channel.put(event("stopped"))
    assert way.begun.wait(LIMIT)
    channel.end()
    channel.join(0.01)
    assert "alerts: a note is given up: stopped: the daemon ends" in said.text
    assert way.go.is_set(), "it was not abandoned"
    channel.join(LIMIT)


def test_other_settings_hold_for_what_comes_and_for_what_is_kept(way: Way) -> None:
    now = 0.0
    channel = Channel(way, Holder(frozenset(EventKind), 3600), clock=lambda: now)
    settings = AlertsConfig(command=("true",), events=frozenset({EventKind.LAG}), repeat=60)
    channel.configure(settings)
    channel.put(event("an error"))
    channel.put(event("a lag", EventKind.LAG))
    channel.work()
    now = 2.0
    channel.work()
    assert way.settings == settings
    assert way.delivered == ["a lag"]
