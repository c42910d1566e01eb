"""Hands what the replications tell on to all who listen; none of these ever disturbs them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from pyreplica.config import Config
from pyreplica.daemon.listener import Listener
from pyreplica.model import Event, Status

_log = logging.getLogger("pyreplica")


class Listeners:
    """All listeners of a daemon.

    Args:
        listeners: they are told in this order.
        heard: is told of each status as well, at any time.

    Attributes:
        latest: the last status of each replication.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        heard: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self.latest: dict[str, Status] = {}
        self._heard = heard
        self._listeners = list(listeners)
        self._started: list[Listener] = []

    def start(self) -> None:
        """Start them.

        Raises:
            PyReplicaError: one of them cannot do its work; those before it are stopped again.
        """
        for listener in self._listeners:
            try:
                listener.start()
            except BaseException:
                self.stop()
                raise
            self._started.append(listener)

    def status(self, status: Status) -> None:
        """A replication has another status."""
        self.latest[status.replication] = status
        self._heard(status)
        self._all(lambda listener: listener.status(status))

    def event(self, event: Event) -> None:
        """Something has happened."""
        self._all(lambda listener: listener.event(event))

    def forget(self, replication: str) -> None:
        """It is not in the configuration any more."""
        self.latest.pop(replication, None)

    def reload(self, config: Config) -> None:
        """The configuration was read anew."""
        self._all(lambda listener: listener.reload(config))

    def stop(self) -> None:
        """Stop those that were started."""
        self._all(lambda listener: listener.stop())
        self._started.clear()

    def _all(self, told: Callable[[Listener], None]) -> None:
        for listener in self._started:
            try:
                told(listener)
            except Exception:
                name = type(listener).__name__
                _log.exception("%s has failed; the replications are not concerned", name)
