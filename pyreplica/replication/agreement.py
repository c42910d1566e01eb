"""What the two sides say of each other and of where they stand; how they come to agree on it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from pyreplica.config import CommitMode, ReplicationConfig
from pyreplica.errors import NotInstalled, PyReplicaError, Refused
from pyreplica.master import Master
from pyreplica.model import Applied, Confirmed, Cursor, Step
from pyreplica.slave import Slave

Observer = Callable[[Step, int], None]
"""Told of each step with the batch's number, after the step is done."""


def recorded(master: Master, slave: Slave) -> tuple[Applied, Confirmed]:
    """What the two sides say of this replication, whoever they say is on the other side.

    Raises:
        NotInstalled: nothing was copied yet.
    """
    applied, confirmed = slave.applied(), master.record.confirmed()
    if (
        applied is None
        or not applied.ready
        or confirmed is None
        or not (confirmed.ready or confirmed.dropped)
    ):
        raise NotInstalled(
            "the slave has not been copied yet"
            if applied is None or not applied.ready
            else "the master does not know this slave any more",
            where=slave.replication,
            hint=f"Run `pyreplica copy {slave.replication}`.",
        )
    return applied, confirmed


def known(master: Master, slave: Slave, *, dropped_too: bool = False) -> tuple[Applied, Confirmed]:
    """What the two sides say of this replication, when they speak of each other.

    Args:
        dropped_too: a slave that was dropped is not refused.

    Raises:
        NotInstalled: nothing was copied yet.
        Dropped: the log is not kept for the slave any more.
        Refused: one of them knows another database as its counterpart.
    """
    applied, confirmed = recorded(master, slave)
    for side, other, before in (
        (master, "master", applied.master),
        (slave, "slave", confirmed.slave),
    ):
        found = side.identity()
        if found != before:
            raise Refused(
                f"this is {found}, but the replication was set up with {before}",
                where=side.connection.where,
                hint=f"Connect to the {other} it was copied with; or run `pyreplica adopt "
                f"{slave.replication}` if it is that one, after pg_upgrade or under another name; "
                f"or copy anew with `pyreplica copy {slave.replication} --truncate`.",
            )
    if not dropped_too:
        master.record.check_kept()
    return applied, confirmed


def agree(
    config: ReplicationConfig, master: Master, slave: Slave, observe: Observer
) -> tuple[int, Cursor, Applied]:
    """Bring both sides to the same batch, whatever a crash has left undecided.

    Args:
        observe: told of each batch that was decided.

    Returns:
        The bit of the slave's daemon in the doorbell, the cursor of both, and what the slave
        has of this replication.

    Raises:
        NotInstalled: nothing was copied yet.
        Dropped: the log is not kept for the slave any more.
        Refused: the two do not belong together, or one of them has lost what the other has.
    """
    applied, confirmed = known(master, slave, dropped_too=True)
    _decide(config, slave, confirmed, observe)
    master.record.check_kept()
    applied = slave.applied() or applied
    here, there = applied.cursor, confirmed.cursor
    if here is None:
        raise not_copied(config)
    if (
        config.commit is CommitMode.ONE_PHASE
        and here.batch == there.batch + 1
        and here.position.snapshot.xmax <= master.log.position().snapshot.xmax
    ):
        # the slave committed, the master was not told: the cursor alone decides, unless it is
        # of a moment that this master has not seen yet
        master.record.confirm(here)
    else:
        check_fit(config, here, there)
    return confirmed.bit, here, applied


def check_fit(config: ReplicationConfig, here: Cursor, there: Cursor) -> None:
    """Raise Refused unless both sides stand at the same batch.

    Args:
        here: the slave's cursor.
        there: what the master has recorded.
    """
    if there.batch != here.batch or there.position.snapshot != here.position.snapshot:
        raise Refused(
            f"the master recorded batch {there.batch}, the slave has batch {here.batch}",
            where=config.name,
            hint=(
                "The master was restored from a backup, or failed over with loss: the slave may "
                "hold what the master has lost."
                if there.batch < here.batch
                else "The slave was restored from a backup, or its cursor was changed; the log "
                "between the two may be gone."
            )
            + f" Copy it anew: `pyreplica copy {config.name} --truncate`.",
        )


def _decide(
    config: ReplicationConfig, slave: Slave, confirmed: Confirmed, observe: Observer
) -> None:
    """Commit the prepared batches that the master has recorded, roll back the others."""
    log = logging.getLogger(f"pyreplica.{config.name}")
    for batch in slave.prepared():
        if batch <= confirmed.cursor.batch:
            log.info("batch %d was confirmed: commit", batch)
            slave.commit_prepared(batch)
        else:
            log.info("batch %d was not confirmed: roll back", batch)
            slave.rollback_prepared(batch)
        observe(Step.RECOVERED, batch)


def not_copied(config: ReplicationConfig) -> PyReplicaError:
    """The error for a slave that has nothing yet."""
    return NotInstalled(
        "the slave has not been copied yet",
        where=config.name,
        hint=f"Run `pyreplica copy {config.name}`.",
    )
