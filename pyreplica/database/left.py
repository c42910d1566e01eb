"""Sessions that this process has lost or is about to leave, and that their servers may still have.

A server whose peer has vanished goes on for as long as its kernel tries, a quarter of an hour when
it was sending, and meanwhile the session's locks would keep everybody out.
"""

from __future__ import annotations

import time
from typing import Any

_lost: dict[str, list[dict[str, Any]]] = {}
_silent: dict[str, float] = {}


def lost(where: str, who: dict[str, Any]) -> None:
    """Note a session whose connection was lost; the next one to the same side ends it.

    Args:
        where: what the connection was for.
        who: the values of the statement that ends the session.
    """
    _lost.setdefault(where, []).append(who)


def ended_by_next(where: str) -> list[dict[str, Any]]:
    """What a new connection has to end; each is given once."""
    return _lost.pop(where, [])


def fell_silent(where: str) -> None:
    """Note that a side does not answer: it may not hear either that other connections close."""
    _silent[where] = time.monotonic()


def may_not_hear(where: str, last: float) -> bool:
    """Whether a side fell silent after a connection was last heard, by the monotonic clock."""
    return last < _silent.get(where, last)
