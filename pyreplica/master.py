"""What the master is asked to do. All SQL about it is in sql/master.sql, by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.database import Connection, sql
from pyreplica.errors import Refused
from pyreplica.model import (
    CapturedTable,
    Change,
    Confirmed,
    Cursor,
    Identity,
    Position,
    Snapshot,
)
from pyreplica.side import Side, literals

_SQL = sqlfiles.statements("master.sql")

FETCH_ROWS = 1_000
"""A batch of fewer changes is fetched in one round trip and folded in Python."""
FETCH_BYTES = 4 << 20
"""A batch with longer rows than this in all, in bytes of text, goes through the staging table."""
ROTATE_BYTES = 64 << 20
"""A segment of the log is retired when it has grown past this."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was found after a cursor.

    Args:
        position: the moment it was read at.
        changes: in the order of their ids; None when there are too many for one answer.
    """

    position: Position
    changes: tuple[Change, ...] | None


@dataclass(frozen=True, slots=True)
class TableSize:
    """How much there is to copy of a table: estimated rows, bytes with its indexes."""

    rows: int
    bytes: int
    partitioned: bool


@dataclass(frozen=True, slots=True)
class MasterTable:
    """A table of the master, captured or not; ``reason`` says why it cannot be replicated."""

    relid: int
    schema: str
    name: str
    reason: str | None
    key: tuple[str, ...]
    columns: tuple[str, ...]
    types: Mapping[str, str]
    readable: bool

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A table somebody may want replicated; ``reason`` says why it cannot be."""

    schema: str
    name: str
    added: bool
    reason: str | None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class Master(Side):
    """A session with the master database of one replication."""

    def __init__(self, config: ReplicationConfig) -> None:
        connection = Connection(
            config.master,
            where=f"{config.name}: master",
            connect_timeout=config.connect_timeout,
        )
        super().__init__(connection, "master", config.name, _SQL)
        self._fetch_prepared = False

    def tables(self, ids: Iterable[int] | None = None) -> list[CapturedTable]:
        """The captured tables as they are now, or the given generations of them."""
        rows = self.connection.query(_SQL["tables"], {"ids": None if ids is None else list(ids)})
        return [
            CapturedTable(id_, relid, schema, table, tuple(key), tuple(columns), *rest)
            for id_, relid, schema, table, key, columns, *rest in rows
        ]

    # The slave's record

    def confirmed(self) -> Confirmed | None:
        """What this replication has confirmed, or None if the master does not know it."""
        rows = self.connection.query(_SQL["slave"], {"replication": self.replication})
        if not rows:
            return None
        bit, system, database, ready, batch, snapshot, log_id, at = rows[0]
        position = Position(Snapshot.parse(snapshot), log_id, at)
        return Confirmed(bit, Identity(system, database), ready, Cursor(batch, position))

    def register(self, slave: Identity) -> None:
        """Keep the log for a slave from now on; its copy is about to begin."""
        self.connection.execute(
            _SQL["register"],
            {"replication": self.replication, "system": slave.system, "database": slave.database},
        )

    def unregister(self) -> None:
        """Forget the slave; nothing is kept for it any more."""
        self.connection.execute(_SQL["unregister"], {"replication": self.replication})

    def serves_others(self) -> bool:
        """Whether other replications have this database as their master."""
        return bool(self.connection.one(_SQL["other_slaves"], {"replication": self.replication})[0])

    def confirm(self, cursor: Cursor) -> None:
        """Record that the slave has a batch: the decision of the two-phase commit.

        Raises:
            Refused: the record is not at the batch before it.
        """
        position = cursor.position
        found = self.connection.execute(
            _SQL["confirm"],
            {
                "replication": self.replication,
                "batch": cursor.batch,
                "snapshot": str(position.snapshot),
                "log_id": position.log_id,
                "at": position.at,
            },
        )
        if found != 1:
            raise Refused(
                f"the master's record is not at batch {cursor.batch - 1} any more",
                where=self.connection.where,
                hint="Something else has changed it. Are two daemons at work for this replication?",
            )

    def set_copied(self, cursor: Cursor) -> None:
        """Record that the slave is copied as of a position."""
        position = cursor.position
        self.connection.execute(
            _SQL["set_copied"],
            {
                "replication": self.replication,
                "batch": cursor.batch,
                "snapshot": str(position.snapshot),
                "log_id": position.log_id,
                "at": position.at,
            },
        )

    # Copying

    def export_snapshot(self) -> str:
        """Let other sessions read in this transaction's snapshot; gives its name."""
        (name,) = self.connection.one("SELECT pg_export_snapshot()")
        return str(name)

    def use_snapshot(self, name: str) -> None:
        """Read in another session's snapshot, from the beginning of a transaction on."""
        self.connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(name)))

    def table_size(self, table: CapturedTable) -> TableSize:
        """How much there is of a table, by the planner's statistics."""
        rows, size, partitioned = self.connection.one(
            _SQL["table_size"], {"schema": table.schema, "table": table.name}
        )
        return TableSize(int(rows), int(size), partitioned)

    def rewritten(self, table: CapturedTable) -> bool:
        """Whether a table has a new file, in which this transaction's snapshot sees no row."""
        (rewritten,) = self.connection.one(
            _SQL["rewritten"], {"schema": table.schema, "table": table.name}
        )
        return bool(rewritten)

    def others_use_plpython(self) -> bool:
        """Whether functions other than PyReplica's are written in plpython3u."""
        return bool(self.connection.one(_SQL["plpython_users"])[0])

    # Setting up

    def candidates(self) -> list[Candidate]:
        """Every table somebody may want replicated."""
        return [Candidate(*row) for row in self.connection.query(_SQL["candidates"])]

    def all_tables(self) -> list[MasterTable]:
        """Every table of the database; needs nothing installed."""
        return [
            MasterTable(relid, schema, name, reason, tuple(key), tuple(columns), *rest)
            for relid, schema, name, reason, key, columns, *rest in self.connection.query(
                _SQL["all_tables"]
            )
        ]

    def plpython_available(self) -> bool:
        """Whether the server has the language plpython3u to be installed."""
        return bool(self.connection.one(_SQL["plpython_available"])[0])

    def add_table(self, table: Candidate) -> str:
        """Capture a table; gives the line that says what was done or why not."""
        (line,) = self.connection.one(
            _SQL["add_table"], {"schema": table.schema, "table": table.name}
        )
        return str(line)

    # Reading the log

    def position(self) -> Position:
        """This moment; inside a REPEATABLE READ transaction, that of its snapshot."""
        snapshot, log_id, at = self.connection.one(_SQL["position"])
        return Position(Snapshot.parse(snapshot), log_id, at)

    def fetch(self, after: Snapshot) -> Fetched:
        """Everything that was committed after a snapshot, in one round trip."""
        if not self._fetch_prepared:
            self.connection.execute(_SQL["prepare_fetch"])
            self._fetch_prepared = True
        rows = self.connection.query(
            _SQL["fetch"], {**_after(after), "rows": FETCH_ROWS, "bytes": FETCH_BYTES}
        )
        snapshot, log_id, at, many = rows[0][:4]
        position = Position(Snapshot.parse(snapshot), log_id, at)
        if many is None:
            return Fetched(position, ())
        if many:
            return Fetched(position, None)
        return Fetched(position, tuple(sorted(Change(*row[4:]) for row in rows)))

    def cut(self, cursor: Cursor, now: Position, rows: int) -> Position:
        """Where a batch of about so many rows may end: a snapshot of the past, or now."""
        snapshot = cursor.position.snapshot
        found = self.connection.query(
            _SQL["cut"],
            {
                "xmin": str(snapshot.xmin),
                "xmax": str(snapshot.xmax),
                "running": len(snapshot.running),
                "log_id": cursor.position.log_id + rows,
            },
        )
        if not found or now.log_id <= cursor.position.log_id + rows:
            return now
        tick = Position(Snapshot.parse(found[0][0]), found[0][1], now.at)
        return tick if tick.snapshot.order < now.snapshot.order else now

    def changes(self, after: Snapshot, until: Snapshot) -> sql.Composable:
        """The COPY that reads all changes between two snapshots."""
        query = _SQL["changes"]
        values = {**_after(after), "until": str(until)}
        return sql.SQL("COPY ({}) TO STDOUT").format(literals(query, values))

    def pending(self, after: Snapshot) -> tuple[int, datetime | None]:
        """How many changes there are after a snapshot, and when the oldest was made."""
        count, since = self.connection.one(_SQL["pending"], _after(after))
        return count, since

    def misses(self, after: Snapshot, until: Snapshot) -> bool:
        """Whether anything visible at ``until`` is not in ``after``."""
        return bool(self.connection.one(_SQL["missing"], {**_after(after), "until": str(until)})[0])

    def changed_keys(
        self, after: Snapshot, table: CapturedTable
    ) -> tuple[bool, set[frozenset[tuple[str, str]]]]:
        """Whether a table was truncated after a snapshot, and the keys that were changed."""
        rows = self.connection.query(
            _SQL["changed_keys"], {**_after(after), "schema": table.schema, "table": table.name}
        )
        keys = {frozenset(json.loads(key).items()) for _, key in rows if key is not None}
        return any(truncated for truncated, _ in rows), keys

    def truncated(self, after: Snapshot, table: CapturedTable) -> bool:
        """Whether a table was truncated after a snapshot."""
        values = {**_after(after), "schema": table.schema, "table": table.name}
        return bool(self.connection.one(_SQL["truncated"], values)[0])

    # Sleeping and upkeep

    def listen(self) -> None:
        """Have notifications sent to this session."""
        self.connection.execute("LISTEN pyreplica")

    def set_doorbell(self, bit: int, sleeping: bool) -> None:
        """Have writers ring, or leave them in peace."""
        self.connection.execute(_SQL["sleep" if sleeping else "awake"], {"bit": bit})

    def rotate(self, at_bytes: int = ROTATE_BYTES) -> str | None:
        """Look after the log's segments; says what was done ("switched", "truncated") or None."""
        done: str | None = self.connection.one(_SQL["rotate"], {"bytes": at_bytes})[0]
        return done


def _after(snapshot: Snapshot) -> dict[str, object]:
    return {"running": [str(x) for x in snapshot.running], "xmax": str(snapshot.xmax)}
