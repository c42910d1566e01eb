"""The limits of the log that a master keeps for a slave: watched, and said before it is too late.

The master itself drops a slave that is past them (sql/master/limits.sql), whether or not its daemon
runs; here it is only found out.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from pyreplica.config import ReplicationConfig
from pyreplica.master import Master
from pyreplica.model import Event, EventKind, LogKept
from pyreplica.replication.telling import Tell, utc_now

THRESHOLDS = (50, 80)
"""Percent of a limit at which the daemon warns."""


class LogWatch:
    """Warns when a threshold is crossed, once, and again only after it has fallen below.

    Args:
        config: the replication.
        tell: given an event for each of these, and one when the log is below all of them again.

    Attributes:
        kept: how much log there was when it was last looked at; None before that.
    """

    def __init__(self, config: ReplicationConfig, tell: Tell = lambda event: None) -> None:
        self.kept: LogKept | None = None
        self._config = config
        self._tell = tell
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._said = 0

    def look_after(self, master: Master) -> None:
        """Tell the master the limits, have it look after its log, and see what it says.

        For when the slave is away: while a session runs, that does the first two.

        Raises:
            Dropped: the slave is past a limit, and has been dropped.
        """
        master.check_installed()
        master.record.set_limits(self._config.max_log_size, self._config.max_log_age)
        master.rotate()
        self.look(master)

    def look(self, master: Master) -> None:
        """See how much log is kept, and warn.

        Raises:
            Dropped: the slave has been dropped.
        """
        kept = master.record.log_kept()
        if kept is None or kept.dropped:
            master.record.check_kept()
        self.kept = kept
        used = kept.used if kept else None
        reached = max((t for t in THRESHOLDS if used is not None and used * 100 >= t), default=0)
        if kept is not None and reached > self._said:
            what = f"{said_of(kept)}; past 100 % the slave is dropped and has to be copied anew"
            hint = (
                f"see what holds it up, or raise the limit: `pyreplica status {self._config.name}`"
            )
            self._log.warning("%s (%s)", what, hint)
            waits = timedelta(seconds=kept.age) if kept.age else None
            self._told(what, f"{hint[0].upper()}{hint[1:]}.", waits)
        elif self._said and not reached:
            self._told(
                f"the log that the master keeps for the slave is below {THRESHOLDS[0]} % of its "
                "limits again",
                over=True,
            )
        self._said = reached

    def _told(
        self, what: str, hint: str = "", waits: timedelta | None = None, *, over: bool = False
    ) -> None:
        name, now = self._config.name, utc_now()
        what = f"{name}: master: {what}"
        since = now - waits if waits else None
        self._tell(Event(EventKind.LOG, name, now, what, hint, since, over=over))


def said_of(kept: LogKept) -> str:
    """How near a slave is to its limits, by the one that is nearer; it must have one."""
    by_size, by_age = kept.used_size or 0.0, kept.used_age or 0.0
    if by_size >= by_age:
        return (
            f"the master keeps {sized(kept.bytes)} of log for the slave, {by_size:.0%} of "
            f"max_log_size ({sized(kept.max_size or 0)})"
        )
    return (
        f"changes wait in the master's log for {timedelta(seconds=round(kept.age))}, {by_age:.0%} "
        f"of max_log_age ({timedelta(seconds=round(kept.max_age or 0))})"
    )


def sized(size: int) -> str:
    """A number of bytes for people."""
    number = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return (
                f"{number:.0f} {unit}"
                if number >= 10 or unit == "bytes"
                else f"{number:.1f} {unit}"
            )
        number /= 1024
    return f"{number:.1f} TB"
