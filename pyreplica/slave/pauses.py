"""What the slave's table ``replica_pause`` holds of one replication."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pyreplica import sqlfiles
from pyreplica.database import Connection

_SQL = sqlfiles.statements("slave.sql")


@dataclass(frozen=True, slots=True)
class Pause:
    """Somebody has paused the replication.

    Attributes:
        at: when.
        by: who.
        reason: why, if they have said.
    """

    at: datetime
    by: str
    reason: str | None

    def __str__(self) -> str:
        why = f": {self.reason}" if self.reason else ""
        return f"paused by {self.by}{why}"


class Pauses:
    """Sets, reads and awaits the pause of one replication, through a session with the slave."""

    def __init__(self, connection: Connection, replication: str) -> None:
        self._connection = connection
        self._replication = replication
        self._due = False

    def listen(self) -> None:
        """Have the session woken when the replication is paused, or goes on."""
        self._connection.execute(_SQL["listen_for_pauses"])
        self._due = True

    def due(self) -> bool:
        """Whether that may have happened since the last get(); asks nobody."""
        # the payload names the replication: others of this database are none of our business
        self._due = self._due or self._replication in self._connection.heard()
        return self._due

    def get(self) -> Pause | None:
        """The pause that there is."""
        self._due = False
        rows = self._connection.query(_SQL["paused"], {"replication": self._replication})
        return Pause(*rows[0]) if rows else None

    def set(self, who: str | None, reason: str | None) -> str:
        """Pause it; gives what was done. Without who it is the session's role."""
        values = {"replication": self._replication, "who": who, "reason": reason}
        return str(self._connection.one(_SQL["pause"], values)[0])

    def clear(self) -> str:
        """Let it go on; gives what was done."""
        values = {"replication": self._replication}
        return str(self._connection.one(_SQL["resume"], values)[0])
