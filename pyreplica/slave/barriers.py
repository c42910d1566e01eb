"""DDL, and what concerns all rows of a table: these changes cut a batch into pieces."""

from __future__ import annotations

import json
from collections.abc import Iterable

from pyreplica.database import errorcodes, sql
from pyreplica.errors import DatabaseError
from pyreplica.model import Change, Script
from pyreplica.slave import Slave
from pyreplica.slave.catalog import Catalog
from pyreplica.slave.statements import Part


class Barriers:
    """Makes the statements of one session's barriers."""

    def __init__(self, slave: Slave, catalog: Catalog) -> None:
        self._slave = slave
        self._connection = slave.connection
        self._catalog = catalog
        self._labels_added: set[int] = set()

    def statement(self, change: Change) -> Part | None:
        """The statement for a change that is not one of rows; None when it is left out."""
        assert change.row is not None
        if change.op == "S":
            script = Script.parse(change.row)
            if not self._catalog.runs(script):
                return None
            parts = self._slave.forwarding.ddl(change.row)
            if change.id not in self._labels_added:
                parts.append(self._slave.run_ddl(script))
            return sql.SQL("; ").join(parts) if parts else None
        statements = self._catalog.statements(change.table)
        if statements is None:
            return None
        if change.op == "F":
            return statements.fill(change.row)
        return statements.delete_where(json.loads(change.row)["where"])

    def add_labels(self, changes: Iterable[Change]) -> None:
        """Add labels to enums ahead of the batch: it could not use those that it adds itself.

        That much sooner they are there than on the master, and nothing else can be told from it.
        """
        for change in changes:
            if change.op != "S" or change.id in self._labels_added:
                continue
            script = Script.parse(change.row or "")
            if script.tag in ("CREATE TYPE", "DROP TYPE"):
                return  # later labels may be of that type, and of its own batch's they can be used
            if not (script.adds_label and self._catalog.runs(script)):
                continue
            try:
                self._connection.execute(self._slave.run_ddl(script))
            except DatabaseError as error:
                self._connection.rollback()
                if error.sqlstate != errorcodes.DUPLICATE_OBJECT:  # by an earlier try
                    continue  # fails once more in its place, and is named there
            self._labels_added.add(change.id)
