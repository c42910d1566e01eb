"""What programs read: status.json, whose keys docs/monitoring.md promises, and healthz."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from pyreplica import __version__
from pyreplica.config.alerts import event_name
from pyreplica.daemon.web.board import Seen, View
from pyreplica.model import Event, State

WORDS = {State.WAITING: "in step", State.FAILED: "failing"}
"""Where `pyreplica status` has another word for a state."""
UNWELL = (State.FAILED, State.STOPPED)
"""Somebody should look after a replication in one of these."""


def word(state: State) -> str:
    """A state for people, and for JSON."""
    return WORDS.get(state, state.value)


def status_json(view: View) -> bytes:
    """The document /status.json."""
    document = {
        "version": __version__,
        "at": _iso(view.at),
        "healthy": healthy(view),
        "replications": [_replication(seen) for seen in view.replications],
        "events": [_event(event) for event in view.events],
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def healthy(view: View) -> bool:
    """Whether no replication has failed or ended."""
    return not any(seen.status.state in UNWELL for seen in view.replications)


def health(view: View) -> bytes:
    """The text of /healthz: a line for each replication that is not well."""
    unwell = [
        f"{seen.status.replication}: {word(seen.status.state)}"
        for seen in view.replications
        if seen.status.state in UNWELL
    ]
    return ("\n".join(unwell or ["ok"]) + "\n").encode()


def _replication(seen: Seen) -> dict[str, Any]:
    status = seen.status
    return {
        "replication": status.replication,
        "state": word(status.state),
        "since": _iso(status.since),
        "note": status.note,
        "lag_seconds": None if seen.lag is None else round(seen.lag, 3),
        "in_step_at": _iso(status.in_step_at),
        "batch": status.batch,
        "changes": status.changes,
        "changes_per_second": round(seen.rate, 3),
        "log_bytes": status.log_bytes,
        "log_percent": status.log_percent,
        "conflicts_waiting": status.conflicts_waiting,
        "error": status.error,
        "error_since": _iso(status.error_since),
        "hint": status.hint,
    }


def _event(event: Event) -> dict[str, Any]:
    return {
        "at": _iso(event.at),
        "kind": event_name(event.kind),
        "replication": event.replication,
        "what": event.what,
        "hint": event.hint or None,
        "since": _iso(event.since),
        "over": event.over,
    }


def _iso(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")
