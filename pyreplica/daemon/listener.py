"""What the daemon tells of its replications, and to whom."""

from __future__ import annotations

from typing import Protocol

from pyreplica.config import Config
from pyreplica.model import Event, Status


class Listener(Protocol):
    """Is told what the replications do.

    status() and event() are called from the replications' threads: they only take note, and never
    wait for anything; what takes time is done in a thread of the listener's own.
    """

    def start(self) -> None:
        """Begin; in the main thread, before any replication does.

        Raises:
            PyReplicaError: it cannot do its work; the daemon does not start then.
        """

    def status(self, status: Status) -> None:
        """A replication has another status."""

    def event(self, event: Event) -> None:
        """Something has happened."""

    def reload(self, config: Config) -> None:
        """The configuration was read anew, and is right. In the main thread."""

    def stop(self) -> None:
        """All replications have ended: finish what is at hand, for some seconds at most."""
