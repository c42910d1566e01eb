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
            relid: TableFilter(
                given if on_error is None else None,
                None if columns is None else tuple(columns),
                given if on_error is not None else None,
                on_error or "stop",
                of_changes,
            )
            for relid, given, columns, on_error, of_changes in rows
        }

    def set(self, schema: str, table: str, wanted: TableFilter) -> str:
        """Have a table filtered from now on; gives the line that says what was done.

        What the slave has stays as it is: it has to be copied after that.

        Raises:
            DatabaseError: the condition cannot be used, or there are no such columns; or it is in
                Python, and the role is no superuser.
        """
        (line,) = self._connection.one(
            _SQL["set_filter" if wanted.python is None else "set_python_filter"],
            {
                "replication": self._replication,
                "schema": schema,
                "table": table,
                "where": wanted.where,
                "python": wanted.python,
                "on_error": wanted.on_error,
                "columns": None if wanted.columns is None else list(wanted.columns),
            },
        )
        return str(line)

    def python_problem(self) -> tuple[str, str] | None:
        """Why this session cannot set a filter in Python, with the cure; None: it can."""
        language, superuser, role = self._connection.one(_SQL["python_filters"])
        if language != "plpython3u":
            return (
                "has a filter in Python, and the master captures tables in PL/pgSQL",
                "Write the condition in SQL, `where:`; or have a superuser install with "
                "`capture: plpython3u`.",
            )
        if not superuser:
            return (
                f"has a filter in Python that is not set yet, and role {role} is no superuser",
                "Have a superuser run `pyreplica install`; or write it in SQL, `where:`.",
            )
        return None

    def drop(self) -> None:
        """Have nothing filtered for this replication any more."""
        self._connection.execute(_SQL["drop_filters"], {"replication": self._replication})
