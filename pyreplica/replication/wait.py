"""Waits until the slave has what was committed on the master."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing

from pyreplica.config import ReplicationConfig
from pyreplica.errors import TimedOut
from pyreplica.master import Master
from pyreplica.model import Cursor, Snapshot
from pyreplica.replication.agreement import known
from pyreplica.replication.sequences import LOOK_FIRST, LOOK_LONGEST, Awaited
from pyreplica.slave import Slave


def wait(
    config: ReplicationConfig,
    timeout: float | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Return once all that was committed on the master before the call is on the slave.

    That includes the values that were drawn from sequences, for which the daemon is woken.

    Args:
        timeout: seconds, or None to wait for ever.

    Raises:
        TimedOut: the slave has not got there; says how far it is and whether a daemon runs.
    """
    with ExitStack() as stack:
        master = stack.enter_context(closing(Master(config)))
        slave = stack.enter_context(closing(Slave(config)))
        master.check_installed()
        slave.check_installed()
        until = master.log.position().snapshot
        known(master, slave)
        sequences = Awaited(config, master, slave)
        if sequences.differences():
            master.ring(anew=True)
        deadline = None if timeout is None else clock() + timeout
        pause = LOOK_FIRST
        while not _is_there(master, slave, until) or sequences.differences():
            if deadline is not None and clock() >= deadline:
                pending, _ = master.log.pending(cursor_of(slave).position.snapshot)
                behind = "".join(f"; {difference}" for difference in sequences.differences()[:1])
                raise TimedOut(
                    f"the slave is not there after {timeout:g} s, {pending} changes behind{behind}",
                    where=config.name,
                    hint="Wait longer, or look at `pyreplica status`."
                    if slave.locked()
                    else f"No daemon is at work: `pyreplica run {config.name}`.",
                )
            sleep(pause)
            pause = min(pause * 1.5, LOOK_LONGEST)


def _is_there(master: Master, slave: Slave, until: Snapshot) -> bool:
    """Whether the slave has everything that the master's snapshot saw."""
    if master.log.misses(cursor_of(slave).position.snapshot, until):
        return False
    # the log of a batch that was decided may be gone before the slave has committed it
    master.record.check_kept()
    confirmed = master.record.confirmed()
    return confirmed is not None and cursor_of(slave).batch >= confirmed.cursor.batch


def cursor_of(slave: Slave) -> Cursor:
    """The slave's cursor as it is committed now."""
    applied = slave.applied()
    assert applied is not None
    assert applied.cursor is not None
    return applied.cursor
