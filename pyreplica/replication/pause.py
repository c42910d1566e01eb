"""Pauses a replication, and lets it go on: for people, from any machine that reaches the slave.

What is asked for is a row on the slave, so it outlives daemons and servers. The daemon finishes the
batch at hand, keeps its locks, so that no other one takes its place, and goes on looking after the
master's log, whose limits count on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from pyreplica.config import ReplicationConfig
from pyreplica.errors import NotInstalled, PyReplicaError, TimedOut
from pyreplica.master import Master
from pyreplica.model import LogKept
from pyreplica.slave import Slave
from pyreplica.slave.pauses import Pause

PAUSED = "paused"
"""What the daemon of a paused replication records as its state."""
LOOK_FIRST = 0.005
LOOK_LONGEST = 0.5
"""The daemon's answer is looked for after so many seconds, growing."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of pausing, or of going on.

    Attributes:
        said: what the slave has noted down.
        before: the pause that there was before.
        daemon: whether a daemon is at work, and has followed.
        batch: the last batch that the slave has.
        kept: how much log the master keeps; None when it cannot be asked.
    """

    said: str
    before: Pause | None
    daemon: bool
    batch: int
    kept: LogKept | None


def pause(
    config: ReplicationConfig,
    who: str | None,
    reason: str | None,
    timeout: float | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Done:
    """Have the daemon finish the batch at hand, and rest until `resume`.

    Args:
        who: who wants it; the slave's role when None.
        reason: why, for those who come later.
        timeout: how long to wait for the daemon, seconds; None for ever.

    Raises:
        Unreachable, NotInstalled: nothing was changed.
        TimedOut: the daemon has not come to rest yet; it will.
    """
    with closing(_slave(config)) as slave:
        before = slave.pauses.get()
        said = slave.pauses.set(who, reason)
        daemon = _followed(
            slave,
            lambda state: state == PAUSED,
            "the daemon is still busy after %g s",
            timeout,
            clock,
            sleep,
        )
        return Done(said, before, daemon, _batch(slave), _kept(config))


def resume(
    config: ReplicationConfig,
    timeout: float | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Done:
    """Have the daemon go on; the arguments and errors are those of `pause`."""
    with closing(_slave(config)) as slave:
        before = slave.pauses.get()
        said = slave.pauses.clear()
        daemon = _followed(
            slave,
            lambda state: state != PAUSED,
            "the daemon has not gone on after %g s",
            timeout,
            clock,
            sleep,
        )
        return Done(said, before, daemon, _batch(slave), _kept(config))


def _slave(config: ReplicationConfig) -> Slave:
    slave = Slave(config)
    try:
        slave.check_installed()
        if slave.applied() is None:
            raise NotInstalled(
                "the slave has not been copied yet",
                where=config.name,
                hint=f"Run `pyreplica copy {config.name}`.",
            )
    except BaseException:
        slave.close()
        raise
    return slave


def _followed(
    slave: Slave,
    has: Callable[[str], bool],
    late: str,
    timeout: float | None,
    clock: Callable[[], float],
    sleep: Callable[[float], object],
) -> bool:
    """Wait for the daemon to follow; gives whether there is one."""
    deadline = None if timeout is None else clock() + timeout
    look = LOOK_FIRST
    while slave.locked():
        recorded = slave.recorded_status()
        if recorded is not None and has(recorded.state):
            return True
        if deadline is not None and clock() >= deadline:
            raise TimedOut(
                late % timeout,
                where=slave.replication,
                hint="It is noted on the slave, and the daemon follows as soon as the batch at "
                "hand is done: `pyreplica status`.",
            )
        sleep(look)
        look = min(look * 1.5, LOOK_LONGEST)
    return False


def _batch(slave: Slave) -> int:
    applied = slave.applied()
    return applied.cursor.batch if applied is not None and applied.cursor is not None else 0


def _kept(config: ReplicationConfig) -> LogKept | None:
    try:
        with closing(Master(config)) as master:
            master.check_installed()
            return master.record.log_kept()
    except PyReplicaError:
        return None  # it may be what the pause is for
