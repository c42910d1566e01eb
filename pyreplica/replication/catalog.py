"""What the parts that apply a batch ask about the tables and scripts in the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pyreplica.config import ReplicationConfig
from pyreplica.database import sql
from pyreplica.errors import ApplyError, Refused
from pyreplica.master import Master
from pyreplica.model import CapturedTable, Script
from pyreplica.replication.joining import Tables
from pyreplica.replication.merging import Merging
from pyreplica.replication.place import placed
from pyreplica.replication.sequences import Sequences
from pyreplica.slave import Slave
from pyreplica.slave.statements import TableStatements


class Catalog:
    """The pyreplica.slave.catalog.Catalog of one session.

    Args:
        members: which tables this replication applies.

    Attributes:
        altered: DDL was run on the slave in the batch at hand.
        merging: what the merging of tables needs besides the slave.
    """

    def __init__(
        self,
        config: ReplicationConfig,
        master: Master,
        slave: Slave,
        members: Tables,
        sequences: Sequences,
    ) -> None:
        self._config = config
        self._master = master
        self._slave = slave
        self._members = members
        self._sequences = sequences
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._tables: dict[int, TableStatements | None] = {}
        self.altered = False
        self.merging = Merging(config, master.connection)

    def knows(self, generation: int) -> bool:
        """Whether a log row's table was asked for since it was last forgotten."""
        return generation in self._tables

    def statements(self, generation: int) -> TableStatements | None:
        """The statements of a table in the log; None when this replication leaves it out."""
        if generation not in self._tables:
            found = self._master.tables([generation])
            if not found:
                raise Refused(
                    f"the log names table {generation}, which pyreplica.replica_table does not "
                    "have any more",
                    where=self._master.connection.where,
                    hint="Somebody has deleted that row. Copy the slave anew: "
                    f"`pyreplica copy {self._config.name} --truncate`.",
                )
            self._tables[generation] = self._made(found[0])
        return self._tables[generation]

    def runs(self, script: Script) -> bool:
        """Whether this slave is to run a DDL statement of the master's."""
        if not script.asked:
            return self._config.ddl
        asked = script.replications is None or self._config.name in script.replications
        if asked and self._config.map:
            self._log.warning(
                "DDL of the master is not run, because `map:` has other tables here: %s",
                script.line,
            )
            return False
        return asked

    def forget(self) -> None:
        """The slave's tables may have been altered: look at them again."""
        self._tables.clear()

    def last(self) -> Sequence[sql.Composable]:
        """DDL may have made or restarted sequences, after the batch had begun by setting them."""
        self.altered = True
        self._sequences.forget()
        return self._sequences.look()

    def _made(self, captured: CapturedTable) -> TableStatements | None:
        if not self._members.applies(captured):
            return None
        table, problem = placed(self._master, self._slave, captured)
        if problem is None and table is not None and not self._members.is_copy(captured, table):
            problem = (
                f"the slave's table {table} is not the one that was copied: the master's was "
                "renamed, and the slave's was not",
                "Rename the slave's table as well. Where it was made anew, for instance by a "
                "restore, copy it: `pyreplica remove-table` and `add-table`.",
            )
        if problem is not None or table is None:
            what, hint = problem or ("", "")
            raise ApplyError(
                what, table=str(captured), key="", where=self._slave.connection.where, hint=hint
            )
        return TableStatements(captured, table)
