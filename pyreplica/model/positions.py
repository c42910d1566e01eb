"""Moments of the master, and where each side of a replication stands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

SQL_VERSION = 5
"""The version of the installed SQL that this release works with (see replica_version)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A ``pg_snapshot``: which transactions had ended at a moment of the master.

    Source: PostgreSQL manual, "System Information Functions", pg_snapshot components.

    Args:
        xmin: every transaction below it had ended.
        xmax: no transaction from it on had ended.
        running: those between that had not.
    """

    xmin: int
    xmax: int
    running: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read PostgreSQL's text form, ``xmin:xmax:running,...``."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), tuple(int(x) for x in running.split(",") if x))

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"

    def sees(self, txid: int) -> bool:
        """Whether what that transaction did (if it committed) is visible."""
        return txid < self.xmin or (txid < self.xmax and txid not in self.running)

    @property
    def order(self) -> tuple[int, int, int]:
        """Snapshots of one server are totally ordered by this: later ones see more."""
        return (self.xmax, self.xmin, -len(self.running))


@dataclass(frozen=True, slots=True)
class Position:
    """A moment of the master.

    Args:
        snapshot: what was visible.
        log_id: where the sequence of the log's ids stood, for sizing; never a position by itself.
        at: the master's clock.
    """

    snapshot: Snapshot
    log_id: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position that a batch ended at.

    Args:
        batch: the batch's number, counted from the first one ever of the replication.
        position: the master's moment that the slave equals.
    """

    batch: int
    position: Position


@dataclass(frozen=True, slots=True)
class Identity:
    """Which database it is, whatever name or address it was reached by."""

    system: str
    database: str

    def __str__(self) -> str:
        return f"database {self.database} of system {self.system}"


@dataclass(frozen=True, slots=True)
class Server:
    """What a server is, as far as replication cares.

    Args:
        version: server_version_num.
        standby: it is in recovery and cannot be written.
        prepared_transactions: max_prepared_transactions.
        superuser: whether the session's role is one.
        role: the session's role.
        encoding: the database's encoding.
    """

    version: int
    standby: bool
    prepared_transactions: int
    superuser: bool
    role: str
    encoding: str


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The master's record of one slave (``replica_slave``).

    Args:
        dropped: when and why its log is not kept any more, for people; None while it is.
    """

    bit: int
    slave: Identity
    ready: bool
    cursor: Cursor
    dropped: str | None = None


@dataclass(frozen=True, slots=True)
class LogKept:
    """How much log the master keeps for a slave, and may keep at the most.

    Args:
        bytes: about how much the slave has not confirmed.
        age: seconds that the oldest change of it has waited; 0 when there is none.
        max_size: bytes; None for no limit.
        max_age: seconds; None for no limit.
        dropped: the slave was dropped; nothing is kept for it any more.
    """

    bytes: int
    age: float
    max_size: int | None
    max_age: float | None
    dropped: bool = False

    @property
    def used_size(self) -> float | None:
        """What part of the limit it is: 1 is all of it."""
        return None if self.max_size is None else self.bytes / self.max_size

    @property
    def used_age(self) -> float | None:
        """The same of the age."""
        return None if self.max_age is None else self.age / self.max_age

    @property
    def used(self) -> float | None:
        """The larger one; None where there is no limit."""
        return max((u for u in (self.used_size, self.used_age) if u is not None), default=None)


@dataclass(frozen=True, slots=True)
class Applied:
    """The slave's record of itself (``replica_cursor``)."""

    id: int
    master: Identity
    ready: bool
    made_schema: bool
    cursor: Cursor | None
    changes: int
    last_batch_changes: int
    applied_at: datetime | None


@dataclass(frozen=True, slots=True)
class Received:
    """A replication into a database that is a master as well.

    Args:
        origin: the number that the log there has for what it has applied.
        replication: its name.
        master: where it comes from.
        sources: whose changes it brings; its master's own among them.
    """

    origin: int
    replication: str
    master: Identity
    sources: frozenset[Identity]
