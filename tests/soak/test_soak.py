"""A soak that is short: two faults, and the same verdict."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Databases
from tests.soak.run import Settings, soak
from tests.soak.table import report
from tests.soak.watch import write_csv


def test_a_short_soak_ends_with_nothing_amiss(databases: Databases, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    lines: list[str] = []
    outcome = soak(Settings(20, seed=1, most_faults=2), databases, files, lines.append)
    text = report(outcome, "15")
    assert outcome.passed, text
    assert len(outcome.struck) == 2
    assert outcome.samples
    assert "| memory of the daemon, MiB |" in text
    write_csv(outcome.samples, tmp_path / "soak.csv")
    assert (tmp_path / "soak.csv").read_text().count("\n") == len(outcome.samples) + 1
