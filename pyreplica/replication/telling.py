"""What a replication says of itself: its log, its status, and the events somebody may be told of.

The log has every try and every reason. The status is what it is doing now. An event is told once:
the same error again only now and then, and that it is over when it is.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from pyreplica.config import ReplicationConfig
from pyreplica.errors import Dropped, PyReplicaError
from pyreplica.model import Event, EventKind, LogKept, State, Status
from pyreplica.slave.pauses import Pause

Tell = Callable[[Event], None]
"""Is told of an event; never waits for anything."""

ALERT_EVERY = 3600.0
"""An error that lasts is told so often, seconds; in between only for those who look closely."""
MOST_ERRORS = 100
"""So many different errors are known to have been told; with more, all of them are forgotten."""
STEADY_AFTER = 10.0
"""In step again is who has been so for so many seconds after an error, or is waiting."""


def utc_now() -> datetime:
    """This machine's clock."""
    return datetime.now(timezone.utc)


class Telling:
    """Tells of one replication; for its own thread.

    Args:
        config: the replication.
        publish: given a new status whenever it changes.
        tell: given the events.
        clock: seconds, monotonic.
        now: this machine's clock, in UTC.
    """

    def __init__(
        self,
        config: ReplicationConfig,
        publish: Callable[[Status], None],
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.status = Status(config.name, State.CONNECTING, now())
        self._name = config.name
        self._publish = publish
        self._tell = tell
        self._clock = clock
        self._now = now
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._in_step_at: datetime | None = None
        self._told: dict[str, float] = {}
        self._failed_at = 0.0
        self._begun = False
        self._after = ""

    # Statuses

    def now(self) -> datetime:
        """This machine's clock, in UTC."""
        return self._now()

    def state(
        self,
        state: State,
        batch: int | None = None,
        changes: int | None = None,
        note: str | None = None,
    ) -> None:
        """It does something else now, or has moved a batch.

        Args:
            batch: the last one, where that is known.
            changes: those applied since the copy.
            note: what there is to add.
        """
        before = self.status
        self._set(
            replace(
                before,
                state=state,
                since=before.since if state is before.state else self._now(),
                note=note,
                batch=before.batch if batch is None else batch,
                changes=before.changes if changes is None else changes,
                in_step_at=self._in_step_at,
            )
        )
        if state is State.WAITING:
            self._recover()

    def in_step(self, at: datetime) -> None:
        """The slave equals the master as of then, by this machine's clock."""
        self._in_step_at = at
        if self.status.error is not None and self._clock() - self._failed_at >= STEADY_AFTER:
            self._recover()

    def log_kept(self, kept: LogKept | None) -> None:
        """How much log the master was seen to keep for the slave."""
        if kept is not None:
            percent = None if kept.used is None else round(kept.used * 100)
            self._set(replace(self.status, log_bytes=kept.bytes, log_percent=percent))

    def conflicts_waiting(self, waiting: int) -> None:
        """So many changes were seen to wait."""
        self._set(replace(self.status, conflicts_waiting=waiting))

    def _set(self, status: Status) -> None:
        # while it waits it is in step now, whatever moment that was seen at
        alike = replace(status, in_step_at=self.status.in_step_at) == self.status
        changed = status != self.status
        self.status = status
        if changed and not (alike and status.state is State.WAITING):
            self._publish(status)

    # Events

    def begin(self) -> None:
        """It is at work, or tries to be: nobody else is."""
        if not self._begun:
            self._begun = True
            after = f", in the place of {self._after}" if self._after else ""
            self.event(EventKind.STARTED, f"{self._name}: the daemon has started{after}")

    def failed(self, error: PyReplicaError) -> None:
        """Something went wrong; the same thing is told again only now and then."""
        if not self._after:
            self.begin()
        now = self._clock()
        line = error.line
        repeated = now - self._told.get(line, now - ALERT_EVERY) < ALERT_EVERY
        if not repeated:
            if len(self._told) >= MOST_ERRORS:
                self._told.clear()
            self._told[line] = now
        hint = f" ({error.hint})" if error.hint else ""
        level = logging.INFO if repeated else logging.ERROR
        # for those who want the two apart
        self._log.log(level, "%s%s", line, hint, extra={"what": line, "hint": error.hint})
        if error.details and not repeated:
            self._log.info("%s", error.details)
        self._failed_at = now
        since = self.status.error_since or self._now()
        failed = replace(self.status, error=line, hint=error.hint or None, error_since=since)
        if self.status.state is not State.FAILED:
            failed = replace(failed, state=State.FAILED, since=self._now(), note=None)
        self._set(failed)
        if not repeated:
            kind = EventKind.DROPPED if isinstance(error, Dropped) else EventKind.ERROR
            self.event(kind, line, hint=error.hint, since=since, details=error.details)

    def ended(self, error: PyReplicaError) -> None:
        """It has ended by an error, which was told; the status goes on naming it."""
        self._set(replace(self.status, state=State.STOPPED, since=self._now(), note=None))
        self.event(
            EventKind.STOPPED,
            f"{self._name}: the replication has ended: {error.line}",
            hint=error.hint,
        )

    def stopped(self) -> None:
        """It was told to stop, and has."""
        self.state(State.STOPPED)
        if self._begun:
            self.event(EventKind.STOPPED, f"{self._name}: the daemon has stopped")

    def standing_by(self, line: str, who: str) -> None:
        """Somebody else is at work for this replication; said once.

        Args:
            line: that, and where.
            who: the other one.
        """
        if self.status.state is State.STANDBY and who == self._after:
            return
        self._log.info("standing by: %s", line)
        self._begun = False
        self._after = who
        self._recover(f"{who} is at work")
        self._in_step_at = None
        self.state(State.STANDBY, note=f"{who} is at work")

    def conflicts(self, lines: Sequence[str], *, waiting: bool) -> None:
        """A batch has met conflicts, and they are recorded.

        Args:
            lines: what was met, a line for each table and conflict.
            waiting: whether any change could not be applied and waits.
        """
        more = f", and {len(lines) - 1} more" if len(lines) > 1 else ""
        self.event(
            EventKind.CONFLICT,
            f"{self._name}: {lines[0]}{more}",
            hint=f"See `pyreplica conflicts list {self._name}{'' if waiting else ' --all'}`.",
            details="\n".join(lines),
        )

    def paused(self, pause: Pause, batch: int) -> None:
        """It rests, because somebody wants that, after this batch."""
        self._log.info("%s, at batch %d", pause, batch)
        self.event(
            EventKind.PAUSED,
            f"{self._name}: {pause}",
            hint=f"`pyreplica resume {self._name}` ends it; until then the master's log grows.",
            since=pause.at.astimezone(timezone.utc),
        )

    def resumed(self) -> None:
        """It rests no more."""
        self._log.info("goes on")
        self.event(EventKind.RESUMED, f"{self._name}: goes on after the pause")

    def event(
        self,
        kind: EventKind,
        what: str,
        *,
        hint: str = "",
        since: datetime | None = None,
        details: str = "",
        over: bool = False,
    ) -> None:
        """Tell of something that has just happened."""
        self._tell(Event(kind, self._name, self._now(), what, hint, since, details, over))

    def _recover(self, how: str = "in step again") -> None:
        error, since = self.status.error, self.status.error_since
        self._told.clear()
        if error is None:
            return
        self._set(replace(self.status, error=None, hint=None, error_since=None))
        self.event(
            EventKind.RECOVERED,
            f"{self._name}: {how}; what had failed: {error}",
            since=since,
        )
