"""The transform of a replication, with what its configuration wants of it."""

from __future__ import annotations

from pyreplica.config import ReplicationConfig
from pyreplica.errors import Refused
from pyreplica.transform.module import Hooks, load


def hooks_of(config: ReplicationConfig) -> Hooks | None:
    """Load the transform of a replication; None when it has none.

    Raises:
        Refused: it cannot be loaded, or is to settle conflicts and has no function for that.
    """
    if config.transform is None:
        return None
    hooks = load(config.transform.path, config.name)
    asked = config.conflicts.asked
    if asked and hooks.conflict is None:
        raise Refused(
            f"the transform {hooks.path} has no function conflict(), which is to settle {asked[0]}",
            where=config.name,
            hint="Write one, see docs/transforms.md; or choose another policy in `conflicts:`.",
        )
    return hooks


def changes_rows(config: ReplicationConfig) -> bool:
    """Whether what the slave has is known to the transform alone.

    Raises:
        Refused: as ``hooks_of``.
    """
    hooks = hooks_of(config)
    return hooks is not None and hooks.change is not None
