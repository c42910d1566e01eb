"""What all replications of a daemon do, in one line."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from pyreplica.model import State, Status

LATE = 1.0
"""Who may be further behind than so many seconds is named."""
MOST_NAMED = 5


def summary(statuses: Iterable[Status], now: datetime) -> str:
    """The line: "2 in step; shop 12 s behind; archive failed: archive: slave: cannot connect".

    Args:
        statuses: what each replication said last.
        now: this machine's clock, in UTC.
    """
    in_step = 0
    named: list[str] = []
    counted: dict[State, int] = {}
    for status in statuses:
        lag = status.lag(now)
        if status.state is State.FAILED:
            named.append(f"{status.replication} failed: {status.error}")
        elif status.state is State.STOPPED and status.error is not None:
            named.append(f"{status.replication} has ended: {status.error}")
        elif status.state is State.CATCHING_UP and (lag is None or lag >= LATE):
            behind = "catching up" if lag is None else f"{lag:.0f} s behind"
            named.append(f"{status.replication} {behind}")
        elif status.state in (State.WAITING, State.CATCHING_UP):
            in_step += 1
        else:
            counted[status.state] = counted.get(status.state, 0) + 1
    if len(named) > MOST_NAMED:
        named[MOST_NAMED:] = [f"and {len(named) - MOST_NAMED} more"]
    parts = [f"{in_step} in step"] if in_step or not (named or counted) else []
    parts += [f"{number} {state.value}" for state, number in counted.items()]
    return "; ".join([*parts, *named])
