"""One replication of the daemon, in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from pyreplica.config import ReplicationConfig
from pyreplica.daemon.lag import LagWatch
from pyreplica.daemon.listeners import Listeners
from pyreplica.database import last_sign
from pyreplica.errors import PyReplicaError
from pyreplica.model import Event, EventKind, State, Step
from pyreplica.replication.loop import Replication
from pyreplica.replication.telling import utc_now

_log = logging.getLogger("pyreplica")


def patience(config: ReplicationConfig) -> float:
    """For how many seconds a replication may give no sign of life: longer nothing takes.

    The longest sleep, the longest time until the next try, connecting (a name may stand for several
    addresses), the time until a server is given up, and something to spare.
    """
    sleeps = config.keepalive + config.retry_max
    return sleeps + 10 * config.connect_timeout + 4 * config.peer_timeout + 60


class Member:
    """Runs a replication once, to its end.

    Args:
        config: the replication.
        listeners: are told what it does.
        observe: told of each step of each batch.
        ended: called in its thread when it has ended.

    Attributes:
        error: what has ended it; None while it runs and when it was stopped.
    """

    def __init__(
        self,
        config: ReplicationConfig,
        listeners: Listeners,
        observe: Callable[[Step, int], None],
        ended: Callable[[], None],
    ) -> None:
        self.config = config
        self.error: PyReplicaError | None = None
        self.replication = Replication(
            config, observe=observe, publish=listeners.status, tell=listeners.event
        )
        self._listeners = listeners
        self._ended = ended
        self._done = False
        self._lag = LagWatch(config, utc_now())
        self._thread = threading.Thread(target=self._run, name=config.name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._listeners.status(self.replication.status)
        self._thread.start()

    def stop(self) -> None:
        """Have it finish the batch at hand and end."""
        self.replication.stop()

    def cancel(self) -> None:
        """Have it abandon the batch at hand."""
        if self.alive:
            self.replication.cancel()

    def join(self, timeout: float) -> None:
        """Wait until it has ended, at most so many seconds."""
        self._thread.join(max(0.0, timeout))

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not self._done

    def stuck(self) -> float | None:
        """For how many seconds it has done nothing although it could; None when all is well.

        It may wait for a server as long as that is at work: one that hangs is given up after
        ``peer_timeout``. It may sleep, and it may wait until its next try.
        """
        last = max(self.replication.beat, last_sign(self.config.name) or 0.0)
        silent = time.monotonic() - last
        return silent if self.alive and silent > patience(self.config) else None

    def look_at_lag(self) -> None:
        """Tell of a slave that is too far behind; nothing of one that has ended for a reason."""
        if self.alive:
            event = self._lag.look(self.replication.status, utc_now())
            if event is not None:
                log = logging.getLogger(f"pyreplica.{self.config.name}")
                hint = f" ({event.hint})" if event.hint else ""
                log.log(logging.INFO if event.over else logging.WARNING, "%s%s", event.what, hint)
                self._listeners.event(event)

    def _run(self) -> None:
        name = self.config.name
        try:
            self.error = self.replication.run()
            if self.error is not None:
                _log.error("replication %s has ended: %s", name, self.error.line)
        except Exception as unexpected:
            _log.exception("replication %s has ended by a defect", name)
            self.error = PyReplicaError(
                f"unexpected {type(unexpected).__name__}: {unexpected}",
                where=name,
                hint="This is a defect of PyReplica; please report it with the log.",
            )
            now = utc_now()
            ended = replace(self.replication.status, state=State.STOPPED, since=now)
            self._listeners.status(
                replace(ended, error=self.error.line, hint=self.error.hint, error_since=now)
            )
            what = f"{name}: the replication has ended by a defect: {self.error.what}"
            self._listeners.event(Event(EventKind.STOPPED, name, now, what, self.error.hint))
        finally:
            self._done = True
            self._ended()
