"""What systemd is told: ready, what the daemon does, that it lives.

A few lines over a datagram socket, as sd_notify(3) describes; without systemd nothing happens.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping

_log = logging.getLogger("pyreplica")


class Systemd:
    """The service manager that has started this process, if one did.

    Takes its variables out of the environment, so that no command that the daemon runs speaks in
    its name.

    Args:
        environ: the environment.

    Attributes:
        watchdog: it wants a sign of life at least so often, seconds; None when it wants none.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        # the first character of an abstract address is a NUL, written as @
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._status = ""
        self.watchdog: float | None = None
        if usec.isdigit() and int(usec) and (not pid or pid == str(os.getpid())):
            self.watchdog = int(usec) / 1e6

    def ready(self) -> None:
        """The configuration is right, and all replications have been started; or: again."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """The configuration is being read anew; ready() follows."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon ends."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """All is as it should be; not said when it is not."""
        if self.watchdog is not None:
            self._tell("WATCHDOG=1")

    def status(self, line: str) -> None:
        """What the daemon does, for people; told when it has changed."""
        if line != self._status:
            self._status = line
            self._tell(f"STATUS={line}")

    def _tell(self, lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
                told.setblocking(False)
                told.sendto(lines.encode(), self._address)
        except OSError as error:
            _log.debug("systemd could not be told: %s", error)
