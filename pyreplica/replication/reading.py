"""Reads a batch that is too large for one answer: into the stage, or past it where that will do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from pyreplica.database import sql
from pyreplica.master import Master
from pyreplica.master.log import Apart
from pyreplica.model import Change, Snapshot
from pyreplica.replication.transforming import Transforming
from pyreplica.slave.inserts import Inserts
from pyreplica.slave.stage import MANY_TABLES, Stage
from pyreplica.slave.statements import TableStatements
from pyreplica.slave.unstaged import NetTable, Unstaged, has_barriers, of_one_kind


class Reading:
    """Reads one batch, in one transaction of the master.

    Args:
        master: whose log it is.
        stage: where the changes go.
        after, until: the snapshots between which the batch is.
        apart: tables that the batch brings in, whose changes begin after other snapshots.
        statements: gives those of a generation; None when it is left out.
        mixed: generations whose updates were found to set different columns; added to.
        all_read: called when the last of the batch has been read, where that is later on.
        transforming: what all changes go through; then all are staged.
    """

    def __init__(
        self,
        master: Master,
        stage: Stage,
        after: Snapshot,
        until: Snapshot,
        *,
        apart: Sequence[Apart],
        statements: Callable[[int], TableStatements | None],
        mixed: set[int],
        all_read: Callable[[], None],
        transforming: Transforming | None = None,
    ) -> None:
        self._master = master
        self._log = master.log
        self._stage = stage
        self._after = after
        self._until = until
        self._apart = apart
        self._statements = statements
        self._mixed = mixed
        self._all_read = all_read
        self._transforming = transforming

    def read(self, *, staged: bool) -> tuple[int, Unstaged | None]:
        """Read it.

        Args:
            staged: all of it has to be staged, whatever it is.

        Returns:
            The number of staged changes, and what was not staged; None when all was.
        """
        self._stage.clear()
        unstaged = None if staged else self._unstaged()
        if unstaged is None:
            return self._fill(), None
        return self._fill(unstaged.generations) if unstaged.staged else 0, unstaged

    def _fill(self, without: Iterable[int] = ()) -> int:
        if self._transforming is not None:
            return self._fill_transformed(self._transforming)
        changes = self._log.changes(self._after, self._until, self._apart, without)
        return self._stage.fill(self._master.connection, changes)

    def _fill_transformed(self, transforming: Transforming) -> int:
        """Stage what the transform makes of the changes; gives the number of those."""
        read = 0

        def counted() -> Iterator[Change]:
            nonlocal read
            for change in self._log.stream(self._after, self._until, self._apart):
                read += 1
                yield change

        self._stage.fill_with(transforming.changes(counted()))
        return read

    def _stage_all(self) -> None:
        self._stage.clear()
        self._fill()
        self._all_read()

    def _unstaged(self) -> Unstaged | None:
        """Read what need not be staged, or see to it that it is; None when all has to be."""
        contents = self._log.contents(self._after, self._until)
        if len(contents) >= MANY_TABLES:
            self._stage.index()
        if has_barriers(contents):
            return None
        inserts: list[tuple[TableStatements, sql.Composable]] = []
        nets: list[NetTable] = []
        staged: dict[int, Mapping[str, tuple[int, int]]] = {**contents}
        for id_, (kind, count, table) in of_one_kind(contents, self._statements).items():
            if kind == "I":
                values = self._log.inserted(self._after, self._until, id_, table.copied_out())
                inserts.append((table, values))
            else:
                net = self._net(id_, kind, count, table)
                if net is None:
                    continue
                nets.append(net)
            del staged[id_]
        return Unstaged(
            Inserts(self._master.connection, inserts, self._all_read) if inserts else None,
            nets,
            staged,
            frozenset(contents.keys() - staged.keys()),
            self._stage_all,
        )

    def _net(self, id_: int, kind: str, count: int, table: TableStatements) -> NetTable | None:
        """Have the master read a table's net changes; None when the table has to be staged."""
        key, statements = table.key_out(), table.with_plain_keys()
        if kind == "D":
            query = self._log.deleted(self._after, self._until, id_, key)
            nets = self._stage.fill_net(self._master.connection, query, len(key), kind)
            return NetTable(id_, statements, kind, nets, count)
        if id_ in self._mixed or table.masks:
            return None  # of the net changes that the master makes, whole rows come over
        columns = self._log.columns_set(self._after, self._until, id_)
        if not columns or table.updates_identity(columns):
            return None
        query = self._log.updated(self._after, self._until, id_, key, columns)
        nets = self._stage.fill_net(self._master.connection, query, len(key), kind)
        known = self._stage.net_updates(id_, columns)
        if known is None:
            # to try it again would be as futile, and cost the master as much
            self._mixed.add(id_)
            return None
        return NetTable(id_, statements, kind, nets, count, tuple(columns), known)
