"""What the slave is asked to do. All SQL about it is in sql/slave.sql, by name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from pyreplica import sqlfiles
from pyreplica.config import CommitMode, ReplicationConfig
from pyreplica.database import Connection, errorcodes, sql
from pyreplica.errors import DatabaseError, Refused
from pyreplica.model import (
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
    TableCopy,
)
from pyreplica.side import Side, literals

_SQL = sqlfiles.statements("slave.sql")

LONGEST_DOUBT = 10
"""A change of the tables waits so long for the batch at hand, seconds."""
TABLES_CHANGED = "PY001"
"""The SQLSTATE of a batch that was made before tables were added or removed."""


@dataclass(frozen=True, slots=True)
class RecordedStatus:
    """What the daemon last wrote down about itself."""

    state: str
    since: datetime
    last_error: str | None
    last_error_at: datetime | None


class Slave(Side):
    """A session with the slave database of one replication.

    Triggers and foreign keys stay silent in it: what they did on the master is in the log.
    """

    def __init__(self, config: ReplicationConfig) -> None:
        connection = Connection(
            config.slave,
            where=f"{config.name}: slave",
            connect_timeout=config.connect_timeout,
            replica=True,
        )
        super().__init__(connection, "slave", config.name, _SQL)
        self.commit = config.commit
        # the planner should look rows up by key; a batch touches a small part of a large table
        self.connection.execute("SET random_page_cost = 1.1; SET work_mem = '64MB'")
        self._gid_prefix: str | None = None
        self._tables: int | None = None

    def may_create(self) -> bool:
        """Whether the role may make PyReplica's schema here."""
        return bool(self.connection.one(_SQL["may_create"])[0])

    def locked(self) -> bool:
        """Whether somebody holds the replication's lock: a daemon, or a copy."""
        return self._is_held("pyreplica")

    def tables_locked(self) -> bool:
        """Whether somebody copies tables or removes them."""
        return self._is_held("pyreplica.tables")

    def _is_held(self, lock: str) -> bool:
        values = {"replication": self.replication, "lock": lock}
        return bool(self.connection.one(_SQL["locked"], values)[0])

    def lock_tables(self) -> None:
        """Be the only one to copy tables or to remove them; the daemon goes on beside it.

        Raises:
            Refused: somebody else is.
        """
        if not self.connection.one(_SQL["lock_tables"], {"replication": self.replication})[0]:
            raise Refused(
                "another command is copying or removing tables of this replication",
                where=self.connection.where,
                hint="Wait until it is done, or stop it. After a crash its session goes away as "
                "soon as the server notices.",
                retry=True,
            )

    def unlock_tables(self) -> None:
        """Let the next one copy or remove tables."""
        self.connection.execute(_SQL["unlock_tables"], {"replication": self.replication})

    def describe(self, captured: CapturedTable) -> SlaveTable | None:
        """The table as it is here, or None when there is none."""
        rows = self.connection.query(
            _SQL["describe"],
            {"schema": captured.schema, "table": captured.name, "key": list(captured.key)},
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
            {c[0]: SlaveColumn(*(*c[:-1], made_of.get(c[-1]))) for c in columns},
            has_key,
            other_unique,
            tuple(referenced_by),
            *rest,
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
        ``table_copies()``.
        """
        position = cursor.position
        return sql.SQL("SELECT pyreplica.move_cursor({}, {}, {}, {}, {}, {}, {})").format(
            *(
                sql.Literal(value)
                for value in (
                    self.replication,
                    cursor.batch,
                    str(position.snapshot),
                    position.log_id,
                    position.at,
                    changes,
                    self._tables,
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

    def prepared(self) -> list[int]:
        """The numbers of the batches that are prepared and not decided."""
        prefix = self.gid(0)[:-1]
        rows = self.connection.query(_SQL["prepared"], {"prefix": prefix})
        return sorted(int(gid[len(prefix) :]) for (gid,) in rows)

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

    def create_staging(self, id_: int) -> None:
        """Make the staging tables of this replication."""
        self.connection.execute(sql.SQL(_SQL["create_staging"]).format(**staging(id_)))

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

    def table_copies(self) -> dict[int, TableCopy]:
        """The slave's records of this replication's tables, by oid on the master."""
        rows = self.connection.query(_SQL["table_copies"], {"replication": self.replication})
        if rows:
            self._tables = rows[0][0]
        return {
            relid: TableCopy(
                relid, schema, name, state, Snapshot.parse(snapshot) if snapshot else None, *rest
            )
            for _, relid, schema, name, state, snapshot, *rest in rows
            if relid is not None
        }

    def keep_tables(self, tables: Iterable[CapturedTable]) -> None:
        """Forget the tables that are not among these."""
        relids = [table.relid for table in tables]
        self.connection.execute(
            _SQL["forget_tables"], {"replication": self.replication, "relids": relids}
        )

    def copying_table(self, table: CapturedTable) -> None:
        """Note that a table is being copied."""
        self.connection.execute(
            _SQL["copying_table"],
            {
                "replication": self.replication,
                "relid": table.relid,
                "schema": table.schema,
                "table": table.name,
            },
        )

    def copied_table(self, table: CapturedTable, rows: int) -> None:
        """Note that a table is copied, in the transaction that copied it."""
        self.connection.execute(
            _SQL["copied_table"],
            {"replication": self.replication, "relid": table.relid, "rows": rows},
        )

    # Tables added and removed

    def begin_adding(self, tables: Sequence[CapturedTable], gone: Iterable[TableCopy] = ()) -> None:
        """Note that tables are being copied beside the daemon.

        Args:
            gone: tables that the master does not have any more; the slave's are not theirs now.
        """
        with self._changing_tables():
            for copy in gone:
                self.forget_table(copy.relid)
            for table in tables:
                self.copying_table(table)

    def joining_table(self, table: CapturedTable, rows: int, after: Snapshot) -> None:
        """Note that a table is copied as of a snapshot, in the transaction that copied it."""
        self.connection.execute(
            _SQL["joining_table"],
            {
                "replication": self.replication,
                "relid": table.relid,
                "rows": rows,
                "snapshot": str(after),
            },
        )

    def joined_tables(self, relids: Iterable[int]) -> sql.Composable:
        """The statement that has tables be in step, for the batch that brings them there."""
        values: dict[str, object] = {"replication": self.replication, "relids": list(relids)}
        return literals(_SQL["joined_tables"], values)

    def give_up_tables(self, relids: Iterable[int], problem: str) -> None:
        """Note why tables could not join; they have to be copied again."""
        self.connection.execute(
            _SQL["give_up_tables"],
            {"replication": self.replication, "relids": list(relids), "problem": problem},
        )

    def remove_table(self, table: TableCopy | CapturedTable) -> None:
        """Note that a table is passed over from now on."""
        with self._changing_tables():
            self.connection.execute(
                _SQL["remove_table"],
                {
                    "replication": self.replication,
                    "relid": table.relid,
                    "schema": table.schema,
                    "table": table.name,
                },
            )

    def forget_table(self, relid: int) -> None:
        """Know nothing of a table any more."""
        self.connection.execute(
            _SQL["forget_table"], {"replication": self.replication, "relid": relid}
        )

    @contextmanager
    def _changing_tables(self) -> Iterator[None]:
        """A transaction after which batches that were made before it are made again.

        Raises:
            Refused: a batch is in doubt, and nobody decides it.
        """
        try:
            with self.connection.transaction():
                self.connection.execute(f"SET LOCAL lock_timeout = '{LONGEST_DOUBT}s'")
                yield
                self.connection.execute(_SQL["tables_changed"], {"replication": self.replication})
        except DatabaseError as error:
            if error.sqlstate != errorcodes.LOCK_NOT_AVAILABLE:
                raise
            raise Refused(
                f"a batch of this replication has not been decided for {LONGEST_DOUBT} s",
                where=self.connection.where,
                hint=f"Run the daemon, which decides it: `pyreplica run {self.replication}`; then "
                "try again.",
            ) from error

    def empty(self, tables: Sequence[SlaveTable]) -> None:
        """Remove all rows of these tables."""
        with self.connection.transaction():
            for statement in emptying(tables):
                self.connection.execute(statement)

    def has_rows(self, table: CapturedTable) -> bool:
        """Whether there is any row in a table."""
        name = sql.Identifier(table.schema, table.name)
        return bool(self.connection.one(sql.SQL(_SQL["has_rows"]).format(table=name))[0])

    def remove(self) -> None:
        """Forget this replication; the tables stay as they are."""
        applied = self.applied()
        with self.connection.transaction():
            self.connection.execute(_SQL["remove"], {"replication": self.replication})
            if applied is not None:
                self.connection.execute(
                    sql.SQL("DROP TABLE IF EXISTS {stage}, {net}").format(**staging(applied.id))
                )

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
        asked = [
            {
                "relid": sequence.relid,
                "schema": sequence.schema,
                "name": sequence.name,
                "columns": [
                    {"schema": c.schema, "table": c.table, "column": c.column}
                    for c in sequence.columns
                ],
            }
            for sequence in wanted
        ]
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


def staging(id_: int) -> dict[str, sql.Composable]:
    """The names of a replication's staging tables."""
    return {
        "stage": sql.Identifier("pyreplica", f"stage_{id_}"),
        "net": sql.Identifier("pyreplica", f"net_{id_}"),
    }


def emptying(tables: Sequence[SlaveTable]) -> list[sql.Composable]:
    """The statements that empty tables: all in one TRUNCATE, because of their foreign keys.

    TRUNCATE is refused for a table that one outside refers to, whether or not that has rows; such
    a table is emptied with DELETE. Of a table with inheritance children only itself is emptied.
    """
    truncated = list(tables)
    deleted: list[SlaveTable] = []
    while True:
        # one that is not truncated is outside in its turn
        names = {str(table) for table in truncated}
        outside = [table for table in truncated if not names.issuperset(table.referenced_by)]
        if not outside:
            break
        deleted += outside
        truncated = [table for table in truncated if table not in outside]
    statements: list[sql.Composable] = [
        sql.SQL("DELETE FROM {}").format(_own_rows(table)) for table in deleted
    ]
    if truncated:
        names_ = sql.SQL(", ").join(_own_rows(table) for table in truncated)
        statements.append(sql.SQL("TRUNCATE {}").format(names_))
    return statements


def _own_rows(table: SlaveTable) -> sql.Composable:
    only = sql.SQL("" if table.partitioned else "ONLY ")
    return only + sql.Identifier(table.schema, table.name)


def is_unique_violation(error: DatabaseError) -> bool:
    """Whether a value met another row's in a unique key or an exclusion constraint."""
    return error.sqlstate in (errorcodes.UNIQUE_VIOLATION, errorcodes.EXCLUSION_VIOLATION)
