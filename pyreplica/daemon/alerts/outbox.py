"""What is to be delivered: kept, tried again with growing delays, and given up in the end.

Nothing here has a clock or a thread, as in holding.py.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from pyreplica.backoff import Backoff
from pyreplica.errors import PyReplicaError, Unreachable

T = TypeVar("T")

ROOM = 200
"""So many are kept; then the oldest one is given up for each new one."""
GIVE_UP = 6 * 3600.0
"""Seconds after which one is given up."""
RETRY_FIRST = 5.0
RETRY_LONGEST = 300.0
"""The delays between tries grow from the one to the other, seconds."""

log = logging.getLogger("pyreplica")
"""The log of the daemon itself: what is said there does not belong to one replication."""


@dataclass(slots=True, eq=False)
class _Kept(Generic[T]):
    item: T
    name: str
    since: float


class Outbox(Generic[T]):
    """The items that one way of telling has to deliver, in their order.

    Args:
        what: what they are, for the log: "mail", "command".
        deliver: delivers one, and gives what is left to be delivered of it. It raises Unreachable
            when none can be delivered now, another error when this one cannot.
        backoff: the delays between tries.
    """

    def __init__(
        self,
        what: str,
        deliver: Callable[[T], T | None],
        backoff: Backoff | None = None,
    ) -> None:
        self.deliver = deliver
        self.given_up = 0
        self._what = what
        self._backoff = backoff or Backoff(RETRY_FIRST, RETRY_LONGEST)
        self._kept: deque[_Kept[T]] = deque()
        self._next_try = 0.0
        self._failure = ""

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, item: T, name: str, now: float) -> None:
        """Keep one to be delivered.

        Args:
            name: what it is about, for the log.
            now: seconds, monotonic.
        """
        if len(self._kept) >= ROOM:
            self._drop(self._kept[0], f"{ROOM} are waiting already")
        self._kept.append(_Kept(item, name, now))

    def next_try(self) -> float | None:
        """When work() will have something to do; None when there is nothing to deliver."""
        return self._next_try if self._kept else None

    def try_now(self) -> None:
        """Wait no longer: something has changed, or this is the end."""
        self._next_try = 0.0
        self._backoff.reset()

    def work(self, now: Callable[[], float]) -> None:
        """Try to deliver what is there, if it is time for that.

        Args:
            now: the clock, seconds, monotonic.
        """
        if not self._kept or now() < self._next_try:
            return
        for kept in list(self._kept):  # it stays there while it is on its way
            try:
                left = self.deliver(kept.item)
            except PyReplicaError as error:
                if not error.retry:
                    self._drop(kept, error.line)
                    continue
                self._say(error)
                if isinstance(error, Unreachable):
                    break
                continue
            except Exception:
                log.exception("alerts: a defect of PyReplica; please report it with the log")
                self._drop(kept, "a defect")
                continue
            if left is not None:
                kept.item = left
                continue
            self._take(kept)
            if self._failure:
                self._failure = ""
                log.info("alerts: a %s was delivered again", self._what)
        for kept in [kept for kept in self._kept if now() - kept.since >= GIVE_UP]:
            self._drop(kept, f"it was tried for {GIVE_UP / 3600:g} hours")
        if self._kept:
            self._next_try = now() + self._backoff.delay()
        else:
            self._backoff.reset()
            self._next_try = 0.0

    def give_up(self) -> None:
        """This is the end; say what was not delivered."""
        for kept in list(self._kept):
            self._drop(kept, "the daemon ends")

    def _say(self, error: PyReplicaError) -> None:
        """The same failure is no news."""
        level = logging.DEBUG if error.line == self._failure else logging.ERROR
        self._failure = error.line
        hint = f" ({error.hint})" if error.hint else ""
        log.log(level, "alerts: %s; tried again later%s", error.line, hint)

    def _drop(self, kept: _Kept[T], why: str) -> None:
        if not self._take(kept):
            return
        self.given_up += 1
        log.error("alerts: a %s is given up: %s: %s", self._what, kept.name, why)

    def _take(self, kept: _Kept[T]) -> bool:
        """Keep it no longer; whether it was still there: at the end another thread gives up."""
        with suppress(ValueError):
            self._kept.remove(kept)
            return True
        return False
