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
    expected = replayed(before, [(op, row) for op, _, row, _ in history])
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
        ("I", '{"id": "1"}', '{"a": "1"}', None),
        ("U", '{"id": "2"}', '{"a": "1"}', None),
        ("U", '{"id": "1"}', '{"b": "é"}', None),
        ("U", '{"id": "2"}', '{"a": null}', None),
        ("D", '{"id": "3"}', None, None),
    ]
    nets = fold(changes)
    assert [(n.kind, n.key, json.loads(n.row) if n.row else None) for n in nets] == [
        ("I", '{"id": "1"}', {"a": "1", "b": "é"}),
        ("U", '{"id": "2"}', {"a": None}),
        ("D", '{"id": "3"}', None),
    ]


def test_a_row_that_came_and_went_leaves_nothing_to_do() -> None:
    history = [("I", "k", "{}", None), ("U", "k", '{"a": "1"}', None), ("D", "k", None, None)]
    assert fold(history) == []


def test_a_row_that_went_and_came_is_replaced() -> None:
    history = [("D", "k", None, None), ("I", "k", '{"a": "1"}', None)]
    assert fold(history) == [Net("r", "k", '{"a": "1"}')]


def test_what_a_column_had_is_what_the_first_change_of_it_replaced() -> None:
    history = [
        ("U", "k", '{"a": "2", "b": "2"}', '{"a": "1"}'),
        ("U", "k", '{"a": "3", "b": "3", "c": "3"}', '{"a": "2", "b": "2", "c": null}'),
    ]
    (net,) = fold(history)
    assert json.loads(net.row or "") == {"a": "3", "b": "3", "c": "3"}
    assert json.loads(net.old or "") == {"a": "1", "c": None}  # of b nothing is known
