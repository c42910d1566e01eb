"""Writers on the master, beside slaves that apply or do not."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

from tests.bench.growth.replicated import LIMIT, Replicated
from tests.bench.growth.tables import Table
from tests.bench.operation.processes import cpu
from tests.bench.system import session, value
from tests.bench.workloads import pgbench
from tests.support import eventually

_FIRST = 1_000_000_000
"""Ids of the rows begin above those of the backlogs."""
_EACH = 5_000_000
"""More rows than a client writes."""


@dataclass(frozen=True)
class Stretch:
    """What they did in a stretch of time.

    Attributes:
        seconds: how long it was.
        rows: that were logged, each in a transaction of its own.
        cpu: seconds of CPU of the writers' processes in the server.
        applied: rows that were confirmed meanwhile, for all slaves together.
    """

    seconds: float
    rows: int
    cpu: float
    applied: int

    @property
    def rate(self) -> float:
        """Rows logged in a second."""
        return self.rows / self.seconds

    @property
    def row_cpu(self) -> float:
        """Microseconds of the writers' CPU for a row."""
        return self.cpu / self.rows * 1e6


class Writers:
    """Sessions that insert a row a transaction for as long as the block lasts.

    Args:
        replicated: whose master they write to; nobody else does.
        table: where the rows go.
        clients: how many sessions.
    """

    def __init__(self, replicated: Replicated, table: Table, clients: int = 2) -> None:
        self._replicated, self._clients = replicated, clients
        written = value(replicated.master_dsn, f"SELECT coalesce(max(id), 0) FROM {table.name}")
        self._script = (
            f"\\set i :i + 1\n\\set id {max(_FIRST, written)} + :client_id * {_EACH} + :i\n"
            f"{table.insert_from('(SELECT :id AS g) k')};"
        )
        self._stack = ExitStack()

    def __enter__(self) -> Writers:
        dsn = self._replicated.master_dsn
        self._at = self._stack.enter_context(session(dsn))
        before = self._row()[0]
        try:
            options = ("-c", str(self._clients), "-j", "1", "-T", f"{LIMIT:g}", "-D", "i=0")
            self._stack.enter_context(pgbench(self._replicated.master, self._script, *options))
            # a new connection starts Python first
            eventually(
                lambda: len(self._backends()) == self._clients and self._row()[0] > before + 100,
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
        master = self._replicated.master_dsn
        eventually(lambda: value(master, query) == 0, "the writers' sessions do not end")

    def stretch(self, seconds: float) -> Stretch:
        """Let them write for so long."""
        began, before, cpu_before = time.perf_counter(), self._row(), self._cpu()
        time.sleep(seconds)
        after, cpu_after = self._row(), self._cpu()
        taken = time.perf_counter() - began
        return Stretch(taken, after[0] - before[0], cpu_after - cpu_before, after[1] - before[1])

    def _row(self) -> tuple[int, int]:
        """How many rows were logged, and how many were confirmed for all slaves together."""
        self._at.execute(
            "SELECT l.last_value, (SELECT sum(log_id)::bigint FROM pyreplica.replica_slave) "
            "FROM pyreplica.replica_log_id l"
        )
        row = self._at.fetchone()
        assert row is not None
        return row[0], row[1]

    def _cpu(self) -> float:
        return sum(map(cpu, self._pids))

    def _backends(self) -> list[int]:
        self._at.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench' ORDER BY pid"
        )
        return [pid for (pid,) in self._at.fetchall()]
