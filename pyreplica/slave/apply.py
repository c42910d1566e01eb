"""Applies one batch on the slave, up to and including PREPARE TRANSACTION.

A small batch is folded in Python and goes over in one message. A large one is streamed into an
unlogged staging table, folded there, and applied with a few statements for each table. Both find
the tables' statements in the same place, and both first empty what was truncated, then delete,
update and insert: the order in which values of unique keys become free before they are taken.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NoReturn, TypeVar

from pyreplica import sqlfiles
from pyreplica.database import Connection, Row, pump, sql
from pyreplica.errors import ApplyError, DatabaseError
from pyreplica.model import Change, Cursor
from pyreplica.slave import Slave, emptying, is_unique_violation, staging
from pyreplica.slave.culprit import find_culprit
from pyreplica.slave.fold import Net, fold
from pyreplica.slave.statements import Part, TableStatements

_SQL = sqlfiles.statements("slave.sql")

_T = TypeVar("_T")

MOST_PREPARED = 500
"""The server's memory is given back after so many prepared statements; each set of columns that an
UPDATE changes has its own."""

Lookup = Callable[[int], TableStatements | None]
"""Gives the statements of a log row's table; None for one this replication leaves out."""


class Applier:
    """Applies batches for one session.

    Args:
        slave: the session.
        staging_id: the cursor's id, which names the staging tables.
        lookup: finds a table's statements by the generation in the log.
    """

    def __init__(self, slave: Slave, staging_id: int, lookup: Lookup) -> None:
        self._slave = slave
        self._connection = slave.connection
        self._staging = staging(staging_id)
        self._lookup = lookup
        self._prepared: dict[tuple[int, str, tuple[str, ...]], str] = {}
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
            self._connection.execute("DEALLOCATE ALL")
            self._prepared.clear()
        tables = self._by_table(changes)
        applied = sum(len(rows) for _, rows in tables.values())
        try:
            self._send([*first, *self._small(tables, careful=False)], cursor, applied)
        except DatabaseError as error:
            self._connection.rollback()
            if not _is_data_error(error):
                raise
            self._redo(tables, cursor, applied, first, error)
        self._warn()
        return int(applied)

    def _by_table(
        self, changes: Sequence[Change]
    ) -> dict[int, tuple[TableStatements, list[Change]]]:
        tables: dict[int, tuple[TableStatements, list[Change]]] = {}
        for change in changes:
            found = tables.get(change.table)
            if found is None:
                statements = self._lookup(change.table)
                if statements is None:
                    continue
                found = tables[change.table] = (statements, [])
            found[1].append(change)
        return tables

    def _small(
        self, tables: Mapping[int, tuple[TableStatements, list[Change]]], careful: bool
    ) -> list[Part]:
        """All statements of the batch, in their order."""
        waves = _waves((id_, *found) for id_, found in tables.items())
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
            for op, expected, kinds in (("delete", "D", "Ddr"), ("insert", "", "Ir")):
                for kind in kinds:
                    chosen = [net for net in nets if net.kind == kind]
                    if chosen:
                        call = self._execute(id_, statements, op, kind == expected, (), chosen)
                        (deletes if op == "delete" else inserts).append(call)
            if careful and statements.table.other_unique:
                # all in one statement: whatever column changes with it, a value may change hands
                chosen = [net for net in nets if net.kind in "Uu"]
                if chosen:
                    updates.append(self._execute(id_, statements, "reinsert", False, (), chosen))
                continue
            for kind in "Uu":
                for columns, chosen in _by_columns(nets, kind).items():
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
            statement = _statement(statements, how, source, columns)
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

    def _send(self, statements: Sequence[Part], cursor: Cursor, applied: int) -> None:
        """The whole transaction in one message, and so in one round trip."""
        self._connection.execute(
            sql.SQL("; ").join(
                [
                    sql.SQL("BEGIN"),
                    *statements,
                    self._slave.move_cursor(cursor, applied),
                    self._slave.prepare_transaction(cursor.batch),
                ]
            )
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
        try:
            applied = self._apply_stage(cursor, first, careful=False)
        except DatabaseError as error:
            self._connection.rollback()
            if not _is_data_error(error):
                raise
            if not is_unique_violation(error):
                self._blame(self._staged_changes(), error)
            try:
                applied = self._apply_stage(cursor, first, careful=True)
            except DatabaseError as again:
                self._connection.rollback()
                if not _is_data_error(again):
                    raise
                self._blame(self._staged_changes(), again)
        self._warn()
        return int(applied)

    def _apply_stage(self, cursor: Cursor, first: Sequence[Part], careful: bool) -> int:
        run = self._connection.execute
        begin = sql.SQL("BEGIN; TRUNCATE {net}").format(**self._staging)
        run(sql.SQL("; ").join([begin, *first]))
        rows = self._connection.query(sql.SQL(_SQL["staged_tables"]).format(**self._staging))
        wanted = [(found, row) for row in rows if (found := self._lookup(row[0])) is not None]
        for wave in _waves((row[0], statements, row) for statements, row in wanted):
            self._apply_wave(wave, careful)
        applied = sum(row[1] + (row[2] > 0) for _, row in wanted)
        run(
            sql.SQL("{}; {}").format(
                self._slave.move_cursor(cursor, applied),
                self._slave.prepare_transaction(cursor.batch),
            )
        )
        return int(applied)

    def _apply_wave(self, wave: Sequence[tuple[int, TableStatements, Row]], careful: bool) -> None:
        run = self._connection.execute
        for statement in emptying([statements.table for _, statements, row in wave if row[2]]):
            run(statement)
        sources: list[tuple[TableStatements, int, str]] = []
        for id_, statements, (_, count, truncated, inserts, deletes) in wave:
            if inserts or deletes:
                # every key occurs once: nothing to fold
                sources.append((statements, id_, "I" if inserts else "D"))
            elif count:
                run(sql.SQL(_SQL["fold"]).format(**self._staging), {"tab": id_, "after": truncated})
                sources.append((statements, id_, ""))
        for how, kinds in (("delete", "Ddr"), ("update", "Uu"), ("insert", "Ir")):
            for statements, id_, all_kind in sources:
                reinsert = how == "update" and (
                    (careful and statements.table.other_unique)
                    or statements.updates_identity(statements.captured.columns)
                )
                if reinsert:
                    self._apply_net(statements, id_, "reinsert", kinds, all_kind)
                    continue
                for kind in kinds:
                    self._apply_net(statements, id_, how, kind, all_kind)

    def _apply_net(
        self, statements: TableStatements, id_: int, how: str, kinds: str, all_kind: str
    ) -> None:
        """Apply the net changes of these kinds in one statement."""
        if all_kind and all_kind not in kinds:
            return
        rows = "{stage} WHERE" if all_kind else "{net} WHERE kind IN ({kinds}) AND"
        source = sql.SQL(f"(SELECT key::jsonb AS key, row FROM {rows} tab = {{tab}})").format(
            **self._staging,
            tab=sql.Literal(id_),
            kinds=sql.SQL(", ").join(map(sql.Literal, kinds)),
        )
        if how == "update" and not self._columns_to_update(statements):
            return
        statement = _statement(statements, how, source, None)
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
        rows = self._connection.stream(
            sql.SQL("SELECT id, tab, op::text, key, row::text FROM {stage} ORDER BY id").format(
                **self._staging
            )
        )
        return (Change(*row) for row in rows)

    # Both

    def _redo(
        self,
        tables: Mapping[int, tuple[TableStatements, list[Change]]],
        cursor: Cursor,
        applied: int,
        first: Sequence[Part],
        error: DatabaseError,
    ) -> None:
        """After a failure: once more with care about unique keys, or find the change to blame."""
        if is_unique_violation(error):
            try:
                self._send([*first, *self._small(tables, careful=True)], cursor, applied)
                return
            except DatabaseError as again:
                self._connection.rollback()
                if not _is_data_error(again):
                    raise
                error = again
        self._blame(sorted(c for _, changes in tables.values() for c in changes), error)

    def _blame(self, changes: Iterable[Change], error: DatabaseError) -> NoReturn:
        """Raise the error that names the change at fault, if there is a single one."""
        self._connection.execute("BEGIN")
        try:
            found = find_culprit(
                self._connection, changes, self._lookup, self._statements_for, error.sqlstate
            )
        finally:
            self._connection.rollback()
            self._connection.notices()
        # when each change alone is fine, the batch as a whole is not
        raise found or _unnamed(error) from error

    def _statements_for(self, changes: Sequence[Change]) -> list[Part]:
        return self._small(self._by_table(changes), careful=False)

    def _warn(self) -> None:
        for notice in self._connection.notices():
            self._log.warning("%s", notice.removeprefix("WARNING:").strip())


def _waves(
    generations: Iterable[tuple[int, TableStatements, _T]],
) -> Iterator[list[tuple[int, TableStatements, _T]]]:
    """The generations of a batch's tables, by their first changes, in groups to be applied in turn.

    DDL begins a new generation of a table. Its changes belong after all those of the one before it,
    also where they are of the same rows; the tables among themselves have no such order.
    """
    wave: dict[str, tuple[int, TableStatements, _T]] = {}
    for one in generations:
        table = str(one[1].table)
        if table in wave:
            yield list(wave.values())
            wave = {}
        wave[table] = one
    yield list(wave.values())


def _statement(
    statements: TableStatements, how: str, source: Part, columns: Sequence[str] | None
) -> Part:
    if how == "delete":
        return statements.delete(source)
    if how == "insert":
        return statements.insert(source)
    if how == "reinsert":
        return statements.reinsert(source)
    return statements.update(source, columns)


def _expecting(statement: Part, expected: Part, how: str, table: str) -> Part:
    """The statement, with a warning when it meets another number of rows than it should."""
    conflict = "delete_missing" if how == "delete" else "update_missing"
    return sql.SQL(
        "WITH done AS ({} RETURNING 1) SELECT pyreplica.expect(count(*), {}, {}, {}) FROM done"
    ).format(statement, expected, sql.Literal(conflict), sql.Literal(table))


def _by_columns(nets: Sequence[Net], kind: str) -> dict[tuple[str, ...], list[Net]]:
    """Updates by the columns they change; the object's keys are all that is looked at."""
    grouped: dict[tuple[str, ...], list[Net]] = {}
    for net in nets:
        if net.kind == kind:
            columns = tuple(json.loads(net.row or "{}"))
            if columns:
                grouped.setdefault(columns, []).append(net)
    return grouped


def _unnamed(error: DatabaseError) -> ApplyError:
    return ApplyError(
        error.what,
        where=error.where,
        hint=error.hint or "See the server's log for the statement.",
        details=error.details,
    )


def _is_data_error(error: DatabaseError) -> bool:
    """Whether the batch's contents are to blame rather than the state of the server."""
    return error.sqlstate[:2] in ("21", "22", "23", "2F", "42", "44", "P0", "XX", "0A", "54")
