"""Figures in a file, so that a benchmark of hours can be broken off and gone on with."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench.contest import CaughtUp
from tests.bench.measures import Latency, Trigger
from tests.bench.run import Figures, Plan


class Kept:
    """The file of one plan.

    Args:
        path: where it is; it need not be there.
        plan: what is measured.
        names: the systems that take part.
    """

    def __init__(self, path: Path, plan: Plan, names: Collection[str]) -> None:
        self._path = path
        self._plan: dict[str, Any] = json.loads(json.dumps(asdict(plan))) | {"systems": [*names]}

    def load(self) -> Figures:
        """What was found before; nothing when there is no file.

        Of a round that was broken off nothing is taken: the systems are compared within it.

        Raises:
            SystemExit: the file is of another plan.
        """
        figures = Figures()
        if not self._path.exists():
            return figures
        found = json.loads(self._path.read_text(encoding="utf-8"))
        if found["plan"] != self._plan:
            raise SystemExit(
                f"{self._path} has the figures of another plan or of other systems: go on with "
                f"those, or remove it.\nIt has {found['plan']}\nThis is {self._plan}"
            )
        for backlog, by_name in found["caught_up"].items():
            whole = min(map(len, by_name.values()))
            for name, rounds in by_name.items():
                figures.caught_up[backlog][name] = [CaughtUp(*one) for one in rounds[:whole]]
        for load, name, late in found["latencies"]:
            figures.latencies[load][name] = Latency(*late)
        for clients, applying, name, kept in found["costs"]:
            figures.costs[clients, applying][name] = kept
        for name, taken in found["triggers"].items():
            figures.triggers[name] = Trigger(*taken)
        figures.slaves = found["slaves"]
        figures.seconds = found["seconds"]
        return figures

    def save(self, figures: Figures) -> None:
        """Write down what was found so far, in the place of what was there."""
        caught_up = {
            backlog: {
                # a system that has had no turn yet has taken part in no round
                name: [(one.seconds, one.cpu, one.peak, one.wrote) for one in by_name.get(name, [])]
                for name in figures.takes_part
            }
            for backlog, by_name in figures.caught_up.items()
        }
        written = {
            "plan": self._plan,
            "seconds": figures.seconds,
            "caught_up": caught_up,
            "latencies": [
                (load, name, (one.p50, one.p99, one.worst))
                for load, by_name in figures.latencies.items()
                for name, one in by_name.items()
            ],
            "costs": [
                (*key, name, kept)
                for key, by_name in figures.costs.items()
                for name, kept in by_name.items()
            ],
            "slaves": figures.slaves,
            "triggers": {name: (one.single, one.bulk) for name, one in figures.triggers.items()},
        }
        new = self._path.with_name(f"{self._path.name}.new")
        new.write_text(json.dumps(written, indent=1), encoding="utf-8")
        new.replace(self._path)
