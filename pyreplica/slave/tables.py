"""What the slave's table ``replica_copy`` says: which tables of a replication are copied."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from pyreplica import sqlfiles
from pyreplica.database import Connection, errorcodes, sql
from pyreplica.errors import DatabaseError, Refused
from pyreplica.model import CapturedTable, Map, Snapshot, TableCopy
from pyreplica.side import literals

_SQL = sqlfiles.statements("slave.sql")

LONGEST_DOUBT = 10
"""A change of the tables waits so long for the batch at hand, seconds."""


class TableRecords:
    """The records of one replication's tables, through a session with the slave.

    Args:
        map: what the master's tables are called here.

    Attributes:
        number: goes up when tables are added or removed; as of the last call of ``copies()``.
    """

    def __init__(self, connection: Connection, replication: str, map: Map) -> None:
        self.number: int | None = None
        self._map = map
        self._connection = connection
        self._replication = replication

    def locked(self) -> bool:
        """Whether somebody copies tables or removes them."""
        values = {"replication": self._replication, "lock": "pyreplica.tables"}
        return bool(self._connection.one(_SQL["locked"], values)[0])

    def lock(self) -> None:
        """Be the only one to copy tables or to remove them; the daemon goes on beside it.

        Raises:
            Refused: somebody else is.
        """
        if not self._connection.one(_SQL["lock_tables"], {"replication": self._replication})[0]:
            raise Refused(
                "another command is copying or removing tables of this replication",
                where=self._connection.where,
                hint="Wait until it is done, or stop it. After a crash its session goes away as "
                "soon as the server notices.",
                retry=True,
            )

    def unlock(self) -> None:
        """Let the next one copy or remove tables."""
        self._connection.execute(_SQL["unlock_tables"], {"replication": self._replication})

    def copies(self) -> dict[int, TableCopy]:
        """The slave's records of this replication's tables, by oid on the master."""
        rows = self._connection.query(_SQL["table_copies"], {"replication": self._replication})
        if rows:
            self.number = rows[0][0]
        return {
            relid: TableCopy(
                relid, schema, name, state, Snapshot.parse(snapshot) if snapshot else None, *rest
            )
            for _, relid, schema, name, state, snapshot, *rest in rows
            if relid is not None
        }

    def keep(self, tables: Iterable[CapturedTable]) -> None:
        """Forget the tables that are not among these."""
        relids = [table.relid for table in tables]
        self._connection.execute(
            _SQL["forget_tables"], {"replication": self._replication, "relids": relids}
        )

    def copying(self, table: CapturedTable) -> None:
        """Note that a table is being copied."""
        self._connection.execute(
            _SQL["copying_table"],
            {
                "replication": self._replication,
                "relid": table.relid,
                "schema": table.schema,
                "table": table.name,
            },
        )

    def copied(self, table: CapturedTable, rows: int) -> None:
        """Note that a table is copied, in the transaction that copied it."""
        self._connection.execute(_SQL["copied_table"], {**self._copied(table), "rows": rows})

    # Beside the daemon

    def begin_adding(self, tables: Sequence[CapturedTable], gone: Iterable[TableCopy] = ()) -> None:
        """Note that tables are being copied beside the daemon.

        Args:
            gone: tables that the master does not have any more; the slave's are not theirs now.
        """
        with self.changing():
            for copy in gone:
                self.forget(copy.relid)
            for table in tables:
                self.copying(table)

    def joining(self, table: CapturedTable, rows: int, after: Snapshot) -> None:
        """Note that a table is copied as of a snapshot, in the transaction that copied it."""
        self._connection.execute(
            _SQL["joining_table"],
            {**self._copied(table), "rows": rows, "snapshot": str(after)},
        )

    def _copied(self, table: CapturedTable) -> dict[str, object]:
        """Which table was copied, and what it is called here."""
        here = self._map.table(table.schema, table.name)
        return {
            "replication": self._replication,
            "relid": table.relid,
            "schema": here.schema,
            "table": here.name,
        }

    def joined(self, relids: Iterable[int]) -> sql.Composable:
        """The statement that has tables be in step, for the batch that brings them there."""
        values: dict[str, object] = {"replication": self._replication, "relids": list(relids)}
        return literals(_SQL["joined_tables"], values)

    def give_up(self, relids: Iterable[int], problem: str) -> None:
        """Note why tables could not join; they have to be copied again."""
        self._connection.execute(
            _SQL["give_up_tables"],
            {"replication": self._replication, "relids": list(relids), "problem": problem},
        )

    def remove(self, table: TableCopy | CapturedTable) -> None:
        """Note that a table is passed over from now on."""
        with self.changing():
            self._connection.execute(
                _SQL["remove_table"],
                {
                    "replication": self._replication,
                    "relid": table.relid,
                    "schema": table.schema,
                    "table": table.name,
                },
            )

    def forget(self, relid: int) -> None:
        """Know nothing of a table any more."""
        self._connection.execute(
            _SQL["forget_table"], {"replication": self._replication, "relid": relid}
        )

    def touch(self) -> None:
        """Have batches that were made before be made again; none is decided until we commit."""
        self._connection.execute(_SQL["tables_changed"], {"replication": self._replication})

    @contextmanager
    def changing(self) -> Iterator[None]:
        """A transaction after which batches that were made before it are made again.

        Raises:
            Refused: a batch is in doubt, and nobody decides it.
        """
        try:
            with self._connection.transaction():
                self._connection.execute(f"SET LOCAL lock_timeout = '{LONGEST_DOUBT}s'")
                yield
                self.touch()
        except DatabaseError as error:
            if error.sqlstate != errorcodes.LOCK_NOT_AVAILABLE:
                raise
            raise Refused(
                f"a batch of this replication has not been decided for {LONGEST_DOUBT} s",
                where=self._connection.where,
                hint=f"Run the daemon, which decides it: `pyreplica run {self._replication}`; then "
                "try again.",
            ) from error
