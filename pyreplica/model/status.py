"""What a replication is doing."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime


class State(enum.Enum):
    """What a replication is doing."""

    CONNECTING = "connecting"
    CATCHING_UP = "catching up"
    WAITING = "waiting"
    """It has moved all there was, and sleeps until it is woken."""
    PAUSED = "paused"
    """An administrator has paused it."""
    STANDBY = "standby"
    """Another daemon runs it; this one takes over when that goes away."""
    FAILED = "failed"
    """Its last try has failed; it tries again."""
    STOPPED = "stopped"
    """It has ended: it was told to stop, or by an error, which its status names."""


class Step(enum.Enum):
    """The points of a batch between which a crash is survived; see docs/protocol.md."""

    FETCHED = "fetched"
    PREPARED = "prepared"
    CONFIRMED = "confirmed"
    COMMITTED = "committed"
    RECOVERED = "recovered"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Status:
    """One replication at one moment; what the loop publishes and everything that shows it reads.

    Attributes:
        replication: its name.
        state: what it is doing.
        since: since when, in UTC.
        note: what there is to add: who has paused it and why, or who else is at work.
        batch: the last batch that was committed.
        changes: the changes applied since the copy.
        in_step_at: when, by this machine's clock in UTC, the slave equalled the master as of then;
            None before that is known. While it waits that is now.
        error: what failed last, while that is not mended.
        hint: what to do about it.
        error_since: since when that has failed, in UTC.
        log_bytes: how much log the master keeps for the slave, when it was last looked at.
        log_percent: the part of ``max_log_size`` or ``max_log_age`` that is, the larger one.
        conflicts_waiting: changes that could not be applied and wait, when last looked at.
    """

    replication: str
    state: State
    since: datetime | None = None
    note: str | None = None
    batch: int = 0
    changes: int = 0
    in_step_at: datetime | None = None
    error: str | None = None
    hint: str | None = None
    error_since: datetime | None = None
    log_bytes: int | None = None
    log_percent: int | None = None
    conflicts_waiting: int | None = None

    def lag(self, now: datetime) -> float | None:
        """How far the slave may be behind the master at most, seconds; None when not known.

        Args:
            now: this machine's clock, in UTC.
        """
        if self.state is State.WAITING:
            return 0.0
        if self.in_step_at is None:
            return None
        return max(0.0, (now - self.in_step_at).total_seconds())
