"""Applies one batch on the slave, up to and including PREPARE TRANSACTION.

A small batch is folded in Python and goes over in one message. A large one is streamed into an
unlogged staging table, folded there, and applied with a few statements for each table. Both find
the tables' statements in the same place, and both first empty what was truncated, then delete,
update and insert: the order in which values of unique keys become free before they are taken.

DDL, and what concerns all rows of a table, is a barrier: it cuts a batch into pieces that are
applied one after the other, in the batch's one transaction.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NoReturn, Protocol, TypeVar

from pyreplica import sqlfiles
from pyreplica.database import Connection, Row, errorcodes, pump, sql
from pyreplica.errors import ApplyError, DatabaseError
from pyreplica.model import BARRIERS, Change, Cursor, Script
from pyreplica.slave import Slave, emptying, is_unique_violation, staging
from pyreplica.slave.culprit import find_culprit
from pyreplica.slave.fold import Net, fold
from pyreplica.slave.order import by_columns, in_pieces, in_waves, statement_for, ways_of
from pyreplica.slave.statements import Part, TableStatements

_SQL = sqlfiles.statements("slave.sql")

_T = TypeVar("_T")

MOST_PREPARED = 500
"""The server's memory is given back after so many prepared statements; each set of columns that an
UPDATE changes has its own."""

LAST_ID = (1 << 63) - 1


class Catalog(Protocol):
    """Knows what of the log concerns the slave, and what its tables are like."""

    def statements(self, generation: int) -> TableStatements | None:
        """The statements of a log row's table; None for one this replication leaves out."""

    def runs(self, script: Script) -> bool:
        """Whether the slave is to run a DDL statement of the master's."""

    def forget(self) -> None:
        """The slave's tables may have been altered."""

    def last(self) -> Sequence[Part]:
        """The statements that end a transaction in which DDL was run."""


