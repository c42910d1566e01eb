"""What is measured of which system, in which order: the systems take turns in each round."""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.contest import CaughtUp, Contestant
from tests.bench.measures import Latency, Trigger, cost, latency, trigger
from tests.bench.ours import PyReplica
from tests.bench.slaves import writing
from tests.bench.workloads import Backlog, backlogs

MEASURES = ("catch-up", "latency", "cost", "trigger", "slaves")
LOAD = 2_000
"""Rows a second that are written while the latency under load is measured."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        measures: those of MEASURES.
        backlogs: the names of those that are wanted.
        rounds: how often each system catches up with each backlog.
        scale: multiplies the rows of the backlogs.
        commits: so many are looked for on the slave.
        seconds: of each run of pgbench.
        clients: of pgbench; the last number only while nothing is applied.
        slaves: of one master, whose writers are measured with each of these numbers.
    """

    measures: Sequence[str] = MEASURES
    backlogs: Sequence[str] = ("A", "B", "C", "D", "wide", "indexed")
    rounds: int = 3
    scale: float = 1.0
    commits: int = 300
    seconds: float = 8.0
    clients: Sequence[int] = (1, 16, 32)
    slaves: Sequence[int] = (1, 10)

    @property
    def work(self) -> list[Backlog]:
        """The backlogs themselves."""
        return [one for one in backlogs(self.scale) if one.name in self.backlogs]

    @property
    def costs(self) -> list[tuple[int, bool]]:
        """For how many clients the cost is measured, and whether changes are applied meanwhile."""
        applying = self.clients[:-1] or self.clients
        return [(n, False) for n in self.clients] + [(n, True) for n in applying]


@dataclass
class Figures:
    """What was found; everything by the system's name.

    Attributes:
        caught_up: by backlog, one for each round.
        latencies: by the load, rows a second.
        costs: by the number of clients and whether changes were applied meanwhile: what is left of
            the throughput.
        triggers: what capture takes in a session.
        slaves: transactions a second of writers with each number of slaves, turn by turn.
        seconds: how long all of it took.
        takes_part: the systems that catch up.
    """

    caught_up: defaultdict[str, defaultdict[str, list[CaughtUp]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    latencies: defaultdict[int, dict[str, Latency]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    costs: defaultdict[tuple[int, bool], dict[str, float]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    triggers: dict[str, Trigger] = field(default_factory=dict)
    slaves: list[list[float]] = field(default_factory=list)
    seconds: float = 0.0
    takes_part: Sequence[str] = ()

    def rates(self, backlog: Backlog, name: str) -> list[float]:
        """Rows a second, one for each round."""
        return [backlog.rows / one.seconds for one in self.caught_up[backlog.name][name]]

    def ratio(self, backlog: Backlog, name: str, other: str) -> float:
        """How much faster a system is than another one: the median over the rounds."""
        pairs = zip(self.rates(backlog, name), self.rates(backlog, other), strict=True)
        return statistics.median(one / two for one, two in pairs)

    def kept(self, number: int) -> float:
        """What writers with one of the numbers of slaves get done, as a part of what those with the
        first one do: the median over the turns."""
        return statistics.median(turn[number] / turn[0] for turn in self.slaves)


def run(
    plan: Plan,
    contestants: Mapping[str, Contestant],
    folder: Path,
    say: Callable[[str], object],
    found: Figures | None = None,
    keep: Callable[[Figures], object] = lambda figures: None,
) -> Figures:
    """Measure.

    Args:
        folder: for further servers.
        say: is told of each figure.
        found: what was found before, which is not measured again.
        keep: given what was found so far, after each figure.
    """
    figures = Figures() if found is None else found
    before, began = figures.seconds, time.monotonic()
    of = {
        measure: {
            name: one
            for name, one in contestants.items()
            if measure in plan.measures
            and (one.system.measures is None or measure in one.system.measures)
        }
        for measure in MEASURES
    }
    figures.takes_part = [*of["catch-up"]]

    def told(text: str) -> None:
        figures.seconds = before + time.monotonic() - began
        keep(figures)
        say(text)

    for backlog, round_ in itertools.product(plan.work, range(plan.rounds)):
        for name, contestant in of["catch-up"].items():
            rounds = figures.caught_up[backlog.name][name]
            if len(rounds) <= round_:
                done = contestant.catch_up(backlog)
                rounds.append(done)
                told(f"{backlog.name:8} {name:20} {backlog.rows / done.seconds:10,.0f} rows/s")
    for name, contestant in contestants.items():
        if name in of["trigger"] and name not in figures.triggers:
            part = min(1.0, 4 * plan.scale)
            single, bulk = round(5_000 * part), round(100_000 * part)
            figures.triggers[name] = taken = trigger(contestant, single, bulk, plan.rounds)
            told(f"trigger  {name:20} {taken.single:.1f} us a statement, {taken.bulk:.2f} a row")
        if name in of["latency"]:
            for load in (0, LOAD):
                if name not in figures.latencies[load]:
                    late = latency(contestant, plan.commits, load=load)
                    figures.latencies[load][name] = late
                    told(
                        f"latency  {name:20} {late.p50:.1f} / {late.p99:.1f} ms, "
                        f"{load} rows/s besides"
                    )
        if name in of["cost"]:
            for clients, applying in plan.costs:
                if name not in figures.costs[clients, applying]:
                    kept = cost(contestant, clients, plan.seconds, plan.rounds, applying)
                    figures.costs[clients, applying][name] = kept
                    told(
                        f"cost     {name:20} {kept:.2f} left of {clients} clients, "
                        f"{'applying' if applying else 'paused'}"
                    )
    if "slaves" in plan.measures and PyReplica.name in contestants and not figures.slaves:
        figures.slaves = writing(folder, plan.slaves, plan.seconds, 2 * plan.rounds + 1)
        for number, count in enumerate(plan.slaves):
            told(f"slaves   {count} of one master: {figures.kept(number):.2f} of its writers' rate")
    figures.seconds = before + time.monotonic() - began
    return figures
