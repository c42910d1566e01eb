"""Replications with nothing to do: what they execute, how often they wake, their memory."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import yaml

from pyreplica.demo.cluster import Cluster
from tests.bench.operation.figures import Figure, Section, mb
from tests.bench.operation.operated import Say
from tests.bench.operation.processes import Activity, Memory, activity, cpu, memory
from tests.bench.system import BASE, execute, session, value
from tests.bench.workloads import NAMES, SEED, TABLES
from tests.support import daemon, eventually
from tests.support import pyreplica as command

TARGET = 150 << 20
"""Bytes of memory that a process with many replications may have."""
CHECKS = 1.0
"""Safety checks in a minute."""
_LIMIT = 600.0
_QUIET = 6.0
"""Seconds without a statement after which all replications sleep, and the watchdog as well."""
_APART = 2.0
"""What happens within so many seconds of something else happens at the same time."""
_SAMPLE = 0.25
_SETTINGS = {
    **BASE,
    "log_statement": "all",
    "log_line_prefix": "%n [%p] ",
    # it would log nothing, but its transactions are ones that a daemon waits for
    "autovacuum": "off",
}
_STATEMENT = re.compile(r"^(\d+\.\d+) .*LOG:  (?:statement|execute [^:]*): (.*)", re.MULTILINE)


@dataclass(frozen=True)
class Rest:
    """A stretch of time in which nothing was written.

    Attributes:
        replications: how many the process has.
        seconds: how long it was.
        daemon: what the daemon's process did.
        servers: seconds of CPU that the daemon's sessions took on both servers.
        statements: what was executed on either server, with how often.
        moments: how often anything was executed, however much.
        wakings: how often the daemon woke, whatever it did then.
        memory: what the daemon has at the end.
        worked: the same after each replication has applied a small batch and a large one.
    """

    replications: int
    seconds: float
    daemon: Activity
    servers: float
    statements: Mapping[str, int]
    moments: int
    wakings: int
    memory: Memory
    worked: Memory

    def a_minute(self, number: float) -> float:
        """How much of it there is in a minute."""
        return 60 * number / self.seconds


@dataclass(frozen=True)
class Found:
    """The process with one replication, with some, and with all."""

    rests: Sequence[Rest]

    def section(self) -> Section:
        """For people."""
        one, most = self.rests[0], self.rests[-1]
        moments = one.a_minute(one.moments)
        wakings = one.a_minute(one.wakings)
        some = most.replications - one.replications
        each = (most.worked.resident - one.worked.resident) / some if some else 0.0
        words = (
            "All replications are in one process; one master database and a slave database for "
            f"each, {len(NAMES)} tables, keepalive 60 s.",
            f"Nothing is written for {one.seconds:.0f} s. Statements: those in the servers' logs. "
            "Context switches: voluntary ones of all threads of the",
            "daemon, its watchdog's among them; it has woken when there were any. What follows "
            f"within {_APART:g} s counts as one time. Memory: resident;",
            "of it that no other process uses; and resident after each replication has applied a "
            "small batch and a large one.",
        )
        figures = [
            Figure(
                "one replication: how often a minute anything is executed",
                f"{moments:.1f}",
                "<= 1",
                moments <= CHECKS,
            ),
            Figure(
                "one replication: how often a minute the daemon wakes",
                f"{wakings:.1f}",
                "<= 1",
                wakings <= CHECKS,
            ),
            Figure(
                "one replication: CPU of the daemon a minute",
                f"{1000 * one.a_minute(one.daemon.cpu):.1f} ms",
                "none",
            ),
            Figure(
                f"{most.replications} replications: resident memory",
                mb(most.worked.resident),
                f"< {mb(TARGET)}",
                most.worked.resident < TARGET,
            ),
            Figure("memory that each replication adds", mb(each)),
        ]
        rests = [
            (
                "replications",
                "threads",
                "statements a minute",
                "switches a minute",
                "CPU a minute",
                "servers' CPU",
                "memory",
                "its own",
                "having worked",
            ),
            *(
                (
                    str(rest.replications),
                    str(rest.daemon.threads),
                    f"{rest.a_minute(sum(rest.statements.values())):.1f}",
                    f"{rest.a_minute(rest.daemon.wakeups):.1f}",
                    f"{1000 * rest.a_minute(rest.daemon.cpu):.1f} ms",
                    f"{1000 * rest.a_minute(rest.servers):.1f} ms",
                    mb(rest.memory.resident),
                    mb(rest.memory.private),
                    mb(rest.worked.resident),
                )
                for rest in self.rests
            ),
        ]
        statements = [
            ("one replication's statements", "times"),
            *((text[:90], str(times)) for text, times in sorted(one.statements.items())),
        ]
        return Section("Idle", words, figures, [rests, statements])


class Idlers:
    """A master, a slave server with many databases, and nothing to do.

    Args:
        folder: for the servers.
        replications: how many there are.
    """

    def __init__(self, folder: Path, replications: int) -> None:
        self._stack = ExitStack()
        settings = {"master": {}, "slave": {"max_prepared_transactions": str(replications + 1)}}
        self.names = [f"r{number}" for number in range(1, replications + 1)]
        self._path = folder / "idle.yaml"
        try:
            self.master, self.slave = (
                self._stack.enter_context(Cluster.create(folder, side, {**_SETTINGS, **own}))
                for side, own in settings.items()
            )
            for cluster in (self.master, self.slave):
                cluster.start()
            self.master.create_database("idle")
            self.slave.create_database("empty")
            execute(self.master.dsn("idle"), TABLES, SEED)
            execute(self.slave.dsn("empty"), TABLES)
            for name in self.names:
                execute(self.slave.dsn(), f"CREATE DATABASE {name} TEMPLATE empty")
            made = {
                name: {"master": self.master.dsn("idle"), "slave": self.slave.dsn(name)}
                for name in self.names
            }
            self._path.write_text(yaml.safe_dump({"replications": made}), encoding="utf-8")
            for what in ("install", "copy"):
                command(self._path, what, timeout=_LIMIT)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Idlers:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def rest(self, replications: int, seconds: float) -> Rest:
        """Run a daemon with so many of them, and leave it alone for so long."""
        names = self.names[:replications]
        with self._asleep(names) as pid:
            backends = self._backends()
            noted = [Noted(self.master), Noted(self.slave)]
            began, before = time.perf_counter(), activity(pid)
            servers = sum(map(cpu, backends))
            wakings = _wakings(pid, seconds)
            after = activity(pid)
            servers = sum(map(cpu, backends)) - servers
            taken = time.perf_counter() - began
            had = memory(pid)
            statements = sum((log.new() for log in noted), Counter[str]())
            times = sorted(time for log in noted for time in log.times)
            moments = _counted(times)
            for rows in (500, 5_000):  # a small batch and a large one
                execute(
                    self.master.dsn("idle"), f"UPDATE acc SET bal = bal + 1 WHERE aid <= {rows}"
                )
                self._settle(names)
            worked = memory(pid)
        return Rest(
            replications,
            taken,
            after.since(before),
            servers,
            statements,
            moments,
            wakings,
            had,
            worked,
        )

    @contextmanager
    def _asleep(self, names: Sequence[str]) -> Iterator[int]:
        """The process id of a daemon all of whose replications sleep."""
        with daemon(self._path, *names) as started:
            bits = "SELECT last_value FROM pyreplica.doorbell"
            asleep = sum(1 << bit for bit in self._bits(names))
            eventually(
                lambda: value(self.master.dsn("idle"), bits) & ~1 == asleep,
                lambda: f"they do not fall asleep: {started.log}",
                _LIMIT,
            )
            logs = [Noted(self.master), Noted(self.slave)]
            quiet = [time.monotonic()]

            def asleep_for_long() -> bool:
                if any(log.new() for log in logs):
                    quiet.append(time.monotonic())
                return time.monotonic() - quiet[-1] >= _QUIET

            eventually(asleep_for_long, "they do not come to rest", _LIMIT)
            yield started.process.pid

    def _bits(self, names: Sequence[str]) -> list[int]:
        with session(self.master.dsn("idle")) as cursor:
            cursor.execute(
                "SELECT bit FROM pyreplica.replica_slave WHERE replication = ANY (%s)",
                (list(names),),
            )
            return [bit for (bit,) in cursor.fetchall()]

    def _backends(self) -> list[int]:
        found = []
        query = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'pyreplica%'"
        for cluster in (self.master, self.slave):
            with session(cluster.dsn()) as cursor:
                cursor.execute(query)
                found += [pid for (pid,) in cursor.fetchall()]
        return found

    def _settle(self, names: Sequence[str]) -> None:
        """Wait until these slaves have what the master has."""
        query = "SELECT sum(bal) FROM acc"
        wanted = value(self.master.dsn("idle"), query)
        for name in names:
            dsn = self.slave.dsn(name)
            eventually(
                lambda dsn=dsn: value(dsn, query) == wanted,  # type: ignore[misc]
                f"{name} does not apply",
                _LIMIT,
            )


def _wakings(pid: int, seconds: float) -> int:
    """How often a process wakes within so many seconds."""
    end = time.monotonic() + seconds
    times = []
    before = activity(pid).wakeups
    while (now := time.monotonic()) < end:
        time.sleep(min(_SAMPLE, end - now))
        wakeups = activity(pid).wakeups
        if wakeups != before:
            times.append(time.monotonic())
        before = wakeups
    return _counted(times)


def _counted(times: Sequence[float]) -> int:
    """How many times these are, when those that follow one another are one."""
    return sum(b - a > _APART for a, b in pairwise([float("-inf"), *times]))


class Noted:
    """The statements that a server has logged since the last look.

    Attributes:
        times: when they were executed, seconds since 1970.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._path = cluster.log_path
        self._at = self._path.stat().st_size
        self.times: list[float] = []

    def new(self) -> Counter[str]:
        """By their text, without their numbers; their times are added to ``times``."""
        with self._path.open("rb") as file:
            file.seek(self._at)
            text = file.read()
            self._at = file.tell()
        found = _STATEMENT.findall(text.decode())
        self.times += [float(at) for at, _ in found]
        return Counter(re.sub(r"\d+", "N", statement) for _, statement in found)


def measure(folder: Path, replications: int, seconds: float, say: Say) -> Found:
    """Leave one replication alone, then some, then all; each process anew."""
    rests = []
    with Idlers(folder, replications) as idlers:
        for count in sorted({1, max(1, replications // 5), replications}):
            rests.append(idlers.rest(count, seconds))
            one = rests[-1]
            say(
                f"idle     {count} replications: {mb(one.worked.resident)}, "
                f"{one.a_minute(one.daemon.wakeups):.1f} context switches a minute"
            )
    return Found(rests)
