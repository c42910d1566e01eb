"""Insert-only tables of a large batch: their rows go straight into the slave's tables.

The master's server takes the values out of its log and the slave's reads them with COPY, as text in
between, so that nothing is staged. It does what the INSERT from the staging table would do. Where
it fails, all of the batch is staged after all, to be judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pyreplica.database import Connection, pump
from pyreplica.model import BARRIERS
from pyreplica.slave.statements import Part, TableStatements

FEWEST_ROWS = 500
"""A table with fewer is staged with the others: it is not worth a COPY of its own."""


def insert_only(
    contents: Mapping[int, Mapping[str, int]],
    find: Callable[[int], TableStatements | None],
) -> dict[int, TableStatements]:
    """The generations of which a batch has many new rows and nothing else.

    None beside DDL, nor any of which the batch has another generation: those changes have an order.

    Args:
        contents: how many changes of which operation there are, by generation.
        find: finds a table's statements by the generation; None for one left out.
    """
    if any(not BARRIERS.isdisjoint(ops) for ops in contents.values()):
        return {}
    found = {id_: statements for id_ in contents if (statements := find(id_)) is not None}
    generations = Counter(statements.captured.relid for statements in found.values())
    return {
        id_: statements
        for id_, statements in found.items()
        if contents[id_].keys() == {"I"}
        and contents[id_]["I"] >= FEWEST_ROWS
        and generations[statements.captured.relid] == 1
        and not statements.table.rewritten
    }


@dataclass(frozen=True, slots=True)
class Inserts:
    """The insert-only tables of a batch.

    Args:
        source: the master's session.
        tables: each with the COPY that reads its rows.
        read: called when all rows of all tables were read.
        stage: stages the whole batch, these tables among it.
    """

    source: Connection
    tables: Sequence[tuple[TableStatements, Part]]
    read: Callable[[], object]
    stage: Callable[[], object]

    def copy(self, target: Connection) -> int:
        """Copy the rows, and give their number."""
        rows = 0
        for statements, query in self.tables:
            rows += pump(self.source, query, target, statements.copy_in())
        self.read()
        return rows
