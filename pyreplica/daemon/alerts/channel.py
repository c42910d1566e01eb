"""One way to tell somebody, in a thread of its own: nothing that it waits for delays a replication.

Events come in at one end, in a queue that is bounded. The thread has them held back or told
(holding.py), puts together what is to be delivered (ways.py), and delivers it (outbox.py).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from pyreplica.config.alerts import AlertsConfig
from pyreplica.daemon.alerts.holding import Holder, Notice
from pyreplica.daemon.alerts.outbox import Outbox, log
from pyreplica.daemon.alerts.ways import Way
from pyreplica.model import Event

T = TypeVar("T")

ROOM = 1_000
"""So many events wait for the thread; more of them are only counted."""


class Channel(Generic[T]):
    """Tells somebody of events.

    Args:
        way: how.
        holder: what of them.
        outbox: keeps what is to be delivered; one with the usual delays when left out.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        way: Way[T],
        holder: Holder,
        outbox: Outbox[T] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.way = way
        self._holder = holder
        self._outbox = Outbox(way.what, way.deliver) if outbox is None else outbox
        self._clock = clock
        self._changed = threading.Condition()
        self._inbox: deque[tuple[Event, float]] = deque()
        self._settings: AlertsConfig | None = None
        self._overflow = 0
        self._lost = 0
        self._gathered: list[Notice] = []
        self._gathered_at = 0.0
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=f"alerts {way.what}", daemon=True)

    # For other threads

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def put(self, event: Event) -> None:
        """Take an event; never waits."""
        with self._changed:
            if len(self._inbox) >= ROOM:
                self._overflow += 1
            else:
                self._inbox.append((event, self._clock()))
            self._changed.notify()

    def configure(self, settings: AlertsConfig) -> None:
        """Go on by other settings, as soon as the thread is not at work."""
        with self._changed:
            self._settings = settings
            self._changed.notify()

    def end(self) -> None:
        """Deliver what is there, with one try, and end; does not wait for that."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def join(self, timeout: float) -> None:
        """Wait for the end, at most so many seconds; then what is left is given up."""
        self._thread.join(max(0.0, timeout))
        if not self._thread.is_alive():
            return
        self._outbox.give_up()
        with self._changed:
            untold = len(self._inbox) + len(self._gathered)
        if untold:
            log.error("alerts: %d events are not told of: the daemon ends", untold)
        self.way.abandon()

    # In the thread

    def _run(self) -> None:
        ending = False
        while not ending:
            with self._changed:
                while not (self._inbox or self._settings or self._ending):
                    due = self.next_due()
                    pause = None if due is None else due - self._clock()
                    if pause is not None and pause <= 0:
                        break
                    self._changed.wait(pause)
                ending = self._ending
            self.work(ending=ending)

    def next_due(self) -> float | None:
        """When work() will have something to do; None when only something new brings that."""
        gathering = self._gathered_at + self.way.gather if self._gathered else None
        dues = (gathering, self._holder.next_due(), self._outbox.next_try())
        return min((due for due in dues if due is not None), default=None)

    def work(self, *, ending: bool = False) -> None:
        """Do what is to be done now.

        Args:
            ending: there will be no other time.
        """
        with self._changed:
            events, settings = list(self._inbox), self._settings
            self._inbox.clear()
            self._settings = None
            self._lost += self._overflow
            if self._overflow:
                log.error("alerts: %d events came too fast and are not told of", self._overflow)
            self._overflow = 0
        if settings is not None:
            self.way.configure(settings)
            self._holder.events, self._holder.repeat = settings.events, settings.repeat
            self._outbox.try_now()
        notices = self._notices(events)
        if notices and not self._gathered:
            self._gathered_at = self._clock()
        self._gathered += notices
        if ending:
            self._gathered += self._holder.flush()
            self._outbox.try_now()
        if self._gathered and (ending or self._clock() >= self._gathered_at + self.way.gather):
            self._compose(self._gathered)
            self._gathered = []  # not before: at the end another thread counts them
        self._outbox.work(self._clock)
        if ending:
            self._outbox.give_up()

    def _notices(self, events: Sequence[tuple[Event, float]]) -> list[Notice]:
        notices = []
        for event, at in events:
            notices += self._holder.due(at)
            notice = self._holder.take(event, at)
            if notice is not None:
                notices.append(notice)
        return [*notices, *self._holder.due(self._clock())]

    def _compose(self, notices: Sequence[Notice]) -> None:
        lost = self._lost + self._outbox.given_up
        try:
            made = self.way.compose(notices, lost)
        except Exception:
            log.exception("alerts: a defect of PyReplica; please report it with the log")
            return
        self._lost = self._outbox.given_up = 0
        for item, name in made:
            self._outbox.put(item, name, self._clock())
