"""What a slave does for its own slaves, where it is a master as well and forwards what is applied.

The capture triggers then fire in the daemon's session, too (sql/master/forward.sql). A transaction
that has executed NOTIFY cannot be prepared, so a batch does not ring for those slaves' daemons:
that is done when it is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pyreplica import sqlfiles
from pyreplica.database import Connection, sql
from pyreplica.model import CapturedTable, Identity

_SQL = sqlfiles.statements("slave.sql")

_BEGIN = sql.SQL("BEGIN")
_IN_SILENCE = sql.SQL("SET LOCAL pyreplica.notify = off")
_NEXT = sql.SQL("SET LOCAL pyreplica.statement = {}")


class OtherSource(NamedTuple):
    """Whose changes another replication brings to a table that this one brings as well."""

    replication: str
    source: Identity
    master: Identity
    table: str


class Forwarding:
    """The forwarding of one session with the slave.

    Attributes:
        active: whether what is applied here is captured; as of the last call of ``look()``.
    """

    def __init__(self, connection: Connection, replication: str) -> None:
        self.active = False
        self._connection = connection
        self._replication = replication
        # for the capture, if there is one
        connection.execute(sql.SQL("SET pyreplica.origin = {}").format(sql.Literal(replication)))

    def look(self) -> None:
        """Read whether this database forwards."""
        is_master = self._connection.one(_SQL["is_master"])[0]
        self.active = bool(is_master and self._connection.one(_SQL["forwards"])[0])

    # Batches

    def begin(self) -> list[sql.Composable]:
        """The statements that begin a batch's transaction."""
        return [_BEGIN, _IN_SILENCE] if self.active else [_BEGIN]

    def message(self, parts: Sequence[sql.Composable]) -> sql.Composable:
        """One message of these statements, of which the transaction's BEGIN may be the first.

        They all begin at the same time for the server, and the capture is to tell them apart: of
        two on the same table it would take the second for a part of the first.
        """
        if not self.active:
            return sql.SQL("; ").join(parts)
        numbered: list[sql.Composable] = []
        for number, part in enumerate(parts):
            if part is not _BEGIN:
                numbered.append(_NEXT.format(sql.Literal(str(number))))
            numbered.append(part)
        return sql.SQL("; ").join(numbered)

    def ddl(self, script: str) -> list[sql.Composable]:
        """The statements by which a DDL statement that is run here goes on.

        Args:
            script: what the master's log holds of it.
        """
        if not self.active:
            return []
        return [sql.SQL("SELECT pyreplica.forward_ddl({})").format(sql.Literal(script))]

    def ring(self) -> None:
        """Wake the daemons of the slaves of this database, if it has any."""
        if self.active:
            self._connection.execute(_SQL["ring"])

    def rotate(self, at_bytes: int) -> None:
        """Look after the log here: nobody else may write here who would, or run a daemon."""
        if self.active:
            self._connection.query(_SQL["rotate"], {"bytes": at_bytes})

    # Whose changes come here

    def sources(self) -> set[Identity]:
        """Whose changes this replication brings, as it was recorded."""
        rows = self._connection.query(_SQL["sources"], {"replication": self._replication})
        return {Identity(*row) for row in rows}

    def others(self, tables: Iterable[CapturedTable]) -> list[OtherSource]:
        """Whose changes other replications bring to the same tables.

        Args:
            tables: that this one is to bring, besides those it has.
        """
        wanted = list(tables)
        values = {
            "replication": self._replication,
            "schemas": [table.schema for table in wanted],
            "names": [table.name for table in wanted],
        }
        return [
            OtherSource(name, Identity(*row[:2]), Identity(*row[2:4]), row[4])
            for name, *row in self._connection.query(_SQL["sources_of_others"], values)
        ]

    def lock(self) -> None:
        """Be the only one to look and to record, until the transaction ends."""
        self._connection.execute(_SQL["lock_sources"])

    def record(self, sources: Iterable[Identity]) -> None:
        """Record whose changes this replication brings from now on."""
        found = sorted(sources, key=str)
        self._connection.execute(_SQL["forget_sources"], {"replication": self._replication})
        self._connection.execute(
            _SQL["add_sources"],
            {
                "replication": self._replication,
                "systems": [source.system for source in found],
                "databases": [source.database for source in found],
            },
        )
