"""Measures the lag of a replication from outside: marker rows, and when they show on the slave."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence

from pyreplica.database import Connection
from pyreplica.errors import PyReplicaError

TABLE = """
CREATE TABLE public.demo_probe (id bigint PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())
"""
"""The table of the markers. They count up from 1, so the highest one seen stands for all."""

EVERY = 0.02
"""Seconds from one marker to the next."""
LOOK = 0.001
"""Seconds between two looks at the slave while a marker is on its way."""


class Probe:
    """Commits a marker on the master every 20 ms and looks when each can be seen on the slave.

    A marker's lag goes from the moment its COMMIT has returned on the master to the moment a query
    on the slave has given it back. One thread writes and another one looks, so a slow replication
    does not make for fewer markers.

    Args:
        master: connection string of a database with the table.
        slave: the same of its slave.
    """

    def __init__(self, master: str, slave: str) -> None:
        self._master = master
        self._slave = slave
        self._committed: list[float] = []
        self._seen: list[float] = []
        self._error: PyReplicaError | None = None
        self._marking = True
        self._looking = True
        self._threads = [
            threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
            for name, work in (("probe writes", self._write), ("probe looks", self._look))
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop_marking(self) -> None:
        """Write no further marker; those on their way are still looked for."""
        self._marking = False
        self._threads[0].join()

    @property
    def settled(self) -> bool:
        """Whether no marker is on its way, or none can be seen any more."""
        return self._error is not None or len(self._seen) == len(self._committed)

    def close(self) -> None:
        """End both threads; may be called again."""
        self._marking = self._looking = False
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def lags(self) -> list[float]:
        """The lag of every marker in seconds; one that was never seen counts with its age by now.

        To be called after :meth:`close`.

        Raises:
            PyReplicaError: a connection failed.
        """
        if self._error is not None:
            raise self._error
        now = time.monotonic()
        seen = self._seen + [now] * (len(self._committed) - len(self._seen))
        # The slave may show a marker before the master's answer has reached us.
        return [max(0.0, b - a) for a, b in zip(self._committed, seen, strict=True)]

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except PyReplicaError as error:
            self._error = self._error or error

    def _write(self) -> None:
        with Connection(self._master, where="probe: master") as master:
            due = time.monotonic()
            while self._marking:
                master.execute(
                    "INSERT INTO public.demo_probe (id) VALUES (%s)", (len(self._committed) + 1,)
                )
                self._committed.append(time.monotonic())
                due = max(due + EVERY, time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))

    def _look(self) -> None:
        with Connection(self._slave, where="probe: slave") as slave:
            while self._looking:
                if len(self._seen) < len(self._committed):
                    (highest,) = slave.one("SELECT coalesce(max(id), 0) FROM public.demo_probe")
                    now = time.monotonic()
                    # one of them may have been seen before its commit was noted
                    self._seen.extend([now] * (highest - len(self._seen)))
                time.sleep(LOOK)


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest of the values that this part of them does not exceed ("nearest rank")."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]
