"""Shows on standard error how a long command goes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from pyreplica.cli.output import error_console
from pyreplica.replication.copier import Progress


def shown(name: str) -> AbstractContextManager[Progress]:
    """Bars, or lines where it is no terminal.

    Args:
        name: the replication.
    """
    if not sys.stderr.isatty():
        return nullcontext(Lines(name))
    # what draws them takes longer to import than all the rest of the command line
    from pyreplica.cli.bars import Bars  # noqa: PLC0415

    return Bars(name)


class Lines:
    """A line for each table that is complete, and for whatever else is said."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._console = error_console()

    def begin(self, tables: Sequence[tuple[str, int]]) -> None:
        """The tables that there are."""

    def rows(self, table: str, rows: int) -> None:
        """So many rows more have gone through."""

    def done(self, table: str, rows: int) -> None:
        """A table is complete."""
        self.say(f"{table}: {rows:,} rows")

    def say(self, text: str) -> None:
        """Something else is being done."""
        self._console.print(f"{self._name}: {text}")
