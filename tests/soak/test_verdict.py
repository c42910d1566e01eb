"""What is flat passes, and what grows is found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.soak.verdict import MIB, flat, rows
from tests.soak.watch import Sample

FLAT = Sample(
    at=0,
    rss=50 * MIB,
    files=11,
    threads=3,
    daemon_master=1,
    daemon_slave=1,
    all_master=12,
    all_slave=2,
    log=60 * MIB,
    ticks=20,
    generations=11,
    stage=MIB,
    lag=0.1,
    changes=0,
    transactions=0,
)


def broken(samples: list[Sample]) -> list[str]:
    """What the rules that do not hold are about."""
    return [rule.text.split(":")[0] for rule in flat(rows(samples, 400)) if rule.broken]


def test_a_run_in_which_nothing_changes_is_flat() -> None:
    assert broken([replace(FLAT, at=at) for at in range(400)]) == []


@pytest.mark.parametrize(
    ("figure", "growth", "what"),
    [
        ("rss", 30 * 1024, ["memory"]),
        ("files", 0.01, ["open files"]),
        ("threads", 0.01, ["threads"]),
        ("daemon_master", 0.01, ["the daemon's connections to the master"]),
        ("all_slave", 0.01, ["all connections to the slave"]),
        ("log", MIB, ["the log", "the log"]),
        ("ticks", 1, ["ticks"]),
        ("stage", MIB // 10, ["staging tables"]),
    ],
)
def test_what_grows_all_the_time_is_found(figure: str, growth: float, what: list[str]) -> None:
    samples = [
        replace(FLAT, at=at, **{figure: getattr(FLAT, figure) + int(growth * at)})
        for at in range(400)
    ]
    assert broken(samples) == what


def test_a_server_that_is_away_for_a_while_does_no_harm() -> None:
    away = [Sample(at=at) if at % 7 == 0 else replace(FLAT, at=at) for at in range(400)]
    assert broken(away) == []
