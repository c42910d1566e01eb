"""What the parts that apply a batch ask of the session they work for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pyreplica.model import Script
from pyreplica.slave.statements import Part, TableStatements


class Catalog(Protocol):
    """Knows what of the log concerns the slave, and what its tables are like."""

    def statements(self, generation: int) -> TableStatements | None:
        """The statements of a log row's table; None for one this replication leaves out."""

    def runs(self, script: Script) -> bool:
        """Whether the slave is to run a DDL statement of the master's."""

    def forget(self) -> None:
        """The slave's tables may have been altered."""

    def last(self) -> Sequence[Part]:
        """The statements that end a transaction in which DDL was run."""
