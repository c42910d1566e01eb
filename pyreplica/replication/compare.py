"""Compares master and slave, also while both are being written.

The slave equals the master as of its cursor. So its snapshot is taken first and the master's after
it, and what the slave lacks is in the log: the changes between the two. Where a row differs, they
are replayed on the slave's row; only if the result is not the master's row is the difference real.
So even a row that changes all the time is compared exactly, and nothing has to be looked at twice
unless its table was altered meanwhile.

The log must be complete for that. It is kept from being truncated before the slave's snapshot is
taken, and that is taken only once the slave has all that was confirmed before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock
from typing import Protocol

from pyreplica.config import ReplicationConfig
from pyreplica.errors import ConfigError, Refused, TimedOut
from pyreplica.master import Master
from pyreplica.model import CapturedTable, Change, SlaveTable, TableFilter
from pyreplica.replication.agreement import known
from pyreplica.replication.checksums import (
    ROWS_AT_ONCE,
    Key,
    TableReader,
    Values,
    hashing,
)
from pyreplica.replication.filters import changed
from pyreplica.replication.hooks import changes_rows
from pyreplica.replication.snapshots import Pair, Sides, Way, replayed, snapshots
from pyreplica.replication.wait import wait
from pyreplica.slave import Slave
from pyreplica.slave.misfit import misfit

KEPT = 1000
"""So many differing keys of a table are named; further ones are only counted."""
KEYS_AT_ONCE = 1000
"""So many differing keys are looked up in the log at a time."""
LONGEST_VALUE = 10_000
"""Characters; longer values are cut where they are named."""
PASSES = 100


@dataclass(slots=True)
class Difference:
    """A key whose rows differ: ``missing`` on the slave, ``extra`` there, or ``differs``.

    Args:
        key: the values of the key's columns.
        master: of rows that differ the values of the columns in which they do, on the master.
        slave: the same on the slave.
    """

    kind: str
    key: dict[str, str]
    master: Values | None = None
    slave: Values | None = None


@dataclass(slots=True)
class TableResult:
    """How one table compared.

    Args:
        rows: the number of keys that one side or both have.
        differing: how many of them differ.
        differences: the first of these, at most ``KEPT``.
        problem: why the table could not be compared.
        hint: what can be done about that.
    """

    table: str
    rows: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)
    problem: str | None = None
    hint: str | None = None

    @property
    def equal(self) -> bool:
        """Whether all rows are the same."""
        return self.differing == 0 and self.problem is None


class Progress(Protocol):
    """Is told how a comparison goes; called from several threads."""

    def begin(self, tables: Sequence[tuple[str, int]]) -> None:
        """The tables to be compared, with their estimated numbers of rows."""

    def rows(self, table: str, rows: int) -> None:
        """So many rows more have been read on both sides."""

    def done(self, table: str, rows: int) -> None:
        """A table has been compared."""


class Unwatched:
    """A comparison that nobody watches."""

    def begin(self, tables: Sequence[tuple[str, int]]) -> None:
        """Nothing."""

    def rows(self, table: str, rows: int) -> None:
        """Nothing."""

    def done(self, table: str, rows: int) -> None:
        """Nothing."""


Found_ = Callable[[Difference], object]
Watcher = Callable[[CapturedTable, SlaveTable], Found_]
"""Is told that the comparison of a table begins, perhaps anew; gives what each of its differences
is handed to, however many there are."""


def compare(
    config: ReplicationConfig,
    *,
    timeout: float = 60.0,
    tables: Sequence[str] = (),
    progress: Progress | None = None,
    watcher: Watcher = lambda table, here: lambda difference: None,
) -> list[TableResult]:
    """Compare tables of a replication.

    Args:
        timeout: seconds to wait for the slave to catch up before it begins.
        tables: which, as schema.table; all when empty.
        progress: is told how it goes.
        watcher: is told all differences.

    Raises:
        ConfigError: there is no table of that name in the replication.
        Refused: the replication has a transform that changes rows.
        TimedOut: no daemon brings the slave up to what was committed on the master.
    """
    if changes_rows(config):
        raise Refused(
            "what goes through a transform cannot be compared with the master's rows",
            where=config.name,
            hint="The transform alone knows what the slave's rows should be.",
        )
    progress = progress or Unwatched()
    with ExitStack() as stack:
        master = stack.enter_context(closing(Master(config)))
        slave = stack.enter_context(closing(Slave(config)))
        keeper = stack.enter_context(closing(Master(config)))
        master.check_installed()
        slave.check_installed()
        known(master, slave)
        wait(config, timeout)
        results, waiting = _chosen(config, master, slave, tables)
        sizes = {table: _estimate(master, table) for table, _ in waiting}
        progress.begin([(str(table), sizes[table]) for table, _ in waiting])
        pool = stack.enter_context(ThreadPoolExecutor(2, "compare"))
        hash_ = hashing(
            master.connection,
            slave.connection,
            same_encoding=master.server().encoding == slave.server().encoding,
        )
        for _ in range(PASSES):
            again = []
            with snapshots(master, slave, keeper, timeout) as (behind, until):
                for table, here in waiting:
                    comparison = _Comparison(
                        Sides(pool, master, slave, table, here, hash_, sizes[table]),
                        Way(keeper.log, behind, until, table),
                        watcher(table, here),
                    )
                    if comparison.run(progress):
                        results.append(comparison.result)
                        progress.done(str(table), comparison.result.rows)
                    else:
                        again.append((table, here))
            if not again:
                return sorted(results, key=lambda r: r.table)
            wait(config, timeout)
            fits, waiting = _chosen(config, master, slave, [str(table) for table, _ in again])
            results += fits
        raise TimedOut(
            f"table {waiting[0][0]} is altered or truncated again and again while it is compared",
            where=config.name,
            hint="Compare again when nobody does that.",
        )


def _chosen(
    config: ReplicationConfig, master: Master, slave: Slave, names: Sequence[str]
) -> tuple[list[TableResult], list[tuple[CapturedTable, SlaveTable]]]:
    """The results of tables that cannot be compared, and the tables that can."""
    states = {relid: copy.state for relid, copy in slave.records.copies().items()}
    tables = [
        t
        for t in master.tables()
        if config.includes(t.schema, t.name) and states.get(t.relid) != "removed"
    ]
    unknown = sorted(set(names) - {str(table) for table in tables})
    if unknown:
        raise ConfigError(
            f"there is no table {unknown[0]} in this replication",
            where=config.name,
            hint=f"It has {', '.join(map(str, tables)) or 'none'}.",
        )
    recorded = master.filters.recorded()
    results: list[TableResult] = []
    comparable: list[tuple[CapturedTable, SlaveTable]] = []
    for table in tables:
        if names and str(table) not in names:
            continue
        here = slave.describe(table, master.masking.of(table))
        problem = (
            changed(config, table, recorded.get(table.relid))
            or misfit(table, here, slave.place(table))
            or _masked(table, here)
            or _by_changes(recorded.get(table.relid))
        )
        state = states.get(table.relid)
        if state != "ready":
            results.append(_not_copied(config, table, state))
        elif problem is not None or here is None:
            what, hint = problem or ("", "")
            results.append(TableResult(str(table), problem=what, hint=hint))
        else:
            comparable.append((table, here))
    if not comparable and not results:
        raise Refused(
            "there is no table to compare",
            where=config.name,
            hint="Look at `tables:` in the configuration and at `pyreplica check`.",
        )
    return results, comparable


def _masked(table: CapturedTable, here: SlaveTable | None) -> tuple[str, str] | None:
    """Why a table whose key is masked cannot be compared."""
    if here is None or here.map.masks.keys().isdisjoint(table.key):
        return None
    return (
        "its key is masked, so that no row of the master can be told by the slave's",
        "Count its rows on both sides instead; or leave the key as it is in `masks:`.",
    )


def _by_changes(filter_: TableFilter | None) -> tuple[str, str] | None:
    """Why a table whose filter chooses changes cannot be compared."""
    if filter_ is None or not filter_.of_changes:
        return None
    return (
        "its filter chooses changes, by `event` or `old`, so that nobody can tell which rows the "
        "slave should have",
        "Leave it out with --table; or write the filter over the row alone, `new`.",
    )


def _not_copied(config: ReplicationConfig, table: CapturedTable, state: str | None) -> TableResult:
    hint = f"Copy it: `pyreplica add-table {config.name} {table}`."
    if state == "joining":
        hint = f"Wait until it is in step; see `pyreplica status {config.name}`."
    problem = "it was never copied" if state is None else "it is still being added"
    return TableResult(str(table), problem=problem, hint=hint)


def _estimate(master: Master, table: CapturedTable) -> int:
    """About how many rows there are."""
    size = master.table_size(table)
    return size.rows or size.bytes // 200


class _Comparison:
    """Compares one table in a pair of snapshots."""

    def __init__(self, sides: Sides, way: Way, found: Found_) -> None:
        self._sides = sides
        self._way = way
        self._found = found
        self._table = sides.table
        self.result = TableResult(str(sides.table))

    def run(self, progress: Progress) -> bool:
        """Compare; the answer is False when the table was altered meanwhile."""
        told = 0
        lock = Lock()

        def read() -> None:
            nonlocal told
            with lock:
                both = self._sides.read()
                progress.rows(str(self._table), both - told)
                told = both

        with self._sides.reading():
            left, right = self._sides.both(lambda reader: reader.sums(read))
            self.result.rows = sum(one.rows for one in left.values())
            differing = [b for b in {**left, **right} if left.get(b) != right.get(b)]
            if differing and (
                any(self._sides.both(TableReader.rewritten)) or not self._descend(differing)
            ):
                return False
        self._sort()
        return True

    def _descend(self, buckets: Sequence[int]) -> bool:
        """Find the keys that differ in these buckets."""
        pairs = self._sides.unequal(buckets)
        while some := list(islice(pairs, KEYS_AT_ONCE)):
            self.result.rows += sum(pair.left is None for pair in some)
            changes = self._way.changes(pair.key for pair in some)
            if any(c.table != self._table.id or (not c.key and c.op != "T") for c in changes):
                return False
            emptied = max((c.id for c in changes if c.op == "T"), default=0)
            moved: dict[Key, list[Change]] = {}
            for change in changes:
                if change.id > emptied:
                    texts = json.loads(change.key)
                    key = tuple(texts[name] for name in self._table.key)
                    moved.setdefault(key, []).append(change)
            for first in range(0, len(some), ROWS_AT_ONCE):
                self._judge(some[first : first + ROWS_AT_ONCE], moved, emptied > 0)
        return True

    def _judge(self, pairs: Sequence[Pair], moved: dict[Key, list[Change]], emptied: bool) -> None:
        """Tell the real differences from those that are only on their way."""
        lefts, rights = self._sides.values(
            [pair for pair in pairs if emptied or pair.key in moved or self.result.differing < KEPT]
        )
        for pair in pairs:
            there = lefts.get(pair.left.place) if pair.left else None
            here = rights.get(pair.right.place) if pair.right else None
            on_slave, on_master = pair.right is not None, pair.left is not None
            if emptied or pair.key in moved:
                changes = moved.get(pair.key, ())
                here = replayed(None if emptied else here, changes, self._sides.compared)
                on_slave = here is not None
                if here == there:
                    continue
            kind = "missing" if not on_slave else "differs" if on_master else "extra"
            difference = Difference(kind, dict(zip(self._table.key, pair.key, strict=True)))
            self._found(difference)
            self.result.differing += 1
            if self.result.differing <= KEPT:
                if there is not None and here is not None:
                    difference.master = _changed(there, here)
                    difference.slave = _changed(here, there)
                self.result.differences.append(difference)

    def _sort(self) -> None:
        """Name the differences in the order of their keys."""
        numbers = self._sides.key_order

        def order(difference: Difference) -> tuple[int | str, ...]:
            parts = zip(difference.key.values(), numbers, strict=True)
            return tuple(int(part) if number else part for part, number in parts)

        self.result.differences.sort(key=order)


def _changed(row: Values, other: Values) -> Values:
    """The values in which a row is not like another."""
    return {
        name: value if value is None or len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE] + "…"
        for name, value in row.items()
        if value != other.get(name)
    }
