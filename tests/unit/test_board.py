"""The board behind the page: an hour of each replication, in little memory."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from pyreplica.daemon.web.board import MOST_EVENTS, SPAN, SPANS, Board
from pyreplica.model import Event, EventKind, State, Status

BEGIN = datetime(2026, 3, 1, 12, 0, 0, tzinfo=timezone.utc)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime:
        return self.now

    def on(self, seconds: float) -> datetime:
        """Some seconds later; gives the moment before."""
        before = self.now
        self.now += timedelta(seconds=seconds)
        return before


def test_an_idle_replication_has_no_lag_and_takes_one_point_an_hour() -> None:
    clock = Clock()
    board = Board(clock)
    board.status(Status("shop", State.WAITING, batch=1, changes=5))
    clock.on(86400)
    (seen,) = board.view().replications
    assert (seen.lag, seen.rate) == (0, 0)
    assert seen.lags == (0,) * SPANS
    assert seen.rates == (0,) * SPANS
    assert len(board._histories["shop"]._points) == 1


def test_what_was_before_the_first_word_is_not_known() -> None:
    clock = Clock()
    board = Board(clock)
    board.status(Status("shop", State.WAITING, batch=1, changes=5))
    clock.on(2 * SPAN)
    (seen,) = board.view().replications
    assert seen.lags == (None,) * (SPANS - 3) + (0, 0, 0)
    assert seen.rates == (None,) * (SPANS - 3) + (0, 0, 0)


def test_the_lag_of_one_that_is_stuck_grows_by_itself_and_stays_in_the_chart() -> None:
    clock = Clock()
    board = Board(clock)
    behind = Status("shop", State.FAILED, batch=1, in_step_at=clock.now, error="no")
    board.status(behind)
    clock.on(10 * SPAN)
    (seen,) = board.view().replications
    assert seen.lag == 10 * SPAN
    assert seen.lags[-11:] == tuple(SPAN * n for n in (*range(1, 11), 10))
    board.status(Status("shop", State.WAITING, batch=2))
    clock.on(5 * SPAN)
    (seen,) = board.view().replications
    assert seen.lag == 0
    assert max(lag for lag in seen.lags if lag is not None) == 10 * SPAN
    assert seen.lags[-5:] == (0,) * 5
    clock.on(3600)
    assert set(board.view().replications[0].lags) == {0}


def test_changes_a_second_are_those_of_each_half_minute() -> None:
    clock = Clock()
    board = Board(clock)
    # what was there before the daemon came is no change of now
    board.status(Status("shop", State.CONNECTING))
    board.status(Status("shop", State.WAITING, batch=7, changes=1_000_000))
    for n in range(1, 61):
        clock.on(1)
        board.status(Status("shop", State.CATCHING_UP, batch=7 + n, changes=1_000_000 + 10 * n))
    (seen,) = board.view().replications
    assert seen.rates[-3] == 29 * 10 / SPAN
    assert seen.rates[-2] == 30 * 10 / SPAN
    assert seen.rate == (30 + 1) * 10 / SPAN
    # a new copy begins at nothing
    board.status(Status("shop", State.WAITING, batch=80, changes=0))
    assert all(rate is None or rate >= 0 for rate in board.view().replications[0].rates)


def test_a_busy_day_takes_no_more_points_than_an_hour_has() -> None:
    clock = Clock()
    board = Board(clock)
    for n in range(86400 // 7):
        clock.on(7)
        board.status(Status("shop", State.CATCHING_UP, batch=n, changes=n, in_step_at=clock.now))
    assert len(board._histories["shop"]._points) <= SPANS + 1
    assert len(board.view().replications[0].lags) == SPANS


def test_events_are_bounded_counted_and_without_their_details() -> None:
    board = Board(Clock())
    for n in range(3 * MOST_EVENTS):
        board.event(Event(EventKind.ERROR, "shop", BEGIN, f"no {n}", details="long " * 1000))
    view = board.view()
    assert [event.what for event in view.events[:2]] == ["no 299", "no 298"]
    assert len(view.events) == MOST_EVENTS
    assert {event.details for event in view.events} == {""}
    assert view.counts == {("shop", EventKind.ERROR): 3 * MOST_EVENTS}


def test_what_is_not_in_the_configuration_any_more_is_forgotten() -> None:
    board = Board(Clock())
    for name in ("shop", "archive"):
        board.status(Status(name, State.WAITING))
        board.event(Event(EventKind.ERROR, name, BEGIN, "no"))
    board.keep({"shop": 1})
    view = board.view()
    assert [seen.status.replication for seen in view.replications] == ["shop"]
    assert set(view.counts) == {("shop", EventKind.ERROR)}
