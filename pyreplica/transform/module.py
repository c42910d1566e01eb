"""Loads a transform: a file of the user's, whose functions run with the daemon's rights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyreplica.errors import Refused
from pyreplica.transform.files import execute

HOOKS = ("before_batch", "change", "conflict", "after_batch")


@dataclass(frozen=True)
class Hooks:
    """The functions that a transform has.

    Args:
        path: where they are from.
    """

    path: Path
    before_batch: Callable[[Any], Any] | None = None
    change: Callable[[Any], Any] | None = None
    conflict: Callable[[Any], Any] | None = None
    after_batch: Callable[[Any], Any] | None = None

    @property
    def names(self) -> list[str]:
        """Those that there are."""
        return [name for name in HOOKS if getattr(self, name) is not None]


def load(path: Path, where: str) -> Hooks:
    """Execute the file, and find its functions.

    Args:
        where: the replication, for messages.

    Raises:
        Refused: others could write it, it cannot be executed, or it has none of the functions.
    """
    module = execute(path, where, "transform")
    found = {name: getattr(module, name, None) for name in HOOKS}
    for name, hook in found.items():
        if hook is not None and not callable(hook):
            raise Refused(
                f"{name} of the transform {path} is no function",
                where=where,
                hint="Give it another name; see docs/transforms.md.",
            )
    if not any(found.values()):
        raise Refused(
            f"the transform {path} has none of the functions {', '.join(HOOKS)}",
            where=where,
            hint="See docs/transforms.md.",
        )
    return Hooks(path, **found)
