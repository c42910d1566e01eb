"""The user's function that says which row stays when several nodes have changed it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyreplica.errors import Refused
from pyreplica.model import CapturedTable
from pyreplica.transform import MergeConflict
from pyreplica.transform.files import described, execute
from pyreplica.transform.row import Row, texts_of

NAME = "merge"
"""What the function is called."""


class NoRow(Exception):
    """The function has given no row: why."""


@dataclass(frozen=True)
class MergeFunction:
    """A function that was loaded.

    Args:
        path: where it is from.
    """

    path: Path
    function: Callable[[MergeConflict], Any]

    def row(
        self, table: CapturedTable, key: Mapping[str, str], siblings: Sequence[Mapping[str, Any]]
    ) -> str | None:
        """The row that is to stand, as text of a jsonb object; None when it is to be gone.

        Args:
            siblings: versions of it, as sql/master/nodes.sql says.

        Raises:
            NoRow: the function raised, or what it gave is no row.
        """
        types = table.types
        conflict = MergeConflict(
            str(table),
            Row(key, types),
            [Row(s["row"], types) if "row" in s else None for s in siblings],
            [str(s["node"]) for s in siblings],
            None if (old := _old(siblings)) is None else Row(old, types),
        )
        try:
            result = self.function(conflict)
        except Exception as error:
            raise NoRow(f"it failed: {described(error, self.path)}") from error
        if result is None:
            if all("row" in s for s in siblings):
                raise NoRow("it has returned None, and nobody has deleted the row")
            return None
        try:
            texts = texts_of(result, types)
        except (TypeError, ValueError) as error:
            raise NoRow(f"what it has returned is no row: {error}") from error
        columns = {c for c in table.columns if c not in table.key}
        for problem, names in (
            ("it has returned a row without the column", columns - {*texts}),
            ("it has returned a row with a column that there is not:", {*texts} - columns),
        ):
            if names:
                raise NoRow(f"{problem} {min(names)}")
        return json.dumps(texts, ensure_ascii=False)


def _old(siblings: Sequence[Mapping[str, Any]]) -> Mapping[str, str | None] | None:
    """The latest row that is known of those from which all siblings have come."""
    known = [
        (max(s["from"].values(), default=0), s["was"])
        for s in siblings
        if "from" in s and all(has_seen(other["seen"], s["from"]) for other in siblings)
    ]
    found: Mapping[str, str | None] | None = max(known, key=lambda one: one[0], default=(0, None))[
        1
    ]
    return found


def has_seen(seen: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether of two objects, node -> its latest stamp, the first has all that the second has."""
    return all(seen.get(node, 0) >= at for node, at in other.items())


def load(path: Path, where: str) -> MergeFunction:
    """Execute the file, and find its function.

    Args:
        where: the replication, for messages.

    Raises:
        Refused: others could write it, it cannot be executed, or it has no such function.
    """
    found = getattr(execute(path, where, "merge"), NAME, None)
    if not callable(found):
        raise Refused(
            f"the merge {path} has no function {NAME}",
            where=where,
            hint="See docs/both-ways.md.",
        )
    return MergeFunction(path, found)
