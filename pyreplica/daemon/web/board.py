"""What the page shows: the latest statuses, the last hour of each replication, recent events.

An hour is kept as points, one for each span of 30 seconds in which the replication said anything;
between two points the earlier one's status tells the lag. So an idle replication costs nothing.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from datetime import datetime, timezone

from pyreplica.model import Event, EventKind, State, Status

SPAN = 30.0
"""Seconds of a point."""
SPANS = 120
"""So many points are an hour."""
MOST_EVENTS = 100
"""So many events are kept, of all replications together."""


def utc_now() -> datetime:
    """This machine's clock."""
    return datetime.now(timezone.utc)


@dataclass(frozen=True, slots=True)
class Seen:
    """One replication, as it is to be shown.

    Attributes:
        status: the latest.
        lag: how far the slave may be behind at most, seconds; None when that is not known.
        rate: changes a second, over the last half minute to minute.
        lags: the largest lag in each span of the last hour, the oldest first; None where it was
            not known.
        rates: the changes a second in each span; None before anything was known.
    """

    status: Status
    lag: float | None
    rate: float
    lags: tuple[float | None, ...]
    rates: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class View:
    """All there is to show, at one moment.

    Attributes:
        at: that moment, in UTC.
        replications: by name.
        events: the newest first.
        counts: how many events there were of which replication and kind.
    """

    at: datetime
    replications: tuple[Seen, ...]
    events: tuple[Event, ...]
    counts: dict[tuple[str, EventKind], int]


@dataclass(slots=True)
class _Point:
    """What was said in a span.

    Attributes:
        span: its number.
        peak: the largest lag at any moment at which something was said; nan when not known.
        since: from when the lag counts after the last word; inf while in step, nan if not known.
        moved: the changes that were moved so far.
    """

    span: int
    peak: float
    since: float
    moved: int

    def lag(self, at: float) -> float | None:
        """The lag after the last word."""
        return None if math.isnan(self.since) else max(0.0, at - self.since)


class _History:
    """The last hour of one replication."""

    def __init__(self) -> None:
        self.status: Status | None = None
        self._points: deque[_Point] = deque()
        self._moved = 0

    def take(self, status: Status, now: datetime) -> None:
        """It has another status."""
        before, self.status = self.status, status
        lags = [status.lag(now)]
        if before is not None:
            lags.append(before.lag(now))
            if before.batch:  # else it has only now said how many there are
                self._moved += max(0, status.changes - before.changes)
        peak = max((lag for lag in lags if lag is not None), default=math.nan)
        span = int(now.timestamp() // SPAN)
        last = self._points[-1] if self._points else None
        if last is None or last.span < span:
            self._points.append(_Point(span, peak, _since(status), self._moved))
            self._forget(span)
        else:
            last.peak = peak if math.isnan(last.peak) else max(last.peak, peak)
            last.since = _since(status)
            last.moved = self._moved

    def _forget(self, span: int) -> None:
        # one from before the hour tells how it began
        while len(self._points) > 1 and self._points[1].span <= span - SPANS:
            self._points.popleft()

    def seen(self, now: datetime) -> Seen | None:
        """As it is to be shown."""
        if self.status is None:
            return None
        at = now.timestamp()
        current = int(at // SPAN)
        first = current - SPANS + 1
        points = {point.span: point for point in self._points}
        last = next((p for p in reversed(self._points) if p.span < first), None)
        moved = last.moved if last else 0
        lags: list[float | None] = []
        counts: list[int | None] = []
        for span in range(first, current + 1):
            end = min(at, (span + 1) * SPAN)
            point = points.get(span)
            last = point or last
            known = [] if last is None else [last.lag(end)]
            if point is not None and not math.isnan(point.peak):
                known.append(point.peak)
            lags.append(max((lag for lag in known if lag is not None), default=None))
            counts.append(last.moved - moved if last else None)
            moved = last.moved if last else 0
        # the last span has only begun
        elapsed = at - current * SPAN
        rate = sum(count or 0 for count in counts[-2:]) / (SPAN + elapsed)
        rates = [None if count is None else count / SPAN for count in counts[:-1]]
        return Seen(self.status, self.status.lag(now), rate, tuple(lags), (*rates, rate))


def _since(status: Status) -> float:
    if status.state is State.WAITING:
        return math.inf
    return math.nan if status.in_step_at is None else status.in_step_at.timestamp()


class Board:
    """Takes what the daemon tells, from any thread, and gives views of it.

    Args:
        now: this machine's clock, in UTC.
    """

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._histories: dict[str, _History] = {}
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._counts: dict[tuple[str, EventKind], int] = {}

    def status(self, status: Status) -> None:
        """A replication has another status."""
        now = self._now()
        with self._lock:
            self._histories.setdefault(status.replication, _History()).take(status, now)

    def event(self, event: Event) -> None:
        """Something has happened; its details may be long, and are in the log."""
        key = event.replication, event.kind
        with self._lock:
            self._events.appendleft(replace(event, details=""))
            self._counts[key] = self._counts.get(key, 0) + 1

    def keep(self, names: Container[str]) -> None:
        """Forget all other replications."""
        with self._lock:
            for name in [name for name in self._histories if name not in names]:
                del self._histories[name]
            self._counts = {
                (name, kind): count
                for (name, kind), count in self._counts.items()
                if not name or name in names
            }

    def view(self) -> View:
        """All there is to show now."""
        now = self._now()
        with self._lock:
            seen = [self._histories[name].seen(now) for name in sorted(self._histories)]
            return View(
                now,
                tuple(one for one in seen if one is not None),
                tuple(self._events),
                dict(self._counts),
            )
