"""Makes what belongs to the slave's tables after their rows: keys, indexes, foreign keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pyreplica import sqlfiles
from pyreplica.database import Connection
from pyreplica.model import TablePart

_SQL = sqlfiles.statements("slave.sql")

# Of the settings that the session pins, this is the only one that can change what a constant in
# these statements means: they were written for the database's own.
_AS_THE_DATABASE = "SET LOCAL lc_monetary TO DEFAULT"
# When the server crashes it is all made again. What is the last to be committed waits for the disk.
_UNHURRIED = "SET LOCAL synchronous_commit = off"


def parts_here(connection: Connection, parts: Sequence[TablePart]) -> set[TablePart]:
    """Those of the parts that the slave has already, by name."""
    rows = connection.query(
        _SQL["parts_here"],
        {
            "kinds": [part.kind for part in parts],
            "table_schemas": [part.table_schema for part in parts],
            "tables": [part.table for part in parts],
            "schemas": [part.schema for part in parts],
            "names": [part.name for part in parts],
        },
    )
    return {parts[n - 1] for (n,) in rows}


def make(connection: Connection, statements: Iterable[str]) -> None:
    """Execute statements of a dump, in a transaction.

    COMMIT is a message of its own: what a client that was killed has left behind cannot commit.
    """
    with connection.transaction():
        connection.execute("; ".join([_UNHURRIED, _AS_THE_DATABASE]))
        connection.execute("\n".join(statements))


def begin_rest(connection: Connection) -> None:
    """Settle how a transaction understands the rest of a dump's statements."""
    connection.execute("; ".join([_AS_THE_DATABASE, "SET LOCAL check_function_bodies = off"]))
