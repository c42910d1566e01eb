"""The tables, and the statements that write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.system import session

TRANSACTION = 100
"""Rows of each transaction of a backlog."""

# In turn; the first one is what an UPDATE changes.
_TYPES = {
    "text": "'row number ' || g",
    "int": "g",
    "float8": "g * 0.5",
    "timestamptz": "now() + g * interval '1 s'",
    "bool": "g % 2 = 0",
}


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: in the schema public.
        columns: how many it has, the key is one of them; at least 2.
    """

    name: str
    columns: int = 5

    @property
    def create(self) -> str:
        """Makes it."""
        columns = (f"c{n} {kind}" for n, (kind, _) in enumerate(self._columns))
        return f"CREATE TABLE {self.name} (id int PRIMARY KEY, {', '.join(columns)})"

    def insert(self, first: int, last: int) -> str:
        """Inserts the rows with these ids."""
        return self.insert_from(f"generate_series({first}, {last}) g")

    def insert_from(self, source: str) -> str:
        """Inserts the rows with the ids ``g`` of a FROM item."""
        values = ", ".join(value for _, value in self._columns)
        return f"INSERT INTO {self.name} SELECT g, {values} FROM {source}"

    def update(self, first: int, last: int) -> str:
        """Changes one column of these rows."""
        return f"UPDATE {self.name} SET c0 = c0 || '.' WHERE id BETWEEN {first} AND {last}"

    @property
    def _columns(self) -> list[tuple[str, str]]:
        types = list(_TYPES.items())
        return [types[n % len(types)] for n in range(self.columns - 1)]


KINDS = {"INSERT": Table.insert, "UPDATE": Table.update}
"""The kinds of backlogs; each changes the rows of the one before."""


def write(dsn: str, tables: Sequence[Table], rows: int, kind: str) -> int:
    """Write a backlog, TRANSACTION rows a transaction, the same number to each of the tables.

    The daemon stands still meanwhile, and nobody rings for it.

    Args:
        rows: of all tables together.
        kind: one of KINDS.

    Returns:
        How many rows were written; the transactions are whole ones.
    """
    each = max(1, TRANSACTION // len(tables))
    transactions = -(-rows // (each * len(tables)))
    statement = KINDS[kind]
    with session(dsn) as cursor:
        cursor.execute("SET pyreplica.notify = off")
        cursor.execute("SET synchronous_commit = off")
        for number in range(transactions):
            first, last = number * each + 1, (number + 1) * each
            # sent together they are one transaction
            cursor.execute(";".join(statement(table, first, last) for table in tables))
    return transactions * each * len(tables)
