"""Compares master and slave row by row, also while both are being written.

The slave equals the master as of its cursor, so its snapshot is taken first and the master's after
it: what differs then must be explained by a change in the log between the two. Keys with such a
change prove nothing; they are looked at again once the slave has moved on. What is not explained is
looked at once more all the same, because the log may have been truncated in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from pyreplica.config import ReplicationConfig
from pyreplica.database import Connection, sql
from pyreplica.errors import Refused, TimedOut
from pyreplica.master import Master
from pyreplica.model import CapturedTable, SlaveTable
from pyreplica.replication.session import known
from pyreplica.replication.wait import cursor_of, wait
from pyreplica.slave import Slave
from pyreplica.slave.statements import misfit

REPEATABLE = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
KEPT = 1000
"""So many differing keys of a table are named; further ones are only counted."""
PROGRESS_EVERY = 10_000

_WHOLE_NUMBERS = frozenset({"smallint", "integer", "bigint"})

Key = tuple[str, ...]


@dataclass(slots=True)
class Difference:
    """A key whose rows differ: ``missing`` on the slave, ``extra`` there, or ``differs``."""

    kind: str
    key: dict[str, str]


@dataclass(slots=True)
class TableResult:
    """How one table compared."""

    table: str
    rows: int = 0
    differing: int = 0
    differences: list[Difference] = field(default_factory=list)
    problem: str | None = None

    @property
    def equal(self) -> bool:
        """Whether all rows are the same."""
        return self.differing == 0 and self.problem is None


def compare(
    config: ReplicationConfig,
    *,
    timeout: float = 60.0,
    progress: Callable[[str, int], object] = lambda table, rows: None,
) -> list[TableResult]:
    """Compare every table of a replication.

    Args:
        timeout: seconds to wait for the slave to catch up with what is being written meanwhile.
        progress: called with a table's name and the rows compared so far.

    Raises:
        TimedOut: rows kept changing, or no daemon brings the slave up to them.
    """
    with ExitStack() as stack:
        master = stack.enter_context(closing(Master(config)))
        slave = stack.enter_context(closing(Slave(config)))
        master.check_installed()
        slave.check_installed()
        known(master, slave)
        wait(config, timeout)
        copied = slave.copied_tables()
        results: list[TableResult] = []
        waiting: list[tuple[CapturedTable, SlaveTable]] = []
        for table in master.tables():
            if not config.includes(table.schema, table.name):
                continue
            here = slave.describe(table)
            problem = misfit(table, here)
            if not copied.get(table.relid):
                results.append(TableResult(str(table), problem="it was never copied"))
            elif problem is not None or here is None:
                results.append(TableResult(str(table), problem=problem[0] if problem else ""))
            else:
                waiting.append((table, here))
        if not waiting and not results:
            raise Refused(
                "there is no table to compare",
                where=config.name,
                hint="Look at `tables:` in the configuration and at `pyreplica check`.",
            )
        suspects: dict[CapturedTable, set[frozenset[tuple[str, str]]]] = {}
        for _ in range(100):
            again = []
            for table, here in waiting:
                result, undecided = _compare(master, slave, table, here, progress)
                found = {frozenset(d.key.items()) for d in result.differences}
                # what explains a difference may have left the log meanwhile: it has to show twice
                if undecided or (found and not found & suspects.get(table, set())):
                    again.append((table, here))
                else:
                    results.append(result)
                suspects[table] = set() if undecided else found
            if not again:
                return sorted(results, key=lambda r: r.table)
            waiting = again
            wait(config, timeout)
        raise TimedOut(
            f"the rows of {waiting[0][0]} change faster than they can be compared",
            where=config.name,
            hint="Compare again when the master is less busy.",
        )


def _compare(
    master: Master,
    slave: Slave,
    table: CapturedTable,
    here: SlaveTable,
    progress: Callable[[str, int], object],
) -> tuple[TableResult, bool]:
    """Compare one table; the second value says that keys on their way make another look needed."""
    result = TableResult(str(table))
    found: list[Difference] = []
    with slave.connection.transaction(REPEATABLE):
        behind = cursor_of(slave).position.snapshot
        with master.connection.transaction(REPEATABLE):
            numbers = _numbers(table, here)
            left = _rows(master.connection, table, numbers, table.partitioned)
            right = _rows(slave.connection, table, numbers, here.partitioned)
            for kind, key in _differences(left, right, numbers, result, progress):
                result.differing += 1
                if len(found) < KEPT:
                    found.append(Difference(kind, dict(zip(table.key, key, strict=True))))
            if not found:
                return result, False
            truncated, moving = master.changed_keys(behind, table)
    undecided = truncated or any(frozenset(d.key.items()) in moving for d in found)
    result.differences = found
    return result, undecided


def _differences(
    left: Iterator[tuple[Key, str]],
    right: Iterator[tuple[Key, str]],
    numbers: Sequence[bool],
    result: TableResult,
    progress: Callable[[str, int], object],
) -> Iterator[tuple[str, Key]]:
    """Merge two streams that are ordered by key."""

    def order(key: Key) -> tuple[int | str, ...]:
        return tuple(
            int(part) if number else part for part, number in zip(key, numbers, strict=True)
        )

    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        result.rows += 1
        if result.rows % PROGRESS_EVERY == 0:
            progress(result.table, result.rows)
        if a is not None and b is not None and a[0] == b[0]:
            if a[1] != b[1]:
                yield "differs", a[0]
            a, b = next(left, None), next(right, None)
        elif b is None or (a is not None and order(a[0]) < order(b[0])):
            assert a is not None
            yield "missing", a[0]
            a = next(left, None)
        else:
            yield "extra", b[0]
            b = next(right, None)
    progress(result.table, result.rows)


def _numbers(table: CapturedTable, here: SlaveTable) -> list[bool]:
    return [here.columns[name].type in _WHOLE_NUMBERS for name in table.key]


def _rows(
    connection: Connection, table: CapturedTable, numbers: Sequence[bool], partitioned: bool
) -> Iterator[tuple[Key, str]]:
    """Key and digest of every row, ordered by key in a way that is the same on both sides.

    concat() prints a value with its type's output function, as the log does. The two databases
    may have different encodings.
    """
    keys = [sql.SQL("concat({})").format(sql.Identifier(name)) for name in table.key]
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in (*table.key, *table.columns))
    order = sql.SQL(", ").join(
        sql.Identifier(name) if number else sql.SQL("convert_to({}, 'UTF8')").format(key)
        for name, key, number in zip(table.key, keys, numbers, strict=True)
    )
    query = sql.SQL(
        "SELECT md5(convert_to(ROW({})::text, 'UTF8')), {} FROM {}{} ORDER BY {}"
    ).format(
        columns,
        sql.SQL(", ").join(keys),
        sql.SQL("" if partitioned else "ONLY "),
        sql.Identifier(table.schema, table.name),
        order,
    )
    for digest, *key in connection.stream(query):
        yield tuple(key), digest
