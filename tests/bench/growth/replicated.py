"""A master with some slaves, and one daemon for all of them."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg2.extensions
import yaml

from pyreplica.demo.cluster import Cluster
from tests.bench.daemons import Daemon
from tests.bench.growth.tables import Table
from tests.bench.operation.processes import cpu
from tests.bench.system import BASE, DATABASE, execute, session
from tests.support import pyreplica as command

LIMIT = 3600.0
"""Seconds that anything may take."""


class Wrong(Exception):
    """A slave does not have what the master has."""


@dataclass(frozen=True)
class Spent:
    """What it took until all slaves had a backlog.

    Attributes:
        seconds: on the clock.
        daemon, master, slave: seconds of CPU of the daemon, and of the processes of the servers
            that work for it.
    """

    seconds: float
    daemon: float
    master: float
    slave: float

    @property
    def cpu(self) -> float:
        """Seconds of CPU, all together."""
        return self.daemon + self.master + self.slave


class Replicated:
    """Two servers. The slaves are databases of the second one; the daemon runs.

    Args:
        folder: for the servers and for files.
        tables: what is replicated, in the schema public.
        slaves: how many there are.
        settings: of the servers.
    """

    def __init__(
        self,
        folder: Path,
        tables: Sequence[Table],
        slaves: int = 1,
        settings: Mapping[str, str] = BASE,
    ) -> None:
        self._tables = tables
        self._marks = itertools.count(1)
        self._daemon: Daemon | None = None
        self._stack = ExitStack()
        folder.mkdir()
        folder.chmod(0o755)
        self._config, self._log = folder / "pyreplica.yaml", folder / "pyreplica.log"
        preparing = {**settings, "max_prepared_transactions": str(10 + slaves)}
        try:
            self.master, self.slave = (
                self._stack.enter_context(Cluster.create(folder, side, chosen))
                for side, chosen in (("master", settings), ("slave", preparing))
            )
            self._stack.callback(self.end)
            # the first one has the name that Daemon.stop() connects to
            names = [DATABASE, *(f"{DATABASE}_{number}" for number in range(2, slaves + 1))]
            self.master_dsn = self.master.dsn(DATABASE)
            self.slave_dsns = [self.slave.dsn(name) for name in names]
            for cluster, databases in ((self.master, names[:1]), (self.slave, names)):
                cluster.start()
                for name in databases:
                    cluster.create_database(name)
                    made = (table.create for table in tables)
                    execute(cluster.dsn(name), *made, "CREATE TABLE done (id int PRIMARY KEY)")
            replications = {
                f"slave_{number}": {"master": self.master_dsn, "slave": dsn, "tables": ["public.*"]}
                for number, dsn in enumerate(self.slave_dsns, 1)
            }
            self._config.write_text(yaml.safe_dump({"replications": replications}))
            for name in replications:
                command(self._config, "install", name, timeout=LIMIT)
                command(self._config, "copy", name, timeout=LIMIT)
            self.start()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Replicated:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    # The daemon

    def start(self) -> None:
        """Start the daemon; returns when each slave has what the master had."""
        program = [sys.executable, "-m", "pyreplica", "--config", str(self._config), "run"]
        self._daemon = Daemon(program, self._log)
        self.settle()

    def end(self) -> None:
        """End the daemon, if it runs: nobody rings for it then."""
        if self._daemon is not None:
            self._daemon.end()
            self._daemon = None

    def _running(self) -> Daemon:
        assert self._daemon is not None
        return self._daemon

    # What is measured

    def catch_up(self, write: Callable[[], object], tables: Sequence[Table]) -> Spent:
        """What the daemon, which stands still while a backlog is written, needs for it.

        Args:
            write: writes it.
            tables: in which it is; afterwards their rows are compared.

        Raises:
            Wrong: a slave differs.
        """
        daemon = self._running()
        daemon.stop((self.master, self.slave), "pyreplica%")
        with self._slaves() as slaves:
            try:
                write()
                mark = self._mark()
                for dsn in (self.master_dsn, self.slave_dsns[0]):
                    execute(dsn, "CHECKPOINT")  # so that none comes by itself while the clock runs
                before = self._cpu()
                began = time.perf_counter()
            finally:
                daemon.go_on()
            _until(slaves, mark)
            seconds = time.perf_counter() - began
        after = self._cpu()
        self.check(tables)
        return Spent(
            seconds,
            *(
                sum(taken - one.get(pid, 0.0) for pid, taken in two.items())
                for one, two in zip(before, after, strict=True)
            ),
        )

    def _cpu(self) -> tuple[dict[int, float], dict[int, float], dict[int, float]]:
        """Seconds of CPU of the daemon, and of its processes in the master's server and in the
        slaves', by process id."""
        query = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pyreplica%'"
        found: list[list[int]] = [self._running().pids]
        for cluster in (self.master, self.slave):
            with session(cluster.dsn()) as cursor:
                cursor.execute(query)
                found.append([pid for (pid,) in cursor.fetchall()])
        daemon, master, slave = ({pid: cpu(pid) for pid in pids} for pids in found)
        return daemon, master, slave

    # Between measurements

    def settle(self) -> None:
        """Wait until all slaves have what the master has."""
        with self._slaves() as slaves:
            _until(slaves, self._mark())

    def empty(self, tables: Sequence[Table]) -> None:
        """Take rows away everywhere; nothing of that is replicated."""
        self.settle()
        for dsn in (self.master_dsn, *self.slave_dsns):
            names = ", ".join(table.name for table in tables)
            execute(dsn, "SET session_replication_role = replica", f"TRUNCATE {names}")

    def check(self, tables: Sequence[Table]) -> None:
        """All rows are the same everywhere, and there are some.

        Raises:
            Wrong: they are not.
        """
        for table in tables:
            answers = []
            for dsn in (self.master_dsn, *self.slave_dsns):
                with session(dsn) as cursor:
                    cursor.execute(
                        f"SELECT count(*), sum(hashtextextended(t::text, 0)) FROM {table.name} t"
                    )
                    answers.append(cursor.fetchone())
            if len(set(answers)) > 1 or answers[0] == (0, None):
                raise Wrong(f"{table.name} differs: {answers}")

    def _mark(self) -> int:
        """Write a row that is the last one to come."""
        mark = next(self._marks)
        execute(self.master_dsn, f"INSERT INTO done VALUES ({mark})")
        return mark

    @contextmanager
    def _slaves(self) -> Iterator[list[psycopg2.extensions.cursor]]:
        """A session with each slave."""
        with ExitStack() as stack:
            yield [stack.enter_context(session(dsn)) for dsn in self.slave_dsns]


def _until(slaves: Sequence[psycopg2.extensions.cursor], mark: int) -> None:
    """Wait until each slave has the row that is the last one."""
    began = time.monotonic()
    for slave in slaves:
        while True:
            slave.execute(f"SELECT count(*) FROM done WHERE id = {mark}")
            if slave.fetchone() == (1,):
                break
            if time.monotonic() - began > LIMIT:
                raise Wrong(f"a slave has not got everything in {LIMIT:g} s")
            time.sleep(0.002)
