"""Applies the changes of merged tables: versions of rows, which meet versions of our own.

What comes of two versions is decided on the slave, by ``pyreplica.merge_versions()``, in the same
way on all nodes (see sql/master/versions.sql). Here is in which order that is done beside writers.
The rows are locked first, as a writer does it. Then it is decided, and the rows are written. A row
that is not there cannot be locked: somebody may insert it meanwhile, and then either the row or its
version is there already. The batch fails by that, and is done once more.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.database import sql
from pyreplica.errors import ApplyError, DatabaseError
from pyreplica.slave import Slave, is_unique_violation
from pyreplica.slave.catalog import Merging
from pyreplica.slave.culprit import CONFLICT, ROW_ERRORS, cannot, is_row_error
from pyreplica.slave.order import statement_for
from pyreplica.slave.stage import Found, Stage
from pyreplica.slave.statements import Part, TableStatements
from pyreplica.slave.undecided import Undecided
from pyreplica.slave.verdict import Met, line_of

_SQL = sqlfiles.statements("versions.sql")
_FAILING = sqlfiles.statements("conflicts.sql")["failing"]

LONGEST_VALUE = 10_000
"""Characters of a value of the slave's row that are kept with a conflict."""
MOST_UNSEEN = 1_000
"""With more rows than these the planner is to know of them, or it joins each with each."""
OTHERWISE = "PY005"
"""The SQLSTATE of a table that is merged in another way on the other node."""
_KEEP = ("first_update_wins", "priority", "function")
"""The ways by which all rows of a conflict are kept until it is over: keeps_siblings()."""
_GIVEN = sql.SQL("(SELECT * FROM unnest($1, $2, $3) u(key, row, old))")
_VERBS = {"i": "I", "u": "U", "d": "D"}
"""The kinds of net changes that are written to the table, and what they are in messages."""


class _Here(NamedTuple):
    """How a table is merged on the slave: see pyreplica.config.merging; ``node`` is its name."""

    way: str
    counters: list[str]
    priority: list[str]
    node: str


