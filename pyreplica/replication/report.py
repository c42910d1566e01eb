"""What can be told of a replication from outside the daemon: from the two databases alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pyreplica.config import ReplicationConfig
from pyreplica.errors import Dropped, NotInstalled, PyReplicaError, Unreachable
from pyreplica.master import Master
from pyreplica.model import LogKept
from pyreplica.replication.agreement import known
from pyreplica.replication.pause import PAUSED
from pyreplica.slave import InDoubt, RecordedStatus, Slave
from pyreplica.slave.pauses import Pause

RUNNING = frozenset({"in step", "catching up", "adding"})
"""The states in which nobody has to do anything."""
MOST_AT_ONCE = 16
"""So many replications are looked at at the same time."""


@dataclass(frozen=True, slots=True)
class Report:
    """One replication at one moment.

    Args:
        state: "in step", "catching up", "adding" (a table is being added), "incomplete" (a captured
            table was never copied, its changes are passed over), "failing" (the daemon retries),
            "pausing" (it is to rest, and finishes the batch at hand), "paused", "stopped", "died"
            (the daemon was killed, or has ended by an error), "needs a new copy" (the slave was
            dropped, its log is not kept any more), "copying", "not copied", "refused",
            "unreachable".
        lag_seconds: the age of the oldest change the slave does not have; 0 when it has all.
        lag_changes: the number of changes it does not have.
        in_doubt: batches that are prepared on the slave and not decided.
        in_doubt_seconds: how long the oldest of them has been.
        error: the last error, or why the state could not be found out.
        log_bytes: how much log the master keeps for the slave.
        log_age_seconds: how long the oldest change in it has waited.
        log_percent: the part of `max_log_size` or `max_log_age` that is, whichever is larger; None
            where there is no limit.
        conflicts_waiting: changes that could not be applied and wait.
        conflicts_last_day: conflicts that were met within the last day, these among them.
        daemon: whether a daemon, or a copy, is at work; None when the slave cannot be asked.
        paused_at: since when it is paused.
        paused_by: by whom.
        pause_reason: why, if they have said.
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
    in_doubt_seconds: float | None = None
    error: str | None = None
    error_at: datetime | None = None
    hint: str | None = None
    log_bytes: int | None = None
    log_age_seconds: float | None = None
    log_percent: int | None = None
    conflicts_waiting: int | None = None
    conflicts_last_day: int | None = None
    daemon: bool | None = None
    paused_at: datetime | None = None
    paused_by: str | None = None
    pause_reason: str | None = None


def look_at(configs: Sequence[ReplicationConfig], timeout: float | None = None) -> list[Report]:
    """The reports of some replications, which are looked at at the same time.

    Args:
        timeout: seconds to wait for all of them; who has not answered by then is "unreachable".
    """
    reports: dict[str, Report] = {}
    turns = threading.BoundedSemaphore(MOST_AT_ONCE)

    def look(config: ReplicationConfig) -> None:
        with turns:
            reports[config.name] = report(config)

    threads = [
        # a server that hangs is left alone when somebody has waited enough
        threading.Thread(target=look, args=(config,), name=f"status of {config.name}", daemon=True)
        for config in configs
    ]
    for thread in threads:
        thread.start()
    deadline = None if timeout is None else time.monotonic() + timeout
    for thread in threads:
        thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
    late = "" if timeout is None else f"no answer within {timeout:g} s"
    return [
        reports.get(config.name, Report(config.name, "unreachable", error=late))
        for config in configs
    ]


def report(config: ReplicationConfig) -> Report:
    """Look at both databases; never raises for what it finds there."""
    try:
        with closing(Slave(config)) as slave:
            slave.check_installed()
            try:
                with closing(Master(config)) as master:
                    master.check_installed()
                    return _with_log(_report(config, master, slave), master.record.log_kept())
            except Unreachable as error:
                # if that is the slave, it cannot be asked again
                return _with_doubt(_unreachable(config, error), slave.in_doubt())
    except Dropped as error:
        return _dropped(config, error)
    except Unreachable as error:
        return _from_the_master(config, error)
    except NotInstalled as error:
        return Report(config.name, "not copied", error=error.line, hint=error.hint)
    except PyReplicaError as error:
        return Report(config.name, "refused", error=error.line, hint=error.hint)


