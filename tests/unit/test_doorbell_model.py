"""Nothing that can happen loses a wake-up: the doorbell's protocol, searched exhaustively."""

from __future__ import annotations

import itertools
import os
from typing import TypedDict

import pytest

from tests.unit.doorbell_model import Model
from tests.unit.doorbell_state import FAULTS, TRANSACTIONS

LONG = "PYREPLICA_DOORBELL" in os.environ
"""Search more at a time, which takes some minutes."""


class Around(TypedDict, total=False):
    """What happens besides the writers."""

    daemons: int
    rotates: bool
    silences: bool
    cuts: bool
    busy: bool


EVERYTHING = Around(rotates=True, silences=True, cuts=True, busy=True)
PAIRS = list(itertools.combinations_with_replacement(TRANSACTIONS, 2))

# what every fault must be found in: the smallest that can go wrong in some way
SEARCHED: list[tuple[tuple[str, ...], Around]] = [
    *(((transaction,), Around()) for transaction in TRANSACTIONS),
    (("commits",), Around(rotates=True)),
    (("commits",), Around(silences=True)),
    (("commits", "commits"), Around()),
]


def lost(*transactions: str, around: Around, fault: str = "") -> list[str] | None:
    return Model(*transactions, **around, fault=fault).lost()


@pytest.mark.parametrize("transaction", TRANSACTIONS)
def test_a_writer_is_noticed_whatever_happens_around_it(transaction: str) -> None:
    assert lost(transaction, around=EVERYTHING) is None


@pytest.mark.parametrize("pair", PAIRS, ids=", ".join)
def test_two_writers_are_noticed(pair: tuple[str, str]) -> None:
    assert lost(*pair, around=EVERYTHING if LONG else Around()) is None


def test_three_writers_are_noticed() -> None:
    assert lost("commits", "commits", "commits", around=Around(busy=LONG)) is None


@pytest.mark.parametrize("transaction", TRANSACTIONS if LONG else ["commits"])
def test_two_daemons_are_woken(transaction: str) -> None:
    assert lost(transaction, around=Around(daemons=2, busy=True, rotates=LONG)) is None


@pytest.mark.parametrize("fault", FAULTS)
def test_the_search_finds(fault: str) -> None:
    ways = (lost(*what, around=around, fault=fault) for what, around in SEARCHED)
    found = next((way for way in ways if way), None)
    assert found, FAULTS[fault]
    assert found[-1].startswith(("daemon", "writer", "rotation", "silence"))


@pytest.mark.parametrize(("what", "around"), SEARCHED)
def test_what_the_faults_are_searched_in_is_sound(what: tuple[str, ...], around: Around) -> None:
    assert lost(*what, around=around) is None
