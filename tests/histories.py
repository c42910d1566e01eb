"""Histories of one key, as the log can hold them, and what they come to when replayed."""

from __future__ import annotations

import json
from collections.abc import Iterable

from hypothesis import strategies as st

Row = dict[str, str | None]
Entry = tuple[str, str, str | None, str | None]

COLUMNS = ("a", "b", "c")
VALUES = st.sampled_from(["1", "2", "é", None])
ROWS: st.SearchStrategy[Row] = st.fixed_dictionaries(dict.fromkeys(COLUMNS, VALUES))
CHANGES: st.SearchStrategy[Row] = st.dictionaries(st.sampled_from(COLUMNS), VALUES, min_size=1)


def text(row: Row | None) -> str | None:
    """As the log holds it."""
    return None if row is None else json.dumps(row, ensure_ascii=False)


@st.composite
def entries(draw: st.DrawFn, key: str, there: bool) -> list[Entry]:
    """What can happen to a key that has a row, or has none, at first.

    Strict operations follow from one another; restated ones may come at any point, because the
    statement that they are about may have begun before what stands in the log before them.
    """
    made: list[Entry] = []
    restates = draw(st.booleans())
    for _ in range(draw(st.integers(1, 7))):
        if restates and draw(st.booleans()):
            op = draw(st.sampled_from("iud" if there else "id"))
        else:
            op = draw(st.sampled_from("UD")) if there else "I"
        row = old = None
        if op in "Ii":
            row, there = draw(ROWS), True
        elif op in "Uu":
            row = draw(CHANGES)
            if op == "U":
                known = draw(st.sets(st.sampled_from(sorted(row))))
                old = {name: draw(VALUES) for name in sorted(known)} or None
        else:
            there = False
        made.append((op, key, text(row), text(old)))
    return made


def replayed(row: Row | None, history: Iterable[tuple[str, str | None]]) -> Row | None:
    """The row after these operations, done one after another."""
    for op, given in history:
        if op in "IiRr":
            row = json.loads(given or "{}")
        elif op in "Uu":
            row = row if row is None else {**row, **json.loads(given or "{}")}
        else:
            row = None
    return row
