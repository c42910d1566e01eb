"""The part of benchmarks.txt about the features."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone

import pyreplica
from tests.bench.contest import CaughtUp, Contestant
from tests.bench.features.kinds import Plain
from tests.bench.program import machine
from tests.bench.report import section, table
from tests.bench.run import Figures, Plan
from tests.bench.system import BASE, server_version


def report(plan: Plan, contestants: Mapping[str, Contestant], figures: Figures) -> str:
    """The whole text."""
    return "\n".join(_lines(plan, contestants, figures)) + "\n"


def _lines(plan: Plan, contestants: Mapping[str, Contestant], figures: Figures) -> Iterator[str]:
    titles = {name: one.system.title for name, one in contestants.items()}
    yield f"Features: {datetime.now(timezone.utc):%Y-%m-%d}"
    yield ""
    version = server_version(next(iter(contestants.values())).master)
    yield f"{machine(version)}; PyReplica {pyreplica.__version__}"
    yield (
        "Each feature has two servers on this machine, a master and a slave; they take turns. "
        "After each figure all rows are compared."
    )
    yield f"Servers: {', '.join(f'{key} = {value}' for key, value in BASE.items())}"
    yield (
        f"{plan.rounds} rounds, medians; all of it took {figures.seconds / 60:.0f} minutes. "
        "Only ratios inside one run mean anything."
    )
    yield ""
    for contestant in contestants.values():
        yield f"  {contestant.system.title}: {contestant.system.version}"
    yield ""
    for backlog in plan.work:
        yield f"  {backlog.name}: {backlog.title}"
    parts: Mapping[str, tuple[str, Callable[[CaughtUp], float]]] = {
        "Writing": ("One session writes it, while nothing is applied.", lambda one: one.wrote),
        "Catching up": ("Then the time until the slave has all of it.", lambda one: one.seconds),
    }
    for title, (words, seconds) in parts.items():
        yield from section(
            title,
            words,
            "Rows a second; in parentheses how many times as long as without it takes.",
        )
        columns = {
            one.name: {
                name: _cell(one.rows, figures.caught_up[one.name], name, seconds) for name in titles
            }
            for one in plan.work
        }
        yield from table(titles, columns)
    yield from section(
        "Capture in one session",
        "What is added to a statement that inserts one row, and to each row of one that inserts "
        "very many. Microseconds.",
    )
    triggers = figures.triggers.items()
    yield from table(
        titles,
        {
            "single rows": {name: f"{one.single:.1f}" for name, one in triggers},
            "bulk": {name: f"{one.bulk:.2f}" for name, one in triggers},
        },
    )


def _cell(
    rows: int,
    found: Mapping[str, list[CaughtUp]],
    name: str,
    seconds: Callable[[CaughtUp], float],
) -> str:
    taken = [seconds(one) for one in found[name]]
    plain = [seconds(one) for one in found[Plain.name]]
    factor = statistics.median(one / two for one, two in zip(taken, plain, strict=True))
    rate = f"{rows / statistics.median(taken):,.0f}"
    return rate if name == Plain.name else f"{rate} ({factor:.2f})"
