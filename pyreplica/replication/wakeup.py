"""A flag that ends a wait in select(): how other threads tell a replication to stop."""

from __future__ import annotations

import select
import signal
import socket
from contextlib import suppress


class Wakeup:
    """Set once by any thread or signal handler; waited for together with sockets."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._set = False

    def set(self) -> None:
        """Wake whoever waits, now and for ever."""
        if not self._set:
            self._set = True
            with suppress(OSError):  # closed: nobody waits any more
                self._writer.send(b"!")

    def catch_signals(self) -> None:
        """Have signals end a wait, whichever thread the system gives them to; for the main thread.

        A signal that another thread has taken does not interrupt the main one's select(), so that
        its handler would not be called until something else does.
        """
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._set

    def wait(self, timeout: float) -> bool:
        """Wait for it, at most ``timeout`` seconds; gives whether it was set."""
        select.select([self._reader], [], [], max(0.0, timeout))
        return self._set

    def fileno(self) -> int:
        """The socket that can be read once it was set."""
        return self._reader.fileno()

    def close(self) -> None:
        """Give the sockets back."""
        self._reader.close()
        self._writer.close()
