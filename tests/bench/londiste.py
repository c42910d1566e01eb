"""Londiste 3: C triggers, PgQ's queue, and a worker in Python."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from pyreplica.demo.cluster import Cluster
from tests.bench.daemons import LIMIT, Daemon, program, run
from tests.bench.system import DATABASE, System, debian_version, execute, value
from tests.support import eventually

# The worker looks for a batch this often; by default it waits a second after each empty-handed one.
_NODE = """
[londiste]
job_name = {name}
queue_name = bench
db = {dsn}
pidfile = {folder}/{name}.pid
loop_delay = 0.02
parallel_copies = 8
handler_modules = londiste.handlers.bulk
"""

# A tick ends a batch. The ticker looks whether one is due every 50 ms.
_TICKER = """
[pgqd]
base_connstr = {dsn}
initial_database = postgres
database_list = bench
ticker_period = 0.05
syslog = 0
"""

# With the default count of 500 it would look as often, and tick no more often.
_QUEUE = """
SELECT pgq.set_queue_config('bench', 'ticker_max_lag', '50 ms'),
    pgq.set_queue_config('bench', 'ticker_max_count', '1000000')
"""

_COPIED = """
SELECT count(*) FROM londiste.table_info
WHERE local AND merge_state = 'ok' AND custom_snapshot IS NULL
"""


class Londiste(System):
    """A root and a leaf; what a backlog is, is one batch.

    A batch for every tick takes it up to twice as long, because each costs several round trips and
    two commits; so the ticker stands still as well while nothing is applied.
    """

    name = "londiste"
    title = "Londiste 3"
    packages = (
        "python3-londiste",
        "postgresql-15-londiste-sql",
        "postgresql-15-pgq3",
        "postgresql-15-pgq-node",
        "pgqd",
    )
    handler: ClassVar[str] = "londiste"

    def __init__(self, master: Cluster, slave: Cluster, folder: Path) -> None:
        super().__init__(master, slave, folder)
        self._daemons: list[Daemon] = []

    def set_up(self, tables: Sequence[str]) -> None:
        """Make the nodes, start ticker and worker, and wait until the tables are copied."""
        master, slave = (
            cluster.dsn(DATABASE, application_name="londiste")
            for cluster in (self.master, self.slave)
        )
        for name, dsn in (("master", master), ("slave", slave)):
            text = _NODE.format(name=name, dsn=dsn, folder=self.folder)
            (self.folder / f"{name}.ini").write_text(text)
        run(self._command("master", "create-root", "master", master))
        run(self._command("slave", "create-leaf", "slave", slave, f"--provider={master}"))
        execute(self.master_dsn, _QUEUE)
        ini = self.folder / "pgqd.ini"
        ini.write_text(_TICKER.format(dsn=self.master.dsn(application_name="pgqd")))
        ticker = [program("pgqd", self.master), str(ini)]
        for name, command in (("pgqd", ticker), ("worker", self._command("slave", "worker"))):
            self._daemons.append(Daemon(command, self.folder / f"{name}.log"))
        run(self._command("master", "add-table", *tables))
        run(self._command("slave", "add-table", f"--handler={self.handler}", *tables))

        def copied() -> bool:
            return value(self.slave_dsn, _COPIED) == len(tables) and not self._copies()

        eventually(copied, "the tables are copied", LIMIT)

    def pause(self) -> None:
        """Stop the worker, then the ticker."""
        ticker, worker = self._daemons
        worker.stop((self.master, self.slave), "londiste")
        ticker.stop((self.master,), "pgqd")

    def resume(self) -> None:
        """Let both go on."""
        for daemon in self._daemons:
            daemon.go_on()

    def tear_down(self) -> None:
        """End both, and the processes of copies if they have not ended by themselves."""
        for daemon in self._daemons:
            daemon.end()
        for file in self._copies():
            with suppress(FileNotFoundError, ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGTERM)

    @property
    def version(self) -> str:
        """The version, and how it is set up."""
        found = debian_version("python3-londiste")
        return f"{found}, handler {self.handler}, a tick every 50 ms, a backlog is one batch"

    def processes(self) -> list[int]:
        """The ticker and the worker."""
        return [pid for daemon in self._daemons for pid in daemon.pids]

    def _command(self, name: str, *arguments: str) -> list[str]:
        return [program("londiste", self.master), str(self.folder / f"{name}.ini"), *arguments]

    def _copies(self) -> list[Path]:
        """The pid files of the processes that copy tables."""
        return list(self.folder.glob("slave.pid.copy.*"))


class LondisteBulk(Londiste):
    """With the handler that is made for bulk loading: only the last change of a row is applied.

    It keeps a whole batch in memory.
    """

    name = "londiste-bulk"
    title = "Londiste 3, bulk"
    handler = "bulk"
