"""The staging tables, which large batches go through.

The changes are streamed into an unlogged table, folded there by SQL, and applied with a few
statements for each table; so a batch may be larger than this process's memory. A small batch that
is to be judged goes through them as well (see judge.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from pyreplica import sqlfiles
from pyreplica.database import Connection, Row, pump, sql
from pyreplica.errors import DatabaseError
from pyreplica.model import BARRIERS, Change
from pyreplica.slave import staging
from pyreplica.slave.copytext import Lines
from pyreplica.slave.culprit import CONFLICT, cannot, is_data_error, unnamed
from pyreplica.slave.order import expecting, in_waves, statement_for, ways_of
from pyreplica.slave.own import emptying
from pyreplica.slave.statements import Part, TableStatements
from pyreplica.slave.unstaged import Contents, NetTable

_SQL = sqlfiles.statements("stage.sql")

LAST_ID = (1 << 63) - 1
MANY_TABLES = 4
"""With so many tables in a batch it pays to find a table's changes by an index."""
DELETE_BELOW = 256 << 10
"""A staging table that is not larger, in bytes, is emptied with DELETE: TRUNCATE makes new files,
which takes longer."""

_STRICT = {"U": "update_missing", "D": "delete_missing"}
"""The kinds of net changes that expect their rows, and the conflict where these are not there."""

Found = tuple[int, TableStatements, Row]
"""A table of the staged batch: its generation, its statements, what ``staged_tables`` says."""


class Merge(Protocol):
    """Applies the merged tables of a wave; see Versions.apply()."""

    def __call__(
        self, wave: Sequence[Found], ids: Mapping[str, int], *, again: bool
    ) -> list[Found]: ...


