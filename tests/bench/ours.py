"""PyReplica itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import ClassVar

import yaml

import pyreplica
from tests.bench.system import System
from tests.support import eventually
from tests.support import pyreplica as command

_LIMIT = 600.0


class PyReplica(System):
    """The daemon as it is installed, stopped by a signal and going on where it was.

    Its process stays, as that of a service does: what is measured is catching up, not the start of
    a Python program.
    """

    name = "pyreplica"
    title = "PyReplica"
    slave_settings: ClassVar[Mapping[str, str]] = {"max_prepared_transactions": "20"}
    options: ClassVar[Mapping[str, object]] = {}

    def set_up(self, tables: Sequence[str]) -> None:
        """Install, copy, and start the daemon."""
        self._config = self.folder / "pyreplica.yaml"
        self._log = self.folder / "pyreplica.log"
        settings = {
            "master": self.master_dsn,
            "slave": self.slave_dsn,
            "tables": [f"public.{table}" for table in tables],
            # a daemon that stands still for minutes is what is measured, and no fault
            "peer_timeout": "1h",
            **self.options,
        }
        self._config.write_text(yaml.safe_dump({"replications": {"bench": settings}}))
        for arguments in (("install", "bench"), ("copy", "bench")):
            command(self._config, *arguments, timeout=_LIMIT)
        with self._log.open("ab") as output:
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", "pyreplica", "--config", str(self._config), "run"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        eventually(lambda: "connected" in self._log.read_text(), "the daemon is connected", _LIMIT)

    def pause(self) -> None:
        """Stop the process once the slave has everything."""
        command(self._config, "wait", "bench", timeout=_LIMIT)
        self._daemon.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._daemon.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let the process go on."""
        self._daemon.send_signal(signal.SIGCONT)

    def tear_down(self) -> None:
        """End the daemon."""
        self._daemon.send_signal(signal.SIGCONT)
        self._daemon.terminate()
        self._daemon.wait(_LIMIT)

    @property
    def version(self) -> str:
        """The version."""
        return f"{pyreplica.__version__}, two-phase commit, all checks on"

    def processes(self) -> list[int]:
        """The daemon."""
        return [self._daemon.pid]


class OnePhase(PyReplica):
    """The same without two-phase commit."""

    name = "pyreplica-one-phase"
    title = "PyReplica, one-phase"
    options: ClassVar[Mapping[str, object]] = {"commit": "one-phase"}

    @property
    def version(self) -> str:
        """The version."""
        return f"{pyreplica.__version__}, commit: one-phase, all checks on"
