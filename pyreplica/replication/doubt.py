"""Warns of batches that stay in doubt: prepared on the slave, and not decided.

They are decided by themselves as soon as both servers can be asked. Until then they hold their
locks, and keep vacuum back on the whole slave. What keeps them from being decided may well keep
the replication's own thread waiting, so a thread of its own asks the slave, over a connection of
its own; and only when the replication has not been seen to be past the decision for a while.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta

from pyreplica.config import ReplicationConfig
from pyreplica.errors import PyReplicaError
from pyreplica.model import Event, EventKind
from pyreplica.replication.telling import Tell, utc_now
from pyreplica.slave import InDoubt, Slave

LONGEST_PAUSE = 60.0
"""The slave is asked at least so often while there may be a batch in doubt, seconds."""
AGAIN = 3600.0
"""A warning is repeated after so many seconds."""


class DoubtWatch:
    """Looks after the batches in doubt of one replication.

    Args:
        config: the replication.
        tell: given an event for each warning, and one when there is no such batch any more.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        config: ReplicationConfig,
        tell: Tell = lambda event: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._tell = tell
        self._clock = clock
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._pause = min(LONGEST_PAUSE, config.in_doubt_alert / 2)
        self._since: float | None = clock()
        self._told: dict[str, float] = {}
        self._warned: datetime | None = None
        self._lock = threading.Lock()
        self._bell = threading.Event()
        self._ended = False
        self._was = True
        self._asleep = False

    def start(self) -> None:
        """Begin to look, in a thread."""
        threading.Thread(
            target=self._run, name=f"{self._config.name}: in doubt", daemon=True
        ).start()

    def stop(self) -> None:
        """Look no more."""
        self._ended = True
        self._bell.set()

    def may_be(self) -> None:
        """There may be a batch in doubt from now on."""
        if self._since is None:
            self._since = self._clock()
            self._was = True
            if self._asleep:
                self._asleep = False
                self._bell.set()

    def is_none(self) -> None:
        """All batches are decided."""
        self._since = None
        if self._warned is None:  # as nearly always; a batch is not to wait for a lock
            return
        with self._lock:
            since, self._warned = self._warned, None
        if since is not None:
            name = self._config.name
            what = f"{name}: slave: no batch is in doubt any more"
            self._tell(Event(EventKind.IN_DOUBT, name, utc_now(), what, since=since, over=True))

    def look(self, after: float | None = None) -> None:
        """Ask the slave alone, and warn of what is in doubt for long.

        Args:
            after: for so many seconds; ``in_doubt_alert`` when None.
        """
        try:
            with closing(Slave(self._config)) as slave:
                found = slave.in_doubt()
        except PyReplicaError as error:
            self._log.debug("the slave cannot be asked for batches in doubt: %s", error)
            return
        now = self._clock()
        longest = self._config.in_doubt_alert if after is None else after
        told = {batch.gid: self._told[batch.gid] for batch in found if batch.gid in self._told}
        for batch in found:
            if batch.age >= longest and now - told.get(batch.gid, now - AGAIN) >= AGAIN:
                told[batch.gid] = now
                self._warn(batch)
        self._told = told

    def _warn(self, batch: InDoubt) -> None:
        age = timedelta(seconds=round(batch.age))
        what = (
            f"{self._config.name}: slave: batch {batch.number} is in doubt for {age}: the prepared "
            f"transaction {batch.gid} holds its locks and keeps vacuum back"
        )
        hint = (
            "it is decided as soon as the daemon can ask both servers; what may be done by hand is "
            'in docs/protocol.md, "A batch in doubt"'
        )
        self._log.warning("%s (%s)", what, hint)
        now = utc_now()
        since = now - timedelta(seconds=batch.age)
        with self._lock:
            self._warned = since if self._warned is None else min(since, self._warned)
        hint = f"I{hint[1:]}."
        self._tell(Event(EventKind.IN_DOUBT, self._config.name, now, what, hint, since))

    def _run(self) -> None:
        while not self._ended:
            # for good when there was no batch for a whole pause; else each batch would wake us
            was, self._was = self._was, False
            self._asleep = not was and self._since is None
            if self._was:  # since just now
                self._asleep = False
            if self._bell.wait(None if self._asleep else self._pause):
                self._bell.clear()
                continue
            since = self._since
            # not of each batch that happens to be between two steps just now
            if since is not None and self._clock() - since >= self._pause:
                self.look()
