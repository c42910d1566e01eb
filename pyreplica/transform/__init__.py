"""What a transform of the user's imports: a module that changes what goes to the slave.

A module may have any of these functions::

    def before_batch(batch: Batch) -> None: ...
    def change(change: Change) -> Change | list[Change] | None: ...
    def after_batch(batch: Batch) -> None: ...

docs/transforms.md says when they are called, and what they may do.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Batch", "Change", "Op"]

Op = Literal["insert", "update", "delete", "truncate"]


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
