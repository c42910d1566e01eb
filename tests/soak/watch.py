"""Records every few seconds how much of everything the daemon and the servers have in use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

from pyreplica.errors import DatabaseError, PyReplicaError
from tests.conftest import Databases
from tests.support import connect

_OURS = "application_name LIKE 'pyreplica shop:%'"
_SESSIONS = f"""
    SELECT count(*) FILTER (WHERE {_OURS}), count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_LOG = """
    SELECT pg_total_relation_size('pyreplica.replica_log_0'),
        pg_total_relation_size('pyreplica.replica_log_1'),
        (SELECT count(*) FROM pyreplica.replica_tick),
        (SELECT count(*) FROM pyreplica.replica_table)
"""
_STAGE = """
    SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
    WHERE relnamespace = 'pyreplica'::regnamespace AND relkind = 'r' AND relname ~ '^(stage|net)_'
"""
_BEAT = "SELECT extract(epoch FROM at)::float FROM public.heartbeat"
_CHANGES = "SELECT changes FROM pyreplica.replica_cursor"
# PyReplica's large batches have the staging tables locked, if need be until the master is back
_HASTE = "SET lock_timeout = '300ms'"


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one moment; None where nobody was there to be asked.

    Args:
        at: seconds since the load began.
        rss: bytes of the daemon's memory.
        files: its open file descriptors.
        threads: its threads.
        daemon_master: its connections to the master.
        daemon_slave: its connections to the slave.
        all_master: all connections to the master's database.
        all_slave: all connections to the slave's database.
        log: bytes of the log, with its indexes.
        ticks: places where a backlog may be cut.
        generations: rows of replica_table; each DDL script on a captured table makes one.
        stage: bytes of the staging tables.
        lag: seconds that the slave is behind.
        changes: applied since the copy.
        transactions: of the load.
    """

    at: float
    rss: int | None = None
    files: int | None = None
    threads: int | None = None
    daemon_master: int | None = None
    daemon_slave: int | None = None
    all_master: int | None = None
    all_slave: int | None = None
    log: int | None = None
    ticks: int | None = None
    generations: int | None = None
    stage: int | None = None
    lag: float | None = None
    changes: int | None = None
    transactions: int | None = None


FIGURES = [field.name for field in fields(Sample) if field.name != "at"]


class Watch:
    """Takes samples for the time of a block.

    Args:
        databases: where the replication is.
        daemon: gives the daemon's process id, or None.
        transactions: gives how many transactions the load has done.
        every: seconds from one sample to the next.
    """

    def __init__(
        self,
        databases: Databases,
        daemon: Callable[[], int | None],
        transactions: Callable[[], int],
        every: float,
    ) -> None:
        self._databases = databases
        self._daemon = daemon
        self._transactions = transactions
        self._every = every
        self._began = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        self.samples: list[Sample] = []

    @property
    def now(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def __enter__(self) -> Watch:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(self._every):
            self.samples.append(self.sample())

    def sample(self) -> Sample:
        """One of now."""
        found: dict[str, Any] = {"at": self.now, "transactions": self._transactions()}
        found |= self._process()
        slave = _ask(self._databases.slave, _SESSIONS, _STAGE, _CHANGES, _BEAT)
        master = _ask(self._databases.master, _SESSIONS, _LOG, _BEAT)
        found["daemon_slave"], found["all_slave"] = slave[_SESSIONS] or (None, None)
        found["daemon_master"], found["all_master"] = master[_SESSIONS] or (None, None)
        (found["stage"],) = slave[_STAGE] or (None,)
        (found["changes"],) = slave[_CHANGES] or (None,)
        if log := master[_LOG]:
            found["log"] = log[0] + log[1]
            found["ticks"], found["generations"] = log[2:]
        here, there = slave[_BEAT], master[_BEAT]
        if here and there:  # the slave was asked first
            found["lag"] = max(0.0, there[0] - here[0])
        return Sample(**found)

    def _process(self) -> dict[str, int]:
        pid = self._daemon()
        if pid is None:
            return {}
        try:
            folder = Path(f"/proc/{pid}")
            lines = (folder / "status").read_text(encoding="ascii").splitlines()
            status = dict(line.split(":", 1) for line in lines)
            if "VmRSS" not in status:  # it has just been killed
                return {}
            return {
                "rss": int(status["VmRSS"].split()[0]) * 1024,
                "threads": int(status["Threads"]),
                "files": sum(1 for _ in (folder / "fd").iterdir()),
            }
        except (FileNotFoundError, ProcessLookupError):
            return {}


def _ask(dsn: str, *queries: str) -> dict[str, Any]:
    """The row of each query; None where there is no answer."""
    answers: dict[str, Any] = dict.fromkeys(queries)
    try:
        with connect(dsn) as session:
            session.execute(_HASTE)
            for query in queries:
                try:
                    answers[query] = session.one(query)
                except DatabaseError:
                    continue
    except PyReplicaError:
        pass
    return answers


def write_csv(samples: Iterable[Sample], path: Path) -> None:
    """All samples, one a line; what is not known is empty."""
    lines = [",".join(["at", *FIGURES])]
    for sample in samples:
        row = asdict(sample)
        lines.append(",".join(_cell(row[name]) for name in ("at", *FIGURES)))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(value: int | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else f"{value}"
