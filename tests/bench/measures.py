"""What is measured of a system besides catching up: latency, and what writers pay."""

from __future__ import annotations

import itertools
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.bench.contest import Contestant, Wrong
from tests.bench.system import session, value
from tests.bench.workloads import BENCH_ROW, pgbench
from tests.support import eventually

_LIMIT = 60.0
_PLAIN = "CREATE TABLE IF NOT EXISTS plain (LIKE bench INCLUDING ALL)"
"""On the master: the same as bench, and nobody captures it."""
_ids = itertools.count(1)
_runs = itertools.count()


@dataclass(frozen=True)
class Latency:
    """From the moment COMMIT returns on the master until the slave's readers see the row.

    Attributes:
        p50, p99, worst: milliseconds.
    """

    p50: float
    p99: float
    worst: float


def latency(contestant: Contestant, commits: int, rate: float = 20.0, load: int = 0) -> Latency:
    """Commit single rows at a steady rate, and look for each on the slave.

    Args:
        commits: how many rows.
        rate: commits a second.
        load: rows a second that others write meanwhile, each in a transaction of its own.
    """
    system = contestant.system
    system.resume()
    contestant.settle()
    found: list[float] = []
    try:
        with (
            session(system.master_dsn) as master,
            session(system.slave_dsn) as slave,
            _load(contestant, load),
        ):
            master.execute("PREPARE add AS INSERT INTO acc VALUES ($1, 0, 'latency')")
            slave.execute("PREPARE see AS SELECT FROM acc WHERE aid = $1")
            began = time.perf_counter()
            for number in range(commits):
                time.sleep(max(0.0, began + number / rate - time.perf_counter()))
                id_ = 1_000_000_000 + next(_ids)
                master.execute(f"EXECUTE add ({id_})")
                committed = time.perf_counter()
                while True:
                    slave.execute(f"EXECUTE see ({id_})")
                    now = time.perf_counter()
                    if slave.rowcount:
                        break
                    if now - committed > _LIMIT:
                        raise Wrong(f"{system.title}: a row has not arrived in {_LIMIT:g} s")
                found.append((now - committed) * 1000)
        contestant.settle()
        contestant.check()
    finally:
        system.pause()
    cuts = statistics.quantiles(found, n=100, method="inclusive")
    return Latency(cuts[49], cuts[98], max(found))


@contextmanager
def _load(contestant: Contestant, rows: int) -> Iterator[None]:
    if not rows:
        yield
        return
    script = "\\set a random(1, 20000)\nUPDATE acc SET bal = bal + 1 WHERE aid = :a;"
    written = "SELECT sum(bal) FROM acc"
    dsn = contestant.system.master_dsn
    steady = value(dsn, written) + rows
    with pgbench(contestant.master, script, "-c", "4", "-R", str(rows), "-T", "600"):
        # the first second has the connections begin
        eventually(lambda: value(dsn, written) >= steady, "the load does not begin")
        yield


def throughput(contestant: Contestant, table: str, clients: int, seconds: float) -> float:
    """Transactions a second that insert a row each.

    Args:
        table: bench, or plain, which is not captured.
    """
    base = next(_runs) * 200_000
    script = (
        f"\\set i :i + 1\n\\set id {base} + (:client_id + 1) * 40000000 + :i\n"
        f"INSERT INTO {table} VALUES ({BENCH_ROW.format(id=':id')});"
    )
    with pgbench(
        contestant.master, script, "-c", str(clients), "-T", f"{seconds:g}", "-D", "i=0"
    ) as running:
        output = running.output()
    match = re.search(r"tps = ([\d.]+)", output)
    assert match is not None, output
    return float(match[1])


def cost(
    contestant: Contestant, clients: int, seconds: float, rounds: int, applying: bool
) -> float:
    """What of the writers' throughput is left with capture, as a part of that without.

    Args:
        seconds: of each of the runs, which take turns.
        applying: whether changes are applied meanwhile.
    """
    with session(contestant.system.master_dsn) as master:
        master.execute(_PLAIN)
    if applying:
        contestant.system.resume()
        contestant.settle()
    ratios = []
    for _ in range(rounds):
        without = throughput(contestant, "plain", clients, seconds)
        ratios.append(throughput(contestant, "bench", clients, seconds) / without)
    with session(contestant.system.master_dsn) as master:
        master.execute("TRUNCATE plain")
    if not applying:
        contestant.system.resume()
    contestant.settle()
    contestant.check()
    contestant.system.pause()
    contestant.empty(["bench"])
    return statistics.median(ratios)


@dataclass(frozen=True)
class Trigger:
    """What capture takes in one session, without its commits.

    Attributes:
        single: microseconds for a statement that inserts one row.
        bulk: microseconds for a row of a statement that inserts very many.
    """

    single: float
    bulk: float


def trigger(contestant: Contestant, statements: int, rows: int, rounds: int) -> Trigger:
    """Insert into a table that is captured and into one that is not, in turn; the difference."""
    singles, bulks = [], []
    with session(contestant.system.master_dsn) as master:
        master.execute(_PLAIN)
        for table in ("plain", "bench"):
            master.execute(
                f"PREPARE {table} AS INSERT INTO {table} VALUES ({BENCH_ROW.format(id='$1::int')})"
            )
        for _ in range(rounds):
            taken: dict[str, list[float]] = {}
            for table in ("plain", "bench"):
                master.execute("BEGIN")
                began = time.perf_counter()
                for number in range(statements):
                    master.execute(f"EXECUTE {table} ({-number})")
                single = (time.perf_counter() - began) / statements
                began = time.perf_counter()
                master.execute(
                    f"INSERT INTO {table} SELECT {BENCH_ROW.format(id='g')} "
                    f"FROM generate_series(1, {rows}) g"
                )
                bulk = (time.perf_counter() - began) / rows
                master.execute("ROLLBACK")
                taken[table] = [single * 1e6, bulk * 1e6]
            singles.append(taken["bench"][0] - taken["plain"][0])
            bulks.append(taken["bench"][1] - taken["plain"][1])
    return Trigger(statistics.median(singles), statistics.median(bulks))
