"""Applies a batch that has met something else on the slave than the master had.

All of it goes through the staging tables. Just before each step the conflicts among its changes are
found by a join, and settled by their policies; what fails even then is looked for row by row, in
savepoints. All that was found is written to ``replica_conflict`` in the batch's own transaction.

A change that cannot be applied stops the batch, or waits in ``replica_conflict`` (``on_error``).
While one waits every batch goes this way, because later changes of its row have to wait as well.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.config.policies import OnError, Policy
from pyreplica.database import Row, sql
from pyreplica.errors import ApplyError, DatabaseError
from pyreplica.model import Change
from pyreplica.slave import Slave, is_unique_violation
from pyreplica.slave.asking import APPLIED_AS, CONFLICTS_OF, LONGEST_VALUE, Asking
from pyreplica.slave.culprit import (
    NAMING_ERRORS,
    ROW_ERRORS,
    cannot,
    is_data_error,
    is_naming_error,
    is_row_error,
    verb,
)
from pyreplica.slave.order import statement_for, ways_of
from pyreplica.slave.own import emptying
from pyreplica.slave.stage import Found, Stage
from pyreplica.slave.statements import Part, TableStatements
from pyreplica.slave.verdict import MEANINGS, Met, is_warned_of, resolution, tell
from pyreplica.transform.module import Hooks

_SQL = sqlfiles.statements("conflicts.sql")

MOST_WAITING = 100_000
"""So many rows of one step may go into quarantine; with more the batch stops."""
MOST_UNSEEN = 1_000
"""With more changes than these the planner is to know of them, or it joins each with each."""

_GIVEN = sql.SQL("(SELECT * FROM unnest($1, $2, $3) u(key, row, old))")
"""How pyreplica.failing() gives rows to a statement."""


class _Refused(NamedTuple):
    """A row that the slave has refused; ``id`` is that of its change in the log."""

    key: str
    id: int
    error: DatabaseError


class Judge:
    """Judges the batches of one session.

    Args:
        slave: the session.
        stage: where the batch is.
        config: has the policies.
        hooks: the transform, if there is one.

    Attributes:
        waiting: whether any change of this replication waits.
        restating: whether there are rows that the master is to log again.
    """

    def __init__(
        self, slave: Slave, stage: Stage, config: ReplicationConfig, hooks: Hooks | None = None
    ) -> None:
        self._connection = slave.connection
        self._stage = stage
        self._policies = config.conflicts
        self._quarantines = config.on_error is OnError.QUARANTINE
        self._transforms = hooks is not None and hooks.change is not None
        self._asking: Asking | None = None
        if hooks is not None and config.conflicts.asked:
            waits = self._quarantines
            self._asking = Asking(slave.connection, stage, config, hooks, waits=waits)
        self._replication = config.name
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._batch = 0
        self._met: list[Met] = []
        self._present: dict[int, set[str]] = {}
        self._judged = False
        self.waiting = self.restating = False
        self.look()

    def look(self, keep: float | None = None) -> None:
        """Read whether anything waits.

        Args:
            keep: forget what was settled so many seconds ago, in the same round trip.
        """
        values = {"replication": self._replication, "keep": keep}
        statement = _SQL["open" if keep is None else "open_and_trim"]
        self.waiting, self.restating = self._connection.one(statement, values)

    def begin(self, batch: int) -> None:
        """A batch is to be judged, or to be judged again."""
        self._batch = batch
        self._met.clear()
        self._judged = True

    def taken_back(self) -> None:
        """The batch was rolled back, and with it what was written down."""
        self._met.clear()
        self._judged = False

    def committed(self) -> tuple[Met, ...]:
        """The batch is committed: tell what was met in it.

        Returns:
            Of that what somebody should look at.
        """
        if not self._judged:
            return ()
        self._judged = False
        for met in self._met:
            tell(self._log, self._replication, self._policies, met)
        found = tuple(met for met in self._met if is_warned_of(self._policies, met))
        self._met.clear()
        self.look()
        return found

    # A piece of a batch

    def apply(self, after: int, before: int) -> int:
        """Apply what was staged with ids between two, and give the number of changes.

        Raises:
            ApplyError: a change cannot be applied, and is not to wait.
        """
        ids = {"after": after, "before": before}
        if self._quarantines:
            # each statement is to fail by itself, and not the batch at its end
            self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        waves, count = self._stage.waves(ids)
        for wave in waves:
            self._wave(self._stage.merge(wave, ids, again=True), ids)
        return count

    def filled(self, statements: TableStatements, change: Change) -> None:
        """All rows of a table got values with a new column: rows that wait to be there, too."""
        values = {**self._of(change.table, statements), "row": change.row, "id": change.id}
        self._connection.execute(_SQL["filled"], values)

    def _wave(self, wave: Sequence[Found], ids: Mapping[str, int]) -> None:
        self._truncate([found for found in wave if found[2][2]])
        for id_, statements, (_, _, truncated, *_) in wave:
            self._stage.fold(id_, truncated, ids)
            if self.waiting:
                self._defer(id_, statements)
        if sum(count for _, _, (_, count, *_) in wave) > MOST_UNSEEN:
            self._connection.execute(sql.SQL("ANALYZE {net}").format(**self._stage.names))
        self._present = {id_: set() for id_, _, _ in wave}
        for id_, kinds in self._connection.query(
            sql.SQL(_SQL["kinds"]).format(**self._stage.names)
        ):
            if id_ in self._present:
                self._present[id_] = {*kinds}
        ways = {id_: ways_of(statements, careful=True) for id_, statements, _ in wave}
        for id_, statements, _ in wave:
            self._judge(id_, statements, "D")
            for how, kinds in ways[id_].deletes:
                self._step(id_, statements, how, kinds)
        for id_, statements, _ in wave:
            self._judge(id_, statements, "U")
            if ways[id_].reinserts:
                self._step(id_, statements, "reinsert", ways[id_].reinserts)
            for kinds in ways[id_].updates:
                how = "reinsert" if statements.sets_identity else "update"
                self._step(id_, statements, how, kinds)
        for id_, statements, _ in wave:
            self._judge(id_, statements, "I")
            self._step(id_, statements, "reinsert", "e")
            for how, kinds in ways[id_].inserts:
                self._step(id_, statements, how, kinds)

    def _truncate(self, tables: Sequence[Found]) -> None:
        for statement in emptying([statements.table for _, statements, _ in tables]):
            try:
                self._connection.execute(statement)
            except DatabaseError as error:
                if not is_data_error(error):
                    raise
                raise cannot("T", tables[0][1], "", error) from error
        if self.waiting:
            for id_, statements, (_, _, truncated, *_) in tables:
                values = {**self._of(id_, statements), "truncated": truncated}
                self._connection.execute(_SQL["truncated"], values)

    def _defer(self, id_: int, statements: TableStatements) -> None:
        """Have updates wait whose rows have earlier changes waiting."""
        defer = sql.SQL(_SQL["defer"]).format(**self._stage.names)
        values = {**self._of(id_, statements), "transforms": self._transforms}
        ((count, _, key),) = self._connection.query(defer, values)
        if count:
            why = "an earlier change of the row waits"
            self._met.append(Met(None, str(statements.captured), "waiting", count, key, why))

    # Conflicts

    def _judge(self, id_: int, statements: TableStatements, kind: str) -> None:
        """Find the conflicts of a step, and settle them by their policies."""
        if kind not in self._present[id_]:
            return

        def find(query: Part) -> list[Row]:
            while True:
                rows, error = self._tried(statements, kind, query)
                if error is None:
                    return rows
                # a value that cannot even be read
                self._set_aside(id_, statements, kind, "read", error)

        if self._asking is not None:
            met, kinds = self._asking.settle(self._batch, id_, statements, kind, find)
            self._met += met
            self._present[id_] |= kinds
        rows = find(self._judging(id_, statements, kind))
        for conflict, settled, count, change_id, key in rows:
            why = MEANINGS[conflict]
            if settled == "refused":
                raise ApplyError(
                    f"conflict {conflict}: cannot {verb(kind)} {statements.captured} {key}: {why}",
                    table=str(statements.captured),
                    key=key,
                    change_id=change_id,
                    where=self._connection.where,
                    hint="Repair the row on the slave, or choose another policy in `conflicts:`; "
                    "replication goes on by itself.",
                )
            self._met.append(Met(conflict, str(statements.captured), settled, count, key, why))
            self._present[id_].add(APPLIED_AS[kind])

    def _judging(self, id_: int, statements: TableStatements, kind: str) -> Part:
        conflicts = {
            "I": "CASE WHEN t.tableoid IS NOT NULL THEN 'insert_exists' END",
            "D": "CASE WHEN t.tableoid IS NULL THEN 'delete_missing' END",
            "U": "CASE WHEN t.tableoid IS NULL THEN 'update_missing' "
            "WHEN NOT ({}) THEN 'update_differs' END",
        }
        compares = self._policies.update_differs is not Policy.APPLY
        differs = statements.as_it_was(None) if compares else sql.SQL("true")
        when = sql.SQL("WHEN {} THEN {}")
        captured = statements.captured
        resolutions = {name: self._resolution(name, statements) for name in CONFLICTS_OF[kind]}
        return sql.SQL(_SQL["judge"]).format(
            **self._stage.names,
            source=self._stage.net_rows(id_, kind),
            table=statements.rows,
            same_key=statements.same_key(),
            conflict=sql.SQL(conflicts[kind]).format(differs),
            slave_row=statements.slave_row(LONGEST_VALUE),
            resolutions=sql.SQL(" ").join(
                when.format(sql.Literal(name), sql.Literal(settled))
                for name, settled in resolutions.items()
            ),
            errors=sql.SQL(" ").join(
                when.format(
                    sql.Literal(name),
                    sql.Literal(MEANINGS[name]) if settled == "waiting" else sql.SQL("NULL"),
                )
                for name, settled in resolutions.items()
            ),
            applied=sql.Literal(APPLIED_AS[kind]),
            replication=sql.Literal(self._replication),
            batch=sql.Literal(self._batch),
            relid=sql.Literal(captured.relid),
            schema=sql.Literal(captured.schema),
            name=sql.Literal(captured.name),
            tab=sql.Literal(id_),
        )

    def _resolution(self, conflict: str, statements: TableStatements) -> str:
        if self._policies.of(conflict) is Policy.TRANSFORM:
            return "refused"  # somebody has made it since the transform was asked
        settled = resolution(self._policies, conflict)
        if settled == "restating" and statements.key_masked:
            settled = None  # the master could not tell which row that is
        return settled or ("waiting" if self._quarantines else "refused")

    # Changes that the slave refuses

    def _step(self, id_: int, statements: TableStatements, how: str, kinds: str) -> None:
        """Apply the net changes of these kinds, but for those that the slave refuses."""
        if not self._present[id_] & {*kinds} or (how == "update" and not statements.updates):
            return
        statement = self._stage.statement(statements, how, kinds, self._stage.net(id_, kinds))
        while True:
            _, error = self._tried(statements, kinds, statement)
            if error is None:
                return
            self._set_aside(id_, statements, kinds, how, error)

    def _tried(
        self, statements: TableStatements, kinds: str, statement: Part
    ) -> tuple[list[Row], DatabaseError | None]:
        """Execute a statement; an error that is about a row leaves nothing of it."""
        try:
            rows = self._connection.query(sql.SQL("SAVEPOINT pyreplica_step; {}").format(statement))
        except DatabaseError as error:
            if is_row_error(error) or is_naming_error(error):
                self._connection.execute("ROLLBACK TO SAVEPOINT pyreplica_step")
                return [], error
            if is_data_error(error):
                raise cannot(kinds[0], statements, "", error) from error
            raise
        self._connection.execute("RELEASE SAVEPOINT pyreplica_step")
        return rows, None

    def _set_aside(
        self, id_: int, statements: TableStatements, kinds: str, how: str, error: DatabaseError
    ) -> None:
        """Find the rows that a step fails on, and have them wait.

        Raises:
            ApplyError: they are not to wait, or there are too many.
        """
        most = MOST_WAITING + 1 if self._quarantines else 1
        if is_naming_error(error):
            how = "read"  # else it is no row's: the table lacks something, or we a right
        self._connection.execute("SAVEPOINT pyreplica_trial")
        refused = self._refused(id_, statements, kinds, how, most)
        self._connection.execute("ROLLBACK TO SAVEPOINT pyreplica_trial")
        if not refused or len(refused) > MOST_WAITING:
            # when each row alone is fine, the step as a whole is not
            raise cannot(kinds[0], statements, "", error) from error
        first = refused[0]
        if not self._quarantines:
            raise cannot(kinds[0], statements, first.key, first.error, first.id) from error
        self._connection.execute(
            sql.SQL(_SQL["quarantine"]).format(**self._stage.names),
            {
                **self._of(id_, statements),
                "kinds": [*kinds],
                "refused": [row.key for row in refused],
                "errors": [row.error.what for row in refused],
                "conflicts": [
                    "insert_exists"
                    if kinds[0] in "Ier" and is_unique_violation(row.error)
                    else None
                    for row in refused
                ],
            },
        )
        table, why = str(statements.captured), first.error.what
        self._met.append(Met(None, table, "waiting", len(refused), first.key, why))

    def _refused(
        self, id_: int, statements: TableStatements, kinds: str, how: str, most: int
    ) -> list[_Refused]:
        """Try the rows of a step by themselves; what succeeds is done afterwards."""
        if how == "read":
            statement = statements.reading(_GIVEN)
        elif how == "reinsert":
            # all have to be taken out before the first is put back
            self._connection.execute(self._merging(id_, statements, kinds))
            taking = statements.delete(self._stage.net(id_, "+"))
            _, error = self._tried(statements, kinds, taking)
            kinds = "+"
            if error is None:
                statement = statements.insert_whole(_GIVEN)
            else:
                statement = statements.delete(_GIVEN)
        else:
            statement = statement_for(statements, how, _GIVEN, None)
        given = self._stage.net_rows(id_, kinds)
        rows = self._connection.query(
            sql.SQL(_SQL["failing"]).format(
                statement=sql.Literal(self._connection.text(statement)),
                given=sql.Literal(self._connection.text(given)),
                rows=given,
                classes=sql.Literal(
                    sorted(ROW_ERRORS | NAMING_ERRORS if how == "read" else ROW_ERRORS)
                ),
                most=sql.Literal(most),
            )
        )
        where = self._connection.where
        return [
            _Refused(key, number, DatabaseError(what, where=where, details=detail, sqlstate=state))
            for key, number, state, what, detail in rows
        ]

    def _merging(self, id_: int, statements: TableStatements, kinds: str) -> Part:
        """Has updates of the net changes hold the whole rows as they will be, as the kind +."""
        return sql.SQL(_SQL["merge"]).format(
            **self._stage.names,
            tab=sql.Literal(id_),
            kinds=sql.SQL(", ").join(map(sql.Literal, kinds)),
            source=self._stage.net_rows(id_, kinds),
            slave_row=statements.slave_row(),
            table=statements.rows,
            same_key=statements.same_key(),
        )

    def _of(self, id_: int, statements: TableStatements) -> dict[str, object]:
        captured = statements.captured
        return {
            "replication": self._replication,
            "batch": self._batch,
            "relid": captured.relid,
            "schema": captured.schema,
            "name": captured.name,
            "tab": id_,
        }
