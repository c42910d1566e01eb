"""What the slave's table ``replica_conflict`` holds of one replication."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyreplica import sqlfiles
from pyreplica.database import Connection

_SQL = sqlfiles.statements("conflicts.sql")


@dataclass(frozen=True, slots=True)
class Conflict:
    """A change that met another row than the master had, or could not be applied.

    Args:
        id: its number here.
        at: when it was met.
        batch: the batch it came with.
        change_id: the change in the master's log; of several of the row the first.
        conflict: PostgreSQL's name of it; None when the slave has refused the change.
        table: schema and name.
        op: as in the log, all changes of the row in the batch taken together; r: replace.
        key, row, old: as in the log.
        slave_row: what was met.
        resolution: applied, skipped, waiting, restating (the master is to log the row again),
            restated, truncated (the table was), superseded (by a later change of the whole row).
        error: why it waits.
        settled_at: when that was done.
    """

    id: int
    at: datetime
    batch: int
    change_id: int
    conflict: str | None
    table: str
    op: str
    key: dict[str, Any]
    row: dict[str, Any] | None
    old: dict[str, Any] | None
    slave_row: dict[str, Any] | None
    resolution: str
    error: str | None
    settled_at: datetime | None


@dataclass(frozen=True, slots=True)
class WaitingRow:
    """A row of the master of which changes wait."""

    relid: int
    key: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WaitingChange:
    """A change that waits; ``untransformed``: as the log has it, for the transform."""

    id: int
    change_id: int
    generation: int
    op: str
    key: str
    row: str | None
    old: str | None
    table: str
    untransformed: bool


@dataclass(frozen=True, slots=True)
class ConflictCount:
    """How many changes wait, since when, and how many conflicts were met within a day."""

    waiting: int
    since: datetime | None
    last_day: int


class ConflictRecords:
    """The conflicts of one replication, through a session with the slave."""

    def __init__(self, connection: Connection, replication: str) -> None:
        self._connection = connection
        self._replication = replication

    def known(self, *, settled_too: bool) -> list[Conflict]:
        """Those that are not settled, or all, in the order they were met."""
        rows = self._query("list", all=settled_too)
        return [Conflict(*row) for row in rows]

    def count(self) -> ConflictCount:
        """How many there are."""
        return ConflictCount(*self._query("count")[0])

    def waiting_rows(self, ids: Sequence[int] | None = None) -> list[WaitingRow]:
        """The rows of which these changes wait, or any, in the order of their first ones."""
        found = self._query("waiting_rows", ids=None if ids is None else [*ids])
        return [WaitingRow(relid, key, tuple(numbers)) for relid, key, numbers in found]

    def waiting_changes(self, row: WaitingRow) -> list[WaitingChange]:
        """The changes of a row that wait, in their order; locked until the transaction ends."""
        found = self._query("waiting_changes", relid=row.relid, key=row.key)
        return [WaitingChange(*one) for one in found]

    def untransformed(self) -> set[tuple[int, str]]:
        """The rows of which changes wait that have not gone through the transform."""
        return {(relid, key) for relid, key in self._query("untransformed")}

    def waits(self, relid: int, key: str) -> bool:
        """Whether changes of a row of the master wait."""
        return bool(self._query("waits", relid=relid, key=key)[0][0])

    def settle(self, ids: Iterable[int], resolution: str, error: str | None = None) -> None:
        """Note what has become of changes that waited."""
        self._execute("settle", ids=[*ids], resolution=resolution, error=error)

    def skip(self, ids: Sequence[int] | None = None) -> int:
        """Give up what waits of the rows of which these changes wait, or any; gives the number."""
        return self._execute("skip", ids=None if ids is None else [*ids])

    def restating(self) -> dict[int, list[str]]:
        """The keys of rows that the master is to log again, by the oid of their table there."""
        return dict(self._query("restating"))

    def restated(self, relid: int, keys: Sequence[str], resolution: str = "restated") -> None:
        """The master has logged them."""
        self._execute("restated", relid=relid, keys=[*keys], resolution=resolution)

    def _query(self, name: str, **values: object) -> list[tuple[Any, ...]]:
        values["replication"] = self._replication
        return self._connection.query(_SQL[name], values)

    def _execute(self, name: str, **values: object) -> int:
        values["replication"] = self._replication
        return self._connection.execute(_SQL[name], values)
