"""What is told at once, what is held back, and what is told of that later.

Nothing here has a clock or a thread: it is given events and moments, and gives notices.

A *problem* is one kind of trouble of one replication, for instance its errors, with their ends.
The first event of a problem is told at once and opens a *period* of ``repeat`` seconds. In it

- the same line again is counted, and told of in one notice at the period's end;
- another line is told at once, until that were ``MOST`` notices;
- the end is told if the trouble was, at once when it is the first one;
- trouble that comes and goes is told when it has stayed as it is for a while, and at the period's
  end. The reader is left with a wrong belief for that long at the most, and gets a few notices in
  an hour, not a hundred.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime

from pyreplica.model import Event, EventKind

MOST = 5
"""So many notices of one problem are told within a period without waiting."""
SETTLE = 300.0
"""Trouble that comes and goes is told after it has stayed so long, seconds; each time in a period
it has to stay twice as long."""
MOST_LINES = 10
"""So many different lines that were held back are told of; the others are only counted."""

_ENDS = {EventKind.RECOVERED: EventKind.ERROR, EventKind.RESUMED: EventKind.PAUSED}
"""Kinds that are the end of another one."""
_NUMBER = re.compile(r"(?P<tens>\d*)\d(?P<rest>\.\d+)?(?P<percent>\s?%)|\d+")


@dataclass(frozen=True, slots=True)
class Notice:
    """What somebody is to be told.

    Attributes:
        event: what has happened; of several that were held back, the last one.
        problem: which problem it is about, as a word.
        times: how many events were held back before this is told, it among them.
        since: when the first of them was, in UTC; None when nothing was held back.
        lines: what they said, each line once and at most ``MOST_LINES``.
        lasting: whether the trouble is still there, as far as is known.
    """

    event: Event
    problem: str
    times: int = 1
    since: datetime | None = None
    lines: tuple[str, ...] = ()
    lasting: bool = True


def is_end(event: Event) -> bool:
    """Whether it says that something is over."""
    return event.over or event.kind in _ENDS


def problem_of(event: Event) -> str:
    """Which problem of which replication an event is about."""
    kind = _ENDS.get(event.kind, event.kind)
    return f"{event.replication or '*'}/{kind.name.lower()}"


def alike(line: str) -> str:
    """A line without what differs from one time to the next: its numbers.

    Of a percentage the tens stay: 50 % and 80 % of a limit are not the same news.
    """
    return _NUMBER.sub(lambda m: f"{m['tens'] or 0}#%" if m["percent"] else "#", line)


@dataclass(slots=True)
class _Held:
    """Events that were counted and not told."""

    times: int = 0
    since: datetime | None = None
    last: Event | None = None
    lines: dict[str, str] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        self.times += 1
        self.since = self.since or event.at
        self.last = event
        shape = alike(event.what)
        if shape in self.lines or len(self.lines) < MOST_LINES:
            self.lines[shape] = event.what


@dataclass(slots=True)
class _Problem:
    """What is, what the reader believes, and what was told within the period."""

    there: bool = False
    believed: bool = False
    began: float | None = None
    told: set[str] = field(default_factory=set)
    notices: int = 0
    returns: int = 0
    settled: int = 0
    held: _Held = field(default_factory=_Held)
    waiting: Event | None = None
    due: float = 0.0

    def settle(self, event: Event, now: float, repeat: float) -> None:
        """Tell of it when it has stayed like this for a while."""
        self.waiting = event
        self.due = now + min(SETTLE * 2**self.settled, repeat)

    def begin(self, now: float | None, told: Collection[str] = ()) -> None:
        """Begin a period; None for none."""
        self.began = now
        self.told = set(told)
        self.notices = 1 if self.told else 0
        self.returns = self.settled = 0
        self.held = _Held()


class Holder:
    """Decides what is told, for one way to tell it.

    Args:
        events: the kinds that are told of.
        repeat: how long a period is, seconds.
    """

    def __init__(self, events: Collection[EventKind], repeat: float) -> None:
        self.events = events
        self.repeat = repeat
        self._problems: dict[str, _Problem] = {}

    def take(self, event: Event, now: float) -> Notice | None:
        """Take note of an event; gives what is to be told at once.

        Args:
            now: seconds, monotonic.
        """
        if event.kind is EventKind.STARTED:
            self._forget(event.replication)
        name = problem_of(event)
        problem = self._problems.setdefault(name, _Problem())
        if event.kind not in self.events:
            # that the trouble which was told is over is not to be told
            if is_end(event):
                problem.there = problem.believed = False
                problem.waiting = None
            return None
        if is_end(event):
            return self._ended(name, problem, event, now)
        return self._happened(name, problem, event, now)

    def due(self, now: float) -> list[Notice]:
        """What is to be told by now of what was held back."""
        notices = []
        for name, problem in list(self._problems.items()):
            if problem.waiting is not None and now >= problem.due:
                notices.append(self._settled(name, problem))
            if problem.began is not None and now >= problem.began + self.repeat:
                if problem.held.last is not None:
                    notices.append(_summary(name, problem))
                    problem.waiting = None
                    problem.believed = problem.there
                    problem.begin(now, problem.held.lines)
                else:
                    problem.begin(None)
            if problem.began is None and not (problem.believed or problem.waiting):
                del self._problems[name]
        return notices

    def next_due(self) -> float | None:
        """When due() will have something to do; None when nothing is held back."""
        ends = [p.began + self.repeat for p in self._problems.values() if p.began is not None]
        settling = [p.due for p in self._problems.values() if p.waiting is not None]
        return min([*ends, *settling], default=None)

    def flush(self) -> list[Notice]:
        """What was held back, told at once: nobody will be there to tell it later."""
        notices = [
            _summary(name, problem)
            for name, problem in self._problems.items()
            if problem.held.last is not None
        ]
        self._problems.clear()
        return notices

    def _happened(self, name: str, problem: _Problem, event: Event, now: float) -> Notice | None:
        if problem.began is not None and not problem.there:
            problem.returns += 1
        problem.there = True
        shape = alike(event.what)
        if shape not in problem.told and problem.notices < MOST:
            if problem.began is None:
                problem.begin(now)
            problem.told.add(shape)
            problem.notices += 1
            problem.believed = True
            problem.waiting = None
            return Notice(event, name)
        problem.held.add(event)
        if problem.believed:
            problem.waiting = None
        elif problem.waiting is None:
            problem.settle(event, now, self.repeat)
        else:  # the same trouble goes on
            problem.waiting = event
        return None

    def _ended(self, name: str, problem: _Problem, event: Event, now: float) -> Notice | None:
        problem.there = False
        if not problem.believed:
            problem.waiting = None
            return None
        if problem.returns:
            problem.settle(event, now, self.repeat)
            return None
        problem.believed = False
        problem.held = _Held()
        return Notice(event, name, lasting=False)

    def _settled(self, name: str, problem: _Problem) -> Notice:
        """Trouble, or its end, has stayed for long enough to be told."""
        event, held = problem.waiting, problem.held
        assert event is not None
        problem.waiting = None
        problem.believed = problem.there
        problem.notices += 1
        problem.settled += 1
        problem.held = _Held()
        since = held.since if held.times > 1 else None
        lines = tuple(held.lines.values()) if since else ()
        return Notice(event, name, max(1, held.times), since, lines, problem.there)

    def _forget(self, replication: str) -> None:
        """A replication begins anew: what was wrong with the one before is not known to last."""
        for name, problem in list(self._problems.items()):
            if name.startswith(f"{replication or '*'}/"):
                problem.there = problem.believed = False
                problem.waiting = None


def _summary(name: str, problem: _Problem) -> Notice:
    held = problem.held
    assert held.last is not None
    lines = tuple(held.lines.values())
    return Notice(held.last, name, held.times, held.since, lines, problem.there)
