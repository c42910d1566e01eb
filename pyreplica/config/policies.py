"""What is done with changes that meet another row on the slave than the master had, or none."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

from pyreplica.config.yamltree import Spot, one_of, suggest


class OnError(enum.Enum):
    """What happens when a change cannot be applied."""

    STOP = "stop"
    """The replication stops, and tries again."""
    QUARANTINE = "quarantine"
    """The change waits in ``replica_conflict``, and the replication goes on."""


class Policy(enum.Enum):
    """What happens at a conflict."""

    ERROR = "error"
    """The change cannot be applied; ``on_error`` decides."""
    WARN = "warn"
    """It is settled as is best for most, with a warning."""
    APPLY = "apply"
    """The master's row counts."""
    SKIP = "skip"
    """The slave's row stays."""
    TRANSFORM = "transform"
    """A function of the user's says what becomes of it."""


@dataclass(frozen=True, slots=True)
class Policies:
    """The policy of each conflict, by PostgreSQL's names."""

    insert_exists: Policy = Policy.ERROR
    update_missing: Policy = Policy.WARN
    delete_missing: Policy = Policy.WARN
    update_differs: Policy = Policy.WARN

    def of(self, conflict: str) -> Policy:
        """The policy of a conflict."""
        policy: Policy = getattr(self, conflict)
        return policy

    @property
    def asked(self) -> list[str]:
        """The conflicts that the transform settles."""
        return [one.name for one in fields(self) if self.of(one.name) is Policy.TRANSFORM]


_POLICY = one_of({policy.value: policy for policy in Policy})


def policies(spot: Spot) -> Policies:
    """Check a mapping of conflicts to policies; those that are not there have their defaults."""
    known = [field.name for field in fields(Policies)]
    entries = spot.entries("a mapping of conflicts to error, warn, apply, skip or transform")
    for name, entry in entries.items():
        if name not in known:
            entry.fail("unknown conflict", suggest(name, known))
    return Policies(**{name: _POLICY(entry) for name, entry in entries.items()})
