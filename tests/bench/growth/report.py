"""The part of benchmarks.txt about growth."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timezone

import pyreplica
from tests.bench.growth.series import ONCE, Plan, Point
from tests.bench.growth.tables import KINDS, TRANSACTION
from tests.bench.growth.writers import Stretch
from tests.bench.operation.figures import table
from tests.bench.program import machine

FLAT = 1.5
"""What is no more than so many times the smallest is flat."""


def report(
    plan: Plan, found: Mapping[str, Sequence[Point]], seconds: float, postgresql: str
) -> str:
    """The whole text.

    Args:
        found: by the name of the series.
        seconds: how long all of it took.
        postgresql: the servers' version.
    """
    return "\n".join(_lines(plan, found, seconds, postgresql)) + "\n"


def verdict(costs: Sequence[float]) -> str:
    """Whether costs are all about the same, in words."""
    factor = max(costs) / min(costs)
    if factor <= FLAT:
        return f"flat (the largest is {factor:.2f} times the smallest)"
    return f"not flat, the largest is {factor:.2f} times the smallest"


def _lines(
    plan: Plan, found: Mapping[str, Sequence[Point]], seconds: float, postgresql: str
) -> Iterator[str]:
    yield f"Growth: {datetime.now(timezone.utc):%Y-%m-%d}"
    yield ""
    yield f"{machine(postgresql)}; PyReplica {pyreplica.__version__}, two-phase commit"
    yield (
        "A master and a slave's server on this machine. A backlog is written while the daemon "
        "stands still, then it goes on;"
    )
    yield (
        f"{TRANSACTION} rows a transaction, in one statement for each table: INSERTs, then UPDATEs "
        "of one column of the same rows."
    )
    yield (
        "CPU is that of the daemon and of the servers' processes that work for it. The machine is "
        "shared: CPU is what can be compared."
    )
    yield f"Servers: {', '.join(f'{key} = {value}' for key, value in plan.settings.items())}"
    yield (
        f"{plan.rounds} rounds, medians; of more than {ONCE:,} rows one. All of it took "
        f"{seconds / 60:.0f} minutes."
    )
    for name, points in found.items():
        yield from _SECTIONS[name](plan, points)


def _backlogs(plan: Plan, points: Sequence[Point]) -> Iterator[str]:
    yield from _heading("Rows that wait", "Microseconds a row, until the slave has all of them.")
    yield from table(_rows("rows", points))
    yield ""
    yield _sentence("A row of a backlog", points)
    for kind in KINDS if len(points) > 1 else ():
        each, once = _line([(one.rows, one.cpu(kind) * one.rows) for one in points])
        besides = [one.cpu(kind) - once / one.rows for one in points]
        yield (
            f"  {kind}: by the smallest and the largest it is as if a backlog took "
            f"{once / 1000:.1f} ms of CPU and a row {each:.1f} us; a row without the former costs "
            f"{' and '.join(f'{one:.1f}' for one in besides)} us."
        )


def _tables(plan: Plan, points: Sequence[Point]) -> Iterator[str]:
    yield from _heading(
        "Tables in a transaction",
        f"{points[0].rows:,} rows in all, the same number in each table. Microseconds a row.",
    )
    yield from table(_rows("tables", points))
    yield ""
    yield _sentence("A row, whatever the number of tables,", points)
    for kind in KINDS if len(points) > 1 else ():
        each, _ = _line([(one.size, one.cpu(kind) * one.rows) for one in points])
        yield (
            f"  {kind}: by the fewest and the most it is as if each table took {each / 1000:.1f} "
            f"ms of CPU, with {points[0].rows:,} rows in all of them."
        )


def _columns(plan: Plan, points: Sequence[Point]) -> Iterator[str]:
    yield from _heading(
        "Columns",
        f"{points[0].rows:,} rows. Microseconds a row; for INSERTs of CPU also a value of it.",
    )
    head, *rows = _rows("columns", points)
    values = [f"{one.cpu('INSERT') / one.size:.2f}" for one in points]
    rows = [(*row, value) for row, value in zip(rows, values, strict=True)]
    yield from table([(*head, "INSERT, CPU a value"), *rows])
    yield ""
    yield _sentence("A row of a wider table", points)
    yield _sentence("A value of it", points, lambda one: one.size, ["INSERT"])
    for kind in KINDS if len(points) > 1 else ():
        each, once = _line([(one.size, one.cpu(kind)) for one in points])
        yield (
            f"  {kind}: by the narrowest and the widest it is as if a row took {once:.1f} us of "
            f"CPU, and each column {each:.2f} us."
        )


def _slaves(plan: Plan, points: Sequence[Point]) -> Iterator[str]:
    yield from _heading(
        "Slaves of one master",
        f"Databases of one server, and one daemon. {points[0].rows:,} rows wait for each. "
        "Microseconds of CPU a row and slave.",
    )
    rows: list[tuple[str, ...]] = [
        (
            "slaves",
            *(f"{kind} {what}" for kind in KINDS for what in ("rows/s a slave", "CPU us")),
        )
    ]
    rows += [
        (
            str(one.size),
            *(
                text
                for kind in KINDS
                for text in (f"{1e6 / one.wall(kind):,.0f}", f"{one.cpu(kind) / one.size:.1f}")
            ),
        )
        for one in points
    ]
    yield from table(rows)
    yield ""
    yield _sentence("A row for each slave", points, lambda one: one.size)
    yield ""
    yield (
        f"Two writers insert a row a transaction: stretches of {plan.seconds:g} s without and with "
        f"slaves applying, {plan.turns} of each in turn."
    )
    yield ""
    rows = [
        (
            "slaves",
            "rows/s without",
            "with",
            "kept",
            "writers' CPU us a row without",
            "with",
            "applied meanwhile, rows/s a slave",
        )
    ]
    for one in points:
        without, applying = one.without, one.applying
        rows.append(
            (
                str(one.size),
                f"{_median(without, lambda it: it.rate):,.0f}",
                f"{_median(applying, lambda it: it.rate):,.0f}",
                f"{one.kept:.2f}",
                f"{_median(without, lambda it: it.row_cpu):.0f}",
                f"{_median(applying, lambda it: it.row_cpu):.0f}",
                f"{_median(applying, lambda it: it.applied / it.seconds) / one.size:,.0f}",
            )
        )
    yield from table(rows)
    yield ""
    kept = ", ".join(f"with {one.size} {one.kept:.2f}" for one in points)
    yield (
        f"Of their throughput the writers keep with 0 slaves applying 1.00, {kept}: "
        f"{verdict([1.0, *(one.kept for one in points)])}."
    )


_SECTIONS: Mapping[str, Callable[[Plan, Sequence[Point]], Iterator[str]]] = {
    "backlogs": _backlogs,
    "tables": _tables,
    "columns": _columns,
    "slaves": _slaves,
}


def _rows(what: str, points: Sequence[Point]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        (what, *(f"{kind}{part}" for kind in KINDS for part in ("", ", CPU", " = m. + s. + d.")))
    ]
    for one in points:
        cells = [f"{one.size:,}"]
        for kind in KINDS:
            cells += [f"{one.wall(kind):.1f}", f"{one.cpu(kind):.1f}"]
            cells.append(" + ".join(f"{part:.1f}" for part in one.parts(kind)))
        rows.append(tuple(cells))
    return rows


def _sentence(
    what: str,
    points: Sequence[Point],
    of: Callable[[Point], float] = lambda one: 1.0,
    kinds: Collection[str] = KINDS,
) -> str:
    """What the costs of a series come to; ``of``: how many things a row's cost is divided by."""
    said = (f"{kind} {verdict([one.cpu(kind) / of(one) for one in points])}" for kind in kinds)
    return f"{what} costs, in CPU: {'; '.join(said)}."


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The slope of the line through the first and the last point, and where it begins."""
    (x, y), *_, (x_last, y_last) = points
    slope = (y_last - y) / (x_last - x)
    return slope, y - slope * x


def _median(stretches: Sequence[Stretch], figure: Callable[[Stretch], float]) -> float:
    return statistics.median(map(figure, stretches))


def _heading(title: str, *words: str) -> Iterator[str]:
    yield from ("", "", title, "-" * len(title), *words, "")
