"""Applies one batch on the slave, up to and including PREPARE TRANSACTION.

A small batch is folded in Python and goes over in one message. A large one is streamed into an
unlogged staging table, folded there, and applied with a few statements for each table; but tables
with changes of one kind alone come over in shorter ways (see unstaged.py). Both find
the tables' statements in the same place, and both first empty what was truncated, then delete,
update and insert: the order in which values of unique keys become free before they are taken.

Either way takes it for granted that the slave's rows are what the master had. A statement that
meets something else fails, and the batch is rolled back and judged: see judge.py.

DDL, and what concerns all rows of a table, is a barrier: it cuts a batch into pieces that are
applied one after the other, in the batch's one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from pyreplica.config import ReplicationConfig
from pyreplica.config.policies import Policy
from pyreplica.database import sql
from pyreplica.errors import ApplyError, DatabaseError, PyReplicaError
from pyreplica.model import BARRIERS, Change, Cursor, Script
from pyreplica.slave import Slave, is_unique_violation
from pyreplica.slave.barriers import Barriers
from pyreplica.slave.catalog import Catalog
from pyreplica.slave.culprit import CONFLICT, cannot, cannot_run, is_data_error, unnamed
from pyreplica.slave.fold import Net, fold
from pyreplica.slave.judge import Judge
from pyreplica.slave.order import (
    by_columns,
    expecting,
    in_pieces,
    in_waves,
    statement_for,
    ways_of,
)
from pyreplica.slave.own import emptying
from pyreplica.slave.stage import LAST_ID, Stage
from pyreplica.slave.statements import Part, TableStatements
from pyreplica.slave.unstaged import Unstaged
from pyreplica.slave.verdict import Met
from pyreplica.slave.versions import Versions
from pyreplica.transform.module import Hooks

MOST_PREPARED = 500
"""The server's memory is given back after so many prepared statements; each set of columns that an
UPDATE changes has its own."""

_Shape = tuple[int, str, tuple[str, ...], tuple[str, ...]]
"""Of a prepared statement: generation, way, columns that are set, columns that are compared."""


class Applier:
    """Applies batches for one session.

    Args:
        slave: the session.
        staging_id: the cursor's id, which names the staging tables.
        catalog: finds a table's statements by the generation in the log.
        config: has the policies.
        hooks: the transform, if there is one, which may settle conflicts.

    Attributes:
        stage: where the changes of a large batch are put before it is applied.
        judge: knows of the conflicts, and what waits.
    """

    def __init__(
        self,
        slave: Slave,
        staging_id: int,
        catalog: Catalog,
        config: ReplicationConfig,
        hooks: Hooks | None = None,
    ) -> None:
        self._compares = config.conflicts.update_differs is not Policy.APPLY
        self.stage = Stage(
            slave.connection, staging_id, catalog.statements, compares=self._compares
        )
        self.judge = Judge(slave, self.stage, config, hooks)
        self._versions = Versions(slave, self.stage, config, catalog.merging)
        self.stage.merge = self._versions.apply
        self._slave = slave
        self._connection = slave.connection
        self._catalog = catalog
        self._barriers = Barriers(slave, catalog)
        self._prepared: dict[_Shape, str] = {}

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
        self._barriers.add_labels(changes)
        barriers = [c for c in changes if c.op in BARRIERS]
        if any(c.op == "v" for c in changes):
            self.stage.put(changes)
            return self._apply_staged(cursor, first, barriers, self.stage.apply)
        if not (changes and self.judge.waiting):
            try:
                return self._send(changes, cursor, first)
            except DatabaseError as error:
                self._take_back(changes, error)
        self.stage.put(changes)
        return self._judge(cursor, first, barriers)

    def _send(self, changes: Sequence[Change], cursor: Cursor, first: Sequence[Part]) -> int:
        """The whole transaction in one message, and so in one round trip, unless there is DDL.

        Returns:
            The number of changes applied.
        """
        forwarding = self._slave.forwarding
        message: list[Part] = [*forwarding.begin(), *first]
        applied = 0
        altered = False
        for piece in in_pieces(changes):
            if piece[0].op not in BARRIERS:
                tables = self._by_table(piece)
                message += self._small(tables)
                applied += sum(len(rows) for _, rows in tables.values())
            elif (barrier := self._barriers.statement(piece[0])) is not None:
                message.append(barrier)
                applied += 1
                if piece[0].op == "S":
                    self._connection.execute(forwarding.message(message))
                    message = []
                    self._forget_tables()
                    altered = True
        message += self._last(cursor, applied, altered)
        self._connection.execute(forwarding.message(message))
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

    def _small(self, tables: Mapping[int, tuple[TableStatements, list[Change]]]) -> list[Part]:
        """All statements for these changes, in their order."""
        waves = in_waves((id_, *found) for id_, found in tables.items())
        return [statement for wave in waves for statement in self._small_wave(wave)]

    def _small_wave(self, wave: Iterable[tuple[int, TableStatements, list[Change]]]) -> list[Part]:
        emptied: list[TableStatements] = []
        deletes: list[Part] = []
        updates: list[Part] = []
        inserts: list[Part] = []
        for id_, statements, changes in wave:
            last = max((n for n, c in enumerate(changes) if c.op == "T"), default=-1)
            if last >= 0:
                emptied.append(statements)
            nets = fold((c.op, c.key, c.row, c.old) for c in changes[last + 1 :])
            ways = ways_of(statements, careful=False)
            for calls, some in ((deletes, ways.deletes), (inserts, ways.inserts)):
                for how, kind in some:
                    chosen = [net for net in nets if net.kind == kind]
                    if chosen:
                        calls.append(self._execute(id_, statements, how, kind == "D", (), chosen))
            chosen = [net for net in nets if net.kind in ways.reinserts]
            if chosen:
                updates.append(self._execute(id_, statements, "reinsert", False, (), chosen))
            for kind in ways.updates:
                for (columns, known), chosen in by_columns(nets, kind).items():
                    how = "reinsert" if statements.updates_identity(columns) else "update"
                    compared = known if self._compares else ()
                    updates.append(
                        self._execute(id_, statements, how, kind == "U", columns, chosen, compared)
                    )
        return [*emptying([s.table for s in emptied]), *deletes, *updates, *inserts]

    def _execute(
        self,
        id_: int,
        statements: TableStatements,
        how: str,
        strict: bool,
        columns: tuple[str, ...],
        nets: Sequence[Net],
        compared: tuple[str, ...] = (),
    ) -> Part:
        """EXECUTE of the prepared statement of this shape, which is prepared at its first use."""
        shape = (id_, how + ("!" if strict else ""), columns, compared)
        name = self._prepared.get(shape)
        if name is None:
            name = f"pyreplica_{len(self._prepared)}"
            source = sql.SQL("(SELECT * FROM unnest($1, $2, $3) u(key, row, old))")
            was = statements.as_it_was(compared) if compared else None
            if strict:
                expected = sql.SQL("cardinality($1)")
                statement = expecting(statements, how, source, columns, was, expected)
            else:
                statement = statement_for(statements, how, source, columns)
            self._connection.execute(
                sql.SQL("PREPARE {} (jsonb[], jsonb[], jsonb[]) AS {}").format(
                    sql.Identifier(name), statement
                )
            )
            self._prepared[shape] = name
        return sql.SQL("EXECUTE {} ({}::jsonb[], {}::jsonb[], {}::jsonb[])").format(
            sql.Identifier(name),
            sql.Literal([net.key for net in nets]),
            sql.Literal([net.row for net in nets]),
            sql.Literal([net.old for net in nets] if compared else []),
        )

    # Large batches

    def apply_staged(
        self, cursor: Cursor, first: Sequence[Part] = (), unstaged: Unstaged | None = None
    ) -> int:
        """Apply what was staged and prepare the transaction; gives the number of changes.

        Args:
            cursor: where the slave stands afterwards.
            first: statements that begin the transaction.
            unstaged: tables of the batch that were not staged; None when all were.

        Raises:
            ApplyError: a change cannot be applied; it is named.
        """
        barriers: list[Change] = []
        if unstaged is None:
            apply, barriers = self.stage.apply, self.stage.barriers()
        else:
            apply = partial(self.stage.apply, contents=unstaged.staged)
        self._barriers.add_labels(barriers)
        return self._apply_staged(cursor, first, barriers, apply, unstaged)

    def _apply_staged(
        self,
        cursor: Cursor,
        first: Sequence[Part],
        barriers: Sequence[Change],
        apply: Callable[[int, int], int],
        unstaged: Unstaged | None = None,
    ) -> int:
        if not self.judge.waiting:
            try:
                return self._apply_stage(cursor, first, barriers, apply, unstaged)
            except ApplyError:
                self._give_up()
                raise
            except DatabaseError as error:
                self._take_back(barriers, error)
                if unstaged:
                    unstaged.stage()
        return self._judge(cursor, first, barriers)

    def _judge(self, cursor: Cursor, first: Sequence[Part], barriers: Sequence[Change]) -> int:
        """Apply what is staged once more, and look at each change that fails or may fail."""
        self.judge.begin(cursor.batch)
        try:
            return self._apply_stage(cursor, first, barriers, self.judge.apply)
        except PyReplicaError as error:
            self._give_up()
            if not isinstance(error, DatabaseError):
                raise
            if error.sqlstate == CONFLICT or is_data_error(error):
                raise unnamed(error) from error
            raise

    def _apply_stage(
        self,
        cursor: Cursor,
        first: Sequence[Part],
        barriers: Sequence[Change],
        apply: Callable[[int, int], int],
        unstaged: Unstaged | None = None,
    ) -> int:
        run = self._connection.execute
        forwarding = self._slave.forwarding
        self._versions.begin(cursor.batch)
        run(forwarding.message([*forwarding.begin(), *first]))
        applied = 0
        if unstaged is not None:
            if unstaged.inserts is not None:
                applied += unstaged.inserts.copy(self._connection)
            applied += self.stage.apply_nets(unstaged.nets)
        after = 0
        altered = False
        for change in barriers:
            applied += apply(after, change.id)
            after = change.id
            barrier = self._barriers.statement(change)
            if barrier is not None:
                self._run_barrier(change, barrier)
                applied += 1
                if change.op == "S":
                    self._forget_tables()
                    altered = True
        applied += apply(after, LAST_ID)
        run(sql.SQL("; ").join(self._last(cursor, applied, altered)))
        return applied

    def _run_barrier(self, change: Change, barrier: Part) -> None:
        try:
            self._connection.execute(barrier)
        except DatabaseError as error:
            if not is_data_error(error):
                raise
            if change.op == "S":
                raise cannot_run(Script.parse(change.row or ""), change.id, error) from error
            statements = self._catalog.statements(change.table)
            raise cannot(change.op, statements, "", error, change.id) from error
        if change.op == "F" and self.judge.waiting:
            statements = self._catalog.statements(change.table)
            if statements is not None:
                self.judge.filled(statements, change)

    # Both

    def committed(self) -> tuple[Met, ...]:
        """The batch is committed; gives the conflicts in it that somebody should look at."""
        return (*self.judge.committed(), *self._versions.committed())

    def _last(self, cursor: Cursor, applied: int, altered: bool) -> list[Part]:
        """The statements that end the transaction."""
        return [
            *(self._catalog.last() if altered else ()),
            self._slave.move_cursor(cursor, applied),
            self._slave.prepare_transaction(cursor.batch),
        ]

    def _take_back(self, changes: Iterable[Change], error: DatabaseError) -> None:
        """Roll the batch back, to be judged; another error is raised again.

        What was learned of tables that the batch had altered is wrong again; and perhaps somebody
        else has altered one.
        """
        self._connection.rollback()
        usual = error.sqlstate == CONFLICT or is_unique_violation(error)
        if not usual or any(change.op == "S" for change in changes):
            self._forget_tables()
        if error.sqlstate != CONFLICT and not is_data_error(error):
            raise error

    def _give_up(self) -> None:
        self._connection.rollback()
        self.judge.taken_back()
        self._forget_tables()

    def _forget_tables(self) -> None:
        self._forget_prepared()
        self._catalog.forget()

    def _forget_prepared(self) -> None:
        self._connection.execute("DEALLOCATE ALL")
        self._prepared.clear()
