"""What is told of events, and what is held back: hours of them, without waiting."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyreplica.daemon.alerts.holding import MOST, SETTLE, Holder, Notice, alike, is_end
from pyreplica.model import Event, EventKind

HOUR = 3600.0
MINUTE = 60.0
BEGAN = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


class Hours:
    """A holder whose clock is turned by hand; keeps what was told, with the second."""

    def __init__(self, events: frozenset[EventKind] = frozenset(EventKind)) -> None:
        self.holder = Holder(events, HOUR)
        self.told: list[tuple[float, Notice]] = []
        self.now = 0.0

    def until(self, at: float) -> None:
        """Let time pass, second by second where something is due."""
        while (due := self.holder.next_due()) is not None and due <= at:
            assert due >= self.now, "what was due earlier was told of"
            self.now = due
            self.told += [(due, notice) for notice in self.holder.due(due)]
        self.now = at

    def event(
        self,
        at: float,
        kind: EventKind = EventKind.ERROR,
        what: str = "slave: cannot connect",
        name: str = "shop",
        *,
        over: bool = False,
    ) -> None:
        """Something happens."""
        self.until(at)
        moment = BEGAN + timedelta(seconds=at)
        notice = self.holder.take(Event(kind, name, moment, what, over=over), at)
        if notice is not None:
            self.told.append((at, notice))

    def error(self, at: float, what: str = "slave: cannot connect") -> None:
        self.event(at, EventKind.ERROR, what)

    def recovered(self, at: float) -> None:
        self.event(at, EventKind.RECOVERED, "in step again")

    @property
    def kinds(self) -> list[tuple[float, str]]:
        """What was told, in short."""
        return [(at, notice.event.kind.value) for at, notice in self.told]


def test_an_error_and_its_recovery_are_told_at_once() -> None:
    hours = Hours()
    hours.error(0)
    hours.recovered(10)
    hours.until(10 * HOUR)
    assert hours.kinds == [(0, "error"), (10, "recovered")]
    assert hours.holder.next_due() is None, "nothing is remembered"


def test_a_recovery_is_not_told_when_no_error_was() -> None:
    hours = Hours()
    hours.recovered(10)
    assert hours.told == []
    hours = Hours(frozenset(EventKind) - {EventKind.ERROR})
    hours.error(0)
    hours.recovered(10)
    assert hours.told == []


def test_a_recovery_that_is_not_to_be_told_still_ends_the_error() -> None:
    hours = Hours(frozenset({EventKind.ERROR}))
    hours.error(0)
    hours.recovered(10)
    hours.error(20)
    hours.until(20 + 2 * SETTLE)
    assert hours.kinds == [(0, "error"), (20 + SETTLE, "error")]


def test_the_same_error_is_summed_up_after_an_hour() -> None:
    hours = Hours()
    for minute in range(1, 60):
        hours.error(minute * MINUTE, f"slave: cannot connect, try {minute}")
    hours.until(2 * HOUR)
    (_, first), (at, summary) = hours.told
    assert (first.times, first.since) == (1, None)
    assert at == MINUTE + HOUR
    assert summary.times == 58
    assert summary.since == BEGAN + timedelta(minutes=2)
    assert summary.lasting
    assert summary.lines == ("slave: cannot connect, try 59",)


def test_an_error_that_lasts_for_a_day_is_told_each_hour() -> None:
    hours = Hours()
    for hour in range(24):
        hours.error(hour * (HOUR + 1))
    assert len(hours.told) == 24


def test_another_error_is_told_at_once_and_many_others_are_summed_up() -> None:
    hours = Hours()
    for n in range(12):
        hours.error(n, f"the error {'x' * n}")
    assert [at for at, _ in hours.told] == list(range(MOST))
    hours.until(HOUR)
    _, summary = hours.told[-1]
    assert summary.times == 12 - MOST
    assert len(summary.lines) == 12 - MOST


def test_errors_that_come_and_go_each_minute_are_three_notices_in_an_hour() -> None:
    hours = Hours()
    for minute in range(0, 120, 2):
        hours.error(minute * MINUTE)
        hours.recovered((minute + 1) * MINUTE)
    first_hour = [kind for at, kind in hours.kinds if at <= HOUR]
    assert first_hour == ["error", "recovered", "error"]
    summary = hours.told[2][1]
    assert summary.times >= 29
    assert not summary.lasting
    assert len([at for at, _ in hours.told if at > HOUR]) <= 3


def test_an_error_that_comes_back_and_stays_is_told_before_the_hour_is_over() -> None:
    hours = Hours()
    hours.error(0)
    hours.recovered(60)
    hours.error(120)
    hours.error(180)
    hours.until(HOUR / 2)
    assert hours.kinds == [(0, "error"), (60, "recovered"), (120 + SETTLE, "error")]
    assert hours.told[-1][1].times == 2
    hours.recovered(HOUR / 2)
    hours.until(HOUR)
    # it has to stay so for twice as long now
    assert hours.kinds[3:] == [(HOUR / 2 + 2 * SETTLE, "recovered")]


def test_who_was_told_by_a_summary_that_it_is_over_is_told_when_it_is_not_any_more() -> None:
    hours = Hours()
    hours.error(0)
    hours.recovered(1)
    hours.error(62)  # told when it has settled
    hours.error(400)
    hours.recovered(3024)  # would settle after the hour
    hours.error(3674)
    hours.until(3674 + SETTLE)
    assert [(at, notice.lasting) for at, notice in hours.told] == [
        (0, True),
        (1, False),
        (62 + SETTLE, True),
        (HOUR, False),
        (3674 + SETTLE, True),
    ]


def test_the_repeats_of_an_error_do_not_hold_its_recovery_back() -> None:
    hours = Hours()
    hours.error(0)
    hours.error(100)
    hours.recovered(200)
    hours.until(2 * HOUR)
    assert hours.kinds == [(0, "error"), (200, "recovered")]


def test_conflicts_are_told_once_and_counted() -> None:
    hours = Hours()
    for n in range(500):
        hours.event(n, EventKind.CONFLICT, f"public.item: {n} update_differs")
    hours.until(HOUR)
    assert hours.kinds == [(0, "conflict"), (HOUR, "conflict")]
    assert hours.told[1][1].times == 499


def test_a_log_that_grows_from_50_to_80_percent_is_told_twice_and_no_more_if_it_trembles() -> None:
    hours = Hours()
    line = "the master keeps {} GB of log for the slave, {}% of max_log_size (10 GB)"
    for n, percent in enumerate((50, 51, 50, 80, 81)):
        hours.event(n * MINUTE, EventKind.LOG, line.format(percent / 10, percent))
    assert hours.kinds == [(0, "log"), (3 * MINUTE, "log")]


def test_one_replication_does_not_hold_another_back_nor_one_kind_another() -> None:
    hours = Hours()
    hours.event(0, name="shop")
    hours.event(1, name="archive")
    hours.event(2, EventKind.LAG, "the slave is behind")
    hours.event(3, EventKind.LAG, "the slave is not behind", over=True)
    hours.event(4, EventKind.RECOVERED, name="archive")
    assert hours.kinds == [
        (0, "error"),
        (1, "error"),
        (2, "lag"),
        (3, "lag"),
        (4, "recovered"),
    ]


def test_a_replication_that_begins_anew_has_no_error_any_more() -> None:
    hours = Hours()
    hours.error(0)
    hours.event(10, EventKind.STARTED, "the daemon has started")
    hours.recovered(20)
    assert hours.kinds == [(0, "error"), (10, "started")]


def test_a_pause_is_told_with_its_end_and_one_after_the_other_only_when_it_stays() -> None:
    hours = Hours()
    for at in (0, 20):
        hours.event(at, EventKind.PAUSED, "paused by ann")
        hours.event(at + 10, EventKind.RESUMED, "goes on")
    hours.event(40, EventKind.PAUSED, "paused by ann")
    hours.until(40 + SETTLE)
    assert hours.kinds == [(0, "paused"), (10, "resumed"), (40 + SETTLE, "paused")]


def test_what_was_held_back_is_told_at_the_end() -> None:
    hours = Hours()
    for second in range(4):
        hours.error(second)
    (summary,) = hours.holder.flush()
    assert summary.times == 3
    assert hours.holder.flush() == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("batch 17 failed", "batch 9018 failed", True),
        ("51% of 10 GB", "58% of 11 GB", True),
        ("51% of 10 GB", "61% of 10 GB", False),
        ("50 % of it", "50.3 % of it", True),
        ("5% of it", "9% of it", True),
        ("column a", "column b", False),
    ],
)
def test_lines_are_alike_when_only_their_numbers_differ(one: str, other: str, same: bool) -> None:
    assert (alike(one) == alike(other)) is same


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from([1.0, 61.0, SETTLE - 1, SETTLE + 1, 650.0, 1300.0, HOUR - 1, 4000.0]),
        st.sampled_from(["error a", "error b", "error c", "recovered"]),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=150)
@given(_EVENTS)
def test_whoever_waits_knows_in_the_end_what_is_so_and_is_never_flooded(
    events: list[tuple[float, str]],
) -> None:
    hours, at, there = Hours(), 0.0, False
    for pause, what in events:
        at += pause
        there = what != "recovered"
        if there:
            hours.error(at, what)
        else:
            hours.recovered(at)
    # the longest that anything has to stay within an hour: 5, 10 and 20 minutes, and then 40
    hours.until(at + 8 * SETTLE)
    believed = False
    for _, notice in hours.told:
        believed = notice.lasting and not is_end(notice.event)
    assert believed is there
    # what was told and what was counted is all there was
    counted = sum(n.times for _, n in hours.told if not is_end(n.event))
    assert counted <= sum(what != "recovered" for _, what in events)
    moments = [told for told, _ in hours.told]
    for begin in moments:
        within = [told for told in moments if begin <= told < begin + HOUR]
        assert len(within) <= 2 * MOST + 6
    assert len(hours.holder._problems) <= 1
