"""What the parts that apply a batch ask of the session they work for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pyreplica.model import CapturedTable, Script
from pyreplica.slave.statements import Part, TableStatements
from pyreplica.transform.merging import MergeFunction


class Merging(Protocol):
    """What the merging of tables needs besides the slave."""

    def function(self, table: CapturedTable) -> MergeFunction | None:
        """The user's function that merges a table; None when the configuration names none."""

    def seen(self, table: CapturedTable, keys: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        """What the versions have seen that rows have on the master now, by their keys."""


class Catalog(Protocol):
    """Knows what of the log concerns the slave, and what its tables are like."""

    @property
    def merging(self) -> Merging:
        """Helps to merge tables."""

    def statements(self, generation: int) -> TableStatements | None:
        """The statements of a log row's table; None for one this replication leaves out."""

    def runs(self, script: Script) -> bool:
        """Whether the slave is to run a DDL statement of the master's."""

    def forget(self) -> None:
        """The slave's tables may have been altered."""

    def last(self) -> Sequence[Part]:
        """The statements that end a transaction in which DDL was run."""
