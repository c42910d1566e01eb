"""Puts aside the changes that a transform has failed on, with ``on_error: quarantine``.

They wait in ``replica_conflict`` as the log has them, and so does every later change of such a row:
the function is to see them in their order. `pyreplica conflicts retry` calls it for them again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.config.policies import OnError
from pyreplica.database import sql
from pyreplica.errors import ApplyError
from pyreplica.model import CapturedTable, Change
from pyreplica.slave import Slave
from pyreplica.slave.judge import MOST_WAITING
from pyreplica.slave.verdict import Met, tell

_SQL = sqlfiles.statements("conflicts.sql")

_BEHIND = "an earlier change of the row waits"


class Aside:
    """What is put aside of one batch at a time.

    Args:
        config: the replication.
        slave: the session with the slave.
    """

    def __init__(self, config: ReplicationConfig, slave: Slave) -> None:
        self._config = config
        self._slave = slave
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._quarantines = config.on_error is OnError.QUARANTINE
        self._batch = 0
        self._rows: set[tuple[int, str]] = set()
        self._put: list[tuple[Change, CapturedTable, str]] = []

    def begin(self, batch: int, *, waiting: bool) -> None:
        """A batch is to be made, or to be made again.

        Args:
            waiting: whether any change waits.
        """
        self._batch = batch
        self._put.clear()
        self._rows = self._slave.conflicts.untransformed() if waiting else set()

    def follows(self, change: Change, table: CapturedTable) -> bool:
        """Whether a change has to wait, because an earlier one of its row does; then it does."""
        if (table.relid, change.key) not in self._rows:
            return False
        self._put.append((change, table, _BEHIND))
        return True

    def take(self, change: Change, table: CapturedTable, error: ApplyError) -> None:
        """Put a change aside that the transform has failed on.

        Raises:
            ApplyError: the same; it is not to wait, or there are too many.
        """
        if not self._quarantines or change.op == "T" or len(self._put) >= MOST_WAITING:
            raise error
        self._rows.add((table.relid, change.key))
        self._put.append((change, table, error.what))

    def truncated(self, relid: int) -> None:
        """A table is truncated on the slave: nothing of it waits any more."""
        self._rows = {row for row in self._rows if row[0] != relid}
        self._put = [one for one in self._put if one[1].relid != relid]

    def statements(self) -> list[sql.Composable]:
        """What writes them down, in the transaction of the batch."""
        if not self._put:
            return []
        changes, tables = [one for one, _, _ in self._put], [table for _, table, _ in self._put]
        values: dict[str, object] = {
            "replication": self._config.name,
            "batch": self._batch,
            "ids": [change.id for change in changes],
            "relids": [table.relid for table in tables],
            "schemas": [table.schema for table in tables],
            "names": [table.name for table in tables],
            "tabs": [change.table for change in changes],
            "ops": [change.op for change in changes],
            "keys": [change.key for change in changes],
            "rows": [change.row for change in changes],
            "olds": [change.old for change in changes],
            "errors": [why for _, _, why in self._put],
        }
        statement = sql.SQL(_SQL["put_aside"])
        return [statement.format(**{name: sql.Literal(value) for name, value in values.items()})]

    def committed(self) -> Sequence[Met]:
        """The batch is committed: tell what waits of it now, and give that."""
        found: dict[tuple[str, bool], Met] = {}
        for change, table, why in self._put:
            which = (str(table), why == _BEHIND)
            first = Met(None, str(table), "waiting", 0, change.key, why)
            before = found.get(which, first)
            found[which] = before._replace(rows=before.rows + 1)
        self._put.clear()
        for met in found.values():
            tell(self._log, self._config.name, self._config.conflicts, met)
        return tuple(found.values())
