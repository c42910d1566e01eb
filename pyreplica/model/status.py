"""What a replication is doing."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.Enum):
    """What a replication is doing."""

    CONNECTING = "connecting"
    CATCHING_UP = "catching up"
    WAITING = "waiting"
    FAILED = "failed"
    STOPPED = "stopped"


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
    """One replication at one moment; what the loop publishes and everything that shows it reads."""

    replication: str
    state: State
    batch: int = 0
    changes: int = 0
    error: str | None = None
