"""Which trigger is measured when: they take turns in each round, and session by session."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyreplica.demo.cluster import Cluster
from tests.bench.system import BASE, server_version
from tests.bench.triggers.kinds import KINDS, Kind, PlPgSQL, PyReplica
from tests.bench.triggers.measures import WAYS, Beginning, Took, begin, insert, median

Say = Callable[[str], object]
"""Is told of each figure."""

SETTINGS = {**BASE, "autovacuum": "off"}
"""Settings of the servers; nobody is to tidy up the logs while the next trigger is measured."""

PLAIN = "as it is"
SESSION = "session_preload_libraries"
SHARED = "shared_preload_libraries"
"""How libraries of procedural languages are loaded: when needed, with each session, or by the
server when it starts."""

LIBRARIES = "plpython3,plpgsql"
LOADING: Sequence[type[Kind]] = (PyReplica, PlPgSQL)
"""With which it is measured what loading them before helps."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rows: of each run of INSERTs.
        rounds: of these.
        sessions: new sessions for each trigger.
    """

    rows: int = 100_000
    rounds: int = 3
    sessions: int = 30


@dataclass
class Figures:
    """What was found.

    Attributes:
        plan: how much was measured.
        settings: of the servers.
        postgresql: the servers' version.
        titles, versions: of the triggers, by their names.
        absent: titles of those that were left out, with the packages that they lack.
        took: by way and by name, one for each round.
        beginnings: by how libraries were loaded and by name.
        seconds: how long all of it took.
    """

    plan: Plan
    settings: Mapping[str, str]
    postgresql: str = ""
    titles: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)
    took: defaultdict[str, defaultdict[str, list[Took]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    beginnings: defaultdict[str, dict[str, Beginning]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    seconds: float = 0.0

    def ratio(self, way: str, name: str, other: str) -> float:
        """How many times the CPU of another one it takes: the median over the rounds."""
        pairs = zip(self.took[way][name], self.took[way][other], strict=True)
        return statistics.median(one.cpu / two.cpu for one, two in pairs)

    def added(self, way: str, name: str) -> float:
        """Microseconds of CPU that it adds to a row: the median over the rounds."""
        pairs = zip(self.took[way][name], self.took[way]["none"], strict=True)
        return statistics.median(one.cpu - two.cpu for one, two in pairs) / self.plan.rows * 1e6


def run(plan: Plan, folder: Path, say: Say, settings: Mapping[str, str] = SETTINGS) -> Figures:
    """Measure.

    Args:
        folder: for the servers.
        settings: of the servers.
    """
    began = time.monotonic()
    figures = Figures(plan, settings)
    chosen = []
    for kind in KINDS:
        if missing := kind.missing():
            figures.absent[kind.title] = missing
            say(f"{kind.title} is left out: not installed are {', '.join(missing)} (make peers)")
        else:
            chosen.append(kind)
    with Cluster.create(folder, "triggers", settings) as cluster:
        kinds = _made(cluster, chosen, folder)
        figures.postgresql = server_version(cluster)
        figures.titles = {name: one.title for name, one in kinds.items()}
        figures.versions = {name: one.version for name, one in kinds.items()}
        # first, while the logs that are counted are short
        _begin(figures, PLAIN, kinds, say)
        loading = {kind.name: kinds[kind.name] for kind in LOADING}
        _begin(figures, SESSION, loading, say, f"-c {SESSION}={LIBRARIES}")
        for way in WAYS:
            for _ in range(plan.rounds):
                for name, one in kinds.items():
                    took = insert(one, plan.rows, way)
                    figures.took[way][name].append(took)
                    say(f"{way:8} {name:20} {took.seconds:7.2f} s, CPU {took.cpu:7.2f} s")
    with Cluster.create(folder, "preloading", {**settings, SHARED: LIBRARIES}) as cluster:
        _begin(figures, SHARED, _made(cluster, LOADING, folder), say)
    figures.seconds = time.monotonic() - began
    return figures


def _made(cluster: Cluster, chosen: Sequence[type[Kind]], folder: Path) -> dict[str, Kind]:
    cluster.start()
    return {kind.name: kind(cluster, folder) for kind in chosen}


def _begin(
    figures: Figures, loaded: str, kinds: Mapping[str, Kind], say: Say, options: str = ""
) -> None:
    found: defaultdict[str, list[Beginning]] = defaultdict(list)
    for _ in range(figures.plan.sessions):
        for name, kind in kinds.items():
            found[name].append(begin(kind, 1, options))
    for name, beginnings in found.items():
        figures.beginnings[loaded][name] = one = median(beginnings)
        say(
            f"session  {name:20} {loaded}: first write {one.first.ms:.1f} ms, "
            f"second {one.second.ms:.2f} ms"
        )
