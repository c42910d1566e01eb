"""Notices a server that hangs: an answer that never comes, from one that is not at work on it.

libpq waits for an answer without a limit, and the kernel gives up only a peer whose own kernel has
stopped answering. So one thread of the process looks at all connections that wait. A server that is
silent for long is asked over a second connection what the session is doing. When it is at work it
may take as long as it wants. When it is not, or nobody answers there either, the socket is shut
down, and what waits in libpq fails at once, be it a query or COPY.

A wait costs its connection a look at the clock; no thread is started for it.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import threading
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

_log = logging.getLogger("pyreplica.database")

LOOKS = 8
"""So often a connection is looked at within its limit."""
FIRST_LOOK = 1.0
"""Once somebody begins to wait the next look is after this many seconds, doubling."""
LONGEST_LOOK = 5.0
"""The longest time between two looks, seconds."""
PATIENCE = 5.0
"""The least time that a server has to say what a session is doing, seconds."""

# struct tcp_info in linux/tcp.h: tcpi_bytes_acked, tcpi_bytes_received
_TRAFFIC = struct.Struct("@120xQQ")


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found out about a silent session.

    Args:
        alive: whether to go on waiting for it.
        why: what it is doing, or what is the matter with it.
        left: whether the server still has a session that will be of no use to anybody.
    """

    alive: bool
    why: str
    left: bool = False


class Peer(Protocol):
    """Whoever can be asked about the session; each call takes a limit in seconds."""

    def ask(self, limit: float, counted: bool) -> Answer: ...

    def end(self, limit: float) -> None: ...


class Watch:
    """One connection, as the watchdog sees it. It is entered for the time of each wait.

    Args:
        where: how messages name the connection.
        fd: its socket.
        limit: seconds of silence after which it is given up.
        peer: who knows about the session.
    """

    def __init__(self, where: str, fd: int, limit: float, peer: Peer) -> None:
        self.limit = limit
        self.lost = ""
        """Why the connection was given up; empty while it was not."""
        self.last = time.monotonic()
        """When the last wait ended, by the monotonic clock."""
        self._where = where
        self._peer = peer
        # A descriptor of its own for the same socket: libpq may close its one at any time, and the
        # number may then be another file's.
        self._socket = socket.socket(fileno=os.dup(fd))
        self._lock = threading.Lock()
        self._since: float | None = None
        self._sign: tuple[float, bytes | None] | None = None
        self._alive = 0.0
        self._told = 0.0
        self._question: _Question | None = None
        _watchdog.add(self)

    # For the thread that uses the connection

    def __enter__(self) -> None:
        self._since = time.monotonic()
        _watchdog.wake()

    def __exit__(self, *error: object) -> None:
        self._since = None
        self.last = time.monotonic()

    def pause(self) -> bool:
        """Somebody else is waited for now; gives whether it was the server until then."""
        waited = self._since is not None
        self._since = None
        return waited

    def resume(self) -> None:
        """The server is waited for again, and has just been heard of."""
        self._since = time.monotonic()
        _watchdog.wake()

    def user_timeout(self, milliseconds: int) -> int | None:
        """Set how long the kernel waits for its peer; gives what it was, None if there is none."""
        if self._socket.family == socket.AF_UNIX or not hasattr(socket, "TCP_USER_TIMEOUT"):
            return None
        option = socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT
        before = self._socket.getsockopt(*option)
        self._socket.setsockopt(*option, milliseconds)
        return before

    def close(self) -> None:
        """Look no more."""
        _watchdog.remove(self)
        with self._lock:
            self._socket.close()

    def sign(self, now: float) -> float:
        """When the connection was last known to be as it should be, by the monotonic clock.

        That is now, too, while its server is known to be at work, however long it takes.
        """
        since = self._since
        if since is None:
            return self.last
        known = max(since, self._alive)
        # long before that the server would have been asked, and given up
        return now if now - known <= 3 * self.limit + PATIENCE else known

    def is_of(self, owner: str) -> bool:
        """Whether it is one of somebody's, as messages name it."""
        return self._where.startswith(f"{owner}: ")

    # For the watchdog

    def idle(self, for_: float) -> bool:
        """Whether nobody waits, and nobody has done so for so many seconds."""
        return self._since is None and time.monotonic() - self.last >= for_

    def look(self) -> None:
        """See whether the connection is silent, for how long, and do what is to be done."""
        since, now = self._since, time.monotonic()
        if since is None:
            self._sign = self._question = None
            return
        sign = since, traffic(self._socket)
        if sign != self._sign:
            goes_on = self._sign is not None and self._sign[0] == since
            self._alive = now if goes_on else since
            if not goes_on:
                self._told = self.limit
            self._sign, self._question = sign, None
        silent = now - self._alive
        patience = max(PATIENCE, self.limit / 4)
        if silent < self.limit / 2:
            return
        if self._question is None:
            self._question = _Question(self._peer, patience, sign[1] is not None, now)
            return
        answer = self._question.answered(now)
        if answer is None:
            return
        if answer.alive:
            self._alive, self._question = self._question.asked, None
            if now - since >= self._told:
                self._told = 2 * (now - since)
                _log.info("%s: no answer for %.0f s; %s", self._where, now - since, answer.why)
        elif silent >= self.limit:
            self._question = None
            self._sign = None
            threading.Thread(
                target=self._give_up,
                args=(since, answer, patience),
                name=f"giving up {self._where}",
                daemon=True,
            ).start()
        elif now - self._question.asked >= patience:
            self._question = None  # once more; it may have been a moment's trouble

    def _give_up(self, since: float, answer: Answer, patience: float) -> None:
        if answer.left:
            # it holds locks, and its server may not miss us for hours
            self._peer.end(patience)
        with self._lock:
            if self._since == since and not self.lost:
                self.lost = f"no answer for {self.limit:g} s, and {answer.why}"
                with suppress(OSError):  # closed by the other side, at this moment
                    self._socket.shutdown(socket.SHUT_RDWR)


