"""The master's record of one slave: what it has confirmed, and what log is kept for it."""

from __future__ import annotations

from collections.abc import Callable

from pyreplica import sqlfiles
from pyreplica.database import Connection
from pyreplica.errors import Dropped, Refused
from pyreplica.model import SQL_VERSION, Confirmed, Cursor, Identity, LogKept, Position, Snapshot

_SQL = sqlfiles.statements("master.sql")


class Record:
    """Reads and moves it, through a session with the master.

    Args:
        connection: the session.
        replication: the replication's name.
        check_installed: raises NotInstalled if the master's SQL has another version by now.
    """

    def __init__(
        self, connection: Connection, replication: str, check_installed: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._replication = replication
        self._check_installed = check_installed
        self._prepared = False

    def confirmed(self) -> Confirmed | None:
        """What this replication has confirmed, or None if the master does not know it."""
        rows = self._connection.query(_SQL["slave"], {"replication": self._replication})
        if not rows:
            return None
        bit, system, database, ready, batch, snapshot, log_id, at, dropped_at, why = rows[0]
        return Confirmed(
            bit,
            Identity(system, database),
            ready,
            Cursor(batch, Position(Snapshot.parse(snapshot), log_id, at)),
            f"{dropped_at:%Y-%m-%d %H:%M}: {why}" if dropped_at else None,
        )

    def check_kept(self) -> None:
        """Raise Dropped if the log is not kept for the slave any more.

        What was read of the log before is complete when this does not raise.
        """
        confirmed = self.confirmed()
        if confirmed is not None and confirmed.dropped is not None:
            raise Dropped(
                f"the slave was dropped on {confirmed.dropped}",
                where=self._connection.where,
                hint="The master keeps no log for it any more. Copy it anew: "
                f"`pyreplica copy {self._replication} --truncate`.",
            )

    def set_limits(self, size: int | None, age: float | None) -> None:
        """How much log to keep for the slave, in bytes, and for how long, in seconds."""
        self._connection.execute(
            _SQL["set_limits"],
            {
                "replication": self._replication,
                "size": size,
                "age": None if age is None else f"{age:.3f} s",
            },
        )

    def log_kept(self) -> LogKept | None:
        """How much log is kept for the slave; None if the master does not know it."""
        rows = self._connection.query(_SQL["log_kept"], {"replication": self._replication})
        return LogKept(*rows[0]) if rows else None

    def register(self, slave: Identity) -> None:
        """Keep the log for a slave from now on; its copy is about to begin."""
        self._connection.execute(
            _SQL["register"],
            {"replication": self._replication, "system": slave.system, "database": slave.database},
        )

    def adopt(self, slave: Identity) -> None:
        """Record another identity of the slave; it is the same database, moved."""
        self._connection.execute(
            _SQL["adopt"],
            {"replication": self._replication, "system": slave.system, "database": slave.database},
        )

    def unregister(self) -> None:
        """Forget the slave; nothing is kept for it any more."""
        self._connection.execute(_SQL["unregister"], {"replication": self._replication})

    def confirm(self, cursor: Cursor) -> None:
        """Record that the slave has a batch: the decision of the two-phase commit.

        Raises:
            Dropped: the log is not kept any more, and this batch may lack a part of it.
            NotInstalled: the installed SQL has another version by now.
            Refused: the record is not at the batch before it.
        """
        if not self._prepared:
            self._connection.execute(_SQL["prepare_confirm"])
            self._prepared = True
        position = cursor.position
        found = self._connection.execute(
            _SQL["confirm"],
            {
                "replication": self._replication,
                "batch": cursor.batch,
                "snapshot": str(position.snapshot),
                "log_id": position.log_id,
                "at": position.at,
                "version": SQL_VERSION,
            },
        )
        if found != 1:
            self._check_installed()
            self.check_kept()
            raise Refused(
                f"the master's record is not at batch {cursor.batch - 1} any more",
                where=self._connection.where,
                hint="Something else has changed it. Are two daemons at work for this replication?",
            )

    def set_copied(self, cursor: Cursor) -> None:
        """Record that the slave is copied as of a position.

        Raises:
            Dropped: what was changed since has grown past a limit during the copy.
            Refused: the record is not that of a copy any more.
        """
        position = cursor.position
        found = self._connection.execute(
            _SQL["set_copied"],
            {
                "replication": self._replication,
                "batch": cursor.batch,
                "snapshot": str(position.snapshot),
                "log_id": position.log_id,
                "at": position.at,
            },
        )
        if found != 1:
            self.check_kept()
            raise Refused(
                "the master does not know any more that this slave is being copied",
                where=self._connection.where,
                hint="Something else has changed its record. Copy it again.",
            )

    def hold(self) -> None:
        """Keep the log from now on until it is released, whatever the slave has confirmed.

        Raises:
            Dropped: it is not kept for this slave any more.
        """
        if not self._connection.execute(_SQL["hold"], {"replication": self._replication}):
            self.check_kept()

    def held(self) -> int | None:
        """The number to release the log with; None when it is not held."""
        rows = self._connection.query(_SQL["held"], {"replication": self._replication})
        return int(rows[0][0]) if rows else None

    def release(self, number: int) -> None:
        """Hold the log no more, unless somebody else has asked for it since that number."""
        self._connection.execute(
            _SQL["release"], {"replication": self._replication, "holds": number}
        )

    def want_ddl(self, wanted: bool) -> None:
        """Have DDL logged for this slave, or only what `pyreplica execute` runs."""
        self._connection.execute(
            _SQL["want_ddl"], {"replication": self._replication, "wanted": wanted}
        )
