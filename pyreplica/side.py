"""What master and slave are asked alike."""

from __future__ import annotations

import os
import re
import shlex
import socket
from collections.abc import Iterable

from pyreplica import sqlfiles
from pyreplica.database import Connection, errorcodes, sql
from pyreplica.errors import AtWork, DatabaseError, NotInstalled, Refused
from pyreplica.model import SQL_VERSION, Identity, Server

_SQL = sqlfiles.statements("side.sql")

FIRST_OF_USERS = 16384
"""The lowest oid of what initdb has not made (FirstNormalObjectId)."""

LONGEST_NAME = 63
"""Bytes of an application_name that the server keeps."""
LONGEST_HOST = 30
"""Characters of this host's name that others are told."""

_WHO = re.compile(r"\((pid \d+ on .+)\)$")


def this_process() -> str:
    """How this process is told to others that want to do its work."""
    host = socket.gethostname().encode("ascii", "replace").decode()
    return f"pid {os.getpid()} on {host[:LONGEST_HOST]}"


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
                role = shlex.quote(self.server().role)
                error.hint = (
                    f"Have a superuser run sql/roles.sql with -v {self.side}_role={role}, or "
                    "connect as the role that installed PyReplica."
                )
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

    def missing_rights(
        self, reads: Iterable[str], writes: Iterable[str], calls: Iterable[str]
    ) -> list[str]:
        """The GRANTs that the session's role lacks in the schema pyreplica.

        Args:
            reads: tables, views and sequences of the schema, to be read; what is not there is
                passed over.
            writes: tables to be written as well.
            calls: functions, by name.
        """
        values = {"reads": list(reads), "writes": list(writes), "calls": list(calls)}
        return [str(grant) for (grant,) in self.connection.query(_SQL["missing_rights"], values)]

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
            AtWork: somebody else is.
        """
        if not self.connection.one(self._sql["lock"], {"replication": self.replication})[0]:
            self._refuse_strangers()
            who = self.holder()
            raise AtWork(
                "another daemon or copy is at work for this replication"
                + (f": {who}" if who else ""),
                where=self.connection.where,
                hint="Stop the other one, or leave the work to it. After a crash its session "
                "goes away as soon as the server notices.",
                who=who,
            )
        me = f" ({this_process()})"
        self.connection.execute(_SQL["say_who"], {"room": LONGEST_NAME - len(me), "who": me})

    def holder(self) -> str:
        """Who holds it: a process and its host; empty when it is not known, or nobody does."""
        values = {"replication": self.replication}
        for application, address, *_ in self.connection.query(_SQL["holders"], values):
            told = _WHO.search(application or "")
            if told:
                return told[1]
            if address:
                return f"a session from {address}"
        return ""

    def _refuse_strangers(self) -> None:
        """Raise Refused if somebody holds the lock who cannot be a daemon or a copy."""
        values = {"replication": self.replication}
        for _, _, pid, role, entitled in self.connection.query(_SQL["holders"], values):
            if not entitled:
                raise Refused(
                    f"server process {pid} of role {role}, which has no rights on PyReplica, has "
                    "taken the lock of this replication",
                    where=self.connection.where,
                    hint=f"Ask who that is; end the session: SELECT pg_terminate_backend({pid}). "
                    "The daemon tries again by itself.",
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
