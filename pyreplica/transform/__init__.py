"""What the user's own Python imports: a transform, and a function that merges rows.

A transform is a module that changes what goes to the slave. It may have any of these functions::

    def before_batch(batch: Batch) -> None: ...
    def change(change: Change) -> Change | list[Change] | None: ...
    def conflict(conflict: Conflict) -> Resolution: ...
    def after_batch(batch: Batch) -> None: ...

docs/transforms.md says when they are called, and what they may do. A module that merges rows of a
table that several databases write has this one, see docs/both-ways.md::

    def merge(conflict: MergeConflict) -> Mapping[str, Any] | None: ...
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Batch", "Change", "Conflict", "MergeConflict", "Name", "Op", "Resolution"]

Op = Literal["insert", "update", "delete", "truncate"]
Name = Literal["insert_exists", "update_missing", "update_differs", "delete_missing"]
Resolution = Literal["apply", "skip", "error"] | Mapping[str, Any]
"""What becomes of a conflict: one of the policies of that name, or the row to keep."""


@dataclass(frozen=True)
class Batch:
    """A batch, or the initial copy of a table.

    Args:
        replication: the replication's name.
        number: of the batch; None for a copy.
    """

    replication: str
    number: int | None


@dataclass
class Change:
    """A change of a row of the master, or that a table was truncated.

    Values are Python objects by their columns' types. Those that are left alone arrive exactly as
    they were, whatever Python makes of them.

    Args:
        table: schema and name, as the master calls it.
        op: what it is.
        key: the values of the key's columns; none for truncate.
        row: of an insert all other columns, of an update those that changed; otherwise none.
        old: what an update has replaced, as far as the log has it; changing it is of no effect.
    """

    table: str
    op: Op
    key: MutableMapping[str, Any] = field(default_factory=dict)
    row: MutableMapping[str, Any] = field(default_factory=dict)
    old: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Conflict:
    """A change that has met another row on the slave than the master had, or none.

    Values are as those of a change, and the columns have the master's names.

    Args:
        conflict: its name.
        table: schema and name, as the master calls it.
        key: the values of the key's columns.
        row: what has come: of an insert all other columns, of an update those that changed.
        old: what the update has replaced on the master, as far as the log has it.
        slave_row: the slave's other columns, as far as the master has them; None where there is no
            row. It is locked until the batch is committed.
    """

    conflict: Name
    table: str
    key: Mapping[str, Any]
    row: MutableMapping[str, Any] = field(default_factory=dict)
    old: Mapping[str, Any] = field(default_factory=dict)
    slave_row: MutableMapping[str, Any] | None = None


@dataclass(frozen=True)
class MergeConflict:
    """A row that several nodes have changed, and none has seen the change of another.

    All nodes are given the same, in the same order, and have to come to the same row. Values are as
    in a :class:`Change`; the rows are without the key.

    Args:
        table: schema and name.
        key: the values of the key's columns.
        rows: what each has made of the row, by the time at which it did; None: it has deleted it.
        nodes: the names of these.
        old: a row from which all of them have come; None when it is not known, or there was none.
    """

    table: str
    key: Mapping[str, Any]
    rows: Sequence[MutableMapping[str, Any] | None]
    nodes: Sequence[str]
    old: Mapping[str, Any] | None
