"""What happens to a replication that somebody may want to be told of."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


class EventKind(enum.Enum):
    """What has happened."""

    STARTED = "started"
    """The daemon has begun to run the replication."""
    STOPPED = "stopped"
    """It was told to stop, or has ended by an error; that is in the event."""
    ERROR = "error"
    """A try has failed. The next one may succeed, or nothing does until somebody acts."""
    RECOVERED = "recovered"
    """It is in step again after an error."""
    CONFLICT = "conflict"
    """Changes met other rows than the master had, or were refused by the slave."""
    LAG = "lag"
    """The slave is further behind than ``lag_alert``; or, with ``over``, not any more."""
    LOG = "log"
    """The log that is kept for the slave has come near its limit; or, with ``over``, no more."""
    IN_DOUBT = "in doubt"
    """A batch has been in doubt for longer than ``in_doubt_alert``."""
    DROPPED = "dropped"
    """The slave was past its limit: its log is not kept any more, it needs a new copy."""
    PAUSED = "paused"
    """Somebody has paused it, and the daemon rests."""
    RESUMED = "resumed"
    """It goes on after a pause."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened to a replication.

    Attributes:
        kind: what has happened.
        replication: its name; empty for what concerns the whole daemon.
        at: when, in UTC.
        what: what has happened and where, in a line.
        hint: what to do about it; empty when there is nothing to be done.
        since: since when it has been so, in UTC, where that is not ``at``.
        details: further lines, for those who look closely.
        over: what was told before is over.
    """

    kind: EventKind
    replication: str
    at: datetime
    what: str
    hint: str = ""
    since: datetime | None = None
    details: str = ""
    over: bool = False
