"""Folding changes to net changes, against doing them one after another."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from pyreplica.slave.fold import Net, fold
from tests.histories import ROWS, Entry, Row, entries, replayed


@given(st.data(), st.one_of(st.none(), ROWS))
def test_the_net_change_leaves_what_the_changes_leave(
    data: st.DataObject, before: Row | None
) -> None:
    history = data.draw(entries("k", before is not None))
    nets = fold(history)
    assert len(nets) <= 1
    expected = replayed(before, [(op, row) for op, _, row in history])
    assert replayed(before, [(net.kind, net.row) for net in nets]) == expected


@given(st.data(), st.one_of(st.none(), ROWS))
def test_a_net_change_expects_a_row_only_where_the_history_promises_one(
    data: st.DataObject, before: Row | None
) -> None:
    for net in fold(data.draw(entries("k", before is not None))):
        if net.kind in "UD":
            assert before is not None
        if net.kind == "I":
            assert before is None


def test_keys_are_folded_apart_from_one_another() -> None:
    changes: list[Entry] = [
        ("I", '{"id": "1"}', '{"a": "1"}'),
        ("U", '{"id": "2"}', '{"a": "1"}'),
        ("U", '{"id": "1"}', '{"b": "é"}'),
        ("U", '{"id": "2"}', '{"a": null}'),
        ("D", '{"id": "3"}', None),
    ]
    nets = fold(changes)
    assert [(n.kind, n.key, json.loads(n.row) if n.row else None) for n in nets] == [
        ("I", '{"id": "1"}', {"a": "1", "b": "é"}),
        ("U", '{"id": "2"}', {"a": None}),
        ("D", '{"id": "3"}', None),
    ]


def test_a_row_that_came_and_went_leaves_nothing_to_do() -> None:
    assert fold([("I", "k", "{}"), ("U", "k", '{"a": "1"}'), ("D", "k", None)]) == []


def test_a_row_that_went_and_came_is_replaced() -> None:
    assert fold([("D", "k", None), ("I", "k", '{"a": "1"}')]) == [Net("r", "k", '{"a": "1"}')]
