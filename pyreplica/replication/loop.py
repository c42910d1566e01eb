"""The loop of one replication: catch up, sleep, wake, reconnect.

Sleeping without losing a wake-up: the doorbell's bit is set first, then the log is read once more,
and again until every transaction that was running at that reading has ended. A writer has then
either seen the bit and rings, or was among those. While the daemon is awake on a busy master the
bit is clear, because a NOTIFY takes a lock of the whole cluster through its commit.

Where the master's writers do not ring, because they may have to prepare their transactions, the
daemon looks at the log by itself instead of sleeping.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress

from pyreplica.backoff import Backoff
from pyreplica.config import ReplicationConfig
from pyreplica.errors import DatabaseError, Dropped, PyReplicaError, Refused, Unreachable
from pyreplica.master import Master
from pyreplica.model import Position, State, Status, Step
from pyreplica.replication.doubt import DoubtWatch
from pyreplica.replication.limits import LogWatch
from pyreplica.replication.session import Session
from pyreplica.replication.wakeup import Wakeup
from pyreplica.slave import Slave

BUSY_AFTER = 4
"""So many batches in a row without an empty reading, and the writers are not to ring."""
REST_BELOW = 1_000
LONGEST_REST = 0.02
"""While batches follow one another and have fewer changes than that, there is a rest between them,
twice as long as the last one took and at most so many seconds. A batch costs both servers about the
same whether it has five changes or five hundred: there are fewer then."""
LOOK_FIRST = 0.002
LOOK_LONGEST = 1.0
"""While old transactions run out, the log is looked at after this many seconds, doubling."""
LOOK_UNRUNG = 0.1
"""Where writers do not ring it is looked at so often, seconds; sooner after the last change."""
ALERT_EVERY = 3600.0
"""An error that lasts is told so often, seconds; in between only for those who look closely."""
ROTATE_EVERY = 5.0
"""The log's segments are looked after at most this often, seconds."""


