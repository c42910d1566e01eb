"""Runs replications, each in a thread of its own, until a signal says to stop.

Signal handlers only set a flag; the main thread acts on it. A replication that ends with an error
never disturbs another one.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from types import FrameType

from pyreplica.config import Config, ReplicationConfig
from pyreplica.daemon.bell import Bell
from pyreplica.daemon.changes import changes
from pyreplica.daemon.listener import Listener
from pyreplica.daemon.listeners import Listeners
from pyreplica.daemon.member import Member
from pyreplica.daemon.summary import summary
from pyreplica.daemon.systemd import Systemd
from pyreplica.errors import ConfigError, PyReplicaError
from pyreplica.model import Event, EventKind, State, Status, Step
from pyreplica.replication.telling import utc_now

GRACE = 5.0
"""Seconds a batch may take to finish after a signal; then it is abandoned."""
TICK = 10.0
"""The main thread looks after the replications at least so often, seconds."""
REST = 60.0
"""The same while none of them does anything, so that an idle daemon costs nothing."""
_AT_REST = (State.WAITING, State.PAUSED, State.STANDBY, State.STOPPED)
"""In these states nothing fails, and no slave falls behind that was meant to follow."""

_log = logging.getLogger("pyreplica")


class Service:
    """Several replications in one process.

    Args:
        config: the configuration.
        names: the replications of it that are run; none means all.
        listeners: told what the replications do.
        read: reads the configuration anew, on SIGHUP; None where that is not asked for.
        running: called when all replications have been started.
        reloaded: told what has become of each reading: what was done, or the error.
        systemd: the service manager.
        observe: told of each step of each batch, with the replication's name.

    Raises:
        ConfigError: there is no replication of such a name.
    """

    def __init__(
        self,
        config: Config,
        names: Sequence[str] = (),
        *,
        listeners: Sequence[Listener] = (),
        read: Callable[[], Config] | None = None,
        running: Callable[[], None] = lambda: None,
        reloaded: Callable[[str, ConfigError | None], None] = lambda done, error: None,
        systemd: Systemd | None = None,
        observe: Callable[[str, Step, int], None] = lambda name, step, batch: None,
    ) -> None:
        chosen = config.select(names)
        self._names = tuple(names)
        self._read = read
        self._running = running
        self._reloaded = reloaded
        self._systemd = systemd or Systemd({})
        self._observe = observe
        self._listeners = Listeners(listeners, self._heard)
        self._bell = Bell()
        self._stopping = False
        self._hung_up = False
        self._moved = True
        self._asleep = False
        self._refused: Event | None = None
        self._stuck: set[str] = set()
        self._members = {one.name: self._member(one) for one in chosen}

    @property
    def errors(self) -> dict[str, PyReplicaError]:
        """What replications have ended with, by their names."""
        members = list(self._members.items())
        return {name: member.error for name, member in members if member.error is not None}

    def run(self) -> bool:
        """Run until stopped, or until every replication has ended with an error.

        Returns:
            Whether all of them ended without one.

        Raises:
            PyReplicaError: a listener cannot do its work; nothing was begun.
        """
        self._listeners.start()
        try:
            for member in self._members.values():
                member.start()
            _log.info("started: %s", ", ".join(self._members))
            self._systemd.ready()
            self._running()
            self._supervise()
            self._systemd.stopping()
            self._finish(self._members.values())
        finally:
            self._listeners.stop()
            self._bell.close()
        _log.info("stopped")
        return not self.errors

    def stop(self) -> None:
        """Have run() finish the batches at hand and return."""
        self._stopping = True
        self._bell.ring()

    def reload(self) -> None:
        """Have run() read the configuration anew."""
        self._hung_up = True
        self._bell.ring()

    def handle_signals(self) -> None:
        """Stop on SIGTERM and SIGINT, reload on SIGHUP; for the main thread."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._stopping = True

        def reload(number: int, frame: FrameType | None) -> None:
            self._hung_up = True

        for name, handler in (("SIGTERM", stop), ("SIGINT", stop), ("SIGHUP", reload)):
            if hasattr(signal, name):  # Windows has no SIGHUP
                signal.signal(getattr(signal, name), handler)
        self._bell.catch_signals()

    def _member(self, config: ReplicationConfig) -> Member:
        def observe(step: Step, batch: int) -> None:
            self._observe(config.name, step, batch)

        return Member(config, self._listeners, observe, self._bell.ring)

    def _supervise(self) -> None:
        while not self._stopping and any(m.alive for m in self._members.values()):
            self._look_after()
            self._bell.wait(self._tick())
            if self._hung_up and not self._stopping:
                self._hung_up = False
                self._reload()

    def _tick(self) -> float:
        """How long the main thread may sleep: longer when nothing has moved for a whole tick."""
        moved, self._moved = self._moved, False
        members = [member for member in self._members.values() if member.alive]
        self._asleep = not moved and all(m.replication.status.state in _AT_REST for m in members)
        if self._moved:  # just now
            self._asleep = False
        if self._asleep:
            longest = REST
        else:
            limits = [m.config.lag_alert for m in members if m.config.lag_alert]
            longest = min(TICK, *(limit / 4 for limit in limits))
        watchdog = self._systemd.watchdog
        return longest if watchdog is None else min(longest, watchdog / 3)

    def _heard(self, status: Status) -> None:
        """A replication does something; in its thread."""
        if status.state not in _AT_REST:
            self._moved = True
            if self._asleep:
                self._asleep = False
                self._bell.ring()

    def _look_after(self) -> None:
        """Tell of lags; and the service manager what is done, and that all goes on."""
        for name, member in self._members.items():
            member.look_at_lag()
            silent = member.stuck()
            if silent is None:
                self._stuck.discard(name)
            elif name not in self._stuck:
                self._stuck.add(name)
                what = f"{name}: the replication has been stuck for {silent:.0f} s"
                hint = "This is a defect of PyReplica: report it with the log, and restart it."
                _log.error("%s (%s)", what, hint)
                self._listeners.event(Event(EventKind.ERROR, name, utc_now(), what, hint))
        if not self._stuck:
            self._systemd.alive()
        latest = self._listeners.latest
        shown = [latest[name] for name in self._members if name in latest]
        self._systemd.status(summary(shown, utc_now()))

    def _reload(self) -> None:
        """Read the configuration anew; one that is not right changes nothing."""
        if self._read is None:
            return
        self._systemd.reloading()
        try:
            config = self._read()
            wanted = {one.name: one for one in config.select(self._names)}
        except ConfigError as error:
            hint = f" ({error.hint})" if error.hint else ""
            what = "the configuration was not taken, the one before goes on"
            _log.error("%s: %s%s", what, error.line, hint)
            event = Event(EventKind.ERROR, "", utc_now(), f"{what}: {error.line}", error.hint)
            self._refused = event
            self._listeners.event(event)
            self._reloaded("", error)
        else:
            done = changes(self._members, wanted)
            self._listeners.reload(config)
            self._replace(wanted, {*done.changed, *done.removed, *done.ended})
            _log.info("the configuration was taken: %s", done)
            if self._refused is not None:
                what = f"the configuration was taken; what had failed: {self._refused.what}"
                since, self._refused = self._refused.at, None
                self._listeners.event(Event(EventKind.RECOVERED, "", utc_now(), what, since=since))
            self._reloaded(str(done), None)
        self._systemd.ready()

    def _replace(self, wanted: dict[str, ReplicationConfig], ending: Iterable[str]) -> None:
        """End some of the replications, and start those that are wanted and do not run."""
        ended = [self._members[name] for name in ending]
        self._finish(ended)
        kept = {name: one for name, one in self._members.items() if one not in ended}
        for name in self._members.keys() - wanted.keys():
            self._listeners.forget(name)
        self._stuck &= kept.keys()
        started = {name: self._member(wanted[name]) for name in wanted if name not in kept}
        self._members = {name: kept.get(name) or started[name] for name in wanted}
        for member in started.values():
            member.start()

    def _finish(self, members: Iterable[Member]) -> None:
        """Let the batches at hand finish; abandon those that take too long."""
        members = list(members)
        for member in members:
            member.stop()
        deadline = time.monotonic() + GRACE
        while any(member.alive for member in members):
            for member in members:
                member.join(deadline - time.monotonic())
            if time.monotonic() < deadline:
                break
            _log.info("abandoning the batch at hand")
            for member in members:
                member.cancel()
            deadline = time.monotonic() + 1.0
