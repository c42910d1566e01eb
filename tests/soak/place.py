"""Where a soak takes place: two servers, the real daemon as a process, proxies between them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pyreplica.replication.setup import install
from tests.conftest import Databases
from tests.faults.cell import COUNTED, OPTIONS, Cell
from tests.faults.programs import Program
from tests.soak.load import ROWS, TABLES, MixedLoad
from tests.support import config_file, copy, eventually, sql

_LIMIT = 60.0
"""Seconds in which the daemon has to say what it has met, on a slow machine."""


class Daemon(Program):
    """``pyreplica run``, as it is installed.

    Args:
        config: its configuration file.
        log: what it says is written here, behind what is there.
    """

    def __init__(self, config: Path, log: Path) -> None:
        self.log_path = log
        with log.open("ab") as output:
            self._begin = log.stat().st_size
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pyreplica", "--config", str(config), "run"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                text=True,
            )


class Place(Cell):
    """A cell of the fault matrix that goes on and on, so that its faults can strike here.

    Args:
        databases: two empty databases.
        folder: for files.
        seed: of what the writers choose by chance.
        long: how many seconds a long transaction stays open.
        every: multiplies the pauses of the load.

    Attributes:
        direct: a configuration that leads past the proxies, for commands.
        daemon_log: what all daemons have said.
        mixed: the writers.
    """

    def __init__(
        self, databases: Databases, folder: Path, *, seed: int, long: float, every: float
    ) -> None:
        super().__init__(databases, folder, seed)
        (folder / "direct").mkdir()
        self._proxied = config_file(folder, self._through(False), **OPTIONS)
        self.direct = config_file(folder / "direct", databases, **OPTIONS)
        self.daemon_log = folder / "daemon.log"
        self.load = self.mixed = MixedLoad(
            databases.master, self.direct, folder, seed=seed, long=long, every=every
        )
        self._noticing_since = 0

    def set_up(self) -> None:
        """Tables on both sides, installed, copied, a daemon at work, the writers not yet."""
        sql(self.databases.master, TABLES, ROWS)
        sql(self.databases.slave, TABLES)
        made = self.config()
        install(made)
        copy(made)
        sql(self.databases.master, COUNTED)
        self.start_daemon()
        self.stack.enter_context(self.reader)

    def start_daemon(self) -> None:
        """A new one, if none is there."""
        if self._daemon is None or not self._daemon.running:
            daemon = Daemon(self._proxied, self.daemon_log)
            self.stack.callback(daemon.kill)
            self.daemon = daemon

    @property
    def running_daemon(self) -> int | None:
        """Its process id, if it runs."""
        daemon = self._daemon
        return daemon.process.pid if daemon is not None and daemon.running else None

    def strikes(self, *, watched: bool = True) -> None:
        """From here on the daemon has to say that it notices."""
        self._noticing_since = self.daemon.mark()

    def until_noticed(self, words: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until the daemon has said, since the fault struck, that it notices."""

        def said() -> bool:
            meanwhile()
            return re.search(words, self.daemon.said(self._noticing_since)) is not None

        eventually(said, f"the daemon has said: {words}", _LIMIT, pause=0.05)
