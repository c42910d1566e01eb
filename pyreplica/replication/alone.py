"""What is done with one side alone: the other is away, or somebody else is at work."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing, suppress

from pyreplica.config import ReplicationConfig
from pyreplica.errors import Dropped, PyReplicaError
from pyreplica.master import Master
from pyreplica.replication.drift import DriftWatch
from pyreplica.replication.limits import LogWatch
from pyreplica.slave import Slave

LOOKS = 1.0
"""While somebody else is at work, whether they still are is looked at so often, seconds."""


def until_free(config: ReplicationConfig, waits: Callable[[float], bool]) -> None:
    """Wait until nobody holds the replication's lock on the slave; or that cannot be asked.

    A lock is not waited for: a statement that waits would keep vacuum back on the whole slave.

    Args:
        waits: waits so many seconds, and gives whether to go on.
    """
    with suppress(PyReplicaError), closing(Slave(config)) as slave:
        while waits(LOOKS) and slave.locked():
            pass
        return
    waits(LOOKS)


def look_after_log(
    config: ReplicationConfig, watch: LogWatch, drift: DriftWatch | None = None
) -> Dropped | None:
    """Look after the master's log while the slave is away: it goes on growing.

    Args:
        watch: warns of the log's size.
        drift: looks for DDL that was not seen, when given.

    Returns:
        What is to be said of a slave that was dropped.
    """
    try:
        with closing(Master(config)) as master:
            watch.look_after(master)
            if drift is not None:
                drift.look(master)
    except Dropped as dropped:
        return dropped
    except PyReplicaError as error:
        _log(config).debug("the master's log was not looked after: %s", error)
    return None


def record(config: ReplicationConfig, error: PyReplicaError) -> None:
    """Write an error down on the slave, where `status` finds it; if that can be done."""
    with suppress(PyReplicaError), closing(Slave(config)) as slave:
        try:
            slave.set_status("failed", error.line)
        except PyReplicaError as another:
            _log(config).debug("the error could not be recorded: %s", another)


def _log(config: ReplicationConfig) -> logging.Logger:
    return logging.getLogger(f"pyreplica.{config.name}")
