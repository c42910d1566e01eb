"""What a configuration that was read anew means for the replications that run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyreplica.config import ReplicationConfig
from pyreplica.daemon.member import Member


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be done, by the names of the replications; the others do not notice.

    Args:
        added: they start.
        changed: they start again, with other settings.
        removed: they stop.
        ended: they had ended by an error, and are tried again.
        kept: how many go on as before.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    ended: tuple[str, ...]
    kept: int

    def __str__(self) -> str:
        named = (
            ("added", self.added),
            ("changed", self.changed),
            ("removed", self.removed),
            ("started again", self.ended),
        )
        parts = [f"{word}: {', '.join(names)}" for word, names in named if names]
        return "; ".join([*parts, f"{self.kept} as before"])


def changes(members: Mapping[str, Member], wanted: Mapping[str, ReplicationConfig]) -> Changes:
    """Compare what runs with what is to run."""
    known = [name for name in wanted if name in members]
    changed = tuple(name for name in known if members[name].config != wanted[name])
    ended = tuple(n for n in known if n not in changed and members[n].error is not None)
    return Changes(
        tuple(name for name in wanted if name not in members),
        changed,
        tuple(name for name in members if name not in wanted),
        ended,
        len(known) - len(changed) - len(ended),
    )
