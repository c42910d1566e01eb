"""Whatever fails at whatever step: afterwards the slave has every change, once.

Each test is a cell of the matrix in docs/faults.md. The writers are at work all the time, also
while the fault lasts; in the end master and slave are compared row by row.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.faults.cell import Cell
from tests.faults.matrix import Run, runs


@pytest.mark.parametrize("run", [pytest.param(run, id=run.id) for run in runs()])
def test_nothing_is_lost_or_repeated(cell: Cell, run: Run) -> None:
    with ExitStack() as struck, run.step.at(cell):
        cell.strikes(watched=run.step.batches)
        struck.enter_context(run.fault.strike(cell))
    for act in cell.later:
        act()
    cell.check()
