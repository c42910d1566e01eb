"""What the master is asked to do. All SQL about it is in sql/master.sql, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.config.merging import Merge
from pyreplica.database import Connection, sql
from pyreplica.errors import Dropped, Refused
from pyreplica.master.ddl import Ddl
from pyreplica.master.filters import Filters
from pyreplica.master.forwarding import Forwarding
from pyreplica.master.log import Log
from pyreplica.master.masking import Masking
from pyreplica.master.sequences import sequences_of
from pyreplica.model import (
    SQL_VERSION,
    CapturedTable,
    Confirmed,
    Cursor,
    Identity,
    LogKept,
    MasterSequence,
    Position,
    Snapshot,
)
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

    ``log`` reads what was captured, ``filters`` is what the slave gets of that, ``ddl`` is about
    DDL that nobody has seen, ``forwarding`` about what came from other masters.
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
        self.filters = Filters(connection, config.name)
        self.ddl = Ddl(connection)
        self.forwarding = Forwarding(connection, config.name)
        self._prepared = False

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

    # The slave's record

    def confirmed(self) -> Confirmed | None:
        """What this replication has confirmed, or None if the master does not know it."""
        rows = self.connection.query(_SQL["slave"], {"replication": self.replication})
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
                where=self.connection.where,
                hint="The master keeps no log for it any more. Copy it anew: "
                f"`pyreplica copy {self.replication} --truncate`.",
            )

    def set_limits(self, size: int | None, age: float | None) -> None:
        """How much log to keep for the slave, in bytes, and for how long, in seconds."""
        self.connection.execute(
            _SQL["set_limits"],
            {
                "replication": self.replication,
                "size": size,
                "age": None if age is None else f"{age:.3f} s",
            },
        )

    def log_kept(self) -> LogKept | None:
        """How much log is kept for the slave; None if the master does not know it."""
        rows = self.connection.query(_SQL["log_kept"], {"replication": self.replication})
        return LogKept(*rows[0]) if rows else None

    def register(self, slave: Identity) -> None:
        """Keep the log for a slave from now on; its copy is about to begin."""
        self.connection.execute(
            _SQL["register"],
            {"replication": self.replication, "system": slave.system, "database": slave.database},
        )

    def adopt(self, slave: Identity) -> None:
        """Record another identity of the slave; it is the same database, moved."""
        self.connection.execute(
            _SQL["adopt"],
            {"replication": self.replication, "system": slave.system, "database": slave.database},
        )

    def moved_tables(self) -> list[str]:
        """The captured tables that are not under the oid they were recorded with."""
        return [str(name) for (name,) in self.connection.query(_SQL["moved_tables"])]

    def unregister(self) -> None:
        """Forget the slave; nothing is kept for it any more."""
        self.connection.execute(_SQL["unregister"], {"replication": self.replication})

    def serves_others(self) -> bool:
        """Whether other replications have this database as their master."""
        return bool(self.connection.one(_SQL["other_slaves"], {"replication": self.replication})[0])

    def confirm(self, cursor: Cursor) -> None:
        """Record that the slave has a batch: the decision of the two-phase commit.

        Raises:
            Dropped: the log is not kept any more, and this batch may lack a part of it.
            NotInstalled: the installed SQL has another version by now.
            Refused: the record is not at the batch before it.
        """
        if not self._prepared:
            self.connection.execute(_SQL["prepare_confirm"])
            self._prepared = True
        position = cursor.position
        found = self.connection.execute(
            _SQL["confirm"],
            {
                "replication": self.replication,
                "batch": cursor.batch,
                "snapshot": str(position.snapshot),
                "log_id": position.log_id,
                "at": position.at,
                "version": SQL_VERSION,
            },
        )
        if found != 1:
            self.check_installed()
            self.check_kept()
            raise Refused(
                f"the master's record is not at batch {cursor.batch - 1} any more",
                where=self.connection.where,
                hint="Something else has changed it. Are two daemons at work for this replication?",
            )

    def set_copied(self, cursor: Cursor) -> None:
        """Record that the slave is copied as of a position.

        Raises:
            Dropped: what was changed since has grown past a limit during the copy.
            Refused: the record is not that of a copy any more.
        """
        position = cursor.position
        found = self.connection.execute(
            _SQL["set_copied"],
            {
                "replication": self.replication,
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
                where=self.connection.where,
                hint="Something else has changed its record. Copy it again.",
            )

    def hold(self) -> None:
        """Keep the log from now on until it is released, whatever the slave has confirmed.

        Raises:
            Dropped: it is not kept for this slave any more.
        """
        if not self.connection.execute(_SQL["hold"], {"replication": self.replication}):
            self.check_kept()

    def held(self) -> int | None:
        """The number to release the log with; None when it is not held."""
        rows = self.connection.query(_SQL["held"], {"replication": self.replication})
        return int(rows[0][0]) if rows else None

    def release(self, number: int) -> None:
        """Hold the log no more, unless somebody else has asked for it since that number."""
        self.connection.execute(_SQL["release"], {"replication": self.replication, "holds": number})

    def announce_tables(self) -> None:
        """Have the daemon look at its tables anew."""
        self.connection.execute(_SQL["announce_tables"])

    def want_ddl(self, wanted: bool) -> None:
        """Have DDL logged for this slave, or only what `pyreplica execute` runs."""
        self.connection.execute(
            _SQL["want_ddl"], {"replication": self.replication, "wanted": wanted}
        )

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
