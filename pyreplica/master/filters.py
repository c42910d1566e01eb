"""The filters that the master has for one replication: which rows and columns its slave gets."""

from __future__ import annotations

from pyreplica import sqlfiles
from pyreplica.database import Connection
from pyreplica.model import TableFilter

_SQL = sqlfiles.statements("master.sql")


class Filters:
    """Reads and sets them, through a session with the master."""

    def __init__(self, connection: Connection, replication: str) -> None:
        self._connection = connection
        self._replication = replication

    def recorded(self) -> dict[int, TableFilter]:
        """Those that are in force, by the oid of the table."""
        rows = self._connection.query(_SQL["filters"], {"replication": self._replication})
        return {
            relid: TableFilter(where, None if columns is None else tuple(columns))
            for relid, where, columns in rows
        }

    def set(self, schema: str, table: str, wanted: TableFilter) -> str:
        """Have a table filtered from now on; gives the line that says what was done.

        What the slave has stays as it is: it has to be copied after that.

        Raises:
            DatabaseError: PostgreSQL cannot use the condition, or there are no such columns.
        """
        (line,) = self._connection.one(
            _SQL["set_filter"],
            {
                "replication": self._replication,
                "schema": schema,
                "table": table,
                "where": wanted.where,
                "columns": None if wanted.columns is None else list(wanted.columns),
            },
        )
        return str(line)

    def drop(self) -> None:
        """Have nothing filtered for this replication any more."""
        self._connection.execute(_SQL["drop_filters"], {"replication": self._replication})