class _Question:
    """Asks a peer in a thread of its own, because that can hang as well."""

    def __init__(self, peer: Peer, patience: float, counted: bool, now: float) -> None:
        self.asked = now
        self._latest = now + 2 * patience
        self._answer: Answer | None = None

        def ask() -> None:
            self._answer = peer.ask(patience, counted)

        threading.Thread(target=ask, name="asking a silent server", daemon=True).start()

    def answered(self, now: float) -> Answer | None:
        """The answer, None while there is none; a question that got stuck is answered as well."""
        if self._answer is None and now > self._latest:
            return Answer(False, "the server cannot be asked")
        return self._answer


class _Watchdog:
    """The thread that looks; it is started by the first connection.

    It sleeps while all connections are idle. Whoever begins to wait wakes it. It soon sleeps again
    when that was for a moment only, as is a sleeping daemon's look at its servers.
    """

    def __init__(self) -> None:
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._asleep = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Look again, after a connection has noted that it waits."""
        if self._asleep:
            self._changed.set()

    def add(self, watch: Watch) -> None:
        with self._lock:
            self._watches.add(watch)
            if self._thread is None or not self._thread.is_alive():  # or this is a fork
                self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                self._thread.start()
        self._changed.set()

    def remove(self, watch: Watch) -> None:
        with self._lock:
            self._watches.discard(watch)

    def last_sign(self, owner: str) -> float | None:
        with self._lock:
            watches = list(self._watches)
        now = time.monotonic()
        return max((watch.sign(now) for watch in watches if watch.is_of(owner)), default=None)

    def _run(self) -> None:
        pause = FIRST_LOOK
        while True:
            self._changed.clear()
            with self._lock:
                watches = list(self._watches)
            for watch in watches:
                try:
                    watch.look()
                except Exception:
                    _log.exception("the watchdog has failed for a moment")
            pause = min((pause, LONGEST_LOOK, *(watch.limit / LOOKS for watch in watches)))
            idle = all(watch.idle(pause / 4) for watch in watches)
            if idle:
                # Said first, then looked at once more: who begins to wait says so, and then looks
                # whether we sleep.
                self._asleep = True
                idle = all(watch.idle(pause / 4) for watch in watches)
            del watches  # else the last connections are kept from going away
            self._changed.wait(None if idle else pause)
            self._asleep = False
            pause = FIRST_LOOK if idle else 2 * pause


_watchdog = _Watchdog()


def last_sign(owner: str) -> float | None:
    """When a connection of a replication was last known to be as it should be.

    Args:
        owner: the replication's name.

    Returns:
        A moment of the monotonic clock; None when it has no connection.
    """
    return _watchdog.last_sign(owner)


def traffic(connected: socket.socket) -> bytes | None:
    """How many bytes have gone either way, as something to compare; None where nobody counts."""
    if connected.family == socket.AF_UNIX or not hasattr(socket, "TCP_INFO"):
        return None
    try:
        info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TRAFFIC.size)
    except OSError:
        return None
    return info[120:] if len(info) == _TRAFFIC.size else None
