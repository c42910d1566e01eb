"""The initial copy: all tables as of one snapshot of the master, by several workers.

The log is kept for the slave before the snapshot is taken, and the snapshot becomes the cursor. So
the first batch after the copy begins exactly where the copy ended.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pyreplica.config import ReplicationConfig
from pyreplica.database import pump, sql
from pyreplica.errors import PyReplicaError, Refused
from pyreplica.master import Master, TableSize
from pyreplica.model import CapturedTable, Cursor, Position, SlaveTable
from pyreplica.replication.schema import SchemaDump, dumped
from pyreplica.slave import Slave
from pyreplica.slave.statements import misfit

_Side = TypeVar("_Side", Master, Slave)


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
class Copied:
    """What a copy has done: tables, rows, and the position the slave is at."""

    tables: int
    rows: int
    position: Position


class Copy:
    """One initial copy.

    Args:
        config: the replication.
        progress: is told how it goes.
        truncate: rows on the slave may be removed.
        schema: carry the master's schema over first.
        workers: how many tables are copied at a time; from the configuration when None.
    """

    def __init__(
        self,
        config: ReplicationConfig,
        progress: Progress,
        *,
        truncate: bool = False,
        schema: bool = False,
        workers: int | None = None,
    ) -> None:
        self._config = config
        self._progress = progress
        self._truncate = truncate
        self._schema = schema
        self._workers = workers or config.copy_workers
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._open: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Break it off; for another thread or a signal. What was finished stays marked so."""
        with self._lock:
            for cancel in self._open:
                cancel()

    def run(self) -> Copied:
        """Copy everything.

        Raises:
            Refused: there are rows in the way, or nothing to copy; nothing was changed.
        """
        with ExitStack() as stack:
            master = stack.enter_context(self._side(Master))
            slave = stack.enter_context(self._side(Slave))
            master.check_installed()
            slave.check_installed()
            slave.lock()
            master.lock()
            tables = self._chosen(master)
            self._check(slave, tables)
            return self._copy(master, slave, tables)

    @contextmanager
    def _side(self, kind: Callable[[ReplicationConfig], _Side]) -> Iterator[_Side]:
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

    def _chosen(self, master: Master) -> list[CapturedTable]:
        tables = [t for t in master.tables() if self._config.includes(t.schema, t.name)]
        if not tables:
            raise Refused(
                "there is nothing to copy: no captured table of the master is chosen",
                where=self._config.name,
                hint="Run `pyreplica install`, and look at `tables:` in the configuration and at "
                "`pyreplica check`.",
            )
        keyless = [t for t in tables if not t.key]
        if keyless:
            raise Refused(
                f"table {keyless[0]} has lost its primary key on the master",
                where=self._config.name,
                hint="Give it a primary key, or remove it with pyreplica.remove_table().",
            )
        return tables

    def _check(self, slave: Slave, tables: Sequence[CapturedTable]) -> None:
        """Refuse before anything is touched."""
        applied = slave.applied()
        unfinished = applied is not None and not applied.ready
        if applied is not None and applied.ready and not self._truncate:
            raise Refused(
                "the slave is copied already",
                where=self._config.name,
                hint="Run the daemon. To begin again from the master's rows: --truncate.",
            )
        here = {t: slave.describe(t) for t in tables}
        if unfinished and applied is not None and applied.made_schema:
            return  # an earlier copy --schema of our own goes on
        if self._schema:
            present = [t for t, found in here.items() if found is not None]
            if present:
                raise Refused(
                    f"--schema wants to make table {present[0]}, but the slave has it already",
                    where=self._config.name,
                    hint="Copy without --schema, or into an empty database.",
                )
            return
        for table, found in here.items():
            _fits(self._config, table, found)
        # what an unfinished copy of our own has left may go
        ours = set(slave.copied_tables()) if unfinished else set()
        for table in tables:
            if not self._truncate and table.relid not in ours and slave.has_rows(table):
                raise Refused(
                    f"table {table} on the slave has rows",
                    where=self._config.name,
                    hint="If they may be replaced by the master's rows: --truncate.",
                )

    def _copy(self, master: Master, slave: Slave, tables: Sequence[CapturedTable]) -> Copied:
        identity = master.identity()
        confirmed = master.confirmed()
        applied = slave.applied()
        unfinished = applied is not None and not applied.ready
        ours = unfinished and applied is not None and applied.made_schema
        here = [slave.describe(table) for table in tables]
        # an interrupted copy --schema has made the tables, and perhaps the keys and indexes too
        make_tables = (self._schema or ours) and not any(here)
        make_indexes = make_tables or (ours and not all(found and found.has_key for found in here))
        for batch in slave.prepared():
            slave.rollback_prepared(batch)
        master.register(slave.identity())
        before = max(
            confirmed.cursor.batch if confirmed else 0,
            applied.cursor.batch if applied and applied.cursor else 0,
        )
        with ExitStack() as stack:
            # this session's snapshot is what all workers read
            exporter = stack.enter_context(self._side(Master))
            stack.enter_context(
                exporter.connection.transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            )
            snapshot = exporter.export_snapshot()
            position = exporter.position()
            dump = self._dump(stack, master, slave, snapshot) if make_indexes else None
            id_ = slave.begin_copy(identity, made_schema=make_tables)
            slave.keep_tables(tables)
            if dump is not None and make_tables:
                self._progress.say("making the tables on the slave")
                dump.restore(self._config.slave, "pre-data")
            elif self._truncate or unfinished:
                self._empty(slave, tables)
            rows = self._tables(exporter, snapshot, tables)
            if dump is not None:
                self._progress.say("making indexes and constraints on the slave")
                dump.restore(self._config.slave, "post-data")
                for table in tables:
                    _fits(self._config, table, slave.describe(table))
        slave.create_staging(id_)
        cursor = Cursor(before + 1, position)
        master.set_copied(cursor)
        slave.finish_copy(cursor)
        slave.unlock()
        master.unlock()
        self._log.info("copied %d tables, %d rows", len(tables), rows)
        return Copied(len(tables), rows, position)

    def _dump(self, stack: ExitStack, master: Master, slave: Slave, snapshot: str) -> SchemaDump:
        self._progress.say("reading the master's schema")
        return stack.enter_context(
            dumped(
                self._config.master,
                snapshot,
                where=self._config.name,
                version=max(master.server().version, slave.server().version),
                keep_plpython=master.others_use_plpython(),
            )
        )

    def _empty(self, slave: Slave, tables: Sequence[CapturedTable]) -> None:
        """Empty the slave's tables; all at once, because of the foreign keys between them."""
        found = [here for t in tables if (here := slave.describe(t)) is not None]
        slave.empty(found)

    def _tables(self, exporter: Master, snapshot: str, tables: Sequence[CapturedTable]) -> int:
        sizes = {t: exporter.table_size(t) for t in tables}
        # the largest first, so that no worker is left alone with it at the end
        ordered = sorted(tables, key=lambda t: sizes[t].bytes, reverse=True)
        self._progress.begin([(str(t), sizes[t].rows) for t in ordered])
        queue = iter(ordered)
        copied = 0
        with ThreadPoolExecutor(min(self._workers, len(ordered)), "copy") as pool:
            futures = [
                pool.submit(self._work, snapshot, queue, sizes)
                for _ in range(min(self._workers, len(ordered)))
            ]
            try:
                for future in as_completed(futures):
                    copied += future.result()
            except BaseException:
                with self._lock:
                    for _ in queue:  # nothing more to be begun
                        pass
                self.cancel()
                raise
        return copied

    def _work(
        self, snapshot: str, queue: Iterator[CapturedTable], sizes: dict[CapturedTable, TableSize]
    ) -> int:
        """One worker: table after table, in one snapshot of the master."""
        copied = 0
        with (
            self._side(Master) as master,
            self._side(Slave) as slave,
            master.connection.transaction("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
        ):
            master.use_snapshot(snapshot)
            while True:
                with self._lock:
                    table = next(queue, None)
                if table is None:
                    return copied
                copied += self._table(master, slave, table, sizes[table])

    def _table(self, master: Master, slave: Slave, table: CapturedTable, size: TableSize) -> int:
        name = sql.Identifier(table.schema, table.name)
        columns = sql.SQL(", ").join(sql.Identifier(c) for c in table.columns)
        # COPY of a partitioned table is refused by PostgreSQL; of a parent it gives its own rows
        source = sql.SQL("(SELECT {} FROM {})" if size.partitioned else "{1} ({0})").format(
            columns, name
        )
        slave.copying_table(table)
        try:
            with slave.connection.transaction():
                rows = pump(
                    master.connection,
                    sql.SQL("COPY {} TO STDOUT").format(source),
                    slave.connection,
                    sql.SQL("COPY {} ({}) FROM STDIN").format(name, columns),
                    lambda n: self._progress.rows(str(table), n),
                )
                if master.rewritten(table) and not self._truncated(master.position(), table):
                    raise PyReplicaError(
                        "ALTER TABLE has rewritten it on the master after the copy had begun",
                        where=self._config.name,
                        hint=f"Copy again: `pyreplica copy {self._config.name}`.",
                    )
                slave.copied_table(table, rows)
        except PyReplicaError as error:
            error.what = f"copying table {table}: {error.what}"
            raise
        slave.connection.execute(sql.SQL("ANALYZE {}").format(name))
        self._progress.done(str(table), rows)
        return rows

    def _truncated(self, after: Position, table: CapturedTable) -> bool:
        """Whether the table was truncated after the copy's snapshot: the log then has all of it."""
        with self._side(Master) as now:
            return now.truncated(after.snapshot, table)


def _fits(config: ReplicationConfig, table: CapturedTable, found: SlaveTable | None) -> None:
    problem = misfit(table, found)
    if problem is not None:
        raise Refused(problem[0], where=config.name, hint=problem[1])
