"""PyReplica between two servers, as the measures find it and leave it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyreplica import config
from pyreplica.config import ReplicationConfig
from pyreplica.demo.cluster import Cluster
from tests.bench.contest import Contestant
from tests.bench.operation.processes import cpu
from tests.bench.ours import PyReplica
from tests.bench.system import execute, session, value
from tests.bench.workloads import BENCH_ROW, KEYS, pgbench
from tests.support import eventually

Say = Callable[[str], object]
"""Is told of each figure."""

LIMIT = 3600.0
"""Seconds that anything may take."""
STATEMENT_ROWS = 3_000
"""The rows of each statement of the bulk writers."""
_KEPT = 30
"""So many statements later a bulk writer deletes its rows again."""
_bases = itertools.count(1)


class Operated(PyReplica):
    """PyReplica as everybody has it, and where its configuration is."""

    name = "operation"

    @property
    def config_path(self) -> Path:
        """The file of the configuration."""
        return self._config

    @property
    def config(self) -> ReplicationConfig:
        """The replication in it."""
        return config.load(self._config).select([])[0]

    @property
    def daemon(self) -> int:
        """The daemon's process id."""
        (pid,) = self.processes()
        return pid


class Pair(Contestant):
    """A master and a slave with PyReplica, whose daemon does not run yet."""

    system: Operated

    def __init__(self, folder: Path) -> None:
        super().__init__(Operated, folder)
        execute(self.system.master_dsn, _COUNTING)

    def __enter__(self) -> Pair:
        return self

    @contextmanager
    def running(self) -> Iterator[None]:
        """The daemon runs and has caught up; at the end all rows are the same on both sides."""
        self.system.resume()
        self.settle()
        yield
        self.settle()
        self.check()
        self.system.pause()


def daemons_backends(cluster: Cluster, database: str) -> list[int]:
    """The server's processes that work for a daemon."""
    query = (
        f"SELECT pid FROM pg_stat_activity WHERE datname = '{database}' "
        "AND application_name LIKE 'pyreplica%' ORDER BY pid"
    )
    with session(cluster.dsn()) as cursor:
        cursor.execute(query)
        return [pid for (pid,) in cursor.fetchall()]


@dataclass(frozen=True, slots=True)
class Stretch:
    """What writers did in a stretch of time.

    Attributes:
        seconds: how long it was.
        rows: changes that were logged.
        singles: of these, those of transactions with one row.
        applied: changes that were applied meanwhile, and confirmed.
        cpu: seconds of CPU that the writers' backends took.
    """

    seconds: float
    rows: int
    singles: int
    applied: int
    cpu: float

    @property
    def rate(self) -> float:
        """Rows logged in a second."""
        return self.rows / self.seconds

    @property
    def single_rate(self) -> float:
        """Single-row transactions in a second."""
        return self.singles / self.seconds

    @property
    def applied_rate(self) -> float:
        """Rows applied in a second."""
        return self.applied / self.seconds

    @property
    def row_cpu(self) -> float:
        """Microseconds of the writers' CPU for a row."""
        return self.cpu / self.rows * 1e6


