"""Sequences, as either side has them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class SequenceState:
    """Where a sequence stands: ``last_value``, and whether that was handed out already."""

    last_value: int
    is_called: bool


@dataclass(frozen=True, slots=True)
class SequenceColumn:
    """A column that a sequence of the master belongs to, or that has it in its default.

    Args:
        owned: the sequence belongs to the column, as that of a serial or identity column does.
        captured: changes of the table are logged.
    """

    schema: str
    table: str
    column: str
    owned: bool
    captured: bool


@dataclass(frozen=True, slots=True)
class MasterSequence:
    """A sequence of the master.

    Args:
        relid: its oid.
        type: its type, as SQL.
        columns: those that take their values from it.
        readable: the session's role may read it.
        state: where it stands; None when that cannot be read now.
    """

    relid: int
    schema: str
    name: str
    type: str
    minimum: int
    maximum: int
    increment: int
    readable: bool
    columns: tuple[SequenceColumn, ...]
    state: SequenceState | None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class SlaveSequence:
    """A sequence of the slave that is to stand where one of the master does.

    Args:
        quoted: its name with its schema, as SQL.
        readable: the session's role may read it.
        settable: the session's role may call setval() for it.
    """

    schema: str
    name: str
    quoted: str
    minimum: int
    maximum: int
    increment: int
    readable: bool
    settable: bool

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"
