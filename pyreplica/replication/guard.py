"""Keeps the guard on the slave's replicated tables as the configuration wants it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from pyreplica.config import ReplicationConfig
from pyreplica.master import Master
from pyreplica.model import CapturedTable
from pyreplica.slave import Slave
from pyreplica.slave.guards import Guards


class Guard:
    """The guard of one session.

    Args:
        config: the replication; with ``guard: false`` no table is guarded.
        master: the session with the master.
        slave: the session with the slave.

    Attributes:
        pending: whether there are tables that others had locked.
    """

    def __init__(self, config: ReplicationConfig, master: Master, slave: Slave) -> None:
        self.pending = False
        self._wanted = config.guard
        self._keepalive = config.keepalive
        self._master = master
        self._slave = slave
        self._guards = Guards(slave.connection, config.name)
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._said: list[str] = []

    def follow(self, id_: int, relids: Iterable[int]) -> None:
        """Have just these tables guarded, or none.

        Args:
            id_: the cursor's id.
            relids: the oids of the tables that are applied, on the master.
        """
        tables = []
        if self._wanted and (wanted := list(relids)):
            tables = self._master.tables(self._master.log.generations(wanted))
        busy = self._guards.set(id_, [self._here(table) for table in tables])
        self.pending = bool(busy)
        if busy and busy != self._said:
            self._log.warning(
                "the guard of %s cannot be %s: somebody has the table locked; it is tried again at "
                "the latest after %.4g s",
                ", ".join(busy),
                "set" if self._wanted else "taken away",
                self._keepalive,
            )
        self._said = busy

    def _here(self, table: CapturedTable) -> CapturedTable:
        """The table as the slave calls it."""
        here = self._slave.place(table)
        return replace(table, schema=here.schema, name=here.name)
