"""What the master is asked to do. All SQL about it is in sql/master.sql, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.config.merging import Merge
from pyreplica.database import Connection, sql
from pyreplica.master.ddl import Ddl
from pyreplica.master.filters import Filters
from pyreplica.master.forwarding import Forwarding
from pyreplica.master.log import Log
from pyreplica.master.masking import Masking
from pyreplica.master.record import Record
from pyreplica.master.sequences import sequences_of
from pyreplica.model import CapturedTable, MasterSequence
from pyreplica.side import Side

_SQL = sqlfiles.statements("master.sql")

SEQUENCES = "sequences"
SEQUENCES_ANEW = "sequences anew"
"""What a NOTIFY says to daemons that are to look at the sequences, or to set them all."""
ROTATE_BYTES = 64 << 20
"""A segment of the log is retired when it has grown past this."""


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

    def as_captured(self) -> CapturedTable:
        """What it would be when it is captured."""
        return CapturedTable(
            0,
            self.relid,
            self.schema,
            self.name,
            self.key,
            self.columns,
            False,
            True,
            self.types,
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """A table somebody may want replicated; ``reason`` says why it cannot be."""

    relid: int
    schema: str
    name: str
    added: bool
    reason: str | None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class Master(Side):
    """A session with the master database of one replication.

    ``log`` reads what was captured, ``record`` is what the slave has confirmed of it, ``filters``
    is what the slave gets, ``ddl`` is about DDL that nobody has seen, ``forwarding`` about what
    came from other masters.
    """

    def __init__(self, config: ReplicationConfig) -> None:
        connection = Connection(
            config.master,
            where=f"{config.name}: master",
            connect_timeout=config.connect_timeout,
            peer_timeout=config.peer_timeout,
        )
        super().__init__(connection, "master", config.name, _SQL)
        self.masking = Masking(connection, config.map)
        self.log = Log(
            connection,
            config.name,
            projected=any(one.columns is not None for _, _, one in config.filters),
            masking=self.masking,
        )
        self.record = Record(connection, config.name, self.check_installed)
        self.filters = Filters(connection, config.name)
        self.ddl = Ddl(connection)
        self.forwarding = Forwarding(connection, config.name)

    def tables(
        self, ids: Iterable[int] | None = None, *, whole: bool = False
    ) -> list[CapturedTable]:
        """The captured tables as they are now, or the given generations of them.

        Args:
            whole: without the filters of this replication.
        """
        rows = self.connection.query(
            _SQL["tables"],
            {"ids": None if ids is None else list(ids), "replication": self.replication},
        )
        made_of = self.definitions(oid for *_, oids, _ in rows for oid in (oids or {}).values())
        tables = [
            (
                CapturedTable(
                    id_,
                    relid,
                    schema,
                    table,
                    tuple(key),
                    tuple(columns),
                    partitioned,
                    active,
                    types or {},
                    {c: made_of[oid] for c, oid in (oids or {}).items() if oid in made_of},
                    merged=merged,
                ),
                filter_ or (None, None),
            )
            for (
                id_,
                relid,
                schema,
                table,
                key,
                columns,
                partitioned,
                active,
                merged,
                types,
                oids,
                filter_,
            ) in rows
        ]
        if whole:
            return [table for table, _ in tables]
        return [replace(table, where=where).projected(names) for table, (where, names) in tables]

    def moved_tables(self) -> list[str]:
        """The captured tables that are not under the oid they were recorded with."""
        return [str(name) for (name,) in self.connection.query(_SQL["moved_tables"])]

    def serves_others(self) -> bool:
        """Whether other replications have this database as their master."""
        return bool(self.connection.one(_SQL["other_slaves"], {"replication": self.replication})[0])

    def announce_tables(self) -> None:
        """Have the daemon look at its tables anew."""
        self.connection.execute(_SQL["announce_tables"])

    # Repairing

    def restate(
        self, table: CapturedTable, keys: Sequence[str], *, patience: float, tick: bool
    ) -> tuple[int, list[str]]:
        """Log rows again as they stand now, or that they are gone.

        Args:
            keys: the text of jsonb objects, as in the log.
            patience: seconds to wait for a lock.
            tick: a backlog may be cut after this.

        Returns:
            How many were logged, and the keys of those that others were just writing.

        Raises:
            DatabaseError: among others, a lock was not to be had; nothing was logged then.
        """
        with self.connection.transaction():
            self.connection.execute(
                "SELECT set_config('lock_timeout', %s, true)", (f"{patience * 1000:.0f}ms",)
            )
            restated, busy = self.connection.one(
                _SQL["restate"],
                {"schema": table.schema, "table": table.name, "keys": list(keys)},
            )
            if tick:
                self.connection.execute(_SQL["tick"])
        return restated, busy

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

    def code_of_others(self) -> list[tuple[str, str, str]]:
        """Captured tables with functions that could get the rights of the capture: why, for each.

        Schema, name, and what it is about the table.
        """
        rows = self.connection.query(_SQL["code_of_others"])
        return [(schema, table, code) for schema, table, code in rows]

    def plpython_available(self) -> bool:
        """Whether the server has the language plpython3u to be installed."""
        return bool(self.connection.one(_SQL["plpython_available"])[0])

    def set_capture(self, language: str) -> str:
        """Choose the language of the capture triggers; add_table() then changes a table's."""
        (line,) = self.connection.one(_SQL["set_capture"], {"language": language})
        return str(line)

    def add_table(self, table: Candidate) -> str:
        """Capture a table; gives the line that says what was done or why not."""
        (line,) = self.connection.one(
            _SQL["add_table"], {"schema": table.schema, "table": table.name}
        )
        return str(line)

    def set_merge(self, merge: Merge) -> str:
        """Have a captured table be merged with the slave's; gives the line that says so.

        Raises:
            DatabaseError: it cannot be; nothing was changed.
        """
        (line,) = self.connection.one(
            _SQL["set_merge"],
            {
                "schema": merge.schema,
                "table": merge.table,
                "way": merge.way,
                "counters": list(merge.counters),
                "priority": list(merge.priority),
            },
        )
        return str(line)

    def remove_table(self, table: CapturedTable) -> str:
        """Capture a table no more; gives the line that says what was done or why not."""
        (line,) = self.connection.one(
            _SQL["remove_table"], {"schema": table.schema, "table": table.name}
        )
        return str(line)

    # Sequences

    def sequences(self) -> list[MasterSequence]:
        """Every sequence somebody may want on the slave, and where it stands now."""
        return sequences_of(self.connection.one(_SQL["sequences"])[0])

    # Sleeping and upkeep

    def listen(self) -> None:
        """Have notifications sent to this session."""
        self.connection.execute("LISTEN pyreplica")

    def rings(self) -> bool:
        """Whether writers ring while a daemon sleeps; they do not where they may have to prepare
        their transactions."""
        return bool(self.connection.one(_SQL["rings"])[0])

    def ring(self, *, anew: bool = False) -> None:
        """Wake the daemons to look at the sequences, a change of which rings no bell.

        Args:
            anew: have them set all, whether or not they have changed.
        """
        payload = SEQUENCES_ANEW if anew else SEQUENCES
        self.connection.execute(_SQL["ring"], {"payload": payload})

    def set_doorbell(self, bit: int, sleeping: bool) -> None:
        """Have writers ring, or leave them in peace."""
        self.connection.execute(_SQL["sleep" if sleeping else "awake"], {"bit": bit})

    def rotate(self, at_bytes: int = ROTATE_BYTES) -> str | None:
        """Look after the log's segments; says what was done ("switched", "truncated") or None."""
        done: str | None = self.connection.one(_SQL["rotate"], {"bytes": at_bytes})[0]
        return done
