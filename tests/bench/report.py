"""benchmarks.txt: the figures as tables for people."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone

from tests.bench.contest import Contestant
from tests.bench.program import machine
from tests.bench.run import Figures, Plan
from tests.bench.slaves import CLIENTS
from tests.bench.system import BASE, server_version
from tests.bench.workloads import Backlog

OURS = "pyreplica"


def report(plan: Plan, contestants: Mapping[str, Contestant], figures: Figures) -> str:
    """The whole text."""
    return "\n".join(_lines(plan, contestants, figures)) + "\n"


def _lines(plan: Plan, contestants: Mapping[str, Contestant], figures: Figures) -> Iterator[str]:
    titles = {name: one.system.title for name, one in contestants.items()}
    first = next(iter(contestants.values()))
    yield f"Beside other systems: {datetime.now(timezone.utc):%Y-%m-%d}"
    yield ""
    yield machine(server_version(first.master))
    yield "Each system has two servers on this machine, a master and a slave; they take turns."
    yield f"Servers: {', '.join(f'{key} = {value}' for key, value in BASE.items())}"
    yield (
        f"{plan.rounds} rounds, medians; all of it took {figures.seconds / 60:.0f} minutes. "
        "Only ratios inside one run mean anything."
    )
    yield ""
    for contestant in contestants.values():
        yield f"  {contestant.system.title}: {contestant.system.version}"
    if figures.caught_up:
        yield from _caught_up(plan, titles, figures)
    if figures.latencies:
        yield from section(
            "Latency",
            "From COMMIT's return on the master until the slave's readers see the row; one row at "
            "a time, 20 a second.",
            "Milliseconds, p50 / p99.",
        )
        columns = {
            f"{load:,} rows/s besides" if load else "nothing else": {
                name: f"{one.p50:.1f} / {one.p99:.1f}" for name, one in found.items()
            }
            for load, found in figures.latencies.items()
        }
        yield from table(titles, columns)
    if figures.costs:
        yield from section(
            "What writers pay",
            "pgbench with INSERTs of one row: what is left of the throughput that there is without "
            "capture in the same server.",
        )
        columns = {
            f"{clients} clients, {'applying' if applying else 'paused'}": {
                name: f"{kept:.2f}" for name, kept in figures.costs[clients, applying].items()
            }
            for clients, applying in plan.costs
        }
        yield from table(titles, columns)
    if figures.slaves:
        yield from _slaves(plan, figures)
    if figures.triggers:
        yield from section(
            "Capture in one session",
            "What is added to a statement that inserts one row, and to each row of one that "
            "inserts 100,000. Microseconds.",
        )
        triggers = figures.triggers.items()
        columns = {
            "single rows": {name: f"{one.single:.1f}" for name, one in triggers},
            "bulk": {name: f"{one.bulk:.2f}" for name, one in triggers},
        }
        yield from table(titles, columns)


def _slaves(plan: Plan, figures: Figures) -> Iterator[str]:
    yield from section(
        "More slaves of the same master",
        f"{CLIENTS} clients insert a row a transaction, {plan.seconds:g} s at a time, in turn with "
        "each number of slaves; nothing is applied meanwhile.",
        "Transactions a second, and as a part of those of the same turn with "
        f"{_count(plan.slaves[0])}.",
    )
    columns: dict[str, dict[str, str]] = {"transactions/s": {}, "part": {}}
    for number, count in enumerate(plan.slaves):
        rate = statistics.median(turn[number] for turn in figures.slaves)
        columns["transactions/s"][str(count)] = f"{rate:,.0f}"
        columns["part"][str(count)] = f"{figures.kept(number):.2f}"
    yield from table({str(count): _count(count) for count in plan.slaves}, columns)


def _count(slaves: int) -> str:
    return f"{slaves} slave{'s' if slaves > 1 else ''}"


def _caught_up(plan: Plan, titles: Mapping[str, str], figures: Figures) -> Iterator[str]:
    yield from section(
        "Catching up",
        "A backlog is written while nothing is applied; then the time until the slave has all of "
        "it.",
        "Rows a second"
        + (
            f"; in parentheses how many times as fast {titles[OURS]} is." if OURS in titles else "."
        ),
    )
    work = [one for one in plan.work if one.name in figures.caught_up]
    titles = {
        name: title for name, title in titles.items() if name in figures.caught_up[work[0].name]
    }
    for backlog in work:
        yield f"  {backlog.name}: {backlog.title}"
    yield ""
    yield from table(
        titles,
        {one.name: {name: _rate(figures, one, name, titles) for name in titles} for one in work},
    )
    yield ""
    yield "Seconds of CPU and MB of memory of the system's own processes, besides the servers':"
    yield ""
    yield from table(
        titles,
        {one.name: {name: _usage(figures, one.name, name) for name in titles} for one in work},
    )


def _rate(figures: Figures, backlog: Backlog, name: str, titles: Mapping[str, str]) -> str:
    rate = f"{statistics.median(figures.rates(backlog, name)):,.0f}"
    if name == OURS or OURS not in titles:
        return rate
    return f"{rate} ({figures.ratio(backlog, OURS, name):.2f})"


def _usage(figures: Figures, backlog: str, name: str) -> str:
    found = figures.caught_up[backlog][name]
    if not any(one.peak for one in found):
        return "-"
    cpu = statistics.median(one.cpu for one in found)
    return f"{cpu:.2f} s, {max(one.peak for one in found) >> 20} MB"


def section(title: str, *words: str) -> Iterator[str]:
    """How a part begins."""
    yield from ("", "", title, "-" * len(title), *words, "")


def table(titles: Mapping[str, str], columns: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """A line for each system that was measured."""
    lines = [["", *columns]]
    lines += [
        [title, *(cells[name] for cells in columns.values())]
        for name, title in titles.items()
        if all(name in cells for cells in columns.values())
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *rest in lines:
        cells = [first.ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(rest, widths[1:], strict=True)]
        yield "  ".join(cells).rstrip()
