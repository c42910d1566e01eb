"""One system with its servers, ready to be measured again and again; the others stand still."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from pyreplica.demo.cluster import Cluster
from tests.bench.system import BASE, DATABASE, System, execute, session, value
from tests.bench.workloads import NAMES, SEED, TABLES, Backlog
from tests.support import eventually

_LIMIT = 1800.0
_TICK = os.sysconf("SC_CLK_TCK")


class Wrong(Exception):
    """A slave does not have what the master has."""


class Contestant:
    """A system at work between two servers that were made for it; paused except when measured.

    Args:
        kind: the system.
        folder: for the servers and for files.
        settings: of both servers.
    """

    def __init__(
        self, kind: type[System], folder: Path, settings: Mapping[str, str] = BASE
    ) -> None:
        self._stack = ExitStack()
        self._done = itertools.count(1)
        home = folder / kind.name
        home.mkdir()
        home.chmod(0o755)
        try:
            self.master, self.slave = (
                self._stack.enter_context(Cluster.create(home, side, {**settings, **own}))
                for side, own in (
                    ("master", kind.master_settings),
                    ("slave", kind.slave_settings),
                )
            )
            for cluster in (self.master, self.slave):
                cluster.start()
                cluster.create_database(DATABASE)
                execute(cluster.dsn(DATABASE), TABLES)
            self.system = kind(self.master, self.slave, home)
            self._stack.callback(self.system.tear_down)
            self.system.set_up(NAMES)
            execute(self.system.master_dsn, SEED)
            self.settle()
            self.system.pause()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Contestant:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    # What is measured

    def catch_up(self, backlog: Backlog) -> CaughtUp:
        """Seconds from the moment that applying goes on until the slave has a backlog."""
        if backlog.before:
            self.system.resume()
            execute(self.system.master_dsn, *backlog.before)
            self.settle()
            self.system.pause()
        began = time.perf_counter()
        backlog.write(self.master)
        wrote = time.perf_counter() - began
        self.checkpoint()
        mark = self._mark()
        with Usage(self.system.processes()) as usage, session(self.system.slave_dsn) as slave:
            began = time.perf_counter()
            self.system.resume()
            while True:
                slave.execute(f"SELECT count(*) FROM done WHERE id = {mark}")
                if slave.fetchone() == (1,):
                    break
                if time.perf_counter() - began > _LIMIT:
                    raise Wrong(f"{self.system.title} has not applied {backlog.name} in {_LIMIT} s")
                time.sleep(0.002)
            seconds = time.perf_counter() - began
        self.check()
        self.system.pause()
        self.empty(backlog.after)
        return CaughtUp(seconds, usage.cpu, usage.peak, wrote)

    # Between measurements

    def checkpoint(self) -> None:
        """So that none comes by itself while the clock runs."""
        for dsn in (self.system.master_dsn, self.system.slave_dsn):
            execute(dsn, "CHECKPOINT")

    def settle(self) -> None:
        """Wait until the slave has what the master has."""
        query = f"SELECT count(*) FROM done WHERE id = {self._mark()}"
        said = f"{self.system.title} has applied what was written"
        eventually(lambda: value(self.system.slave_dsn, query) == 1, said, _LIMIT)

    def empty(self, tables: Sequence[str]) -> None:
        """Take rows away on both sides, whatever the system thinks of TRUNCATE."""
        for table in tables:
            self.system.empty(table)
        if tables:
            self.system.resume()
            self.settle()
            self.check()
            self.system.pause()

    def check(self) -> None:
        """All rows are the same on both sides."""
        for table in NAMES:
            answers = []
            dsns = (self.system.master_dsn, self.system.slave_dsn)
            for dsn, rows in zip(dsns, self.system.same(table), strict=True):
                with session(dsn) as cursor:
                    cursor.execute(
                        # a name that no column has: that would be what is compared
                        f"SELECT count(*), sum(hashtextextended(_row::text, 0)) FROM {rows} _row"
                    )
                    answers.append(cursor.fetchone())
            if answers[0] != answers[1]:
                raise Wrong(f"{self.system.title}: {table} differs: {answers}")

    def _mark(self) -> int:
        """Write a row that is the last one to come."""
        mark = next(self._done)
        execute(self.system.master_dsn, f"INSERT INTO done VALUES ({mark})")
        return mark


class CaughtUp:
    """What a backlog took.

    Attributes:
        seconds: on the clock.
        cpu: seconds of CPU that the system's own processes took.
        peak: bytes of memory that they had at most, all together.
        wrote: seconds that it took to write it.
    """

    def __init__(self, seconds: float, cpu: float, peak: int, wrote: float = 0.0) -> None:
        self.seconds, self.cpu, self.peak, self.wrote = seconds, cpu, peak, wrote


class Usage:
    """What processes take while the block lasts."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self.cpu = 0.0
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Usage:
        self._before = self._cpu()
        if self._pids:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._pids:
            self._thread.join()
        self.cpu = self._cpu() - self._before

    def _cpu(self) -> float:
        total = 0
        for pid in self._pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
        return total / _TICK

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            now = 0
            for pid in self._pids:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                now += pages * os.sysconf("SC_PAGE_SIZE")
            self.peak = max(self.peak, now)
