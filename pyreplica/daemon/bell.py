"""What the main thread sleeps on: rung by other threads and by signals, again and again."""

from __future__ import annotations

import select
import signal
import socket
from contextlib import suppress


class Bell:
    """Ends a wait of the main thread."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._catches = False

    def ring(self) -> None:
        """End the wait that is under way, or the next one; from any thread."""
        with suppress(OSError):  # full: it is rung already; closed: nobody waits any more
            self._writer.send(b"!")

    def catch_signals(self) -> None:
        """Have signals ring it, whichever thread the system gives them to; for the main thread.

        A signal that another thread has taken does not interrupt the main one's select(), so that
        its handler would not be called until something else does.
        """
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._catches = True

    def wait(self, timeout: float) -> None:
        """Wait until it is rung, at most ``timeout`` seconds."""
        ready, _, _ = select.select([self._reader], [], [], max(0.0, timeout))
        if ready:
            with suppress(BlockingIOError):
                self._reader.recv(4096)

    def close(self) -> None:
        """Let signals be, and give the sockets back."""
        if self._catches:
            signal.set_wakeup_fd(-1)
        self._reader.close()
        self._writer.close()
