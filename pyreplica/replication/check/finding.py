"""What `check` says of one thing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        level: "ok"; "note", something to know; "problem", replication cannot work like this.
        side: "master", "slave", or a table's name.
        cure: what to do about a problem.
    """

    level: str
    side: str
    text: str
    cure: str = ""
