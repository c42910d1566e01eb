"""Which cells there are, and the table of what became of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tests.faults.faults import FAULTS, Fault
from tests.faults.steps import STEPS, Step

SHORT = {
    ("prepared", "kill"),
    ("applying", "S"),
    ("confirming", "M"),
    ("committing", "gone-s"),
    ("applying, staged", "dead"),
    ("copy: in a table", "rst-m"),
    ("add-table: joining", "end-s"),
    ("log: truncating", "kill"),
    ("doorbell: asleep", "mute-m"),
    ("one-phase: on the slave", "drop-m"),
    ("copy: making indexes", "S"),
    ("merged tables", "kill"),
    ("filtered", "end-m"),
    ("transform", "rst-s"),
    ("forwarding", "S"),
}
"""The cells of `make test`: heading of the row, heading of the column."""


@dataclass(frozen=True)
class Run:
    """One run of a cell."""

    step: Step
    fault: Fault
    number: int

    @property
    def id(self) -> str:
        """The name of its test."""
        return f"{self.step.name}-{self.fault.code}-{self.number}".replace(" ", "_")


def runs() -> list[Run]:
    """What is to be run: PYREPLICA_FAULTS times the whole matrix, or the short form once."""
    times = int(os.environ.get("PYREPLICA_FAULTS", "0"))
    # along the diagonals: the first few runs are of all steps and of all faults
    cells = [
        (step, FAULTS[(row + diagonal) % len(FAULTS)])
        for diagonal in range(len(FAULTS))
        for row, step in enumerate(STEPS)
    ]
    return [
        Run(step, fault, number)
        for number in range(1, max(times, 1) + 1)
        for step, fault in cells
        if fault.fits(step) is None and (times or (step.name, fault.code) in SHORT)
    ]


def table(outcomes: Mapping[tuple[str, str], Counter[str]]) -> str:
    """The matrix.

    Args:
        outcomes: how often each cell passed, failed and was skipped.
    """
    reasons = dict(zip(dict.fromkeys(_reasons()), "abcdef", strict=False))
    label = max(len(step.name) for step in STEPS)
    lines = [" " * label + "".join(fault.heading.rjust(3) for fault in FAULTS)]
    for step in STEPS:
        cells = []
        for fault in FAULTS:
            reason = fault.fits(step)
            outcome = outcomes.get((step.name, fault.code), Counter())
            cells.append(reasons[reason] if reason else _cell(outcome))
        lines.append(step.name.ljust(label) + "".join(cell.rjust(3) for cell in cells))
    total = sum(outcomes.values(), Counter())
    count = len(STEPS) * len(FAULTS)
    apply = sum(fault.fits(step) is None for step in STEPS for fault in FAULTS)
    lines += [
        "",
        "n  passed n times",
        "!n failed n times",
        "-  skipped",
        ".  not run",
        *(f"{letter}  cannot apply: {reason}" for reason, letter in reasons.items()),
        "",
        *(f"{fault.heading.ljust(2)} {fault.name}" for fault in FAULTS),
        "",
        f"{len(STEPS)} steps x {len(FAULTS)} faults: {count} cells, of which {apply} apply; "
        f"{total['passed']} runs passed, {total['failed']} failed, {total['skipped']} skipped",
    ]
    return "\n".join(lines)


def _reasons() -> list[str]:
    return [reason for step in STEPS for fault in FAULTS if (reason := fault.fits(step))]


def _cell(outcome: Counter[str]) -> str:
    if outcome["failed"]:
        return f"!{outcome['failed']}"
    if outcome["passed"]:
        return str(outcome["passed"])
    return "-" if outcome["skipped"] else "."
