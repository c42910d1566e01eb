"""Tables that are added to a running replication, and removed from it.

A table is added in three steps, each of which is safe to be broken off after:

1. It is captured on the master, the slave notes that it is being copied, and the master keeps its
   log from here on. Begun again, the table is emptied and copied anew.
2. Its rows are copied as of one snapshot of the master, while the daemon passes its changes over.
   That they are, and the snapshot, is noted in the transaction that copies them.
3. The daemon brings it to where the other tables are (joining.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Protocol, TypeVar

from pyreplica.config import ReplicationConfig
from pyreplica.errors import PyReplicaError, Refused, TimedOut
from pyreplica.master import Master
from pyreplica.model import CapturedTable, TableCopy
from pyreplica.replication.agreement import known
from pyreplica.replication.copier import Copier, Progress
from pyreplica.replication.copy import fits, told_apart
from pyreplica.replication.filters import as_configured, changed, set_filters
from pyreplica.replication.joining import recorded
from pyreplica.slave import Slave

LOOK_FIRST = 0.005
LOOK_LONGEST = 0.1


class Named(Protocol):
    """Something with the name of a table."""

    @property
    def schema(self) -> str: ...
    @property
    def name(self) -> str: ...


_Table = TypeVar("_Table", bound=Named)

_IDENTIFIERS = re.compile(r'("(?:[^"]|"")+"|[^".]+)\.("(?:[^"]|"")+"|[^".]+)')


def named(text: str, tables: Iterable[_Table]) -> list[_Table]:
    """The tables that are called so: schema.table, with or without SQL's quotes."""
    quoted = _IDENTIFIERS.fullmatch(text) if '"' in text else None
    if quoted is not None:
        schema, name = (_unquoted(part) for part in quoted.groups())
        return [table for table in tables if (table.schema, table.name) == (schema, name)]
    return [table for table in tables if f"{table.schema}.{table.name}" == text]


def _unquoted(identifier: str) -> str:
    return identifier[1:-1].replace('""', '"') if identifier.startswith('"') else identifier


def _called_alike(a: Named, b: Named) -> bool:
    return (a.schema, a.name) == (b.schema, b.name)


@dataclass(frozen=True, slots=True)
class Added:
    """How far a table has come.

    Args:
        state: "in step", "in step already", or "joining": it is copied and no daemon runs.
        rows: how many were copied, now or before.
    """

    table: str
    state: str
    rows: int


