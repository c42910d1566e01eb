"""What a master knows of the replications into it, whose changes it may forward."""

from __future__ import annotations

from dataclasses import replace

from pyreplica import sqlfiles
from pyreplica.database import Connection
from pyreplica.model import Identity, Received

_SQL = sqlfiles.statements("master.sql")


class Forwarding:
    """The forwarding of one replication, through a session with the master."""

    def __init__(self, connection: Connection, replication: str) -> None:
        self._connection = connection
        self._replication = replication

    def on_all_tables(self) -> bool:
        """Whether what other replications apply here is captured, on all captured tables."""
        return bool(self._connection.one(_SQL["forwards"])[0])

    def turn_on(self) -> str:
        """Have it captured from now on; add_table() then changes a table's triggers."""
        (line,) = self._connection.one(_SQL["set_forwarding"], {"forwards": True})
        return str(line)

    def complete(self) -> bool:
        """Whether the slave has had all that was forwarded since it was copied."""
        rows = self._connection.query(_SQL["has_forwarded"], {"replication": self._replication})
        return bool(rows and rows[0][0])

    def want(self, wanted: bool) -> None:
        """Record whether the slave gets what is forwarded."""
        values = {"replication": self._replication, "wanted": wanted}
        self._connection.execute(_SQL["want_forwarded"], values)

    def received(self) -> list[Received]:
        """The replications into this database."""
        found: dict[int, Received] = {}
        for origin, name, system, database, *source in self._connection.query(_SQL["received"]):
            one = found.get(origin) or Received(
                origin, name, Identity(system, database), frozenset()
            )
            if source[0] is not None:
                one = replace(one, sources=one.sources | {Identity(*source)})
            found[origin] = one
        return list(found.values())
