"""Notices that a slave is too far behind, whatever its replication is busy with, or stuck in."""

from __future__ import annotations

from datetime import datetime, timedelta

from pyreplica.config import ReplicationConfig
from pyreplica.model import Event, EventKind, State, Status

_IDLE = (State.STANDBY, State.PAUSED, State.STOPPED)
"""In these states nobody expects the slave to follow, or somebody else is responsible for it."""


class LagWatch:
    """Watches one replication; it is told once, and again when it is over.

    Args:
        config: its ``lag_alert`` is the limit.
        now: since then it could have been in step; this machine's clock, in UTC.
    """

    def __init__(self, config: ReplicationConfig, now: datetime) -> None:
        self._name = config.name
        self._limit = config.lag_alert
        self._start = now
        self._told = False

    def look(self, status: Status, now: datetime) -> Event | None:
        """See whether there is something to be told.

        Args:
            status: the replication's.
            now: this machine's clock, in UTC.
        """
        if self._limit is None:
            return None
        if status.state in _IDLE:
            self._start = now
            return None
        since = max(self._start, status.in_step_at or self._start)
        lag = 0.0 if status.state is State.WAITING else (now - since).total_seconds()
        if lag > self._limit and not self._told:
            self._told = True
            what = f"the slave may be {_words(lag)} behind the master"
            hint = (
                f"What fails: {status.error}."
                if status.error
                else f"See `pyreplica status {self._name}`; what may hold it up is in "
                "docs/troubleshooting.md."
            )
            return Event(EventKind.LAG, self._name, now, f"{self._name}: {what}", hint, since)
        # at the limit itself one would follow the other for hours
        if self._told and lag <= self._limit / 2:
            self._told = False
            what = f"{self._name}: the slave is {_words(lag)} behind the master at most"
            return Event(EventKind.LAG, self._name, now, what, over=True)
        return None


def _words(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
