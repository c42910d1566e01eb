"""The benchmark itself: it measures, and what it compares was replicated exactly."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.__main__ import SYSTEMS
from tests.bench.builtin import Builtin
from tests.bench.chart import chart
from tests.bench.contest import CaughtUp, Contestant, Wrong
from tests.bench.document import write_part
from tests.bench.kept import Kept
from tests.bench.ours import PlPgSQL, PyReplica
from tests.bench.report import report
from tests.bench.run import MEASURES, Figures, Plan, run
from tests.bench.system import execute
from tests.folders import servers_folder

PLAN = Plan(MEASURES, rounds=1, scale=0.01, commits=5, seconds=1, clients=(2,), slaves=(1, 3))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that goes away again, which the servers' account can reach."""
    with servers_folder() as made:
        yield made


@pytest.fixture(scope="module")
def contestants(folder: Path) -> Iterator[dict[str, Contestant]]:
    """PyReplica, with its capture in either language, and the one peer that is always there."""
    with ExitStack() as stack:
        yield {
            kind.name: stack.enter_context(Contestant(kind, folder))
            for kind in (PyReplica, PlPgSQL, Builtin)
        }


def test_everything_is_measured_and_told(
    contestants: dict[str, Contestant], folder: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    kept = Kept(tmp_path / "figures.json", PLAN, contestants)
    figures = run(PLAN, contestants, folder, said.append, kept.load(), kept.save)
    applied = ("pyreplica", "builtin")
    for name in applied:
        for backlog in PLAN.work:
            assert all(rate > 0 for rate in figures.rates(backlog, name))
        assert 0 < figures.latencies[0][name].p50 <= figures.latencies[0][name].worst
    assert all(figures.costs[one][name] > 0 for one in PLAN.costs for name in contestants)
    assert figures.triggers["pyreplica"].bulk > 0
    assert figures.triggers["pyreplica-plpgsql"].bulk > 0
    text = report(PLAN, contestants, figures)
    lines = text.splitlines()
    for name, contestant in contestants.items():
        # how it is set up, cost, trigger; rates, usage, latency
        title = re.compile(rf" *{contestant.system.title}(:|  )")
        told = [line for line in lines if title.match(line)]
        assert len(told) == (6 if name in applied else 3), (name, text)
    assert [line for line in lines if line.startswith("Beside other systems: ")] == lines[:1]
    titles = {name: one.system.title for name, one in contestants.items()}
    picture = ElementTree.fromstring(chart(PLAN, titles, figures))
    words = ["".join(one.itertext()) for one in picture.iter() if one.tag.endswith("text")]
    numbers = [word for word in words if re.fullmatch(r"[\d,]+", word)]
    assert len(numbers) == len(PLAN.work) * len(applied) + len(PLAN.slaves)
    assert all(len(turn) == 2 and min(turn) > 0 for turn in figures.slaves)
    (last,) = (line for line in lines if line.startswith("3 slaves"))
    assert last.endswith(f" {figures.kept(1):.2f}")
    # what was broken off at its end has nothing more to measure, and says the same
    said.clear()
    again = run(PLAN, contestants, folder, said.append, kept.load(), kept.save)
    assert report(PLAN, contestants, again).splitlines()[5:] == lines[5:]
    assert said == []


def test_of_a_round_that_was_broken_off_nothing_is_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "figures.json", PLAN, ["one", "two"])
    figures = Figures(takes_part=["one", "two"])
    figures.caught_up["A"]["one"] = [CaughtUp(1.0, 0.5, 100), CaughtUp(2.0, 0.5, 100)]
    figures.caught_up["A"]["two"] = [CaughtUp(3.0, 0.0, 0)]
    figures.caught_up["B"]["one"] = [CaughtUp(4.0, 0.5, 100)]
    kept.save(figures)
    found = kept.load().caught_up
    assert [one.seconds for one in found["A"]["one"]] == [1.0]
    assert [one.seconds for one in found["A"]["two"]] == [3.0]
    assert not any(found["B"].values())
    with pytest.raises(SystemExit, match="of another plan or of other systems"):
        Kept(tmp_path / "figures.json", PLAN, ["one"]).load()


def test_a_slave_that_differs_is_no_result(contestants: dict[str, Contestant]) -> None:
    contestant = contestants["builtin"]
    execute(contestant.system.slave_dsn, "UPDATE acc SET bal = bal + 1 WHERE aid = 1")
    with pytest.raises(Wrong, match="built-in logical: acc differs"):
        contestant.check()
    execute(contestant.system.slave_dsn, "UPDATE acc SET bal = bal - 1 WHERE aid = 1")
    contestant.check()


def test_a_part_of_the_document_takes_the_place_of_its_last_one(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.txt"
    for text in ("One: today\n\na\n", "Two: today\n\n2 1\n", "One: tomorrow\n\nb\n"):
        write_part(path, text)
    one, two = path.read_text().split(f"\n{'=' * 100}\n\n")
    assert (one, two) == ("One: tomorrow\n\nb\n", "Two: today\n\n2 1\n")


def test_what_is_not_installed_is_named() -> None:
    class Absent(Builtin):
        packages = ("postgresql-15", "no-such-package")

    assert Absent.missing()[-1] == "no-such-package"
    assert all(isinstance(kind.missing(), list) for kind in SYSTEMS.values())
