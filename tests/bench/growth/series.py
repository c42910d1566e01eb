"""The series: what a row costs with more rows, tables, columns and slaves."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.growth.replicated import Replicated, Spent
from tests.bench.growth.tables import KINDS, Table, write
from tests.bench.growth.writers import Stretch, Writers
from tests.bench.system import BASE

Say = Callable[[str], object]
"""Is told of each figure."""

_WARM = 200
"""Rows that are replicated before anything is measured: the daemon and the servers prepare
statements for a table once."""
ONCE = 500_000
"""Larger backlogs are measured once only."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: how often; medians count.
        backlogs: rows.
        tables: that each transaction writes.
        table_rows: of each backlog in as many tables.
        columns: of a table.
        column_rows: of each backlog in such a table.
        slaves: of one master.
        slave_rows: of each backlog.
        turns: of writing, without the slaves and with them.
        seconds: of each.
        settings: of the servers.
    """

    rounds: int = 3
    backlogs: Sequence[int] = (1_000, 10_000, 100_000, 1_000_000)
    tables: Sequence[int] = (1, 5, 20, 50)
    table_rows: int = 100_000
    columns: Sequence[int] = (2, 10, 40, 100)
    column_rows: int = 20_000
    slaves: Sequence[int] = (1, 2, 5, 10)
    slave_rows: int = 20_000
    turns: int = 5
    seconds: float = 4.0
    settings: Mapping[str, str] = field(default_factory=lambda: BASE)

    @classmethod
    def of(cls, scale: float, rounds: int = rounds) -> Plan:
        """The plan at a scale: the largest backlog is a million rows at 1, ten at 10."""

        def rows(number: int) -> int:
            return max(1_000, round(number * scale))

        largest = rows(1_000_000)
        return cls(
            rounds=rounds,
            backlogs=tuple(10**power for power in range(3, 10) if 10**power <= largest),
            table_rows=rows(cls.table_rows),
            column_rows=rows(cls.column_rows),
            slave_rows=rows(cls.slave_rows),
            seconds=max(1.0, cls.seconds * min(1.0, math.sqrt(scale))),
        )


@dataclass
class Point:
    """What was found at one point of a series.

    Attributes:
        size: of what grows.
        rows: of each backlog.
        spent: by the kind of the backlog, one for each round.
        without, applying: what writers did, with no slave applying and with all of them; in turn.
    """

    size: int
    rows: int
    spent: defaultdict[str, list[Spent]] = field(default_factory=lambda: defaultdict(list))
    without: list[Stretch] = field(default_factory=list)
    applying: list[Stretch] = field(default_factory=list)

    def cpu(self, kind: str) -> float:
        """Microseconds of CPU a row, of the daemon and both servers."""
        return self._median(kind, lambda one: one.cpu)

    def wall(self, kind: str) -> float:
        """Microseconds a row on the clock."""
        return self._median(kind, lambda one: one.seconds)

    def parts(self, kind: str) -> tuple[float, float, float]:
        """Microseconds of CPU a row of the master, the slaves and the daemon."""
        return (
            self._median(kind, lambda one: one.master),
            self._median(kind, lambda one: one.slave),
            self._median(kind, lambda one: one.daemon),
        )

    @property
    def kept(self) -> float:
        """What the writers keep of their throughput while the slaves apply."""
        pairs = zip(self.applying, self.without, strict=True)
        return statistics.median(one.rate / two.rate for one, two in pairs)

    def _median(self, kind: str, figure: Callable[[Spent], float]) -> float:
        return statistics.median(map(figure, self.spent[kind])) / self.rows * 1e6


def run(plan: Plan, names: Sequence[str], folder: Path, say: Say) -> dict[str, list[Point]]:
    """Measure series.

    Args:
        names: which ones.
        folder: for the servers.

    Returns:
        What was found, by the names.
    """
    found: dict[str, list[Point]] = {}
    if set(names) & set(WITH_ONE_SLAVE):
        with Replicated(folder / "one", tables_of(plan), settings=plan.settings) as replicated:
            for name in names:
                if name in WITH_ONE_SLAVE:
                    found[name] = list(WITH_ONE_SLAVE[name](plan, replicated, say))
    if "slaves" in names:
        found["slaves"] = list(slaves(plan, folder, say))
    return {name: found[name] for name in names}


def tables_of(plan: Plan) -> list[Table]:
    """The tables of all series with one slave."""
    return [*_alike(plan), *_wider(plan)]


def _alike(plan: Plan) -> list[Table]:
    return [Table(f"table_{number}") for number in range(1, max(plan.tables) + 1)]


def _wider(plan: Plan) -> list[Table]:
    return [Table(f"columns_{count}", count) for count in plan.columns]


def backlogs(plan: Plan, replicated: Replicated, say: Say) -> Iterator[Point]:
    """More and more rows of one table wait."""
    chosen = _alike(plan)[:1]
    _warm_up(replicated, chosen)
    for rows in plan.backlogs:
        point = Point(rows, rows)
        _measure(replicated, point, chosen, 1 if rows > ONCE else plan.rounds)
        _say(say, f"{rows:,} rows", point)
        yield point


def tables(plan: Plan, replicated: Replicated, say: Say) -> Iterator[Point]:
    """The same rows are in more and more tables; each transaction writes all of them."""
    chosen = _alike(plan)
    _warm_up(replicated, chosen)
    for count in plan.tables:
        point = Point(count, plan.table_rows)
        _measure(replicated, point, chosen[:count], plan.rounds)
        _say(say, f"{count} tables", point)
        yield point


def columns(plan: Plan, replicated: Replicated, say: Say) -> Iterator[Point]:
    """Tables with more and more columns."""
    for table in _wider(plan):
        _warm_up(replicated, [table])
        point = Point(table.columns, plan.column_rows)
        _measure(replicated, point, [table], plan.rounds)
        _say(say, f"{table.columns} columns", point)
        yield point


def slaves(plan: Plan, folder: Path, say: Say) -> Iterator[Point]:
    """More and more slaves of one master, with one daemon."""
    table = Table("slaves")
    for count in plan.slaves:
        with Replicated(
            folder / f"slaves_{count}", [table], count, settings=plan.settings
        ) as replicated:
            _warm_up(replicated, [table])
            point = Point(count, plan.slave_rows)
            _measure(replicated, point, [table], plan.rounds)
            with Writers(replicated, table) as writers:
                for _ in range(plan.turns):
                    replicated.end()
                    point.without.append(writers.stretch(plan.seconds))
                    replicated.start()
                    point.applying.append(writers.stretch(plan.seconds))
            replicated.settle()
            replicated.check([table])
        _say(say, f"{count} slaves", point)
        say(f"{count} slaves: {point.kept:.2f} left of the writers' throughput")
        yield point


def _warm_up(replicated: Replicated, chosen: Sequence[Table]) -> None:
    _measure(replicated, Point(1, _WARM), chosen, 1)


def _measure(replicated: Replicated, point: Point, chosen: Sequence[Table], rounds: int) -> None:
    """Add what it takes; the tables are empty before and afterwards."""
    for _ in range(rounds):
        for kind in KINDS:

            def wrote(kind: str = kind) -> None:
                point.rows = write(replicated.master_dsn, chosen, point.rows, kind)

            point.spent[kind].append(replicated.catch_up(wrote, chosen))
        replicated.empty(chosen)


def _say(say: Say, what: str, point: Point) -> None:
    told = (
        f"{kind} {point.wall(kind):.1f} us a row, CPU {point.cpu(kind):.1f} us" for kind in KINDS
    )
    say(f"{what}: {', '.join(told)}")


WITH_ONE_SLAVE: Mapping[str, Callable[[Plan, Replicated, Say], Iterator[Point]]] = {
    "backlogs": backlogs,
    "tables": tables,
    "columns": columns,
}
SERIES = (*WITH_ONE_SLAVE, "slaves")
