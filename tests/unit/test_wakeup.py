from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyreplica.replication.wakeup import Wakeup

LIMIT = 10.0


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    made = Wakeup()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: made.set())
    yield made
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGUSR1, before)
    made.close()


def switches() -> str:
    """How often the main thread has given its processor up; the same as before: it waits."""
    status = Path(f"/proc/self/task/{threading.main_thread().native_id}/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("voluntary"))


def test_a_signal_that_another_thread_has_taken_ends_the_wait(wakeup: Wakeup) -> None:
    def take() -> None:
        before = ""
        while (now := switches()) != before:
            before = now
            time.sleep(0.1)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    wakeup.catch_signals()
    taker = threading.Thread(target=take)
    began = time.monotonic()
    taker.start()
    wakeup.wait(LIMIT)
    taker.join()
    assert time.monotonic() - began < LIMIT / 2
    assert wakeup.is_set()
