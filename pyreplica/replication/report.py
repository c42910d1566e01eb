"""What can be told of a replication from outside the daemon: from the two databases alone."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from pyreplica.config import ReplicationConfig
from pyreplica.errors import NotInstalled, PyReplicaError, Unreachable
from pyreplica.master import Master
from pyreplica.replication.session import known
from pyreplica.slave import Slave

RUNNING = frozenset({"in step", "catching up", "adding"})
"""The states in which nobody has to do anything."""


@dataclass(frozen=True, slots=True)
class Report:
    """One replication at one moment.

    Args:
        state: "in step", "catching up", "adding" (a table is being added), "incomplete" (a captured
            table was never copied, its changes are passed over), "failing" (the daemon retries),
            "stopped", "died" (the daemon went away without a word), "copying", "not copied",
            "refused", "unreachable".
        lag_seconds: the age of the oldest change the slave does not have; 0 when it has all.
        lag_changes: the number of changes it does not have.
        in_doubt: batches that are prepared on the slave and not decided.
        error: the last error, or why the state could not be found out.
    """

    replication: str
    state: str
    lag_seconds: float | None = None
    lag_changes: int | None = None
    batch: int | None = None
    last_batch_changes: int | None = None
    last_batch_at: datetime | None = None
    changes: int | None = None
    in_doubt: tuple[int, ...] = ()
    error: str | None = None
    error_at: datetime | None = None
    hint: str | None = None


def report(config: ReplicationConfig) -> Report:
    """Look at both databases; never raises for what it finds there."""
    try:
        with closing(Slave(config)) as slave:
            slave.check_installed()
            with closing(Master(config)) as master:
                master.check_installed()
                return _report(config, master, slave)
    except Unreachable as error:
        return Report(config.name, "unreachable", error=error.line, hint=error.hint)
    except NotInstalled as error:
        return Report(config.name, "not copied", error=error.line, hint=error.hint)
    except PyReplicaError as error:
        return Report(config.name, "refused", error=error.line, hint=error.hint)


def _report(config: ReplicationConfig, master: Master, slave: Slave) -> Report:
    locked = slave.locked()
    applied = slave.applied()
    if applied is not None and not applied.ready:
        return Report(
            config.name,
            "copying" if locked else "not copied",
            error=None if locked else f"{config.name}: the copy was not finished",
            hint=None if locked else f"Run `pyreplica copy {config.name}` again.",
        )
    applied, _ = known(master, slave)
    assert applied.cursor is not None
    pending, since = master.pending(applied.cursor.position.snapshot)
    now = master.position().at
    recorded = slave.recorded_status()
    adding, left_out = _not_in_step(config, master, slave)
    error = recorded.last_error if recorded else None
    hint = None if locked else f"Start the daemon: `pyreplica run {config.name}`."
    if not locked:
        state = "stopped" if recorded is None or recorded.state == "stopped" else "died"
    elif recorded is not None and recorded.state == "failed":
        state, hint = "failing", "The daemon tries again by itself; repair what the error names."
    elif left_out:
        state = "incomplete"
        error = f"never copied, and passed over: {', '.join(left_out)}"
        problems = [f"{table}: {why}" for table, why in left_out.items() if why]
        if problems:
            error += f" ({'; '.join(problems)})"
        hint = f"Run `pyreplica add-table {config.name} {' '.join(left_out)}`."
    elif adding:
        state = "adding"
    else:
        state = "catching up" if pending else "in step"
    return Report(
        config.name,
        state,
        lag_seconds=max(0.0, (now - since).total_seconds()) if since is not None else 0.0,
        lag_changes=pending,
        batch=applied.cursor.batch,
        last_batch_changes=applied.last_batch_changes,
        last_batch_at=applied.applied_at,
        changes=applied.changes,
        in_doubt=tuple(slave.prepared()),
        error=error,
        error_at=recorded.last_error_at if recorded else None,
        hint=hint,
    )


def _not_in_step(
    config: ReplicationConfig, master: Master, slave: Slave
) -> tuple[list[str], dict[str, str | None]]:
    """The captured tables that are being added, and those that are left out, with the reasons."""
    copies = slave.table_copies()
    at_work = slave.tables_locked()
    adding: list[str] = []
    left_out: dict[str, str | None] = {}
    for table in master.tables():
        if not config.includes(table.schema, table.name):
            continue
        copy = copies.get(table.relid)
        if copy is None or (copy.state == "copying" and not at_work):
            left_out[str(table)] = copy.problem if copy else None
        elif copy.being_added:
            adding.append(str(table))
        copies.pop(table.relid, None)
    for copy in copies.values():
        if copy.being_added:
            left_out[str(copy)] = "it is not chosen, or is gone on the master; remove it"
    return adding, left_out