def _from_the_master(config: ReplicationConfig, error: Unreachable) -> Report:
    """What the master alone knows: whether its log goes on growing for a slave that is away."""
    report = _unreachable(config, error)
    try:
        with closing(Master(config)) as master:
            master.check_installed()
            master.record.check_kept()
            return _with_log(report, master.record.log_kept())
    except Dropped as dropped:
        return _dropped(config, dropped)
    except PyReplicaError:
        return report


def _unreachable(config: ReplicationConfig, error: Unreachable) -> Report:
    return Report(config.name, "unreachable", error=error.line, hint=error.hint)


def _with_doubt(report: Report, found: Sequence[InDoubt]) -> Report:
    return replace(
        report,
        in_doubt=tuple(batch.number for batch in found),
        in_doubt_seconds=max((batch.age for batch in found), default=None),
    )


def _dropped(config: ReplicationConfig, error: Dropped) -> Report:
    return Report(config.name, "needs a new copy", error=error.line, hint=error.hint)


def _with_log(report: Report, kept: LogKept | None) -> Report:
    if kept is None:
        return report
    percent = None if kept.used is None else round(kept.used * 100)
    return replace(report, log_bytes=kept.bytes, log_age_seconds=kept.age, log_percent=percent)


def _report(config: ReplicationConfig, master: Master, slave: Slave) -> Report:
    locked = slave.locked()
    applied = slave.applied()
    if applied is not None and not applied.ready:
        return Report(
            config.name,
            "copying" if locked else "not copied",
            error=None if locked else f"{config.name}: the copy was not finished",
            hint=None if locked else f"Run `pyreplica copy {config.name}` again.",
            daemon=locked,
        )
    applied, _ = known(master, slave)
    assert applied.cursor is not None
    pending, since = master.log.pending(applied.cursor.position.snapshot)
    now = master.log.position().at
    recorded = slave.recorded_status()
    pause = slave.pauses.get()
    adding, left_out = _not_in_step(config, master, slave)
    error = recorded.last_error if recorded else None
    hint = None if locked else f"Start the daemon: `pyreplica run {config.name}`."
    if pause is not None:
        state, hint = _paused(config, locked, recorded)
    elif not locked:
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
    conflicts = slave.conflicts.count()
    found = Report(
        config.name,
        state,
        lag_seconds=max(0.0, (now - since).total_seconds()) if since is not None else 0.0,
        lag_changes=pending,
        batch=applied.cursor.batch,
        last_batch_changes=applied.last_batch_changes,
        last_batch_at=applied.applied_at,
        changes=applied.changes,
        error=error,
        error_at=recorded.last_error_at if recorded else None,
        hint=hint,
        conflicts_waiting=conflicts.waiting,
        conflicts_last_day=conflicts.last_day,
        daemon=locked,
        **_who(pause),
    )
    return _with_doubt(found, slave.in_doubt())


def _paused(
    config: ReplicationConfig, locked: bool, recorded: RecordedStatus | None
) -> tuple[str, str]:
    """The state of a replication that somebody has paused, and what to do to end that."""
    if not locked:
        return "paused", (
            f"`pyreplica resume {config.name}` ends it; and no daemon is at work: "
            f"`pyreplica run {config.name}`."
        )
    if recorded is not None and recorded.state == PAUSED:
        return "paused", f"`pyreplica resume {config.name}` ends it."
    return "pausing", "The daemon finishes the batch at hand."


def _who(pause: Pause | None) -> dict[str, Any]:
    if pause is None:
        return {}
    return {"paused_at": pause.at, "paused_by": pause.by, "pause_reason": pause.reason}


def _not_in_step(
    config: ReplicationConfig, master: Master, slave: Slave
) -> tuple[list[str], dict[str, str | None]]:
    """The captured tables that are being added, and those that are left out, with the reasons."""
    copies = slave.records.copies()
    at_work = slave.records.locked()
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