class Versions:
    """Applies the merged tables of one session's batches.

    Args:
        slave: the session.
        stage: where the batch is.
        config: the replication.
        merging: has the user's functions, and asks the master.
    """

    def __init__(
        self, slave: Slave, stage: Stage, config: ReplicationConfig, merging: Merging
    ) -> None:
        self._slave = slave
        self._connection = slave.connection
        self._stage = stage
        self._replication = config.name
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._undecided = Undecided(slave.connection, merging)
        self._is_node = False
        self._met: list[Met] = []
        self._batch = 0

    def begin(self, batch: int) -> None:
        """A batch is to be applied, or to be applied once more."""
        self._batch = batch
        self._met.clear()

    def committed(self) -> tuple[Met, ...]:
        """The batch is committed: tell of the conflicts in it, and give them."""
        found = tuple(self._met)
        self._met.clear()
        for met in found:
            self._log.warning("%s", line_of(met))
        return found

    def apply(self, wave: Sequence[Found], ids: Mapping[str, int], *, again: bool) -> list[Found]:
        """Apply what was staged of the merged tables of a wave.

        Args:
            ids: "after" and "before", between which the changes are.
            again: it was tried before; now the row at fault is to be named.

        Returns:
            The other tables.

        Raises:
            ApplyError: a change cannot be applied, or the table is not merged here.
            DatabaseError: among others, somebody was faster; the batch is to be done once more.
        """
        # in an order that is the same for all daemons at work here: no two wait for each other
        for id_, statements, _ in sorted(wave, key=lambda found: str(found[1].table)):
            if statements.captured.merged:
                self._table(id_, statements, ids, again)
        return [found for found in wave if not found[1].captured.merged]

    def _table(
        self, id_: int, statements: TableStatements, ids: Mapping[str, int], again: bool
    ) -> None:
        here = self._merge(statements)
        if here.way == "function":
            self._undecided.function(statements)  # before anything comes to need it
        names: dict[str, Part] = {
            **self._stage.names,
            **{name: sql.Literal(value) for name, value in ids.items()},
            "tab": sql.Literal(id_),
            "relid": sql.Literal(statements.table.relid),
            "node": sql.Literal(here.node),
            "source": self._stage.net_rows(id_, "v"),
            "table": statements.rows,
            "same_key": statements.same_key(),
        }
        query = self._connection.query
        ((rows, of_our_name),) = query(sql.SQL(_SQL["latest"]).format(**names))
        if of_our_name:
            raise self._refused(
                statements,
                f"both this database and the master are the node {here.node}",
                "One was made as a copy of the other. Give one of them another name: "
                "SELECT pyreplica.set_node('...').",
            )
        if rows > MOST_UNSEEN:
            self._connection.execute(sql.SQL("ANALYZE {net}").format(**names))
        query(sql.SQL(_SQL["lock_rows"]).format(**names))
        counts = self._decide(id_, statements, here, names, again)
        if counts.pop("e", 0):
            self._undecided.wait(statements, names)
        if counts.pop("f", 0):
            for kind, count in self._undecided.choose(statements, names).items():
                counts[kind] = counts.get(kind, 0) + count
        for kind, how in (("d", "delete"), ("u", self._updating(statements)), ("i", "insert")):
            if counts.get(kind) and how:
                self._write(id_, statements, kind, how, counts[kind], again)
        versions = sum(count for kind, count in counts.items() if kind != "n")
        if versions and query(sql.SQL(_SQL["put_versions"]).format(**names))[0][0] != versions:
            raise self._overtaken(statements)

    def _merge(self, statements: TableStatements) -> _Here:
        if not self._is_node:
            self._is_node = bool(self._connection.one(_SQL["is_node"])[0])
        rows = (
            self._connection.query(_SQL["merge"], {"relid": statements.table.relid})
            if self._is_node
            else []
        )
        if not rows:
            raise self._refused(
                statements,
                "the table is merged on the master, and not here",
                "Name it in `merge:` of the replication back as well, and run `pyreplica install`.",
            )
        return _Here(*rows[0])

    @staticmethod
    def _updating(statements: TableStatements) -> str:
        """How rows are updated; not at all where all columns are in the key.

        Not by taking them out and putting them back, if that can be helped: somebody who waits for
        such a row to update it would find none.
        """
        if not statements.updates:
            return ""
        return "reinsert" if statements.sets_identity else "update"

    def _decide(
        self,
        id_: int,
        statements: TableStatements,
        here: _Here,
        names: Mapping[str, Part],
        again: bool,
    ) -> dict[str, int]:
        """Decide what becomes of the rows; gives how many net changes there are of each kind."""
        captured = statements.captured
        decide = sql.SQL(_SQL["decide"]).format(
            **names,
            slave_row=statements.slave_row(LONGEST_VALUE),
            here_row=statements.logged_row() if here.way in _KEEP else sql.SQL("NULL::jsonb"),
            way=sql.Literal(here.way),
            counters=sql.SQL("{}::text[]").format(sql.Literal(here.counters)),
            priority=sql.SQL("{}::text[]").format(sql.Literal(here.priority)),
            replication=sql.Literal(self._replication),
            batch=sql.Literal(self._batch),
            master_relid=sql.Literal(captured.relid),
            schema=sql.Literal(captured.schema),
            name=sql.Literal(captured.name),
        )
        try:
            rows = self._connection.query(decide)
        except DatabaseError as error:
            if error.sqlstate != OTHERWISE:
                raise
            raise self._refused(statements, error.what, error.hint or "") from error
        counts: dict[str, int] = {}
        for kind, conflict, won, count, key in rows:
            if kind == "x":
                if not again:
                    raise self._overtaken(statements)
                raise self._refused(
                    statements,
                    f"row {key} on the slave is not what its version says",
                    "Something has written it with session_replication_role = replica. Write it "
                    "once more on the slave, as an application does.",
                    key,
                )
            counts[kind] = counts.get(kind, 0) + count
            if conflict is not None:
                settled = "skipped" if won == "local" else "applied"
                why = f"settled by merging: {won}"
                self._met.append(Met(conflict, str(captured), settled, count, key, why))
        return counts

    def _write(
        self, id_: int, statements: TableStatements, kind: str, how: str, count: int, again: bool
    ) -> None:
        """Write the rows of a kind to the table."""
        source = sql.SQL("(SELECT key, row, old FROM {} n ORDER BY text OFFSET 0)").format(
            self._stage.net_rows(id_, kind)
        )
        statement = statement_for(statements, how, source, None)
        if again:
            statement = sql.SQL("SAVEPOINT pyreplica_step; {}").format(statement)
        try:
            met = self._connection.execute(statement)
        except DatabaseError as error:
            if not again or not is_row_error(error):
                raise
            self._connection.execute("ROLLBACK TO SAVEPOINT pyreplica_step")
            if how == "update" and is_unique_violation(error):
                # perhaps a value that has changed hands between two of the rows
                self._write(id_, statements, kind, "reinsert", count, again)
                return
            self._name(id_, statements, kind, how, error)
        if met != count:
            raise self._overtaken(statements)

    def _name(
        self, id_: int, statements: TableStatements, kind: str, how: str, error: DatabaseError
    ) -> NoReturn:
        """Raise the error of the first row that cannot be written."""
        rows = self._stage.net_rows(id_, kind)
        text = self._connection.text
        found = self._connection.query(
            sql.SQL(_FAILING).format(
                statement=sql.Literal(text(statement_for(statements, how, _GIVEN, None))),
                given=sql.Literal(text(rows)),
                rows=rows,
                classes=sql.Literal(sorted(ROW_ERRORS)),
                most=sql.Literal(1),
            )
        )
        key, change_id = (found[0][0], found[0][1]) if found else ("", None)
        raised = cannot(_VERBS[kind], statements, key, error, change_id)
        if is_unique_violation(error):
            raised.what = (
                f"conflict multiple_unique_conflicts: cannot write {statements.captured} {key}: "
                f"{error.what}"
            )
            raised.hint = (
                "Another row has that value of a unique key on the slave. Change either of the two "
                "on the node where it was written; replication goes on by itself."
            )
        raise raised from error

    def _overtaken(self, statements: TableStatements) -> DatabaseError:
        return DatabaseError(
            f"rows of {statements.captured} were written while the master's were merged with them",
            where=self._connection.where,
            hint="The batch is done once more.",
            sqlstate=CONFLICT,
        )

    def _refused(
        self, statements: TableStatements, what: str, hint: str, key: str = ""
    ) -> ApplyError:
        table = str(statements.captured)
        return ApplyError(
            f"cannot merge {table}: {what}",
            table=table,
            key=key,
            where=self._connection.where,
            hint=hint,
        )
