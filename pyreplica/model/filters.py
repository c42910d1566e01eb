"""Which rows and columns of a table a slave gets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableFilter:
    """What a slave gets of one table.

    Args:
        where: the condition for its rows, as SQL and in the user's words; None for all of them.
        columns: None for all of them.
        python: the condition as Python, in the place of ``where``.
        on_error: what becomes of a row for which that raises an exception, "stop" or "pass".
        of_changes: whether that chooses changes and not rows, so that nobody can tell which rows
            the slave should have. The master knows; in the configuration it is the condition alone.
    """

    where: str | None = None
    columns: tuple[str, ...] | None = None
    python: str | None = None
    on_error: str = "stop"
    of_changes: bool = False

    def same(self, other: TableFilter) -> bool:
        """Whether the slave gets the same by the other one."""
        return (self.where, self.python, self.on_error, _set(self.columns)) == (
            other.where,
            other.python,
            other.on_error,
            _set(other.columns),
        )

    def __str__(self) -> str:
        parts = [f"where {self.where}"] if self.where is not None else []
        if self.python is not None:
            parts.append(f"in Python {self.python}; on_error {self.on_error}")
        if self.columns is not None:
            parts.append(f"columns {', '.join(self.columns)}")
        return "; ".join(parts) or "no filter"


def _set(columns: tuple[str, ...] | None) -> frozenset[str] | None:
    return None if columns is None else frozenset(columns)