class Addition:
    """Adds tables to a replication, whether its daemon runs or not.

    Args:
        config: the replication.
        names: the tables, as ``named()`` understands them.
        progress: is told how the copy goes.
        truncate: rows on the slave may be removed.
        workers: how many tables are copied at a time; from the configuration when None.
    """

    def __init__(
        self,
        config: ReplicationConfig,
        names: Sequence[str],
        progress: Progress,
        *,
        truncate: bool = False,
        workers: int | None = None,
    ) -> None:
        self._config = config
        self._names = names
        self._progress = progress
        self._truncate = truncate
        again = f"pyreplica add-table {config.name} {' '.join(names)}"
        self._copier = Copier(config, progress, workers, again)
        self._again = again

    def cancel(self) -> None:
        """Break it off; for another thread or a signal."""
        self._copier.cancel()

    def run(
        self,
        timeout: float = 60.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> list[Added]:
        """Copy the tables, and wait until the daemon has brought them in.

        Args:
            timeout: seconds to wait for the daemon, after the copy.

        Raises:
            Refused: a table cannot be added; nothing was copied.
            TimedOut: the daemon has not brought a table in; it does so when it gets there.
        """
        with ExitStack() as stack:
            master = stack.enter_context(self._copier.side(Master))
            slave = stack.enter_context(self._copier.side(Slave))
            master.check_installed()
            slave.check_installed()
            known(master, slave)
            slave.records.lock()
            tables = self._chosen(master)
            copies = recorded(master, slave)
            already = {t.relid for t in tables if _state(copies, t) == "ready"}
            self._check_filters(master, [t for t in tables if t.relid in already])
            fresh = [t for t in tables if _state(copies, t) not in ("ready", "joining")]
            if fresh:
                gone = self._check(master, slave, fresh, copies)
                self._capture(master, fresh)
                self._copy(master, slave, fresh, copies, gone)
            slave.records.unlock()
            master.announce_tables()
            joined = self._wait(slave, tables, timeout, clock, sleep)
            copies = slave.records.copies()
            in_step = "in step" if joined else "joining"
            return [
                Added(
                    str(table),
                    "in step already" if table.relid in already else in_step,
                    copies[table.relid].rows or 0,
                )
                for table in tables
            ]

    # On the master

    def _chosen(self, master: Master) -> list[CapturedTable]:
        """The named tables, as they are captured or would be."""
        candidates = master.candidates()
        found = [self._one(name, named(name, candidates)) for name in self._names]
        for table in found:
            if not self._config.includes(table.schema, table.name):
                raise self._refusal(
                    f"table {table} is not among `tables:` of the configuration",
                    "Add it there and reload the daemon (`pyreplica reload`, SIGHUP); then add it.",
                )
            if table.reason is not None:
                raise self._refusal(
                    f"table {table} cannot be replicated: {table.reason}",
                    "See docs/limits.md for what tables must be like.",
                )
        captured = {(t.schema, t.name): t for t in master.tables(whole=True)}
        others = {(t.schema, t.name): t.as_captured() for t in master.all_tables()}
        as_captured = {**others, **captured}
        tables = [
            as_configured(self._config, table)
            for table in dict.fromkeys(as_captured[table.schema, table.name] for table in found)
        ]
        for one in tables:
            if not one.key:
                raise self._refusal(
                    f"table {one} has lost its primary key on the master",
                    "Give it a primary key, then add it.",
                )
        return tables

    def _check_filters(self, master: Master, tables: Sequence[CapturedTable]) -> None:
        """Refuse to leave a table in step as it is when it is wanted with another filter."""
        recorded_ = master.filters.recorded()
        for table in tables:
            problem = changed(self._config, table, recorded_.get(table.relid))
            if problem is not None:
                raise self._refusal(*problem)

    def _capture(self, master: Master, tables: Sequence[CapturedTable]) -> None:
        """Have the tables captured that are not."""
        wanted = {(table.schema, table.name) for table in tables}
        for candidate in master.candidates():  # those that others inherit from come first
            if (candidate.schema, candidate.name) not in wanted or candidate.added:
                continue
            self._progress.say(f"capturing {candidate} on the master")
            line = master.add_table(candidate)
            if not any(_called_alike(candidate, table) for table in master.tables()):
                raise self._refusal(line, "See `pyreplica check`.")

    def _one(self, name: str, found: Sequence[_Table]) -> _Table:
        if not found:
            raise self._refusal(
                f"the master has no table {name}",
                "Write schema.table. A partition is replicated with the table it belongs to.",
            )
        if len(found) > 1:
            raise self._refusal(
                f"more than one table of the master is called {name}",
                'Write its name with quotes: "schema"."table".',
            )
        return found[0]

    # On the slave

    def _check(
        self,
        master: Master,
        slave: Slave,
        tables: Sequence[CapturedTable],
        copies: Mapping[int, TableCopy],
    ) -> list[TableCopy]:
        """Refuse before anything is touched.

        Returns:
            The records of tables that the master does not have any more, in whose place on the
            slave the new ones come.
        """
        gone = []
        captured = {t.relid: t for t in master.tables()}
        known = {**captured, **{t.relid: t for t in tables}}.values()
        told_apart(self._config, [t for t in known if self._config.includes(t.schema, t.name)])
        for table in tables:
            here = slave.describe(table, master.masking.of(table))
            fits(self._config, table, here)
            for copy in copies.values():
                if copy.relid == table.relid or not _called_alike(copy, table):
                    continue
                other = captured.get(copy.relid)
                if other is None:
                    gone.append(copy)
                elif slave.describe(other) is None:
                    raise self._refusal(
                        f"table {table} on the slave belongs to the master's table {other}, which "
                        "was renamed",
                        f"Rename it on the slave as well, and create the new table {table} there.",
                    )
            ours = _state(copies, table) == "copying"
            if here is not None and not self._truncate and not ours and slave.has_rows(here):
                raise self._refusal(
                    f"table {here} on the slave has rows",
                    "If they may be replaced by the master's rows: --truncate.",
                )
        return gone

    def _copy(
        self,
        master: Master,
        slave: Slave,
        tables: Sequence[CapturedTable],
        copies: Mapping[int, TableCopy],
        gone: Sequence[TableCopy],
    ) -> None:
        slave.records.begin_adding(tables, gone)
        master.record.hold()
        for line in set_filters(self._config, master, tables):
            self._progress.say(f"master: {line}")
        filled = [t for t in tables if self._truncate or _state(copies, t) == "copying"]
        slave.empty([here for t in filled if (here := slave.describe(t)) is not None])
        with self._copier.moment() as (exporter, moment):
            # as they are at that moment: the log begins there
            then = {t.relid: t for t in exporter.tables()}
            wanted = [then[t.relid] for t in tables if t.relid in then]
            if len(wanted) < len(tables) or not all(table.key for table in wanted):
                raise self._refusal(
                    "a table was dropped on the master meanwhile, or has lost its primary key",
                    f"Run `{self._again}` again.",
                )

            def note(slave: Slave, table: CapturedTable, rows: int) -> None:
                slave.records.joining(table, rows, moment.position.snapshot)

            self._copier.copy(exporter, moment, wanted, note)

    def _wait(
        self,
        slave: Slave,
        tables: Sequence[CapturedTable],
        timeout: float,
        clock: Callable[[], float],
        sleep: Callable[[float], object],
    ) -> bool:
        """Wait for the daemon to bring the tables in; gives whether there is one."""
        deadline = clock() + timeout
        pause = LOOK_FIRST
        while True:
            copies = slave.records.copies()
            waiting = [table for table in tables if _state(copies, table) != "ready"]
            if not waiting:
                return True
            for table in waiting:
                self._must_be_joining(table, copies.get(table.relid))
            if not slave.locked():
                return False
            if clock() >= deadline:
                raise TimedOut(
                    f"table {waiting[0]} is copied, but has not joined after {timeout:g} s",
                    where=self._config.name,
                    hint="It joins when the daemon gets there; look at `pyreplica status`, and at "
                    "the daemon's log. Was the daemon started with this configuration?",
                )
            sleep(pause)
            pause = min(pause * 1.5, LOOK_LONGEST)

    def _must_be_joining(self, table: CapturedTable, copy: TableCopy | None) -> None:
        if copy is None or copy.state == "removed":
            raise self._refusal(f"table {table} was removed meanwhile", f"Run `{self._again}`.")
        if copy.state != "joining":
            raise PyReplicaError(
                f"table {table} cannot join: {copy.problem or 'it is copied again'}",
                where=self._config.name,
                hint=f"Then run `{self._again}` once more.",
            )

    def _refusal(self, what: str, hint: str) -> Refused:
        return Refused(what, where=self._config.name, hint=hint)


def _state(copies: Mapping[int, TableCopy], table: CapturedTable) -> str | None:
    copy = copies.get(table.relid)
    return copy.state if copy else None


def remove_tables(config: ReplicationConfig, names: Sequence[str]) -> list[str]:
    """Have tables passed over from now on; the slave's rows stay as they are.

    On the master they are captured no more, unless it has other slaves.

    Returns:
        A line for each table, for people.

    Raises:
        Refused: a table is not in the replication; nothing was changed.
    """
    with closing(Master(config)) as master, closing(Slave(config)) as slave:
        master.check_installed()
        slave.check_installed()
        known(master, slave)
        slave.records.lock()
        copies = recorded(master, slave)
        captured = {t.relid: t for t in master.tables()}
        chosen = [_to_remove(config, name, copies, captured) for name in dict.fromkeys(names)]
        for table in chosen:
            slave.records.remove(table)
        recorded(master, slave)
        master.announce_tables()
        shared = master.serves_others()
        lines = []
        for table in chosen:
            now = captured.get(table.relid)
            line = f"{now or table}: removed; the slave's rows stay"
            if now is not None and shared:
                line += "; it stays captured on the master for other slaves"
            elif now is not None:
                line += f"; on the master: {master.remove_table(now)}"
            lines.append(line)
        return lines


def _to_remove(
    config: ReplicationConfig,
    name: str,
    copies: Mapping[int, TableCopy],
    captured: Mapping[int, CapturedTable],
) -> TableCopy | CapturedTable:
    """The table of this name: as it is called on the master now, or was when it was copied."""
    now = [
        table
        for table in named(name, captured.values())
        if table.relid in copies or config.includes(table.schema, table.name)
    ]
    found = [copies.get(t.relid, t) for t in now] or [
        copy for copy in named(name, copies.values()) if copy.relid not in captured
    ]
    if len(found) != 1:
        raise Refused(
            f"{'more than one' if found else 'no'} table of the replication is called {name}",
            where=config.name,
            hint='Write its name with quotes: "schema"."table".'
            if found
            else "Write schema.table; `pyreplica check` lists the tables.",
        )
    return found[0]
