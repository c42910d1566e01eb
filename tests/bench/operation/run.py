"""How much is measured, and in which order; each measure has servers of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.bench.operation import comparing, copying, idle, memory, oldest, upkeep
from tests.bench.operation.figures import Section
from tests.bench.operation.operated import Pair, Say


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        memory_rows: of each transaction.
        upkeep_rows: that are logged, before stretches with trimming and without take turns.
        turns: pairs of stretches, with something and without.
        trimmed_seconds, opened_seconds: of each stretch.
        steps, step_rows: how often the log grows under a transaction that stays open, and by how
            many rows.
        replications, idle_seconds: how many are idle in one process, and for how long.
        copy_rows, compare_rows: in all tables.
        rounds: of copying and of comparing.
    """

    memory_rows: int = 10_000_000
    upkeep_rows: int = 18_000_000
    turns: int = 6
    trimmed_seconds: float = 30.0
    opened_seconds: float = 15.0
    steps: int = 5
    step_rows: int = 500_000
    replications: int = 50
    idle_seconds: float = 120.0
    copy_rows: int = 3_000_000
    compare_rows: int = 10_000_000
    rounds: int = 3

    @classmethod
    def of(cls, scale: float) -> Plan:
        """The plan at a scale: rows go with it, times and turns with its root; an idle minute is
        a minute, and 50 replications are 50."""
        slowly = min(1.0, math.sqrt(scale))

        def rows(number: int) -> int:
            return max(1_000, round(number * scale))

        return cls(
            memory_rows=rows(cls.memory_rows),
            upkeep_rows=rows(cls.upkeep_rows),
            turns=max(1, round(cls.turns * slowly)),
            trimmed_seconds=max(1.0, cls.trimmed_seconds * slowly),
            opened_seconds=max(1.0, cls.opened_seconds * slowly),
            step_rows=rows(cls.step_rows),
            idle_seconds=max(60.0, cls.idle_seconds * slowly),
            copy_rows=rows(cls.copy_rows),
            compare_rows=rows(cls.compare_rows),
            rounds=max(1, round(cls.rounds * slowly)),
        )


class Found(Protocol):
    """What a measure has found."""

    def section(self) -> Section:
        """For people."""


Measure = Callable[[Plan, Path, Say], Found]


def _memory(plan: Plan, folder: Path, say: Say) -> Found:
    with Pair(folder) as pair:
        return memory.measure(pair, plan.memory_rows, say)


def _upkeep(plan: Plan, folder: Path, say: Say) -> Found:
    with Pair(folder) as pair:
        return upkeep.measure(pair, plan.upkeep_rows, plan.turns, plan.trimmed_seconds, say)


def _oldest(plan: Plan, folder: Path, say: Say) -> Found:
    with Pair(folder) as pair:
        return oldest.measure(
            pair, plan.turns, plan.opened_seconds, plan.steps, plan.step_rows, say
        )


def _idle(plan: Plan, folder: Path, say: Say) -> Found:
    return idle.measure(folder, plan.replications, plan.idle_seconds, say)


def _copy(plan: Plan, folder: Path, say: Say) -> Found:
    return copying.measure(folder, plan.copy_rows, plan.rounds, say)


def _compare(plan: Plan, folder: Path, say: Say) -> Found:
    with Pair(folder) as pair:
        return comparing.measure(pair, plan.compare_rows, plan.rounds, say)


MEASURES: Mapping[str, Measure] = {
    "memory": _memory,
    "upkeep": _upkeep,
    "long-transaction": _oldest,
    "idle": _idle,
    "copy": _copy,
    "compare": _compare,
}
