"""DDL that the master has not seen: what it has changed of the captured tables."""

from __future__ import annotations

from dataclasses import dataclass

from pyreplica import sqlfiles
from pyreplica.database import Connection

_SQL = sqlfiles.statements("master.sql")


@dataclass(frozen=True, slots=True)
class Drifted:
    """A captured table that is not what it was when it was set up.

    Attributes:
        relid: its oid.
        table: its name, as captured.
        what: what has changed, or why it can be captured no more.
        curable: whether follow() can bring its capture in line.
    """

    relid: int
    table: str
    what: str
    curable: bool


class Ddl:
    """Asks a master whether it follows DDL by itself, and brings captures in line where not.

    Args:
        connection: the session with the master.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def sees_ddl(self) -> bool:
        """Whether DDL is followed when it happens, by event triggers."""
        return bool(self._connection.one(_SQL["sees_ddl"])[0])

    def may_uninstall(self) -> bool:
        """Whether the session's role may take away what is installed."""
        return bool(self._connection.one(_SQL["may_uninstall"])[0])

    def mark(self) -> str | None:
        """What changes with each DDL, read at little cost; None where the master sees DDL."""
        mark: str | None = self._connection.one(_SQL["catalog_mark"])[0]
        return mark

    def drifted(self) -> list[Drifted]:
        """Tables whose capture has not followed DDL; none where the master sees it."""
        return [Drifted(*row) for row in self._connection.query(_SQL["drift"])]

    def follow(self, relid: int) -> None:
        """Bring the capture of a table in line with what it is now.

        Raises:
            DatabaseError: among others, somebody has it locked; nothing was changed then.
        """
        self._connection.one(_SQL["follow_drift"], {"relid": relid})
