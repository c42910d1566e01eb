"""The initial copy: all tables as of one snapshot of the master, by several workers.

The log is kept for the slave before the snapshot is taken, and the snapshot becomes the cursor. So
the first batch after the copy begins exactly where the copy ended.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pyreplica.config import ReplicationConfig
from pyreplica.errors import PyReplicaError, Refused
from pyreplica.master import Master
from pyreplica.model import CapturedTable, Cursor, Position, SlaveTable
from pyreplica.replication.copier import Copier, Progress
from pyreplica.replication.filters import as_configured, set_filters
from pyreplica.replication.forwarding import Forwarding
from pyreplica.replication.schema import ATTACHMENT, NOTHING, SchemaDump, dumped
from pyreplica.replication.scripts import Entry
from pyreplica.replication.sequences import set_sequences
from pyreplica.replication.versions import check_merged
from pyreplica.slave import Slave, staging
from pyreplica.slave.misfit import misfit, unknown_column
from pyreplica.slave.parts import begin_rest, parts_here


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy has done: tables, rows, and the position the slave is at."""

    tables: int
    rows: int
    position: Position


_Here = Mapping[CapturedTable, SlaveTable | None]
"""The tables to be copied, and what the slave has in their place."""


class Copy:
    """One initial copy.

    Args:
        config: the replication.
        progress: is told how it goes.
        truncate: rows on the slave may be removed.
        schema: carry the master's schema over first.
        workers: how many tables are copied at a time; from the configuration when None.
        rows: copy the rows; else the slave has them already, from a dump or the way back.
    """

    def __init__(
        self,
        config: ReplicationConfig,
        progress: Progress,
        *,
        truncate: bool = False,
        schema: bool = False,
        workers: int | None = None,
        rows: bool = True,
    ) -> None:
        self._config = config
        self._rows = rows
        self._progress = progress
        self._truncate = truncate
        self._schema = schema
        again = f"pyreplica copy {config.name}"
        self._copier = Copier(config, progress, workers, again)
        self._log = logging.getLogger(f"pyreplica.{config.name}")

    def cancel(self) -> None:
        """Break it off; for another thread or a signal. What was finished stays marked so."""
        self._copier.cancel()

    def run(self) -> Copied:
        """Copy everything.

        Raises:
            Refused: there are rows in the way, or nothing to copy; nothing was changed.
        """
        with ExitStack() as stack:
            master = stack.enter_context(self._copier.side(Master))
            slave = stack.enter_context(self._copier.side(Slave))
            master.check_installed()
            slave.check_installed()
            slave.records.lock()
            slave.lock()
            master.lock()
            tables = self._chosen(master)
            master.masking.load()
            here = {table: slave.describe(table, master.masking.of(table)) for table in tables}
            self._check(slave, here)
            forwarding = Forwarding(self._config, master, slave)
            forwarding.check_master()
            forwarding.look(tables)
            return self._copy(master, slave, here, forwarding)

    def _chosen(self, master: Master) -> list[CapturedTable]:
        tables = [
            as_configured(self._config, t)
            for t in master.tables(whole=True)
            if self._config.includes(t.schema, t.name)
        ]
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

    def _check(self, slave: Slave, here: _Here) -> None:
        """Refuse before anything is touched."""
        for table, found in here.items():
            check_merged(self._config, slave, table, found)
        applied = slave.applied()
        unfinished = applied is not None and not applied.ready
        if applied is not None and applied.ready and not self._truncate:
            raise Refused(
                "the slave is copied already",
                where=self._config.name,
                hint="Run the daemon. To begin again from the master's rows: --truncate.",
            )
        if unfinished and applied is not None and applied.made_schema:
            if not self._rows:
                raise Refused(
                    "a copy with --schema was broken off, and the slave has not all of the rows",
                    where=self._config.name,
                    hint=f"Finish it: `pyreplica copy {self._config.name}`.",
                )
            return  # an earlier copy --schema of our own goes on
        if self._schema and self._config.map:
            raise Refused(
                "--schema makes the master's tables, and `map:` wants other ones",
                where=self._config.name,
                hint="Create the slave's tables by hand, as `map:` calls them, and copy without "
                "--schema.",
            )
        if self._schema:
            present = [table for table, found in here.items() if found is not None]
            if present:
                raise Refused(
                    f"--schema wants to make table {present[0]}, but the slave has it already",
                    where=self._config.name,
                    hint="Copy without --schema, or into an empty database.",
                )
            return
        for table, found in here.items():
            fits(self._config, table, found)
        told_apart(self._config, here)
        _known(self._config, here)
        # what an unfinished copy of our own has left may go
        ours = set(slave.records.copies()) if unfinished else set()
        for table, found in here.items():
            if found is None or self._truncate or not self._rows or table.relid in ours:
                continue
            if slave.has_rows(found):
                raise Refused(
                    f"table {found} on the slave has rows",
                    where=self._config.name,
                    hint="If they may be replaced by the master's rows: --truncate.",
                )

    def _copy(self, master: Master, slave: Slave, here: _Here, forwarding: Forwarding) -> Copied:
        found = [one for one in here.values() if one is not None]
        identity = master.identity()
        confirmed = master.record.confirmed()
        applied = slave.applied()
        unfinished = applied is not None and not applied.ready
        # an interrupted copy --schema has made the tables, and perhaps keys and indexes too
        with_schema = self._schema or (unfinished and applied is not None and applied.made_schema)
        for batch in slave.prepared():
            slave.rollback_prepared(batch)
        master.record.register(slave.identity())
        forwarding.want()
        master.record.set_limits(self._config.max_log_size, self._config.max_log_age)
        # only now, when what the slave has is good for nothing any more
        for line in set_filters(self._config, master, here):
            self._log.info("master: %s", line)
        relids = {table.relid for table in here}
        tables = [table for table in master.tables() if table.relid in relids]
        before = max(
            confirmed.cursor.batch if confirmed else 0,
            applied.cursor.batch if applied and applied.cursor else 0,
        )
        with ExitStack() as stack:
            exporter, moment = stack.enter_context(self._copier.moment())
            dump = self._dump(stack, master, slave, moment.name) if with_schema else None
            later = dump.after_rows(exporter, {t.relid for t in tables}) if dump else NOTHING
            id_ = slave.begin_copy(identity, made_schema=with_schema and not found)
            slave.records.keep(tables)
            if dump is not None and not found:
                self._progress.say("making the tables on the slave")
                dump.restore(self._config.slave)
            elif self._rows and (self._truncate or unfinished):
                # all at once, because of the foreign keys between them
                slave.empty(found)
            for table in tables if with_schema else ():
                slave.let_be_null(table, table.hidden)
            rows = 0
            if self._rows:
                # to attach an index once more does nothing
                known = [one.part for one in later.parts if one.part.kind != ATTACHMENT]
                made = parts_here(slave.connection, known)
                parts = [one for one in later.parts if one.part not in made]
                rows = self._copier.copy(exporter, moment, tables, _copied, parts)
            else:
                _taken_over(slave, tables)
        staging.create(slave.connection, id_)
        cursor = Cursor(before + 1, moment.position)
        self._finish(master, slave, tables if with_schema else (), cursor, later.rest)
        set_sequences(self._config, master, slave)
        slave.unlock()
        master.unlock()
        self._log.info("copied %d tables, %d rows", len(tables), rows)
        return Copied(len(tables), rows, moment.position)

    def _finish(
        self,
        master: Master,
        slave: Slave,
        tables: Sequence[CapturedTable],
        cursor: Cursor,
        rest: Sequence[tuple[Entry, str]],
    ) -> None:
        """Make what is left of the schema, and call the copy finished, in one transaction.

        So a copy that is not finished has none of it yet.

        Args:
            tables: those that were made here, to see whether they are complete.
        """
        with slave.connection.transaction():
            if rest:
                self._progress.say("making the rest of the schema on the slave")
                begin_rest(slave.connection)
            for entry, statements in rest:
                try:
                    slave.connection.execute(statements)
                except PyReplicaError as error:
                    error.what = f"making {entry}: {error.what}"
                    error.hint = error.hint or self._copier.cure
                    raise
            for table in tables:
                fits(self._config, table, slave.describe(table, master.masking.of(table)))
            master.record.set_copied(cursor)
            slave.finish_copy(cursor)

    def _dump(self, stack: ExitStack, master: Master, slave: Slave, snapshot: str) -> SchemaDump:
        self._progress.say("reading the master's schema")
        return stack.enter_context(
            dumped(
                self._config.master,
                snapshot,
                where=self._config.name,
                version=max(master.server().version, slave.server().version),
                peer_timeout=self._config.peer_timeout,
                keep_plpython=master.others_use_plpython(),
            )
        )


