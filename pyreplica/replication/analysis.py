"""Renews the planner's statistics of tables that were copied, beside the copying of others."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from queue import Empty, SimpleQueue

from pyreplica.database import sql
from pyreplica.errors import PyReplicaError
from pyreplica.model import CapturedTable
from pyreplica.slave import Slave


class Analysis:
    """One table after another, in a session and a thread of its own.

    Without statistics a slave that takes over would plan badly until autovacuum gets there. One
    ANALYZE at a time: on a server that is busy with rows, more would only take turns. Those who
    have nothing else to do any more help.

    Args:
        session: opens the session with the slave, and closes it.
    """

    def __init__(self, session: Callable[[], AbstractContextManager[Slave]]) -> None:
        self._session = session
        self._tables: SimpleQueue[CapturedTable | None] = SimpleQueue()
        self._stopped = False

    # For the threads that copy

    def add(self, table: CapturedTable) -> None:
        """A table is copied, and that is committed."""
        self._tables.put(table)

    def help(self, slave: Slave) -> None:
        """Do what there is to be done now, in a session of the caller's."""
        with suppress(Empty):
            while not self._stopped:
                table = self._tables.get_nowait()
                if table is None:
                    self._tables.put(None)
                    return
                _analyse(slave, table)

    def end(self) -> None:
        """Nothing more comes."""
        self._tables.put(None)

    def stop(self) -> None:
        """Begin nothing more; what is under way is for others to break off."""
        self._stopped = True
        self._tables.put(None)

    # For its own thread

    def run(self) -> int:
        """Work until nothing more comes; gives the number of rows it has copied, which is none.

        Raises:
            PyReplicaError: of the first table that fails.
        """
        with self._session() as slave:
            while (table := self._tables.get()) is not None and not self._stopped:
                _analyse(slave, table)
        return 0


def _analyse(slave: Slave, table: CapturedTable) -> None:
    here = slave.place(table)
    name = sql.Identifier(here.schema, here.name)
    try:
        slave.connection.execute(sql.SQL("ANALYZE {}").format(name))
    except PyReplicaError as error:
        error.what = f"analysing table {table}: {error.what}"
        raise
