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
from collections.abc import Callable, Sequence
from contextlib import suppress

from pyreplica.backoff import Backoff
from pyreplica.config import ReplicationConfig
from pyreplica.errors import (
    AtWork,
    DatabaseError,
    Dropped,
    PyReplicaError,
    Refused,
    Unreachable,
)
from pyreplica.model import Event, Position, State, Status, Step
from pyreplica.replication import alone
from pyreplica.replication.doubt import DoubtWatch
from pyreplica.replication.drift import DriftWatch
from pyreplica.replication.limits import LogWatch
from pyreplica.replication.pause import PAUSED
from pyreplica.replication.session import Session
from pyreplica.replication.telling import Telling
from pyreplica.replication.wakeup import Wakeup
from pyreplica.side import this_process
from pyreplica.slave.pauses import Pause
from pyreplica.slave.verdict import Met, line_of

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
ROTATE_EVERY = 5.0
"""The log's segments are looked after at most this often, seconds."""


class Replication:
    """Runs one replication until it is told to stop.

    Args:
        config: the replication.
        observe: told of each step of each batch.
        publish: given a new status whenever it changes.
        tell: given each event. It and ``publish`` are called from this thread and from the one
            that looks after batches in doubt; they never wait for anything.
        backoff: the delays between tries; made from the configuration when left out.
        clock: seconds, monotonic.

    Attributes:
        beat: when it was last seen to go on, by ``clock``. Whoever makes it wait for something else
            than a server has it beat at least every ``keepalive``.
    """

    def __init__(
        self,
        config: ReplicationConfig,
        *,
        observe: Callable[[Step, int], None] = lambda step, batch: None,
        publish: Callable[[Status], None] = lambda status: None,
        tell: Callable[[Event], None] = lambda event: None,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.beat = clock()
        self._observe = observe
        self._telling = Telling(config, publish, tell, clock)
        self._backoff = backoff or Backoff(config.retry_first, config.retry_max)
        self._clock = clock
        self._stop = Wakeup()
        self._session: Session | None = None
        self._lock = threading.Lock()
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._watch = LogWatch(config, tell)
        self._drift = DriftWatch(config)
        self._doubt = DoubtWatch(config, tell)
        self._rotated = -ROTATE_EVERY
        self._looked = 0.0
        self._tidy = False
        self._rings = True
        self._recorded = False
        self._pause: Pause | None = None

    # For other threads

    @property
    def status(self) -> Status:
        """What it is doing."""
        return self._telling.status

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
                self.beat = self._clock()
                try:
                    self._connected()
                except AtWork as error:
                    self._stand_by(error)
                except PyReplicaError as error:
                    if self._stop.is_set():
                        break
                    if self._pause is not None and isinstance(error, Unreachable):
                        # it may be what the pause is for
                        self._log.info("%s", error.line)
                    else:
                        self._failed(error)
                    dropped = self._look_alone() if isinstance(error, Unreachable) else None
                    if dropped is not None:
                        self._failed(dropped)
                        error = dropped
                    if not _passes(error):
                        alone.record(self.config, error)
                        self._doubt.look(after=0)  # nobody decides it any more
                        self._telling.ended(error)
                        return error
                    # refused for now
                    if not isinstance(error, (Unreachable, Refused)):
                        alone.record(self.config, error)
                    self._delay()
            self._telling.stopped()
            return None
        finally:
            self._doubt.stop()
            self._stop.close()

    def _connected(self) -> None:
        """One life of the two connections."""
        if self.status.state not in (State.STANDBY, State.PAUSED):
            self._set_state(State.CONNECTING)
        session = Session(self.config, self._passed, self._met, self._busy)
        self._telling.begin()
        self._doubt.is_none()
        with self._lock:
            self._session = session
        try:
            self._rings = session.master.rings()
            self._log.info("connected, at batch %d", session.cursor.batch)
            session.slave.pauses.listen()
            session.slave.set_status("running")
            while not self._stop.is_set():
                try:
                    self._rest(session)
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
                    self._delay(session)
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

    def _stand_by(self, error: AtWork) -> None:
        """Wait until nobody else is at work; gone is who has died, too, when its session is."""
        if error.who == this_process():
            # our own session of before, which the server has not missed yet
            self._log.info("%s", error.line)
        else:
            self._telling.standing_by(error.line, error.who or "another daemon or copy")
        self._doubt.is_none()  # it is for the other one to decide, and to tell
        alone.until_free(self.config, self._waits)

    def _waits(self, seconds: float) -> bool:
        """Wait so long; gives whether it goes on."""
        self.beat = self._clock()
        return not self._stop.wait(seconds)

    def _busy(self) -> None:
        """It may take long from here on: that is not to look like waiting."""
        if self.status.state is State.WAITING:
            self._set_state(State.CATCHING_UP)

    def _met(self, met: Sequence[Met]) -> None:
        waiting = any(one.resolution == "waiting" for one in met)
        self._telling.conflicts([line_of(one) for one in met], waiting=waiting)

    def _passed(self, step: Step, batch: int) -> None:
        if step is Step.FETCHED:
            self._busy()
        elif step is Step.PREPARED:
            self._doubt.may_be()
        elif step is Step.COMMITTED:
            self._doubt.is_none()
        self._observe(step, batch)

    def _delay(self, session: Session | None = None) -> None:
        delay = self._backoff.delay()
        self._log.info("next try in %.1f s", delay)
        if session is None:
            self._stop.wait(delay)
        else:
            session.slave.connection.wait(delay, self._stop)  # it may be paused meanwhile

    def _goes_on(self, session: Session) -> bool:
        """Whether it is neither to stop nor to look whether it is paused; asks nobody."""
        return not self._stop.is_set() and not session.slave.pauses.due()

    def _rest(self, session: Session) -> None:
        """While it is paused, do nothing but look after the log; nobody else takes its place."""
        pauses = session.slave.pauses
        if not pauses.due():
            return
        before, self._pause = self._pause, pauses.get()
        if self._pause is None:
            if before is not None:
                self._telling.resumed()
            return
        if before != self._pause:
            self._telling.paused(self._pause, session.cursor.batch)
        session.master.set_doorbell(session.bit, False)
        session.slave.set_status(PAUSED)
        self._telling.state(
            State.PAUSED, session.cursor.batch, session.changes, note=str(self._pause)
        )
        looked = -self.config.keepalive
        while not self._stop.is_set() and self._pause is not None:
            if self._clock() - looked >= self.config.keepalive:
                looked = self._clock()
                self._look_after_log(session)
                self._drift.look(session.master)
            session.slave.connection.wait(
                looked + self.config.keepalive - self._clock(),
                self._stop,
                session.master.connection,
            )
            self.beat = self._clock()
            session.master.connection.heard()  # of changes that others are rung for
            if pauses.due():
                self._pause = pauses.get()
        if self._pause is None:
            self._telling.resumed()
            session.recover()  # of what was announced meanwhile nothing was heard
            session.slave.set_status("running")

    def _catch_up(self, session: Session) -> None:
        """Move batches with the doorbell off until a reading finds nothing."""
        session.master.set_doorbell(session.bit, False)
        while self._goes_on(session):
            began = self._clock()
            moved, _ = self._step(session)
            if not moved:
                return
            if moved < REST_BELOW:
                self._stop.wait(min(2 * (self._clock() - began), LONGEST_REST))

    def _sleep(self, session: Session) -> None:
        """Sleep and move what wakes us, until it is so much that ringing costs too much."""
        if not self._goes_on(session):
            return
        if self._rings:  # else the writers would be asked each time for nothing
            session.master.set_doorbell(session.bit, True)
        unsettled: set[int] | None = None
        pause = LOOK_FIRST
        in_a_row = 0
        while self._goes_on(session):
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
                # nobody has rung, or somebody just now
                self._telling.in_step(self._telling.now())
                if not self._rings:
                    pause = min(pause * 2, LOOK_UNRUNG)

    def _step(self, session: Session) -> tuple[int, Position]:
        self.beat = now = self._clock()
        look = now - self._looked >= self.config.keepalive
        if look:
            self._looked = now
            self._look_after_log(session)
            self._drift.look(session.master)
            session.look_after_conflicts()
        at = self._telling.now()
        moved, read = session.step(look)
        self._telling.conflicts_waiting(session.waiting)
        if not moved or session.cursor.position.snapshot.order >= read.snapshot.order:
            self._telling.in_step(at)
        if self._recorded:
            session.slave.set_status("running")
            self._recorded = False
        if moved:
            self._backoff.reset()
            self._tidy = False
            self._set_state(State.CATCHING_UP, session)
            if self._clock() - self._rotated >= ROTATE_EVERY:
                session.confirm_passed()
                self._look_after_log(session)
        return moved, read

    def _look_after_log(self, session: Session) -> None:
        """Have the log rotated, and warn before this slave is dropped because of it."""
        self._rotated = self._clock()
        if session.rotate_log() == "switched":
            self._tidy = False
        self._watch.look(session.master)
        self._telling.log_kept(self._watch.kept)

    def _look_alone(self) -> Dropped | None:
        """The same while the slave is away, if the master is not; the log goes on growing.

        Returns:
            What is to be said of a slave that was dropped.
        """
        now = self._clock()
        if now - self._rotated < ROTATE_EVERY:
            return None
        self._rotated = now
        look = now - self._looked >= self.config.keepalive
        if look:
            self._looked = now
        dropped = alone.look_after_log(self.config, self._watch, self._drift if look else None)
        self._telling.log_kept(self._watch.kept)
        return dropped

    def _wait(self, session: Session, timeout: float) -> None:
        session.master.connection.wait(timeout, self._stop, session.slave.connection)

    # Status

    def _set_state(self, state: State, session: Session | None = None) -> None:
        if session is None:
            self._telling.state(state)
        else:
            self._telling.state(state, session.cursor.batch, session.changes)

    def _failed(self, error: PyReplicaError) -> None:
        self._doubt.may_be()
        self._telling.failed(error)


def _passes(error: PyReplicaError) -> bool:
    """Whether to try again: what a server answered may be repaired there while we wait."""
    return error.retry or isinstance(error, DatabaseError)
