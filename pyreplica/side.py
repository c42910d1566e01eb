"""What master and slave are asked alike."""

from __future__ import annotations

from collections.abc import Iterable

from pyreplica import sqlfiles
from pyreplica.database import Connection, errorcodes, sql
from pyreplica.errors import DatabaseError, NotInstalled, Refused
from pyreplica.model import SQL_VERSION, Identity, Server

_SQL = sqlfiles.statements("side.sql")

FIRST_OF_USERS = 16384
"""The lowest oid of what initdb has not made (FirstNormalObjectId)."""


class Side:
    """A session with one of the two databases of a replication.

    Args:
        connection: the session.
        side: "master" or "slave".
        replication: the replication's name.
        statements: the named statements of this side's file in sql/.
    """

    def __init__(
        self, connection: Connection, side: str, replication: str, statements: dict[str, str]
    ) -> None:
        self.connection = connection
        self.side = side
        self.replication = replication
        self._sql = statements

    def close(self) -> None:
        """End the session."""
        self.connection.close()

    def identity(self) -> Identity:
        """The database, by system identifier and name."""
        return Identity(*self.connection.one(self._sql["identity"]))

    def server(self) -> Server:
        """What the server is, as far as replication cares."""
        return Server(*self.connection.one(self._sql["server"]))

    def check_installed(self) -> None:
        """Raise NotInstalled unless this side's SQL is there in the version of this release."""
        try:
            rows = self.connection.query(self._sql["version"])
        except DatabaseError as error:
            if error.sqlstate == errorcodes.INSUFFICIENT_PRIVILEGE:
                error.hint = "Connect as the role that installed PyReplica, or a superuser."
                raise
            if error.sqlstate not in (errorcodes.UNDEFINED_TABLE, errorcodes.INVALID_SCHEMA_NAME):
                raise
            rows = []
        if not rows:
            raise NotInstalled(
                f"PyReplica's {self.side} side is not installed in this database",
                where=self.connection.where,
                hint=f"Run `pyreplica install`, or sql/{self.side}-install.sql with psql.",
            )
        (version,) = rows[0]
        if version != SQL_VERSION:
            raise NotInstalled(
                f"the installed SQL has version {version}, this release needs {SQL_VERSION}",
                where=self.connection.where,
                hint=f"Run `pyreplica install` of this release, or its sql/{self.side}-install.sql."
                if version < SQL_VERSION
                else "Use the newer release that installed it.",
            )

    def check_writable(self) -> None:
        """Raise Refused while the server is a hot standby; it may be about to be promoted."""
        if self.server().standby:
            raise Refused(
                "the server is a hot standby and cannot be written",
                where=self.connection.where,
                hint="Connect to its primary, or promote it; the daemon tries again by itself.",
                retry=True,
            )

    def definitions(self, types: Iterable[int]) -> dict[int, str]:
        """What types are made of, by oid; those without parts of users' own are left out."""
        own = sorted({oid for oid in types if oid >= FIRST_OF_USERS})
        if not own:
            return {}
        rows = self.connection.query(_SQL["definitions"], {"types": own})
        return {oid: definition for oid, definition in rows if definition}

    def lock(self) -> None:
        """Be the only one to work for this replication, for the life of the session.

        Raises:
            Refused: somebody else is.
        """
        if not self.connection.one(self._sql["lock"], {"replication": self.replication})[0]:
            raise Refused(
                "another daemon or copy is at work for this replication",
                where=self.connection.where,
                hint="Stop the other one, or leave the work to it. After a crash its session "
                "goes away as soon as the server notices.",
                retry=True,
            )

    def unlock(self) -> None:
        """Let the next one in at once; a server takes a moment to notice that a session is gone."""
        self.connection.rollback()
        self.connection.execute("SELECT pg_advisory_unlock_all()")


def literals(query: str, values: dict[str, object]) -> sql.Composable:
    """A statement with its %(name)s values put in, for COPY, which takes no parameters.

    Args:
        values: a part of a statement is put in as it is.
    """
    parts: list[sql.Composable] = []
    rest = query
    while "%(" in rest:
        before, _, rest = rest.partition("%(")
        name, _, rest = rest.partition(")s")
        value = values[name]
        parts.append(sql.SQL(before))
        parts.append(value if isinstance(value, sql.Composable) else sql.Literal(value))
    return sql.Composed([*parts, sql.SQL(rest)])