class _Source(NamedTuple):
    """Where the net changes of a table are.

    Args:
        id: its generation.
        counts: how many there are of which kind.
        columns: those that all of them set; None when they differ.
        known: all of them tell what was in these columns before.
        staged: each staged change is a net change.
    """

    statements: TableStatements
    id: int
    counts: Mapping[str, int]
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

    Attributes:
        merge: applies the merged tables of a wave, and gives the others.
    """

    def __init__(
        self,
        connection: Connection,
        staging_id: int,
        find: Callable[[int], TableStatements | None],
        *,
        compares: bool,
    ) -> None:
        self.names = staging.names(staging_id)
        self._sizes_of = {name: f"pyreplica.{name}_{staging_id}" for name in ("stage", "net")}
        self._connection = connection
        self._find = find
        self._compares = compares
        self._indexed = False
        self.merge: Merge = lambda wave, ids, *, again: list(wave)

    # What is staged

    def index(self) -> None:
        """Find each table's changes by an index from now on, also in later sessions."""
        if not self._indexed:
            self._connection.execute(self._named(_SQL["index_staging"]))
            self._indexed = True

    def clear(self) -> None:
        """Empty the tables, for another batch."""
        sizes = self._connection.one(_SQL["staging_sizes"], self._sizes_of)
        statements = [
            ("DELETE FROM {{{}}}" if size < DELETE_BELOW else "TRUNCATE {{{}}}").format(name)
            for name, size in zip(("stage", "net"), sizes, strict=True)
            if size
        ]
        if statements:
            self._connection.execute(self._named("; ".join(statements)))

    def fill(self, source: Connection, changes: Part) -> int:
        """Stream changes from the master into the staging table; gives their number.

        Args:
            source: the master's session.
            changes: the COPY that reads the changes there.

        Raises:
            ApplyError: a change cannot be held by the slave, for instance in its encoding.
        """
        copy_in = self._named("COPY {stage} (id, tab, op, key, row, old) FROM STDIN")
        return self._pump(source, changes, copy_in)

    def fill_with(self, changes: Iterator[Change]) -> None:
        """Put changes there one after another, in constant memory.

        Raises:
            ApplyError: a change cannot be held by the slave, for instance in its encoding.
            PyReplicaError: what getting the changes has raised.
        """
        copy_in = self._named("COPY {stage} (id, tab, op, key, row, old) FROM STDIN")
        lines = Lines(changes)
        try:
            self._connection.copy_in(copy_in, lines.read)
        except DatabaseError as error:
            if lines.failure is not None:
                raise lines.failure from None
            if not is_data_error(error):
                raise
            raise unnamed(error) from error

    def fill_net(self, source: Connection, nets: Part, keys: int, kind: str) -> int:
        """Stream net changes of a table from the master to where they belong; gives their number.

        Args:
            source: the master's session.
            nets: the COPY that reads them there.
            keys: how many columns the key has.
            kind: U or D.
        """
        columns = [f"k{number}" for number in range(1, keys + 1)]
        columns += ["row", "old"] if kind == "U" else []
        copy_in = sql.SQL("COPY {} (tab, kind, {}) FROM STDIN").format(
            self.names["net"], sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        return self._pump(source, nets, copy_in)

    def net_updates(self, id_: int, columns: Sequence[str]) -> bool | None:
        """Whether the net changes of a table, which are there, all tell what was in these columns.

        Returns:
            None where any sets other columns: then none of them is there any more.
        """
        values = {"tab": id_, "columns": list(columns)}
        same, known = self._connection.one(self._named(_SQL["net_updates"]), values)
        if same:
            return bool(known)
        self._connection.execute(self._named("DELETE FROM {net} WHERE tab = {tab}", id_))
        return None

    def _pump(self, source: Connection, copy_out: Part, copy_in: Part) -> int:
        try:
            return pump(source, copy_out, self._connection, copy_in)
        except DatabaseError as error:
            if not is_data_error(error):
                raise
            raise unnamed(error) from error

    def put(self, changes: Sequence[Change]) -> None:
        """Put the changes of a small batch there.

        Raises:
            ApplyError: a change cannot be held by the slave, for instance in its encoding.
        """
        self.clear()
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

    def waves(
        self, ids: Mapping[str, int], contents: Contents | None = None
    ) -> tuple[list[list[Found]], int]:
        """The tables of a piece in the order of their generations, and the number of changes.

        Args:
            ids: "after" and "before", between which those of the piece are.
            contents: what that is, if it is known.
        """
        if ids["after"]:
            # there are the net changes of the piece before
            self._connection.execute(self._named("TRUNCATE {net}"))
        if contents is None:
            rows = self._connection.query(self._named(_SQL["staged_tables"]), ids)
        else:
            rows = [_found(id_, operations) for id_, operations in contents.items()]
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

    def apply_nets(self, nets: Sequence[NetTable]) -> int:
        """Apply the net changes that the master has read; gives the number of changes."""
        for net in nets:
            if net.kind == "D":
                source = self._named("(SELECT * FROM {net} WHERE tab = {tab} OFFSET 0)", net.id)
                statement = net.statements.delete(source)
            else:
                source = self._named(
                    "(SELECT k1, k2, k3, k4, row || '{{}}' AS row, old FROM {net} "
                    "WHERE tab = {tab} OFFSET 0)",
                    net.id,
                )
                was = self._was(net.statements, net.columns, net.known)
                statement = net.statements.update(source, net.columns, was)
            self._run(statement, net.statements, net.kind, net.nets)
        return sum(net.changes for net in nets)

    def apply(self, after: int, before: int, contents: Contents | None = None) -> int:
        """Apply what was staged with ids between two, and give the number of changes.

        Args:
            contents: what that is, if it is known.
        """
        ids = {"after": after, "before": before}
        waves, count = self.waves(ids, contents)
        for wave in waves:
            self._wave(self.merge(wave, ids, again=False), ids)
        return count

    def _wave(self, wave: Sequence[Found], ids: Mapping[str, int]) -> None:
        for statement in emptying([statements.table for _, statements, row in wave if row[2]]):
            self._connection.execute(statement)
        sources: list[_Source] = []
        folded: dict[int, dict[str, int]] = {}
        for id_, statements, (_, count, truncated, inserts, deletes, updates) in wave:
            if inserts or deletes:
                # every key occurs once: nothing to fold
                counts = {"I" if inserts else "D": count}
                sources.append(_Source(statements, id_, counts, staged=True))
            elif updates and (same := self._same_columns(id_, ids)):
                fold_updates = self._named(_SQL["fold_updates"])
                nets = self._connection.execute(fold_updates, {**ids, "tab": id_})
                sources.append(_Source(statements, id_, {"U": nets}, *same))
            elif count:
                self.fold(id_, truncated, ids)
                folded[id_] = {}
                sources.append(_Source(statements, id_, folded[id_]))
        if len(wave) >= MANY_TABLES:
            # else the planner takes each table's part for a row, and may join it by nested loops
            self._connection.execute(self._named("ANALYZE {stage} (tab); ANALYZE {net} (tab)"))
        if folded:
            for id_, kind, count in self._connection.query(self._named(_SQL["net_kinds"])):
                if id_ in folded:
                    folded[id_][kind] = count
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
        if not source.counts.keys() & {*kinds}:
            return
        if how == "update" and not statements.updates:
            return
        rows = self.net(source.id, kinds)
        if source.staged:
            staged = "{stage} WHERE id > {after} AND id < {before} AND tab = {tab}"
            rows = self._source(
                self._named(staged, source.id, after=ids["after"], before=ids["before"])
            )
        if kinds not in _STRICT:
            statement = statement_for(statements, how, rows, source.columns)
            self._connection.execute(statement)
            return
        was = self._was(statements, source.columns, source.known) if kinds == "U" else None
        statement = statement_for(statements, how, rows, source.columns, was)
        self._run(statement, statements, kinds, source.counts[kinds])

    def _run(self, statement: Part, statements: TableStatements, kind: str, expected: int) -> None:
        """Execute a statement that is to meet so many rows.

        By the number that the server gives anyway: to have it count what the statement returns,
        as expecting() does, it would have to read each row again.
        """
        met = self._connection.execute(statement)
        if met != expected:
            raise DatabaseError(
                f"conflict {_STRICT[kind]} on {statements.captured}: {expected - met} of "
                f"{expected} rows were not there as the master had them",
                where=self._connection.where,
                hint="Does something else write to it? The batch is looked at again.",
                sqlstate=CONFLICT,
            )

    def _was(
        self, statements: TableStatements, columns: Sequence[str] | None, known: bool
    ) -> Part | None:
        """The condition that updates meet what the master's rows were."""
        return statements.as_it_was(columns if known else None) if self._compares else None

    def statement(self, statements: TableStatements, how: str, kinds: str, source: Part) -> Part:
        """The statement that applies net changes of these kinds; the strict ones expect rows."""
        if kinds not in _STRICT:
            return statement_for(statements, how, source, None)
        was = self._was(statements, None, False) if kinds == "U" else None
        expected = sql.SQL("(SELECT count(*) FROM {} s)").format(source)
        return expecting(statements, how, source, None, was, expected)


def _found(id_: int, operations: Mapping[str, tuple[int, int]]) -> Row:
    """What ``staged_tables`` would say of a table."""
    count = sum(number for number, _ in operations.values())
    _, truncated = operations.get("T", (0, 0))
    return (id_, count, truncated, *(operations.keys() == {kind} for kind in "IDU"))