class Replication:
    """Runs one replication until it is told to stop.

    Args:
        config: the replication.
        observe: told of each step of each batch.
        publish: given a new status whenever it changes.
        backoff: the delays between tries; made from the configuration when left out.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        config: ReplicationConfig,
        *,
        observe: Callable[[Step, int], None] = lambda step, batch: None,
        publish: Callable[[Status], None] = lambda status: None,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.status = Status(config.name, State.CONNECTING)
        self._observe = observe
        self._publish = publish
        self._backoff = backoff or Backoff(config.retry_first, config.retry_max)
        self._clock = clock
        self._stop = Wakeup()
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._watch = LogWatch(config)
        self._doubt = DoubtWatch(config)
        self._rotated = -ROTATE_EVERY
        self._looked = 0.0
        self._tidy = False
        self._rings = True
        self._last_error: str | None = None
        self._alerted = 0.0
        self._recorded = False

    # For other threads

    def stop(self) -> None:
        """Finish the batch at hand and end."""
        self._stop.set()

    def cancel(self) -> None:
        """Abandon the batch at hand: break off what the servers are executing."""
        with self._lock:
            if self._session is not None:
                self._session.cancel()

    # The loop

    def run(self) -> PyReplicaError | None:
        """Replicate until stopped.

        Returns:
            The error that ended it, or None when it was stopped.
        """
        self._doubt.start()
        try:
            while not self._stop.is_set():
                try:
                    self._connected()
                except PyReplicaError as error:
                    if self._stop.is_set():
                        break
                    self._failed(error)
                    dropped = self._look_alone() if isinstance(error, Unreachable) else None
                    if dropped is not None:
                        self._failed(dropped)
                        error = dropped
                    if not _passes(error):
                        self._record(error)
                        self._doubt.look(after=0)  # nobody decides it any more
                        return error
                    # refused for now: somebody else is at work, and the status is theirs
                    if not isinstance(error, (Unreachable, Refused)):
                        self._record(error)
                    self._delay()
            self._set_state(State.STOPPED)
            return None
        finally:
            self._doubt.stop()
            self._stop.close()

    def _connected(self) -> None:
        """One life of the two connections."""
        self._set_state(State.CONNECTING)
        session = Session(self.config, self._passed)
        self._doubt.is_none()
        with self._lock:
            self._session = session
        try:
            self._rings = session.master.rings()
            self._log.info("connected, at batch %d", session.cursor.batch)
            session.slave.set_status("running")
            while not self._stop.is_set():
                try:
                    self._set_state(State.CATCHING_UP, session)
                    self._catch_up(session)
                    self._sleep(session)
                except PyReplicaError as error:
                    if self._stop.is_set() or isinstance(error, Unreachable) or not _passes(error):
                        raise
                    self._failed(error)
                    session.recover()
                    self._doubt.is_none()
                    session.slave.set_status("failed", error.line)
                    self._recorded = True
                    self._delay()
        finally:
            if self._stop.is_set():
                with suppress(PyReplicaError):
                    # nobody is there to be woken any more
                    session.master.connection.rollback()
                    session.master.set_doorbell(session.bit, False)
                with suppress(PyReplicaError):
                    session.slave.connection.rollback()
                    session.slave.set_status("stopped")
                    session.unlock()
            with self._lock:
                self._session = None
            session.close()

    def _passed(self, step: Step, batch: int) -> None:
        if step is Step.PREPARED:
            self._doubt.may_be()
        elif step is Step.COMMITTED:
            self._doubt.is_none()
        self._observe(step, batch)

    def _delay(self) -> None:
        delay = self._backoff.delay()
        self._log.info("next try in %.1f s", delay)
        self._stop.wait(delay)

    def _catch_up(self, session: Session) -> None:
        """Move batches with the doorbell off until a reading finds nothing."""
        session.master.set_doorbell(session.bit, False)
        while not self._stop.is_set():
            began = self._clock()
            moved, _ = self._step(session)
            if not moved:
                return
            if moved < REST_BELOW:
                self._stop.wait(min(2 * (self._clock() - began), LONGEST_REST))

    def _sleep(self, session: Session) -> None:
        """Sleep and move what wakes us, until it is so much that ringing costs too much."""
        if self._stop.is_set():
            return
        if self._rings:  # else the writers would be asked each time for nothing
            session.master.set_doorbell(session.bit, True)
        unsettled: set[int] | None = None
        pause = LOOK_FIRST
        in_a_row = 0
        while not self._stop.is_set():
            moved, read = self._step(session)
            running = set(read.snapshot.running)
            unsettled = running if unsettled is None else unsettled & running
            if moved:
                in_a_row += 1
                if in_a_row >= BUSY_AFTER:
                    return
                if not self._rings:
                    pause = LOOK_FIRST
                continue
            in_a_row = 0
            if unsettled and self._rings:
                self._wait(session, pause)
                pause = min(pause * 2, LOOK_LONGEST)
            elif not self._tidy:
                self._tidy = session.tidy_log(read)
            else:
                self._backoff.reset()
                self._set_state(State.WAITING, session)
                self._observe(Step.WAITING, session.cursor.batch)
                self._wait(session, self.config.keepalive if self._rings else pause)
                if not self._rings:
                    pause = min(pause * 2, LOOK_UNRUNG)

    def _step(self, session: Session) -> tuple[int, Position]:
        now = self._clock()
        look = now - self._looked >= self.config.keepalive
        if look:
            self._looked = now
            self._look_after_log(session)
            session.look_after_conflicts()
        moved, read = session.step(look)
        if self._recorded:
            session.slave.set_status("running")
            self._recorded = False
        if moved:
            self._backoff.reset()
            self._tidy = False
            self._set_state(State.CATCHING_UP, session)
            if self._clock() - self._rotated >= ROTATE_EVERY:
                self._look_after_log(session)
        return moved, read

    def _look_after_log(self, session: Session) -> None:
        """Have the log rotated, and warn before this slave is dropped because of it."""
        self._rotated = self._clock()
        if session.rotate_log() == "switched":
            self._tidy = False
        self._watch.look(session.master)

    def _look_alone(self) -> Dropped | None:
        """The same while the slave is away, if the master is not; the log goes on growing.

        Returns:
            What is to be said of a slave that was dropped.
        """
        now = self._clock()
        if now - self._rotated < ROTATE_EVERY:
            return None
        self._rotated = now
        try:
            with closing(Master(self.config)) as master:
                self._watch.look_after(master)
        except Dropped as dropped:
            return dropped
        except PyReplicaError as error:
            self._log.debug("the master's log was not looked after: %s", error)
        return None

    def _wait(self, session: Session, timeout: float) -> None:
        session.master.connection.wait(timeout, self._stop, session.slave.connection)

    # Status

    def _set_state(self, state: State, session: Session | None = None) -> None:
        batch, changes = self.status.batch, self.status.changes
        if session is not None:
            batch, changes = session.cursor.batch, session.changes
        if state is State.WAITING:
            self._last_error = None
        status = Status(
            self.config.name, state, batch=batch, changes=changes, error=self._last_error
        )
        if status != self.status:
            self.status = status
            self._publish(status)

    def _failed(self, error: PyReplicaError) -> None:
        """Say what failed; the same thing again only now and then."""
        self._doubt.may_be()
        now = self._clock()
        repeated = self._last_error == error.line and now - self._alerted < ALERT_EVERY
        self._last_error = error.line
        if not repeated:
            self._alerted = now
        hint = f" ({error.hint})" if error.hint else ""
        self._log.log(logging.INFO if repeated else logging.ERROR, "%s%s", error.line, hint)
        if error.details and not repeated:
            self._log.info("%s", error.details)
        self._set_state(State.FAILED)

    def _record(self, error: PyReplicaError) -> None:
        """Write the error down on the slave, where `status` finds it; if that can be done."""
        try:
            slave = Slave(self.config)
        except PyReplicaError:
            return
        try:
            slave.set_status("failed", error.line)
        except PyReplicaError as another:
            self._log.debug("the error could not be recorded: %s", another)
        finally:
            slave.close()


def _passes(error: PyReplicaError) -> bool:
    """Whether to try again: what a server answered may be repaired there while we wait."""
    return error.retry or isinstance(error, DatabaseError)
