"""Copies tables as of one snapshot of the master, by several workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from pyreplica.config import ReplicationConfig
from pyreplica.errors import PyReplicaError
from pyreplica.master import Master, TableSize
from pyreplica.model import CapturedTable, Position
from pyreplica.replication import transformed
from pyreplica.replication.agenda import Agenda, Task
from pyreplica.replication.analysis import Analysis
from pyreplica.replication.hooks import hooks_of
from pyreplica.replication.later import Later, Piece
from pyreplica.replication.rows import move
from pyreplica.replication.schema import MadeLater
from pyreplica.replication.versions import move_versions
from pyreplica.slave import Slave
from pyreplica.slave.parts import make
from pyreplica.transform.module import Hooks

_Side = TypeVar("_Side", Master, Slave)

REPEATABLE = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Progress(Protocol):
    """Is told how a copy goes; called from the workers' threads."""

    def begin(self, tables: Sequence[tuple[str, int]]) -> None:
        """The tables to be copied, with their estimated numbers of rows."""

    def rows(self, table: str, rows: int) -> None:
        """So many rows more have gone through."""

    def done(self, table: str, rows: int) -> None:
        """A table is complete."""

    def say(self, text: str) -> None:
        """Something else is being done."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a copy reads: the name of an exported snapshot, and its position."""

    name: str
    position: Position


Note = Callable[[Slave, CapturedTable, int], None]
"""Notes on the slave that so many rows of a table were copied, in the same transaction."""


