"""Signals that end the demo: noted when they come, acted on where it can be done in good order."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from pyreplica.replication.wakeup import Wakeup

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""Windows has none."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([HANGUP] if HANGUP else []))


class Interrupts:
    """For the time of a block, SIGINT, SIGTERM and SIGHUP are only noted.

    A further signal changes nothing: whoever presses Ctrl-C twice gets the same cleaning up. For
    the main thread only, as Python's signals are.
    """

    def __init__(self) -> None:
        self._wakeup = Wakeup()
        self._number: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Interrupts:
        for number in SIGNALS:
            before = signal.getsignal(number)
            if number == HANGUP and before == signal.SIG_IGN:
                continue  # nohup
            self._before[number] = before
            signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._wakeup.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._number is None:
            self._number = number
        self._wakeup.set()

    def fileno(self) -> int:
        """What can be read as soon as a signal has come, for select()."""
        return self._wakeup.fileno()

    def check(self) -> None:
        """Raise what the signal means, if one has come.

        Raises:
            KeyboardInterrupt: it was SIGINT.
            SystemExit: it was another one; the status is what a shell gives such an end.
        """
        if self._number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._number is not None:
            raise SystemExit(128 + self._number)


@contextmanager
def unheard() -> Iterator[None]:
    """Keep these signals from the programs that this thread starts in the block.

    A terminal sends Ctrl-C to all its programs. A pg_ctl that ends of it can leave a server behind
    that nobody knows of yet. The mask is inherited; PostgreSQL's server sets its own.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
