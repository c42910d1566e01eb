"""What becomes of a conflict by its policy, and how that is told."""

from __future__ import annotations

import logging
from typing import NamedTuple

from pyreplica.config.policies import Policies, Policy

RESOLUTIONS = {
    "insert_exists": {Policy.WARN: "applied", Policy.APPLY: "applied", Policy.SKIP: "skipped"},
    "update_missing": {Policy.WARN: "skipped", Policy.APPLY: "restating", Policy.SKIP: "skipped"},
    "delete_missing": {Policy.WARN: "skipped", Policy.APPLY: "applied", Policy.SKIP: "skipped"},
    "update_differs": {Policy.WARN: "applied", Policy.APPLY: "applied", Policy.SKIP: "skipped"},
}
MEANINGS = {
    "insert_exists": "the slave has a row of that key already",
    "update_missing": "the slave has no row of that key",
    "delete_missing": "the slave has no row of that key",
    "update_differs": "the slave's row is not what the master's was",
}


class Met(NamedTuple):
    """Conflicts of a table that came to the same.

    Args:
        conflict: None when the slave has refused the changes.
        first: the key of the first.
        why: of those that wait.
    """

    conflict: str | None
    table: str
    resolution: str
    rows: int
    first: str
    why: str


def resolution(policies: Policies, conflict: str) -> str | None:
    """What becomes of a conflict, in the words of ``replica_conflict``; None: it is an error."""
    return RESOLUTIONS[conflict].get(policies.of(conflict))


def line_of(met: Met) -> str:
    """What was met, in a line."""
    rows = "1 row" if met.rows == 1 else f"{met.rows:,} rows"
    if met.resolution == "waiting":
        return f"{rows} of {met.table} cannot be applied and wait, the first {met.first}: {met.why}"
    return (
        f"conflict {met.conflict} on {met.table}: {rows}, the first {met.first}: {met.resolution}"
    )


def tell(log: logging.Logger, replication: str, policies: Policies, met: Met) -> None:
    """Write what was met to the daemon's log."""
    if met.resolution == "waiting":
        log.error("%s (see `pyreplica conflicts list %s`)", line_of(met), replication)
        return
    log.log(logging.WARNING if is_warned_of(policies, met) else logging.INFO, "%s", line_of(met))


def is_warned_of(policies: Policies, met: Met) -> bool:
    """Whether somebody should look at it: it waits, or its policy says so."""
    if met.conflict is None or met.resolution == "waiting":
        return True
    return policies.of(met.conflict) in (Policy.WARN, Policy.TRANSFORM)
