"""Folds the changes of a small batch to one net change for each key.

Only the state after the batch matters, because a batch becomes visible as a whole. The same rules
as SQL, for batches that go through the staging table, are the statement ``fold`` of sql/stage.sql,
for updates of the same columns ``fold_updates`` there and ``updated`` of sql/log.sql; tests hold
them against each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

RESET = frozenset("IDid")
"""Operations after which nothing of the key's past matters."""


class Net(NamedTuple):
    """The net change of one key.

    Args:
        kind: I insert, U update, D delete; u and d the same without expecting that the row is
            there, r replace a row that may or may not be there.
        key: text of a jsonb object.
        row: text of a jsonb object: of an update the changed columns, otherwise all but the key.
        old: the same of what the row had before in these columns, where that is known; of U only.
    """

    kind: str
    key: str
    row: str | None
    old: str | None = None


_Done = tuple[str, str | None, str | None]


def fold(changes: Iterable[tuple[str, str, str | None, str | None]]) -> list[Net]:
    """The net changes of one table.

    Args:
        changes: (operation, key, row, old) in the order of their ids; no TRUNCATE among them.
    """
    by_key: dict[str, list[_Done]] = {}
    for op, key, row, old in changes:
        by_key.setdefault(key, []).append((op, row, old))
    return [net for key, history in by_key.items() if (net := _net(key, history)) is not None]


def _net(key: str, history: list[_Done]) -> Net | None:
    if len(history) == 1:
        op, row, old = history[0]
        return Net("r" if op == "i" else op, key, row, old if op == "U" else None)
    strict = all(op in "IUD" for op, _, _ in history)
    first = history[0][0]
    base = max((n for n, (op, _, _) in enumerate(history) if op in RESET), default=None)
    row = _merged(row for _, row, _ in history[base or 0 :])
    if base is None:
        return Net("U", key, row, _replaced(history)) if strict else Net("u", key, row)
    if history[base][0] in "Dd":
        if not strict:
            return Net("d", key, None)
        return None if first == "I" else Net("D", key, None)
    return Net("I" if strict and first == "I" else "r", key, row)


def _merged(rows: Iterable[str | None]) -> str | None:
    given = [row for row in rows if row is not None]
    if len(given) < 2:
        return given[0] if given else None
    merged: dict[str, str | None] = {}
    for row in given:
        merged.update(json.loads(row))
    return json.dumps(merged, ensure_ascii=False)


def _replaced(history: Iterable[_Done]) -> str | None:
    """What each column had before the first change of it, where that one tells."""
    seen: set[str] = set()
    known: dict[str, str | None] = {}
    for _, row, old in history:
        columns = json.loads(row or "{}").keys() - seen
        seen |= columns
        known |= {name: was for name, was in json.loads(old or "{}").items() if name in columns}
    return json.dumps(known, ensure_ascii=False) if known else None
