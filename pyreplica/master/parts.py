"""What belongs to the master's tables and is made on a slave after their rows."""

from __future__ import annotations

from collections.abc import Mapping

from pyreplica import sqlfiles
from pyreplica.database import Connection
from pyreplica.model import TablePart

_SQL = sqlfiles.statements("master.sql")


def table_parts(
    connection: Connection, entries: Mapping[int, tuple[int, int]]
) -> dict[int, TablePart]:
    """Those among the entries of a dump that are a table's key, index, foreign key or statistics.

    Args:
        connection: a session with the master; in a transaction, what its snapshot shows.
        entries: for any number, the oids of a catalog and of the object in it.
    """
    numbers = list(entries)
    values = {
        "classes": [class_ for class_, _ in entries.values()],
        "oids": [oid for _, oid in entries.values()],
    }
    rows = connection.query(_SQL["table_parts"], values)
    return {numbers[n - 1]: TablePart(*part) for n, *part in rows}
