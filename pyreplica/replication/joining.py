"""Which tables a session applies, and how those join that were copied beside it.

A table that is added to a running replication is copied as of a snapshot S of its own
(addition.py), and its state is "joining" from then on. The daemon has passed its changes over so
far. The first batch that ends at S or later brings it in: of this table the batch has what was
committed between S and the batch's end, of all others what is due as ever. The state becomes
"ready" in the same transaction, so that the table joins exactly once, whatever dies (see
docs/protocol.md). Until then the master keeps the log from before S, which is what holding it
means.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pyreplica.config import ReplicationConfig
from pyreplica.database import sql
from pyreplica.errors import ApplyError, Refused
from pyreplica.master import Master
from pyreplica.master.log import Apart
from pyreplica.model import CapturedTable, Position, SlaveTable, TableCopy, TableFilter
from pyreplica.replication.filters import changed
from pyreplica.slave import Slave

ANNOUNCED = "tables"
"""The payload of the notification that has the daemon look at its tables anew."""


class Tables:
    """The tables of one session, as the slave has recorded them.

    Args:
        config: the replication.
        master: the session with the master.
        slave: the session with the slave.
    """

    def __init__(self, config: ReplicationConfig, master: Master, slave: Slave) -> None:
        self._config = config
        self._master = master
        self._slave = slave
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._said: set[str] = set()
        self._copies: dict[int, TableCopy] = {}
        self._applied: set[int] = set()
        self._filters: dict[int, TableFilter] = {}
        self.joining: tuple[TableCopy, ...] = ()

    def load(self) -> None:
        """Look at what the slave has recorded."""
        self._copies = recorded(self._master, self._slave)
        self._applied = {relid for relid, copy in self._copies.items() if copy.state == "ready"}
        waiting = [copy for copy in self._copies.values() if copy.state == "joining"]
        self._check_filters()
        self.joining = tuple(copy for copy in waiting if self._is_chosen(copy))

    def _check_filters(self) -> None:
        """Raise Refused if a table is to be filtered in another way than it was copied."""
        self._filters = self._master.filters.recorded()
        for relid in sorted(self.applied):
            problem = changed(self._config, self._copies[relid], self._filters.get(relid))
            if problem is not None:
                raise Refused(problem[0], where=self._config.name, hint=problem[1])

    @property
    def applied(self) -> frozenset[int]:
        """The oids on the master of the tables that are in step and chosen."""
        return frozenset(
            relid
            for relid in self._applied
            if self._config.includes(self._copies[relid].schema, self._copies[relid].name)
        )

    @property
    def transformed(self) -> frozenset[int]:
        """The same with the tables that are about to join."""
        return self.applied | {copy.relid for copy in self.joining}

    def _is_chosen(self, copy: TableCopy) -> bool:
        if self._config.includes(copy.schema, copy.name):
            if changed(self._config, copy, self._filters.get(copy.relid)) is None:
                return True
            self._say(
                f"table {copy} was added with another filter than there is in the configuration "
                "that this daemon was started with; restart it"
            )
            return False
        self._say(
            f"table {copy} was added, but is not among `tables:` in the configuration that this "
            "daemon has read; reload it"
        )
        return False

    def is_copy(self, captured: CapturedTable, table: SlaveTable) -> bool:
        """Whether a table of the slave is the one that the master's was copied to.

        A table that was renamed on the master is applied to the slave's of the new name: that has
        to be the same table, renamed as well. Else whoever owns a captured table could reach any
        table of the slave by giving his own its name.
        """
        copy = self._copies.get(captured.relid)
        if copy is None:
            return True
        there = self._config.map.table(copy.schema, copy.name)
        if (table.schema, table.name) == (there.schema, there.name):
            # with other settings than when it was copied, that may be another table
            mapped = (there.schema, there.name) != (copy.schema, copy.name)
            return not mapped or copy.slave_relid in (None, table.relid)
        return copy.slave_relid == table.relid

    def applies(self, captured: CapturedTable) -> bool:
        """Whether changes of a table are applied; says so when they are passed over unexpectedly.

        A table that is in step and not chosen any more is forgotten as soon as a change of it is
        passed over: chosen again, it must not be taken for one in step.
        """
        if not self._config.includes(captured.schema, captured.name):
            if captured.relid in self._applied:
                self._applied.remove(captured.relid)
                self._slave.records.forget(captured.relid)
                self._say(
                    f"table {captured} is not chosen any more; its changes are passed over until "
                    f"`pyreplica add-table {self._config.name} {captured}` takes it in again"
                )
            return False
        if captured.relid in self._applied:
            return True
        copy = self._copies.get(captured.relid)
        if copy is None or copy.problem is not None:
            self._say(
                f"table {captured} is captured on the master but was never copied to this slave; "
                "its changes are passed over until "
                f"`pyreplica add-table {self._config.name} {captured}` takes it in"
            )
        return False

    def due(self, until: Position, now: Position) -> list[TableCopy]:
        """The tables that can join with a batch that ends there."""
        due = []
        for copy in self.joining:
            assert copy.snapshot is not None
            if copy.snapshot.order <= until.snapshot.order:
                due.append(copy)
            elif copy.snapshot.order > now.snapshot.order:
                self._leave_out(copy, "the master has lost what was committed when it was copied")
        return due

    def apart(self, joining: Sequence[TableCopy]) -> list[Apart]:
        """What the batch that brings tables in has to read of them."""
        return [
            Apart(tuple(self._master.log.generations([copy.relid])), copy.snapshot)
            for copy in joining
            if copy.snapshot is not None
        ]

    def begin_joining(self, joining: Sequence[TableCopy]) -> list[sql.Composable]:
        """Apply these tables from now on; gives the statements that the batch begins with."""
        if not joining:
            return []
        relids = [copy.relid for copy in joining]
        self._applied.update(relids)
        return [self._slave.records.joined(relids)]

    def give_up(self, joining: Sequence[TableCopy], error: ApplyError) -> bool:
        """Leave out the tables that a batch could not bring in, so that the others go on.

        Returns:
            Whether the error is about any of them.
        """
        guilty = [copy for copy in joining if error.table in self._names(copy)]
        for copy in guilty:
            self._leave_out(copy, f"{error.line} ({error.hint})" if error.hint else error.line)
        return bool(guilty)

    def _leave_out(self, copy: TableCopy, problem: str) -> None:
        """Have a table copied again."""
        self._log.error(
            "table %s cannot join: %s; run `pyreplica add-table %s %s` again",
            copy,
            problem,
            self._config.name,
            copy,
        )
        self._slave.records.give_up([copy.relid], problem)
        self.joining = tuple(one for one in self.joining if one is not copy)

    def _names(self, copy: TableCopy) -> set[str]:
        """All that it was called on the master."""
        generations = self._master.log.generations([copy.relid])
        return {str(copy), *(str(table) for table in self._master.tables(generations))}

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._log.warning("%s", text)


def recorded(master: Master, slave: Slave) -> dict[int, TableCopy]:
    """The slave's records; lets the master's log go when no table on its way needs it any more."""
    # in this order: who adds a table says so on the slave first, and has the log kept then
    number = master.record.held()
    copies = slave.records.copies()
    if number is not None and not any(copy.being_added for copy in copies.values()):
        master.record.release(number)
    return copies
