"""Runs replications, each in a thread of its own, until a signal says to stop.

Signal handlers only set a flag; the main thread acts on it. A replication that ends with an error
never disturbs another one.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from pyreplica.config import ReplicationConfig
from pyreplica.errors import PyReplicaError
from pyreplica.model import Status, Step
from pyreplica.replication.loop import Replication
from pyreplica.replication.wakeup import Wakeup

GRACE = 5.0
"""Seconds a batch may take to finish after a signal; then it is abandoned."""

_log = logging.getLogger("pyreplica")


class Service:
    """Several replications in one process.

    Args:
        configs: the replications.
        observe: told of each step of each batch, with the replication's name.
        publish: given every new status.
    """

    def __init__(
        self,
        configs: Sequence[ReplicationConfig],
        *,
        observe: Callable[[str, Step, int], None] = lambda name, step, batch: None,
        publish: Callable[[Status], None] = lambda status: None,
    ) -> None:
        self._stopping = Wakeup()
        self.errors: dict[str, PyReplicaError] = {}
        self._replications = [
            Replication(config, observe=_named(config.name, observe), publish=publish)
            for config in configs
        ]
        self._threads: list[threading.Thread] = []

    def run(self) -> bool:
        """Run until stopped, or until every replication has ended with an error.

        Returns:
            Whether all of them ended without one.
        """
        self._threads = [
            threading.Thread(target=self._run, args=(r,), name=r.config.name, daemon=True)
            for r in self._replications
        ]
        for thread in self._threads:
            thread.start()
        _log.info("started: %s", ", ".join(r.config.name for r in self._replications))
        while not self._stopping.is_set() and any(t.is_alive() for t in self._threads):
            # Wakeup is set by the signal handler, and by the last replication that ends
            self._stopping.wait(3600)
        self._finish()
        _log.info("stopped")
        return not self.errors

    def stop(self) -> None:
        """Have run() finish the batches at hand and return."""
        self._stopping.set()

    def handle_signals(self) -> None:
        """Stop on SIGTERM and SIGINT; for the main thread."""

        def handler(number: int, frame: FrameType | None) -> None:
            self._stopping.set()

        for name in ("SIGTERM", "SIGINT"):
            signal.signal(getattr(signal, name), handler)
        self._stopping.catch_signals()

    def _run(self, replication: Replication) -> None:
        try:
            error = replication.run()
            if error is not None:
                self.errors[replication.config.name] = error
                _log.error("replication %s has ended: %s", replication.config.name, error.line)
        except Exception as unexpected:
            _log.exception("replication %s has ended by a defect", replication.config.name)
            self.errors[replication.config.name] = PyReplicaError(
                f"unexpected {type(unexpected).__name__}: {unexpected}",
                where=replication.config.name,
                hint="This is a defect of PyReplica; please report it with the log.",
            )
        finally:
            if len(self.errors) == len(self._replications):
                self._stopping.set()

    def _finish(self) -> None:
        """Let the batches at hand finish; abandon those that take too long."""
        for replication in self._replications:
            replication.stop()
        deadline = time.monotonic() + GRACE
        while any(t.is_alive() for t in self._threads):
            for thread in self._threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            if time.monotonic() < deadline:
                break
            _log.info("abandoning the batch at hand")
            for replication in self._replications:
                replication.cancel()
            deadline = time.monotonic() + 1.0


def _named(name: str, observe: Callable[[str, Step, int], None]) -> Callable[[Step, int], None]:
    return lambda step, batch: observe(name, step, batch)