class Copier:
    """Copies tables for a command that may be broken off.

    Args:
        config: the replication.
        progress: is told how it goes.
        workers: how many tables are copied at a time; from the configuration when None.
        again: the command that copies again, for hints.
    """

    def __init__(
        self, config: ReplicationConfig, progress: Progress, workers: int | None, again: str
    ) -> None:
        self._config = config
        self._progress = progress
        self._workers = workers or config.copy_workers
        self._again = again
        self._told: set[str] = set()
        self._open: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    @property
    def cure(self) -> str:
        """What to do when something cannot be made on the slave."""
        return f"Put that right on the slave or on the master, then copy again: `{self._again}`."

    def cancel(self) -> None:
        """Break it off; for another thread or a signal. What was finished stays marked so."""
        with self._lock:
            for cancel in self._open:
                cancel()

    @contextmanager
    def side(self, kind: Callable[[ReplicationConfig], _Side]) -> Iterator[_Side]:
        """A session that cancel() knows of."""
        side = kind(self._config)
        cancel = side.connection.cancel
        with self._lock:
            self._open.append(cancel)
        try:
            yield side
        finally:
            with self._lock:
                self._open.remove(cancel)
            side.close()

    @contextmanager
    def moment(self) -> Iterator[tuple[Master, Moment]]:
        """A session whose snapshot all workers read, for the time of the copy."""
        with self.side(Master) as exporter, exporter.connection.transaction(REPEATABLE):
            yield exporter, Moment(exporter.export_snapshot(), exporter.log.position())

    def copy(
        self,
        exporter: Master,
        moment: Moment,
        tables: Sequence[CapturedTable],
        note: Note,
        later: Sequence[MadeLater] = (),
    ) -> int:
        """Copy tables, and renew their statistics; gives the number of rows.

        A table's statistics are renewed while the next one is copied: that is a tenth and more of
        the time that the slave takes for its rows.

        Args:
            exporter: the session that has exported the snapshot.
            note: called when a table is copied, before that is committed.
            later: what is made of them after their rows, before their statistics.
        """
        sizes = {t: exporter.table_size(t) for t in tables}
        # the largest first, so that no worker is left alone with it at the end
        ordered = sorted(tables, key=lambda t: sizes[t].bytes, reverse=True)
        self._progress.begin([(str(t), sizes[t].rows) for t in ordered])
        analysis = Analysis(lambda: self.side(Slave))
        agenda = Agenda(self._tasks(ordered, sizes, note, Later(tables, later), analysis))
        copied, working = 0, min(self._workers, len(agenda))
        with ThreadPoolExecutor(working + 1, "copy") as pool:
            analysed = pool.submit(analysis.run)
            workers = [pool.submit(self._work, moment, agenda, analysis) for _ in range(working)]
            try:
                for future in as_completed([analysed, *workers]):
                    copied += future.result()
                    working -= future is not analysed
                    if not working:
                        analysis.end()
            except BaseException:
                agenda.clear()  # nothing more to be begun
                analysis.stop()
                self.cancel()
                raise
        return copied

    def _tasks(
        self,
        tables: Sequence[CapturedTable],
        sizes: Mapping[CapturedTable, TableSize],
        note: Note,
        later: Later,
        analysis: Analysis,
    ) -> Iterator[Task]:
        """Everything to be done, in this order."""
        for table in tables:
            family = later.families[table.relid]
            yield Task(family, partial(self._table, table, sizes[table], note))
            for piece in later.pieces(table):
                yield Task(piece.tables, partial(self._make, piece), piece.shared)
            yield Task(family, partial(_analyse, analysis, table))
        for piece in later.last:
            yield Task(piece.tables, partial(self._make, piece))

    def _work(self, moment: Moment, agenda: Agenda, analysis: Analysis) -> int:
        """One worker: task after task, in one snapshot of the master."""
        copied = 0
        with (
            self.side(Master) as master,
            self.side(Slave) as slave,
            master.connection.transaction(REPEATABLE),
        ):
            master.use_snapshot(moment.name)
            while (task := agenda.take()) is not None:
                try:
                    copied += task.work(master, slave)
                except BaseException:
                    agenda.clear()  # what waits for this task must not be begun
                    raise
                agenda.done(task)
            analysis.help(slave)
        return copied

    def _table(
        self, table: CapturedTable, size: TableSize, note: Note, master: Master, slave: Slave
    ) -> int:
        slave.records.copying(table)
        hooks = hooks_of(self._config)
        try:
            with slave.connection.transaction():
                rows = self._move(master, slave, table, size.partitioned, hooks)
                if master.rewritten(table) and not self._truncated(master.log.position(), table):
                    raise PyReplicaError(
                        "ALTER TABLE has rewritten it on the master after the copy had begun",
                        where=self._config.name,
                        hint=f"Copy again: `{self._again}`.",
                    )
                move_versions(self._config, master, slave, table)
                note(slave, table, rows)
        except PyReplicaError as error:
            error.what = f"copying table {table}: {error.what}"
            raise
        if hooks is not None:
            transformed.committed(self._config, hooks, master)
        self._progress.done(str(table), rows)
        return rows

    def _move(
        self,
        master: Master,
        slave: Slave,
        table: CapturedTable,
        partitioned: bool,
        hooks: Hooks | None,
    ) -> int:
        def progress(rows: int) -> None:
            self._progress.rows(str(table), rows)

        if hooks is not None and hooks.change is not None:
            return transformed.move(
                self._config, hooks, master, slave, table, partitioned, progress
            )
        if hooks is not None:
            transformed.begun(self._config, hooks, master)
        there = slave.place(table, master.masking.of(table))
        return move(master.connection, slave.connection, table, partitioned, progress, there)

    def _make(self, piece: Piece, master: Master, slave: Slave) -> int:
        with self._lock:
            told = piece.what in self._told
            self._told.add(piece.what)
        if not told:
            self._progress.say(f"making {piece.what}")
        try:
            make(slave.connection, piece.statements)
        except PyReplicaError as error:
            error.what = f"making {piece.what}: {error.what}"
            error.hint = error.hint or self.cure
            raise
        return 0

    def _truncated(self, after: Position, table: CapturedTable) -> bool:
        """Whether the table was truncated after the copy's snapshot: the log then has all of it."""
        with self.side(Master) as now:
            return now.log.truncated(after.snapshot, table)


def _analyse(analysis: Analysis, table: CapturedTable, master: Master, slave: Slave) -> int:
    analysis.add(table)
    return 0