class Applier:
    """Applies batches for one session.

    Args:
        slave: the session.
        staging_id: the cursor's id, which names the staging tables.
        catalog: finds a table's statements by the generation in the log.
    """

    def __init__(self, slave: Slave, staging_id: int, catalog: Catalog) -> None:
        self._slave = slave
        self._connection = slave.connection
        self._staging = staging(staging_id)
        self._catalog = catalog
        self._prepared: dict[tuple[int, str, tuple[str, ...]], str] = {}
        self._labels_added: set[int] = set()
        self._log = logging.getLogger(f"pyreplica.{slave.replication}")

    # Small batches

    def apply(self, changes: Sequence[Change], cursor: Cursor, first: Sequence[Part] = ()) -> int:
        """Apply fetched changes and prepare the transaction; gives the number of changes applied.

        Args:
            changes: in the order of their ids.
            cursor: where the slave stands afterwards.
            first: statements that begin the transaction.

        Raises:
            ApplyError: a change cannot be applied; it is named.
        """
        if len(self._prepared) > MOST_PREPARED:
            self._forget_prepared()
        self._add_labels(changes)
        try:
            applied = self._send(changes, cursor, first, careful=False)
        except DatabaseError as error:
            self._take_back(changes)
            if not _is_data_error(error):
                raise
            applied = self._redo(changes, cursor, first, error)
        self._warn()
        return applied

    def _send(
        self, changes: Sequence[Change], cursor: Cursor, first: Sequence[Part], careful: bool
    ) -> int:
        """The whole transaction in one message, and so in one round trip, unless there is DDL.

        Returns:
            The number of changes applied.
        """
        message: list[Part] = [sql.SQL("BEGIN"), *first]
        applied = 0
        altered = False
        for piece in in_pieces(changes):
            if piece[0].op not in BARRIERS:
                tables = self._by_table(piece)
                message += self._small(tables, careful)
                applied += sum(len(rows) for _, rows in tables.values())
            elif (barrier := self._barrier(piece[0])) is not None:
                message.append(barrier)
                applied += 1
                if piece[0].op == "S":
                    self._connection.execute(sql.SQL("; ").join(message))
                    message = []
                    self._forget_tables()
                    altered = True
        message += [
            *(self._catalog.last() if altered else ()),
            self._slave.move_cursor(cursor, applied),
            self._slave.prepare_transaction(cursor.batch),
        ]
        self._connection.execute(sql.SQL("; ").join(message))
        return applied

    def _by_table(
        self, changes: Sequence[Change]
    ) -> dict[int, tuple[TableStatements, list[Change]]]:
        tables: dict[int, tuple[TableStatements, list[Change]]] = {}
        for change in changes:
            found = tables.get(change.table)
            if found is None:
                statements = self._catalog.statements(change.table)
                if statements is None:
                    continue
                found = tables[change.table] = (statements, [])
            found[1].append(change)
        return tables

    def _small(
        self, tables: Mapping[int, tuple[TableStatements, list[Change]]], careful: bool
    ) -> list[Part]:
        """All statements for these changes, in their order."""
        waves = in_waves((id_, *found) for id_, found in tables.items())
        return [statement for wave in waves for statement in self._small_wave(wave, careful)]

    def _small_wave(
        self, wave: Iterable[tuple[int, TableStatements, list[Change]]], careful: bool
    ) -> list[Part]:
        emptied: list[TableStatements] = []
        deletes: list[Part] = []
        updates: list[Part] = []
        inserts: list[Part] = []
        for id_, statements, changes in wave:
            last = max((n for n, c in enumerate(changes) if c.op == "T"), default=-1)
            if last >= 0:
                emptied.append(statements)
            nets = fold((c.op, c.key, c.row) for c in changes[last + 1 :])
            ways = ways_of(statements, careful)
            for calls, some in ((deletes, ways.deletes), (inserts, ways.inserts)):
                for how, kind in some:
                    chosen = [net for net in nets if net.kind == kind]
                    if chosen:
                        calls.append(self._execute(id_, statements, how, kind == "D", (), chosen))
            chosen = [net for net in nets if net.kind in ways.reinserts]
            if chosen:
                updates.append(self._execute(id_, statements, "reinsert", False, (), chosen))
            for kind in ways.updates:
                for columns, chosen in by_columns(nets, kind).items():
                    how = "reinsert" if statements.updates_identity(columns) else "update"
                    strict = kind == "U" and how == "update"
                    updates.append(self._execute(id_, statements, how, strict, columns, chosen))
        return [*emptying([s.table for s in emptied]), *deletes, *updates, *inserts]

    def _execute(
        self,
        id_: int,
        statements: TableStatements,
        how: str,
        strict: bool,
        columns: tuple[str, ...],
        nets: Sequence[Net],
    ) -> Part:
        """EXECUTE of the prepared statement of this shape, which is prepared at its first use."""
        shape = (id_, how + ("!" if strict else ""), columns)
        name = self._prepared.get(shape)
        if name is None:
            name = f"pyreplica_{len(self._prepared)}"
            source = sql.SQL("(SELECT * FROM unnest($1, $2) u(key, row))")
            statement = statement_for(statements, how, source, columns)
            if strict:
                statement = _expecting(
                    statement, sql.SQL("cardinality($1)"), how, str(statements.captured)
                )
            self._connection.execute(
                sql.SQL("PREPARE {} (jsonb[], jsonb[]) AS {}").format(
                    sql.Identifier(name), statement
                )
            )
            self._prepared[shape] = name
        return sql.SQL("EXECUTE {} ({}::jsonb[], {}::jsonb[])").format(
            sql.Identifier(name),
            sql.Literal([net.key for net in nets]),
            sql.Literal([net.row for net in nets]),
        )

    # Large batches

    def stage(self, source: Connection, changes: Part) -> int:
        """Stream changes from the master into the staging table; gives their number.

        Args:
            source: the master's session.
            changes: the COPY that reads the changes there.

        Raises:
            ApplyError: a change cannot be held by the slave, for instance in its encoding.
        """
        self._connection.execute(sql.SQL("TRUNCATE {stage}").format(**self._staging))
        copy_in = sql.SQL("COPY {stage} (id, tab, op, key, row) FROM STDIN")
        try:
            return pump(source, changes, self._connection, copy_in.format(**self._staging))
        except DatabaseError as error:
            if not _is_data_error(error):
                raise
            raise _unnamed(error) from error

    def apply_staged(self, cursor: Cursor, first: Sequence[Part] = ()) -> int:
        """Apply what was staged and prepare the transaction; gives the number of changes.

        Args:
            cursor: where the slave stands afterwards.
            first: statements that begin the transaction.

        Raises:
            ApplyError: a change cannot be applied; it is named.
        """
        barriers = self._staged_barriers()
        self._add_labels(barriers)
        try:
            applied = self._apply_stage(cursor, first, barriers, careful=False)
        except DatabaseError as error:
            self._take_back(barriers)
            if not _is_data_error(error):
                raise
            if not is_unique_violation(error):
                self._blame(self._staged_changes(), error)
            try:
                applied = self._apply_stage(cursor, first, barriers, careful=True)
            except DatabaseError as again:
                self._take_back(barriers)
                if not _is_data_error(again):
                    raise
                self._blame(self._staged_changes(), again)
        self._warn()
        return applied

    def _apply_stage(
        self, cursor: Cursor, first: Sequence[Part], barriers: Sequence[Change], careful: bool
    ) -> int:
        run = self._connection.execute
        run(sql.SQL("; ").join([sql.SQL("BEGIN"), *first]))
        applied = after = 0
        altered = False
        for change in barriers:
            applied += self._apply_range(after, change.id, careful)
            after = change.id
            barrier = self._barrier(change)
            if barrier is not None:
                run(barrier)
                applied += 1
                if change.op == "S":
                    self._forget_tables()
                    altered = True
        applied += self._apply_range(after, LAST_ID, careful)
        run(
            sql.SQL("; ").join(
                [
                    *(self._catalog.last() if altered else ()),
                    self._slave.move_cursor(cursor, applied),
                    self._slave.prepare_transaction(cursor.batch),
                ]
            )
        )
        return applied

    def _apply_range(self, after: int, before: int, careful: bool) -> int:
        """Apply what was staged with ids between two, and give the number of changes."""
        ids = {"after": after, "before": before}
        self._connection.execute(sql.SQL("TRUNCATE {net}").format(**self._staging))
        rows = self._connection.query(sql.SQL(_SQL["staged_tables"]).format(**self._staging), ids)
        wanted = [
            (found, row) for row in rows if (found := self._catalog.statements(row[0])) is not None
        ]
        for wave in in_waves((row[0], statements, row) for statements, row in wanted):
            self._apply_wave(wave, ids, careful)
        return sum(int(row[1]) + (row[2] > 0) for _, row in wanted)

    def _apply_wave(
        self,
        wave: Sequence[tuple[int, TableStatements, Row]],
        ids: Mapping[str, int],
        careful: bool,
    ) -> None:
        run = self._connection.execute
        for statement in emptying([statements.table for _, statements, row in wave if row[2]]):
            run(statement)
        sources: list[tuple[TableStatements, int, str]] = []
        for id_, statements, (_, count, truncated, inserts, deletes) in wave:
            if inserts or deletes:
                # every key occurs once: nothing to fold
                sources.append((statements, id_, "I" if inserts else "D"))
            elif count:
                values = {**ids, "tab": id_, "after": max(truncated, ids["after"])}
                run(sql.SQL(_SQL["fold"]).format(**self._staging), values)
                sources.append((statements, id_, ""))
        steps: tuple[list[_Step], ...] = ([], [], [])
        for statements, id_, all_kind in sources:
            identity = statements.updates_identity(statements.captured.columns)
            ways = ways_of(statements, careful, reinsert=identity)
            updates = [("reinsert", ways.reinserts), *(("update", kind) for kind in ways.updates)]
            for step, some in zip(steps, (ways.deletes, updates, ways.inserts), strict=True):
                step += [(statements, id_, how, kinds, all_kind) for how, kinds in some if kinds]
        for one in itertools.chain(*steps):
            self._apply_net(*one, ids)

    def _apply_net(
        self,
        statements: TableStatements,
        id_: int,
        how: str,
        kinds: str,
        all_kind: str,
        ids: Mapping[str, int],
    ) -> None:
        """Apply the net changes of these kinds in one statement."""
        if all_kind and all_kind not in kinds:
            return
        staged = "{stage} WHERE id > {after} AND id < {before} AND"
        rows = staged if all_kind else "{net} WHERE kind IN ({kinds}) AND"
        # || and OFFSET read a row out of TOAST once, and not for each of its columns: that takes as
        # many times its size in memory
        columns = "key::jsonb AS key, row || '{{}}' AS row"
        source = sql.SQL(f"(SELECT {columns} FROM {rows} tab = {{tab}} OFFSET 0)").format(
            **self._staging,
            tab=sql.Literal(id_),
            kinds=sql.SQL(", ").join(map(sql.Literal, kinds)),
            after=sql.Literal(ids["after"]),
            before=sql.Literal(ids["before"]),
        )
        if how == "update" and not self._columns_to_update(statements):
            return
        statement = statement_for(statements, how, source, None)
        if kinds in ("U", "D"):
            expected = sql.SQL("(SELECT count(*) FROM {} s)").format(source)
            statement = _expecting(statement, expected, how, str(statements.captured))
        self._connection.execute(statement)

    def _columns_to_update(self, statements: TableStatements) -> bool:
        return any(
            not c.generated and c.name in statements.captured.columns
            for c in statements.table.columns.values()
            if c.name not in statements.captured.key
        )

    def _staged_changes(self) -> Iterator[Change]:
        """What was staged, through a cursor: there may be too much for this process's memory."""
        query = sql.SQL(_SQL["staged_changes"]).format(**self._staging)
        return (Change(*row) for row in self._connection.stream(query, {"ops": None}))

    def _staged_barriers(self) -> list[Change]:
        query = sql.SQL(_SQL["staged_changes"]).format(**self._staging)
        return [Change(*row) for row in self._connection.query(query, {"ops": [*BARRIERS]})]

    # Barriers

    def _barrier(self, change: Change) -> Part | None:
        """The statement for a change that is not one of rows; None when it is left out."""
        assert change.row is not None
        if change.op == "S":
            script = Script.parse(change.row)
            if change.id in self._labels_added or not self._catalog.runs(script):
                return None
            return self._slave.run_ddl(script)
        statements = self._catalog.statements(change.table)
        if statements is None:
            return None
        if change.op == "F":
            return statements.fill(change.row)
        return statements.delete_where(json.loads(change.row)["where"])

    def _add_labels(self, changes: Iterable[Change]) -> None:
        """Add labels to enums ahead of the batch: it could not use those that it adds itself.

        That much sooner they are there than on the master, and nothing else can be told from it.
        """
        for change in changes:
            if change.op != "S" or change.id in self._labels_added:
                continue
            script = Script.parse(change.row or "")
            if script.tag in ("CREATE TYPE", "DROP TYPE"):
                return  # later labels may be of that type, and of its own batch's they can be used
            if not (script.adds_label and self._catalog.runs(script)):
                continue
            try:
                self._connection.execute(self._slave.run_ddl(script))
            except DatabaseError as error:
                self._connection.rollback()
                if error.sqlstate != errorcodes.DUPLICATE_OBJECT:  # by an earlier try
                    continue  # fails once more in its place, and is named there
            self._labels_added.add(change.id)

    def _take_back(self, changes: Iterable[Change]) -> None:
        """Roll the batch back. What was learned of tables that it had altered is wrong again."""
        self._connection.rollback()
        if any(change.op == "S" for change in changes):
            self._forget_tables()

    def _forget_tables(self) -> None:
        self._forget_prepared()
        self._catalog.forget()

    def _forget_prepared(self) -> None:
        self._connection.execute("DEALLOCATE ALL")
        self._prepared.clear()

    # Both

    def _redo(
        self,
        changes: Sequence[Change],
        cursor: Cursor,
        first: Sequence[Part],
        error: DatabaseError,
    ) -> int:
        """After a failure: once more with care about unique keys, or find the change to blame."""
        if is_unique_violation(error):
            try:
                return self._send(changes, cursor, first, careful=True)
            except DatabaseError as again:
                self._take_back(changes)
                if not _is_data_error(again):
                    raise
                error = again
        self._blame(changes, error)

    def _blame(self, changes: Iterable[Change], error: DatabaseError) -> NoReturn:
        """Raise the error that names the change at fault, if there is a single one."""
        self._connection.execute("BEGIN")
        try:
            found = find_culprit(
                self._connection, changes, self._catalog.statements, self._attempt, error.sqlstate
            )
        finally:
            self._connection.rollback()
            self._connection.notices()
            self._forget_tables()
        # when each change alone is fine, the batch as a whole is not
        raise found or _unnamed(error) from error

    def _attempt(self, changes: Sequence[Change]) -> None:
        """Apply some changes by themselves: rows, or one barrier."""
        if changes[0].op not in BARRIERS:
            statements = self._small(self._by_table(changes), careful=False)
        else:
            barrier = self._barrier(changes[0])
            statements = [] if barrier is None else [barrier]
        if statements:  # rows that came and went leave nothing to do
            self._connection.execute(sql.SQL("; ").join(statements))
        if changes[0].op == "S":
            self._forget_tables()

    def _warn(self) -> None:
        for notice in self._connection.notices():
            self._log.warning("%s", notice.removeprefix("WARNING:").strip())


def _expecting(statement: Part, expected: Part, how: str, table: str) -> Part:
    """The statement, with a warning when it meets another number of rows than it should."""
    conflict = "delete_missing" if how == "delete" else "update_missing"
    return sql.SQL(
        "WITH done AS ({} RETURNING 1) SELECT pyreplica.expect(count(*), {}, {}, {}) FROM done"
    ).format(statement, expected, sql.Literal(conflict), sql.Literal(table))


_Step = tuple[TableStatements, int, str, str, str]
"""What Applier._apply_net() is given."""


def _unnamed(error: DatabaseError) -> ApplyError:
    return ApplyError(
        error.what,
        where=error.where,
        hint=error.hint or "See the server's log for the statement.",
        details=error.details,
    )


def _is_data_error(error: DatabaseError) -> bool:
    """Whether the batch's contents are to blame rather than the state of the server."""
    return error.sqlstate[:2] in _DATA_ERRORS


_DATA_ERRORS = frozenset(
    {"0A", "21", "22", "23", "25", "2B", "2F", "3F", "42", "44", "54", "P0", "XX"}
)
