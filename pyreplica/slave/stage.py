"""The staging tables, which large batches go through.

The changes are streamed into an unlogged table, folded there by SQL, and applied with a few
statements for each table; so a batch may be larger than this process's memory. A small batch that
is to be judged goes through them as well (see judge.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pyreplica import sqlfiles
from pyreplica.database import Connection, Row, pump, sql
from pyreplica.errors import DatabaseError
from pyreplica.model import BARRIERS, Change
from pyreplica.slave import emptying, staging
from pyreplica.slave.culprit import cannot, is_data_error, unnamed
from pyreplica.slave.order import expecting, in_waves, statement_for, ways_of
from pyreplica.slave.statements import Part, TableStatements

_SQL = sqlfiles.statements("slave.sql")

LAST_ID = (1 << 63) - 1

Found = tuple[int, TableStatements, Row]
"""A table of the staged batch: its generation, its statements, what ``staged_tables`` says."""


class _Source(NamedTuple):
    """Where the net changes of a table are.

    Args:
        id: its generation.
        kind: all are of this one; empty when they differ.
        columns: those that all of them set; None when they differ.
        known: all of them tell what was in these columns before.
        staged: each staged change is a net change.
    """

    statements: TableStatements
    id: int
    kind: str
    columns: tuple[str, ...] | None = None
    known: bool = False
    staged: bool = False

    @property
    def sets_identity(self) -> bool:
        """Whether an UPDATE would set a column that UPDATE refuses to."""
        if self.columns is None:
            return self.statements.sets_identity
        return self.statements.updates_identity(self.columns)


class Stage:
    """The staging tables of one session.

    Args:
        connection: the session.
        staging_id: the cursor's id, which names the tables.
        find: finds a table's statements by the generation in the log; None for one left out.
        compares: whether updates expect what the master's row had before.
    """

    def __init__(
        self,
        connection: Connection,
        staging_id: int,
        find: Callable[[int], TableStatements | None],
        *,
        compares: bool,
    ) -> None:
        self.names = staging(staging_id)
        self._connection = connection
        self._find = find
        self._compares = compares

    # What is staged

    def fill(self, source: Connection, changes: Part) -> int:
        """Stream changes from the master into the staging table; gives their number.

        Args:
            source: the master's session.
            changes: the COPY that reads the changes there.

        Raises:
            ApplyError: a change cannot be held by the slave, for instance in its encoding.
        """
        self._connection.execute(self._named("TRUNCATE {stage}"))
        copy_in = self._named("COPY {stage} (id, tab, op, key, row, old) FROM STDIN")
        try:
            return pump(source, changes, self._connection, copy_in)
        except DatabaseError as error:
            if not is_data_error(error):
                raise
            raise unnamed(error) from error

    def put(self, changes: Sequence[Change]) -> None:
        """Put the changes of a small batch there.

        Raises:
            ApplyError: a change cannot be held by the slave, for instance in its encoding.
        """
        self._connection.execute(self._named("TRUNCATE {stage}"))
        try:
            self._put(changes)
        except DatabaseError as error:
            if not is_data_error(error):
                raise
            for change in changes:
                try:
                    self._put([change])
                except DatabaseError as one:
                    raise cannot(
                        change.op, self._find(change.table), change.key, one, change.id
                    ) from one
            raise unnamed(error) from error

    def _put(self, changes: Sequence[Change]) -> None:
        self._connection.execute(
            self._named(_SQL["put_into_stage"]),
            {
                "ids": [change.id for change in changes],
                "tabs": [change.table for change in changes],
                "ops": [change.op for change in changes],
                "keys": [change.key or "" for change in changes],
                "rows": [change.row for change in changes],
                "olds": [change.old for change in changes],
            },
        )

    def barriers(self) -> list[Change]:
        """Those that cut the batch into pieces; these are few."""
        query = self._named(_SQL["staged_changes"])
        return [Change(*row) for row in self._connection.query(query, {"ops": [*BARRIERS]})]

    # A piece of it

    def waves(self, ids: Mapping[str, int]) -> tuple[list[list[Found]], int]:
        """The tables of a piece in the order of their generations, and the number of changes.

        Args:
            ids: "after" and "before", between which those of the piece are.
        """
        self._connection.execute(self._named("TRUNCATE {net}"))
        rows = self._connection.query(self._named(_SQL["staged_tables"]), ids)
        wanted = [(found, row) for row in rows if (found := self._find(row[0])) is not None]
        waves = in_waves((row[0], statements, row) for statements, row in wanted)
        return [wave for wave in waves if wave], sum(int(row[1]) for _, row in wanted)

    def fold(self, id_: int, truncated: int, ids: Mapping[str, int]) -> None:
        """Fold a table's changes, of those after its last TRUNCATE."""
        values = {**ids, "tab": id_, "after": max(truncated, ids["after"])}
        self._connection.execute(self._named(_SQL["fold"]), values)

    def net(self, id_: int, kinds: str) -> Part:
        """The net changes of these kinds, for a statement."""
        return self._source(
            self._named("{net} WHERE kind IN ({kinds}) AND tab = {tab}", id_, kinds=kinds)
        )

    def net_rows(self, id_: int, kinds: str) -> Part:
        """The same with all that is known of them, ``text`` being the key's."""
        return self._named(
            "(SELECT id, kind, key AS text, key::jsonb AS key, row, old FROM {net} "
            "WHERE kind IN ({kinds}) AND tab = {tab} OFFSET 0)",
            id_,
            kinds=kinds,
        )

    def _source(self, rows: Part) -> Part:
        # || and OFFSET read a row out of TOAST once, and not for each of its columns: that takes as
        # many times its size in memory
        return sql.SQL(
            "(SELECT key::jsonb AS key, row || '{{}}' AS row, old FROM {} OFFSET 0)"
        ).format(rows)

    def _named(
        self, text: str, tab: int | None = None, kinds: str = "", after: int = 0, before: int = 0
    ) -> Part:
        return sql.SQL(text).format(
            **self.names,
            tab=sql.Literal(tab),
            kinds=sql.SQL(", ").join(map(sql.Literal, kinds)),
            after=sql.Literal(after),
            before=sql.Literal(before),
        )

    # Applying

    def apply(self, after: int, before: int) -> int:
        """Apply what was staged with ids between two, and give the number of changes."""
        ids = {"after": after, "before": before}
        waves, count = self.waves(ids)
        for wave in waves:
            self._wave(wave, ids)
        return count

    def _wave(self, wave: Sequence[Found], ids: Mapping[str, int]) -> None:
        for statement in emptying([statements.table for _, statements, row in wave if row[2]]):
            self._connection.execute(statement)
        sources: list[_Source] = []
        for id_, statements, (_, count, truncated, inserts, deletes, updates) in wave:
            if inserts or deletes:
                # every key occurs once: nothing to fold
                sources.append(_Source(statements, id_, "I" if inserts else "D", staged=True))
            elif updates and (same := self._same_columns(id_, ids)):
                self._connection.execute(self._named(_SQL["fold_updates"]), {**ids, "tab": id_})
                sources.append(_Source(statements, id_, "U", *same))
            elif count:
                self.fold(id_, truncated, ids)
                sources.append(_Source(statements, id_, ""))
        steps: tuple[list[tuple[_Source, str, str]], ...] = ([], [], [])
        for source in sources:
            ways = ways_of(source.statements, careful=False)
            how = "reinsert" if source.sets_identity else "update"
            changed = [("reinsert", ways.reinserts), *((how, kind) for kind in ways.updates)]
            for step, some in zip(steps, (ways.deletes, changed, ways.inserts), strict=True):
                step += [(source, how, kinds) for how, kinds in some if kinds]
        for one in itertools.chain(*steps):
            self._net(*one, ids)

    def _same_columns(
        self, id_: int, ids: Mapping[str, int]
    ) -> tuple[tuple[str, ...], bool] | None:
        """The columns that all staged changes of a table set, if these are the same.

        Also whether all changes tell what was in them before.
        """
        rows = self._connection.query(self._named(_SQL["same_columns"]), {**ids, "tab": id_})
        return (tuple(rows[0][0]), rows[0][1]) if rows else None

    def _net(self, source: _Source, how: str, kinds: str, ids: Mapping[str, int]) -> None:
        """Apply the net changes of these kinds in one statement."""
        statements = source.statements
        if source.kind and source.kind not in kinds:
            return
        if how == "update" and not statements.updates:
            return
        rows = self.net(source.id, kinds)
        if source.staged:
            staged = "{stage} WHERE id > {after} AND id < {before} AND tab = {tab}"
            rows = self._source(
                self._named(staged, source.id, after=ids["after"], before=ids["before"])
            )
        statement = self.statement(statements, how, kinds, rows, source.columns, source.known)
        self._connection.execute(statement)

    def statement(
        self,
        statements: TableStatements,
        how: str,
        kinds: str,
        source: Part,
        columns: Sequence[str] | None = None,
        known: bool = False,
    ) -> Part:
        """The statement that applies net changes of these kinds; the strict ones expect rows.

        Args:
            columns: those that all updates set, if these are the same.
            known: all updates tell what was in these columns before.
        """
        if kinds not in ("U", "D"):
            return statement_for(statements, how, source, columns)
        was = None
        if kinds == "U" and self._compares:
            was = statements.as_it_was(columns if known else None)
        expected = sql.SQL("(SELECT count(*) FROM {} s)").format(source)
        return expecting(statements, how, source, columns, was, expected)