class Writers:
    """Sessions that write for as long as the block lasts, as fast as they go.

    Bulk writers insert rows, change those of their last statement and delete older ones,
    STATEMENT_ROWS each time. Single writers insert a row a transaction.

    Args:
        pair: whose master they write to.
        bulk, single: how many there are of each.
    """

    def __init__(self, pair: Pair, *, bulk: int, single: int) -> None:
        self._pair = pair
        self._count, self._bulk, self._single = bulk + single, bulk, single
        self._stack = ExitStack()
        scripts = {_bulk(): bulk, _single(): single}
        self._commands = [(script, clients) for script, clients in scripts.items() if clients]
        self._pids: list[int] = []

    def __enter__(self) -> Writers:
        dsn = self._pair.system.master_dsn
        self._at = self._stack.enter_context(session(dsn))
        before = self._row()
        try:
            for script, clients in self._commands:
                options = ("-c", str(clients), "-j", "1", "-T", f"{LIMIT:g}", "-D", "i=0")
                self._stack.enter_context(pgbench(self._pair.master, script, *options))
            # a new connection starts Python first
            eventually(
                lambda: len(self._backends()) == self._count and self._begun(before),
                "the writers do not begin",
            )
        except BaseException:
            self._stack.close()
            raise
        self._pids = self._backends()
        return self

    def __exit__(self, *exception: object) -> None:
        """End them; what they had begun is done or rolled back when this returns."""
        self._stack.close()
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'"
        master = self._pair.system.master_dsn
        eventually(lambda: value(master, query) == 0, "the writers' sessions do not end")

    def stretch(self, seconds: float, watch: Callable[[], object] = lambda: None) -> Stretch:
        """Let them write for so long; ``watch`` is called all the time."""
        end = time.perf_counter() + seconds

        def wait() -> None:
            while (left := end - time.perf_counter()) > 0:
                watch()
                time.sleep(min(left, 0.1))

        return self._measured(wait)

    def until(self, rows: int, watch: Callable[[], object]) -> Stretch:
        """Let them write until so many more rows were logged; ``watch`` is called all the time."""
        end = self._row()[0] + rows

        def written() -> bool:
            watch()
            return self._row()[0] >= end

        return self._measured(
            lambda: eventually(written, f"{rows} rows are not written", LIMIT, pause=0.05)
        )

    def _begun(self, before: tuple[int, int, int]) -> bool:
        rows, singles, _ = (b - a for a, b in zip(before, self._row(), strict=True))
        return singles >= 50 * self._single and rows - singles >= STATEMENT_ROWS * self._bulk

    def _measured(self, wait: Callable[[], object]) -> Stretch:
        began, before, cpu_before = time.perf_counter(), self._row(), self._cpu()
        wait()
        after, cpu_after = self._row(), self._cpu()
        seconds = time.perf_counter() - began
        rows, singles, applied = (b - a for a, b in zip(before, after, strict=True))
        return Stretch(seconds, rows, singles, applied, cpu_after - cpu_before)

    def _row(self) -> tuple[int, int, int]:
        self._at.execute(
            "SELECT l.last_value, s.last_value, c.log_id FROM pyreplica.replica_log_id l, "
            "counting.singles s, pyreplica.replica_slave c"
        )
        row = self._at.fetchone()
        assert row is not None
        return row[0], row[1], row[2]

    def _cpu(self) -> float:
        return sum(map(cpu, self._pids))

    def _backends(self) -> list[int]:
        self._at.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench' ORDER BY pid"
        )
        return [pid for (pid,) in self._at.fetchall()]


def _bulk() -> str:
    first = next(_bases) % 20 * 100_000_000
    return "\n".join(
        [
            "\\set i :i + 1",
            f"\\set a {first} + :client_id * 10000000 + :i * {STATEMENT_ROWS}",
            f"\\set b :a - {STATEMENT_ROWS}",
            f"\\set c :a - {_KEPT * STATEMENT_ROWS}",
            f"\\set z {STATEMENT_ROWS} - 1",
            f"INSERT INTO bench SELECT {BENCH_ROW.format(id='g')} "
            "FROM generate_series(:a, :a + :z) g;",
            "UPDATE bench SET n = n + 1, b = NOT b WHERE id BETWEEN :b AND :b + :z;",
            "DELETE FROM bench WHERE id BETWEEN :c AND :c + :z;",
        ]
    )


def _single() -> str:
    """A sequence gives the keys, and counts the rows."""
    return (
        "INSERT INTO acc VALUES (nextval('counting.singles'), 0, 'a row of a single transaction');"
    )


_COUNTING = f"CREATE SCHEMA counting CREATE SEQUENCE singles AS int START {KEYS + 1}"
"""On the master. Its schema has nothing that is replicated."""
