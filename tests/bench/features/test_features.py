"""Every feature, with few rows: what is measured is compared, and told."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.contest import Contestant, Wrong
from tests.bench.features.__main__ import MEASURES
from tests.bench.features.kinds import FEATURES
from tests.bench.features.report import report
from tests.bench.run import Figures, Plan, run
from tests.bench.system import execute
from tests.folders import servers_folder

PLAN = Plan(MEASURES, ("B", "C"), rounds=1, scale=0.005)
_SETTINGS = {"fsync": "off"}
_DIFFER = {"columns": "bench", "map": "archive.bench", "transform": "bench"}
"""The tables whose rows are not the same on both sides, as the slave calls them."""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A folder that goes away again, which the servers' account can reach."""
    with servers_folder() as made:
        yield made


@pytest.fixture(scope="module")
def plain(home: Path) -> Iterator[Contestant]:
    """PyReplica without any of them."""
    with Contestant(FEATURES["plain"], home, _SETTINGS) as made:
        yield made


@pytest.fixture(scope="module")
def figures(plain: Contestant, home: Path) -> Figures:
    """What was found without any of them."""
    return run(PLAN, {"plain": plain}, home, lambda text: None)


@pytest.mark.parametrize("name", ["last-update", "columns", "forwarding", "map", "transform"])
def test_a_feature_is_measured_and_told(
    plain: Contestant, figures: Figures, home: Path, name: str
) -> None:
    with Contestant(FEATURES[name], home, _SETTINGS) as contestant:
        contestants = {"plain": plain, name: contestant}
        # rows are compared in it
        run(PLAN, contestants, home, lambda text: None, figures)
        text = report(PLAN, contestants, figures)
        lines = text.splitlines()
        assert lines[0].startswith("Features: 20")
        for backlog in PLAN.work:
            (found,) = figures.caught_up[backlog.name][name]
            assert found.wrote > 0
            assert found.seconds > 0
        for one in contestants.values():
            title = re.compile(rf" *{one.system.title}(:|  )")
            # what it is; writing, catching up, capture
            assert len([line for line in lines if title.match(line)]) == 4, text
        if name in _DIFFER:
            slave = contestant.system.slave_dsn
            execute(slave, f"INSERT INTO {_DIFFER[name]} (id, t) VALUES (-1, 'only here')")
            with pytest.raises(Wrong, match="bench differs"):
                contestant.check()
