"""The tables of a large batch that need no staging, because it has changes of one kind of them.

Of new rows the values are copied into the slave's table (see inserts.py). Deletes and updates are
folded by the master's server while it reads its log: only net changes come over, with plain values
as keys, and are put where the folding of the others ends, too. Where any of that meets
something else than the master had, all of the batch is staged after all, to be judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pyreplica.model import BARRIERS
from pyreplica.slave import inserts
from pyreplica.slave.statements import TableStatements

Contents = Mapping[int, Mapping[str, tuple[int, int]]]
"""What a batch has of each generation: how many changes of which operation, the id of the last."""

LEAST_PART = 10
"""A table with less than this part of the batch is staged with the others, as one with fewer than
FEWEST_ROWS changes is: for each COPY all of the batch is read."""
MOST_KEY_COLUMNS = 4
"""So many columns there are for the values of keys in the table of the net changes."""


class NetTable(NamedTuple):
    """A table of which the net changes are there.

    Args:
        id: its generation.
        statements: that take plain values as keys.
        kind: of all of the net changes, U or D.
        nets: their number.
        changes: the number of changes that were folded to them.
        columns: those that the updates set.
        known: all of these tell what was in these columns before.
    """

    id: int
    statements: TableStatements
    kind: str
    nets: int
    changes: int
    columns: tuple[str, ...] = ()
    known: bool = False


@dataclass(frozen=True, slots=True)
class Unstaged:
    """How the changes of a batch without barriers come over.

    Args:
        inserts: the tables of new rows alone, if there are any.
        nets: those whose net changes are there.
        staged: what there is of all others, which are staged.
        generations: those that are not.
        stage: stages the whole batch, these tables among it.
    """

    inserts: inserts.Inserts | None
    nets: Sequence[NetTable]
    staged: Contents
    generations: frozenset[int]
    stage: Callable[[], object]

    def __bool__(self) -> bool:
        return self.inserts is not None or bool(self.nets)


def has_barriers(contents: Contents) -> bool:
    """Whether there is DDL, or what concerns a table as a whole: then all changes have an order."""
    return any(not BARRIERS.isdisjoint(operations) for operations in contents.values())


def of_one_kind(
    contents: Contents, find: Callable[[int], TableStatements | None]
) -> dict[int, tuple[str, int, TableStatements]]:
    """The generations of which a batch has many changes, and all of one kind: I, D or U.

    None of which the batch has another generation, or another table of its name: then there is an
    order between their changes.

    Args:
        contents: what there is; no barriers among it.
        find: finds a table's statements by the generation; None for one left out.

    Returns:
        The kind and the number of the changes, and the table's statements.
    """
    tables = {id_: statements for id_ in contents if (statements := find(id_)) is not None}
    generations = Counter(statements.captured.relid for statements in tables.values())
    names = Counter(str(statements.table) for statements in tables.values())
    total = sum(count for operations in contents.values() for count, _ in operations.values())
    fewest = max(inserts.FEWEST_ROWS, total // LEAST_PART)
    found: dict[int, tuple[str, int, TableStatements]] = {}
    for id_, statements in tables.items():
        (kind, (count, _)), *others = contents[id_].items()
        if others or count < fewest:
            continue
        if generations[statements.captured.relid] > 1 or names[str(statements.table)] > 1:
            continue
        if kind == "I":
            fits = not statements.table.rewritten
        else:
            fits = kind in "DU" and len(statements.captured.key) <= MOST_KEY_COLUMNS
        if fits:
            found[id_] = (kind, count, statements)
    return found
