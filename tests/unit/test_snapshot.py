"""Snapshots as values."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pyreplica.model import Snapshot


def test_the_text_form_is_postgresqls_own() -> None:
    snapshot = Snapshot.parse("10:20:10,14,15")
    assert snapshot == Snapshot(10, 20, (10, 14, 15))
    assert str(snapshot) == "10:20:10,14,15"
    assert str(Snapshot.parse("10:10:")) == "10:10:"


def test_it_sees_what_had_ended() -> None:
    snapshot = Snapshot.parse("10:20:10,14")
    assert [txid for txid in range(8, 22) if snapshot.sees(txid)] == [
        8,
        9,
        11,
        12,
        13,
        *range(15, 20),
    ]


@st.composite
def histories(draw: st.DrawFn) -> list[Snapshot]:
    """Snapshots of a server, one after another, while transactions begin and end."""
    running: set[int] = set()
    ended = {0}
    next_txid = 1
    taken = []
    for begins in draw(st.lists(st.booleans(), min_size=1, max_size=40)):
        if begins or not running:
            running.add(next_txid)
            next_txid += 1
        else:
            txid = draw(st.sampled_from(sorted(running)))
            running.discard(txid)
            ended.add(txid)
        xmax = max(ended) + 1
        before = tuple(sorted(txid for txid in running if txid < xmax))
        taken.append(Snapshot(before[0] if before else xmax, xmax, before))
    return taken


@given(histories())
def test_later_snapshots_of_a_server_are_ordered_after_and_see_more(taken: list[Snapshot]) -> None:
    for earlier, later in itertools.pairwise(taken):
        assert earlier.order <= later.order
        seen = [{txid for txid in range(60) if s.sees(txid)} for s in (earlier, later)]
        assert seen[0] <= seen[1]
        assert (earlier.order == later.order) == (seen[0] == seen[1])
