"""The master's sequences, from what the database answers about them."""

from __future__ import annotations

from typing import Any

from pyreplica.model import MasterSequence, SequenceColumn, SequenceState


def sequences_of(found: list[dict[str, Any]] | None) -> list[MasterSequence]:
    """The answer of pyreplica.sequences(), which is null for none."""
    return [
        MasterSequence(
            one["relid"],
            one["schema_name"],
            one["sequence_name"],
            one["type"],
            one["minimum"],
            one["maximum"],
            one["increment"],
            one["readable"],
            tuple(SequenceColumn(**column) for column in one["columns"]),
            None
            if one["last_value"] is None
            else SequenceState(one["last_value"], one["is_called"]),
        )
        for one in found or ()
    ]