def _copied(slave: Slave, table: CapturedTable, rows: int) -> None:
    slave.records.copied(table, rows)


def _taken_over(slave: Slave, tables: Sequence[CapturedTable]) -> None:
    with slave.connection.transaction():
        for table in tables:
            slave.records.copying(table)
            slave.records.copied(table, 0)


def fits(config: ReplicationConfig, table: CapturedTable, found: SlaveTable | None) -> None:
    """Refuse a table of the slave that cannot take the master's rows."""
    there = config.map.table(table.schema, table.name)
    problem = unknown_column(table, there) or misfit(table, found, there)
    if problem is not None:
        raise Refused(problem[0], where=config.name, hint=problem[1])


def _known(config: ReplicationConfig, tables: Iterable[CapturedTable]) -> None:
    """Refuse a mapping of tables that are not there."""
    unknown = config.map.named - {(t.schema, t.name) for t in tables}
    for one in sorted(unknown):
        raise Refused(
            f"`map:` names table {'.'.join(one)}, which is not among the replicated tables",
            where=config.name,
            hint="Correct the name, or look at `tables:` and at `pyreplica check`.",
        )


def told_apart(config: ReplicationConfig, tables: Iterable[CapturedTable]) -> None:
    """Refuse two tables of one name on the slave, of which nothing tells the rows apart."""
    for table, other in config.map.mixed((t.schema, t.name) for t in tables):
        raise Refused(
            f"the master's tables {'.'.join(table)} and {'.'.join(other)} would be the same table "
            f"on the slave, {config.map.table(*table)}",
            where=config.name,
            hint="Map one to another name; or tell their rows apart with `constants:`, a column of "
            "both that has a value for each.",
        )
