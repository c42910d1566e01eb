"""Insert-only tables of a large batch: their rows go straight into the slave's tables.

The master's server takes the values out of its log and the slave's reads them with COPY, as text in
between, so that nothing is staged. It does what the INSERT from the staging table would do. Where
it fails, all of the batch is staged after all, to be judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyreplica.database import Connection, pump
from pyreplica.slave.statements import Part, TableStatements

FEWEST_ROWS = 500
"""A table with fewer changes is staged with the others: it is not worth a COPY of its own."""


@dataclass(frozen=True, slots=True)
class Inserts:
    """The insert-only tables of a batch.

    Args:
        source: the master's session.
        tables: each with the COPY that reads its rows.
        read: called when all rows of all tables were read.
    """

    source: Connection
    tables: Sequence[tuple[TableStatements, Part]]
    read: Callable[[], object]

    def copy(self, target: Connection) -> int:
        """Copy the rows, and give their number."""
        rows = 0
        for statements, query in self.tables:
            rows += pump(self.source, query, target, statements.copy_in())
        self.read()
        return rows
