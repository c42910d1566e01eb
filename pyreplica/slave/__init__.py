"""What the slave is asked to do. All SQL about it is in sql/slave.sql, by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pyreplica import sqlfiles
from pyreplica.config import CommitMode, ReplicationConfig
from pyreplica.database import Connection, errorcodes, sql
from pyreplica.database.masks import Masks
from pyreplica.errors import DatabaseError
from pyreplica.model import (
    SQL_VERSION,
    Applied,
    CapturedTable,
    Cursor,
    Identity,
    MasterSequence,
    Position,
    Script,
    SequenceState,
    SlaveColumn,
    SlaveSequence,
    SlaveTable,
    Snapshot,
    TableMap,
)
from pyreplica.side import Side
from pyreplica.slave import staging
from pyreplica.slave.conflicts import ConflictRecords
from pyreplica.slave.forwarding import Forwarding
from pyreplica.slave.own import emptying, own
from pyreplica.slave.pauses import Pauses
from pyreplica.slave.tables import TableRecords

_SQL = sqlfiles.statements("slave.sql")

TABLES_CHANGED = "PY001"
"""The SQLSTATE of a batch that was made before tables were added or removed."""
OTHER_VERSION = "PY003"
"""The SQLSTATE of a batch that meets another version of the SQL."""


@dataclass(frozen=True, slots=True)
class RecordedStatus:
    """What the daemon last wrote down about itself."""

    state: str
    since: datetime
    last_error: str | None
    last_error_at: datetime | None


@dataclass(frozen=True, slots=True, order=True)
class InDoubt:
    """A batch that is prepared and not decided, its prepared transaction and age in seconds."""

    number: int
    gid: str
    age: float


class Slave(Side):
    """A session with the slave database of one replication.

    Triggers and foreign keys stay silent in it: what they did on the master is in the log.
    ``records`` says which tables are copied, ``conflicts`` what was met, ``pauses`` whether
    somebody has paused it, ``forwarding`` what its own slaves need.
    """

    def __init__(self, config: ReplicationConfig) -> None:
        connection = Connection(
            config.slave,
            where=f"{config.name}: slave",
            connect_timeout=config.connect_timeout,
            peer_timeout=config.peer_timeout,
            replica=True,
        )
        super().__init__(connection, "slave", config.name, _SQL)
        self.commit = config.commit
        self._map = config.map
        # the planner should look rows up by key; a batch touches a small part of a large table
        self.connection.execute("SET random_page_cost = 1.1; SET work_mem = '64MB'")
        self._gid_prefix: str | None = None
        self.records = TableRecords(connection, config.name, config.map)
        self.conflicts = ConflictRecords(connection, config.name)
        self.pauses = Pauses(connection, config.name)
        self.forwarding = Forwarding(connection, config.name)

    def may_create(self) -> bool:
        """Whether the role may make PyReplica's schema here."""
        return bool(self.connection.one(_SQL["may_create"])[0])

    def may_stage(self) -> bool:
        """Whether the role may make the staging tables."""
        return bool(self.connection.one(_SQL["may_stage"])[0])

    def grant_to_stage(self) -> str:
        """The GRANT that lets the role do that."""
        role = sql.Identifier(self.server().role)
        return self.connection.text(sql.SQL("GRANT CREATE ON SCHEMA pyreplica TO {}").format(role))

    def not_owned(self, tables: Iterable[CapturedTable]) -> list[str]:
        """Those of these tables that are not the role's, so that it cannot guard them."""
        wanted = [self.place(table) for table in tables]
        values = {"schemas": [t.schema for t in wanted], "names": [t.name for t in wanted]}
        return [str(name) for (name,) in self.connection.query(_SQL["not_owned"], values)]

    def locked(self) -> bool:
        """Whether somebody holds the replication's lock: a daemon, or a copy."""
        values = {"replication": self.replication, "lock": "pyreplica"}
        return bool(self.connection.one(_SQL["locked"], values)[0])

    def place(self, captured: CapturedTable, masks: Masks | None = None) -> TableMap:
        """What becomes of a table of the master here.

        Args:
            masks: what is masked of it; what goes by its name when None.
        """
        here = self._map.table(captured.schema, captured.name)
        return here if masks is None else replace(here, masks=masks)

    def describe(self, captured: CapturedTable, masks: Masks | None = None) -> SlaveTable | None:
        """The table as it is here, or None when there is none.

        Args:
            masks: as for ``place``.
        """
        here = self.place(captured, masks)
        rows = self.connection.query(
            _SQL["describe"],
            {
                "schema": here.schema,
                "table": here.name,
                "key": [here.column(name) for name in captured.key],
                "constants": list(here.constants),
            },
        )
        if not rows:
            return None
        schema, name, partitioned, other_unique, has_key, referenced_by, columns, *rest = rows[0]
        columns = columns or ()
        made_of = self.definitions(oid for *_, oid in columns)
        return SlaveTable(
            schema,
            name,
            partitioned,
            {c[0]: SlaveColumn(*(*c[:-1], made_of.get(c[-1]), here.logged(c[0]))) for c in columns},
            has_key,
            other_unique,
            tuple(referenced_by),
            *(*rest, here),
        )

    # The cursor

    def applied(self) -> Applied | None:
        """Where this replication stands, or None if the slave does not know it."""
        rows = self.connection.query(_SQL["cursor"], {"replication": self.replication})
        if not rows:
            return None
        (id_, system, database, ready, made_schema, batch, snapshot, log_id, at, *counts) = rows[0]
        cursor = None
        if snapshot is not None:
            cursor = Cursor(batch, Position(Snapshot.parse(snapshot), log_id, at))
        changes, last, applied_at = counts
        return Applied(
            id_, Identity(system, database), ready, made_schema, cursor, changes, last, applied_at
        )

    def move_cursor(self, cursor: Cursor, changes: int) -> sql.Composable:
        """The statement that moves the cursor, for the transaction that applies the batch.

        It fails with ``TABLES_CHANGED`` when tables were added or removed after the last call of
        ``records.copies()``, and with ``OTHER_VERSION`` when the SQL is of another version by now.
        """
        position = cursor.position
        return sql.SQL("SELECT pyreplica.move_cursor({}, {}, {}, {}, {}, {}, {}, {})").format(
            *(
                sql.Literal(value)
                for value in (
                    self.replication,
                    cursor.batch,
                    str(position.snapshot),
                    position.log_id,
                    position.at,
                    changes,
                    self.records.number,
                    SQL_VERSION,
                )
            )
        )

    # Two-phase commit

    def gid(self, batch: int) -> str:
        """The name of a batch's prepared transaction; unique among the slaves of one server."""
        if self._gid_prefix is None:
            (oid,) = self.connection.one(_SQL["database_oid"])
            self._gid_prefix = f"pyreplica:{self.replication}:{oid}:"
        return f"{self._gid_prefix}{batch}"

    def in_doubt(self) -> list[InDoubt]:
        """The batches that are prepared and not decided, the first one first."""
        prefix = self.gid(0)[:-1]
        rows = self.connection.query(_SQL["prepared"], {"prefix": prefix})
        return sorted(InDoubt(int(gid[len(prefix) :]), gid, age) for gid, age in rows)

    def prepared(self) -> list[int]:
        """The numbers of the batches that are prepared and not decided."""
        return [batch.number for batch in self.in_doubt()]

    def prepare_transaction(self, batch: int) -> sql.Composable:
        """The statement that ends the batch's transaction: PREPARE, or COMMIT in one phase."""
        if self.commit is CommitMode.ONE_PHASE:
            return sql.SQL("COMMIT")
        return sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(self.gid(batch)))

    def run_ddl(self, script: Script) -> sql.Composable:
        """The statement that runs a DDL statement of the master's."""
        return sql.SQL("SELECT pyreplica.run_ddl({}, {}, {})").format(
            sql.Literal(script.sql), sql.Literal(script.search_path), sql.Literal(script.strings)
        )

    def commit_prepared(self, batch: int) -> None:
        """COMMIT PREPARED of a batch the master has recorded."""
        self.connection.execute(sql.SQL("COMMIT PREPARED {}").format(sql.Literal(self.gid(batch))))

    def rollback_prepared(self, batch: int) -> None:
        """ROLLBACK PREPARED of a batch the master has not recorded."""
        self.connection.execute(
            sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(self.gid(batch)))
        )

    # Initial copy

    def begin_copy(self, master: Identity, made_schema: bool) -> int:
        """Note that a copy is under way; gives the cursor's id."""
        (id_,) = self.connection.one(
            _SQL["begin_copy"],
            {
                "replication": self.replication,
                "system": master.system,
                "database": master.database,
                "made_schema": made_schema,
            },
        )
        return int(id_)

    def adopt(self, master: Identity) -> None:
        """Record another identity of the master; it is the same database, moved."""
        copies = self.records.copies()
        here = [self._map.table(copy.schema, copy.name) for copy in copies.values()]
        self.connection.execute(
            _SQL["adopt"],
            {
                "replication": self.replication,
                "system": master.system,
                "database": master.database,
                "relids": list(copies),
                "schemas": [one.schema for one in here],
                "names": [one.name for one in here],
            },
        )

    def finish_copy(self, cursor: Cursor) -> None:
        """The tables are copied as of the cursor's position; replication goes on from there."""
        position = cursor.position
        self.connection.execute(
            _SQL["finish_copy"],
            {
                "replication": self.replication,
                "batch": cursor.batch,
                "snapshot": str(position.snapshot),
                "log_id": position.log_id,
                "at": position.at,
            },
        )

    def empty(self, tables: Sequence[SlaveTable]) -> None:
        """Remove all rows of these tables."""
        with self.connection.transaction():
            for statement in emptying(tables):
                self.connection.execute(statement)

    def let_be_null(self, table: CapturedTable, columns: Sequence[str]) -> None:
        """Take NOT NULL from columns that the master sends no values for."""
        here = self.describe(table)
        names = [c for c in columns if here is not None and c in here.columns]
        for name in names:
            if here is not None and here.columns[name].required:
                self.connection.execute(
                    sql.SQL("ALTER TABLE {} ALTER COLUMN {} DROP NOT NULL").format(
                        sql.Identifier(here.schema, here.name), sql.Identifier(name)
                    )
                )

    def has_rows(self, table: SlaveTable) -> bool:
        """Whether there is any row of this replication in a table."""
        name = sql.Identifier(table.schema, table.name)
        conditions = sql.SQL(" AND ").join([sql.SQL("true"), *own(table)])
        query = sql.SQL(_SQL["has_rows"]).format(table=name, own=conditions)
        return bool(self.connection.one(query)[0])

    def remove(self) -> None:
        """Forget this replication; the tables stay as they are."""
        applied = self.applied()
        with self.connection.transaction():
            self.connection.execute(_SQL["remove"], {"replication": self.replication})
            if applied is not None:
                self.connection.execute(staging.drop(applied.id))

    def serves_others(self) -> bool:
        """Whether other replications have this database as their slave."""
        return bool(
            self.connection.one(_SQL["other_cursors"], {"replication": self.replication})[0]
        )

    # Sequences

    def find_sequences(
        self, wanted: Iterable[MasterSequence]
    ) -> dict[int, tuple[SlaveSequence, ...]]:
        """The sequences that are to stand where the master's do, by the master's oid.

        Where there is none of the same name it is that of the column that the master's serves, of
        which there may be several. One that the slave does not have is not in the answer.
        """
        asked = []
        for sequence in wanted:
            columns = []
            for c in sequence.columns:
                here = self._map.table(c.schema, c.table)
                name = here.column(c.column)
                columns.append({"schema": here.schema, "table": here.name, "column": name})
            # where a table has another name, its sequence has, too
            named = not any((c.schema, c.table) in self._map.tables for c in sequence.columns)
            schema = self._map.schemas.get(sequence.schema, sequence.schema)
            asked.append(
                {
                    "relid": sequence.relid,
                    "schema": schema,
                    "name": sequence.name if named else None,
                    "columns": columns,
                }
            )
        found: dict[int, tuple[SlaveSequence, ...]] = {}
        for relid, *rest in self.connection.query(
            _SQL["find_sequences"], {"wanted": json.dumps(asked)}
        ):
            found[relid] = (*found.get(relid, ()), SlaveSequence(*rest))
        return found

    def set_sequence(self, sequence: SlaveSequence, state: SequenceState) -> sql.Composable:
        """The statement that makes a sequence stand there; it is no part of any transaction."""
        return sql.SQL("SELECT setval({}, {}, {})").format(
            *(sql.Literal(v) for v in (sequence.quoted, state.last_value, state.is_called))
        )

    def sequence_states(self, sequences: Sequence[SlaveSequence]) -> list[SequenceState]:
        """Where sequences stand, in their order."""
        if not sequences:
            return []
        rows = self.connection.query(
            sql.SQL(" UNION ALL ").join(
                sql.SQL("SELECT {}, last_value, is_called FROM {}").format(
                    sql.Literal(number), sql.Identifier(sequence.schema, sequence.name)
                )
                for number, sequence in enumerate(sequences)
            )
        )
        return [SequenceState(*rest) for _, *rest in sorted(rows)]

    # Status

    def set_status(self, state: str, error: str | None = None) -> None:
        """Write down what the daemon is doing, for `status`."""
        values = {"replication": self.replication, "state": state, "error": error}
        self.connection.execute(_SQL["set_error" if error else "set_status"], values)

    def recorded_status(self) -> RecordedStatus | None:
        """What the daemon last wrote down."""
        rows = self.connection.query(_SQL["status"], {"replication": self.replication})
        return RecordedStatus(*rows[0]) if rows else None


def is_unique_violation(error: DatabaseError) -> bool:
    """Whether a value met another row's in a unique key or an exclusion constraint."""
    return error.sqlstate in (errorcodes.UNIQUE_VIOLATION, errorcodes.EXCLUSION_VIOLATION)
