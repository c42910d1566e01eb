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
from datetime import timedelta

from pyreplica.config import ReplicationConfig
from pyreplica.errors import PyReplicaError
from pyreplica.slave import InDoubt, Slave

LONGEST_PAUSE = 60.0
"""The slave is asked at least so often while there may be a batch in doubt, seconds."""
AGAIN = 3600.0
"""A warning is repeated after so many seconds."""


class DoubtWatch:
    """Looks after the batches in doubt of one replication.

    Args:
        config: the replication.
        clock: seconds, monotonic.
    """

    def __init__(
        self, config: ReplicationConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._clock = clock
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._pause = min(LONGEST_PAUSE, config.in_doubt_alert / 2)
        self._since: float | None = clock()
        self._told: dict[str, float] = {}
        self._ended = threading.Event()

    def start(self) -> None:
        """Begin to look, in a thread."""
        threading.Thread(
            target=self._run, name=f"{self._config.name}: in doubt", daemon=True
        ).start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()

    def may_be(self) -> None:
        """There may be a batch in doubt from now on."""
        if self._since is None:
            self._since = self._clock()

    def is_none(self) -> None:
        """All batches are decided."""
        self._since = None

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
        self._log.warning(
            "%s: slave: batch %d is in doubt for %s: the prepared transaction %s holds its locks "
            "and keeps vacuum back (it is decided as soon as the daemon can ask both servers; what "
            'may be done by hand is in docs/protocol.md, "A batch in doubt")',
            self._config.name,
            batch.number,
            timedelta(seconds=round(batch.age)),
            batch.gid,
        )

    def _run(self) -> None:
        while not self._ended.wait(self._pause):
            since = self._since
            # not of each batch that happens to be between two steps just now
            if since is not None and self._clock() - since >= self._pause:
                self.look()
