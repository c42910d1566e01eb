"""DDL on a master without event triggers: looked for, and followed.

Where a superuser has installed PyReplica, event triggers follow DDL when it happens. Where an
ordinary role has, nobody notices until somebody looks (sql/master/drift.sql).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from pyreplica.config import ReplicationConfig
from pyreplica.errors import DatabaseError, Refused
from pyreplica.master import Master
from pyreplica.master.ddl import Drifted

BLIND = (
    "there are no event triggers, which only superusers can make: DDL on replicated tables is "
    "followed when the daemon looks, once each keepalive"
)
"""What is to be known of a master that an ordinary role has installed."""
AT_ONCE = (
    "After such DDL, best in the same transaction: SELECT pyreplica.refresh(); see docs/limits.md."
)


def unseen_ddl(master: Master) -> Iterator[tuple[str, str, str, str]]:
    """What `check` says of DDL: level, side or table, text, cure."""
    if master.ddl.sees_ddl():
        return
    yield "note", "master", BLIND, AT_ONCE
    for table in master.ddl.drifted():
        if table.curable:
            yield (
                "problem",
                table.table,
                f"its capture has not followed DDL: {table.what}",
                "SELECT pyreplica.refresh(), or have the daemon do it, which looks once each "
                "keepalive.",
            )
        else:
            yield (
                "problem",
                table.table,
                f"is captured, and should not be any more: {table.what}",
                "Do what it says; or stop replicating it: SELECT pyreplica.remove_table(...).",
            )


def check_ddl(config: ReplicationConfig, master: Master) -> None:
    """Raise Refused if DDL is to be replicated and the master does not see it."""
    if config.ddl and not master.ddl.sees_ddl():
        raise Refused(
            "`ddl: replicate` is not possible: there are no event triggers on the master, which "
            "only superusers can make",
            where=master.connection.where,
            hint="Say `ddl: ignore`, and alter the tables on both sides; or have a superuser "
            "install PyReplica there.",
        )


class DriftWatch:
    """Brings captures in line; what it cannot is said, once for each reason.

    Args:
        config: the replication.
    """

    def __init__(self, config: ReplicationConfig) -> None:
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._said: set[str] = set()
        self._unchanged: str | None = None
        self._sighted: Master | None = None

    def look(self, master: Master) -> None:
        """Look at the captured tables, if the master does not see DDL by itself.

        Whether it does is asked once in each session, so that an idle daemon does not ask for ever.
        What fails is said and tried again at the next look: it must not stop the replication.

        Raises:
            Unreachable: the connection is lost.
        """
        if master is self._sighted:
            return
        try:
            mark = master.ddl.mark()
            if mark is None:
                self._sighted = master
            if mark is None or mark == self._unchanged:
                return
            self._unchanged = None
            found = master.ddl.drifted()
        except DatabaseError as error:
            self._say(f"master: whether tables were altered could not be looked at: {error}")
            return
        said = {self._follow(master, table) for table in found}
        self._said &= said  # what has passed is said again when it comes back
        if not found:
            self._unchanged = mark

    def _follow(self, master: Master, table: Drifted) -> str:
        """Bring a table in line; gives what was said of it."""
        if not table.curable:
            return self._say(
                f"master: table {table.table} is captured, and should not be any more: {table.what}"
            )
        try:
            master.ddl.follow(table.relid)
        except DatabaseError as error:
            return self._say(
                f"master: table {table.table}: {table.what}, and its capture could not be brought "
                f"in line: {error}; it is tried again after each keepalive. Until then its "
                "changes may fail or lack something: SELECT pyreplica.refresh()"
            )
        self._log.info(
            "master: table %s: %s; its capture was brought in line", table.table, table.what
        )
        return ""

    def _say(self, text: str) -> str:
        if text not in self._said:
            self._said.add(text)
            self._log.warning("%s", text)
        return text
