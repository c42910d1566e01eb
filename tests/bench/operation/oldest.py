"""One transaction that stays open: what it costs the other writers, and each reading of the log."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass

from pyreplica.master import Master
from pyreplica.master.log import FETCH_BYTES, FETCH_ROWS
from tests.bench.contest import Wrong
from tests.bench.operation.figures import Figure, Section, mb, percent
from tests.bench.operation.operated import Pair, Say, Stretch, Writers
from tests.bench.system import execute, session
from tests.bench.workloads import BENCH_ROW

TARGET = 0.10
"""What of the others' throughput may be lost."""
CLIENTS = 4
_READINGS = 30
_LOG = """
SELECT (SELECT count(*) FROM pyreplica.replica_log),
    pg_total_relation_size('pyreplica.replica_log_0')
        + pg_total_relation_size('pyreplica.replica_log_1'), batch
FROM pyreplica.replica_slave
"""


@dataclass(frozen=True)
class Reading:
    """What it takes to read a log in which there is nothing new, and to find the slave's record.

    Attributes:
        milliseconds: of the daemon's own reading, median.
        blocks: of 8 kB that it has looked at.
        record: blocks that finding the row of replica_slave takes.
    """

    milliseconds: float
    blocks: int
    record: int


@dataclass(frozen=True)
class Step:
    """A moment of the long run.

    Attributes:
        rows: changes in the log.
        log: its bytes.
        batches: confirmed by then.
        reading: once everything is applied.
        stretch: single-row transactions before that.
        bulk: rows a second from COMMIT of many rows until the slave has them; 0 at first.
    """

    rows: int
    log: int
    batches: int
    reading: Reading
    stretch: Stretch
    bulk: float


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        turns: stretches with a transaction open, and without.
        steps: the first one without the transaction, then with it open all the time.
        large: what a reading takes while a transaction is open that has written many rows.
        large_rows: so many.
    """

    turns: Sequence[tuple[Stretch, Stretch]]
    steps: Sequence[Step]
    large: Reading
    large_rows: int

    def kept(self, what: Callable[[Stretch], float]) -> float:
        """What is left of it with the transaction: the median of the turns."""
        return statistics.median(what(one) / what(other) for one, other in self.turns)

    def _record(self) -> float:
        first, last = self.steps[1], self.steps[-1]
        batches = max(1, last.batches - first.batches)
        return 1000 * (last.reading.record - first.reading.record) / batches

    def section(self) -> Section:
        """For people."""
        written, applied = self.kept(lambda s: s.rate), self.kept(lambda s: s.applied_rate)
        opened, last = self.steps[1], self.steps[-1]
        return Section(
            "A transaction that stays open",
            (
                "It has changed a replicated row at its beginning. "
                f"{CLIENTS} sessions insert a row a transaction as fast as they go, and the daemon "
                "applies.",
                f"{len(self.turns)} turns with it and without, of "
                f"{self.turns[0][0].seconds:.0f} s each, medians of the ratios.",
                "Then one stays open while the log grows, which cannot be trimmed meanwhile. "
                "Reading: the daemon's query with nothing new in the log,",
                "milliseconds and blocks of 8 kB looked at; and the blocks that finding the "
                "slave's record takes, which each batch changes.",
            ),
            [
                Figure(
                    "the others' throughput lost",
                    percent(1 - written),
                    "< 10 %",
                    1 - written < TARGET,
                ),
                Figure(
                    "the same of each turn",
                    " ".join(percent(1 - one.rate / other.rate) for one, other in self.turns),
                ),
                Figure("rows applied lost", percent(1 - applied), "< 10 %", 1 - applied < TARGET),
                Figure("writers' CPU for a row added", percent(self.kept(lambda s: s.row_cpu) - 1)),
                Figure(
                    "blocks of a reading, log at its smallest and largest",
                    f"{opened.reading.blocks} and {last.reading.blocks}",
                    "does not grow",
                    last.reading.blocks <= opened.reading.blocks + 4,
                ),
                Figure(
                    f"blocks of a reading, {self.large_rows:,} rows written by that transaction",
                    f"{self.large.blocks:,}",
                    "does not grow",
                    self.large.blocks <= opened.reading.blocks + 4,
                ),
                Figure("milliseconds of that reading", f"{self.large.milliseconds:.2f}"),
                Figure(
                    "blocks that finding the slave's record takes, more for 1,000 batches",
                    f"{self._record():.1f}",
                ),
            ],
            [
                [
                    (
                        "log",
                        "rows",
                        "batches",
                        "reading ms",
                        "blocks",
                        "record's blocks",
                        "single tps",
                        "bulk rows/s",
                    ),
                    *(
                        (
                            f"{mb(one.log)}{'' if number else ', none open'}",
                            f"{one.rows:,}",
                            f"{one.batches:,}",
                            f"{one.reading.milliseconds:.2f}",
                            f"{one.reading.blocks:,}",
                            f"{one.reading.record:,}",
                            f"{one.stretch.rate:,.0f}",
                            f"{one.bulk:,.0f}",
                        )
                        for number, one in enumerate(self.steps)
                    ),
                ]
            ],
        )


def measure(pair: Pair, turns: int, seconds: float, steps: int, rows: int, say: Say) -> Found:
    """Take turns, then let the log grow.

    Args:
        seconds: of each stretch.
        steps: how often the log grows.
        rows: by how many rows each time; and what the large transaction writes.
    """
    dsn = pair.system.master_dsn
    found = []
    with pair.running():
        for number in range(turns):
            stretches: dict[bool, Stretch] = {}
            for is_open in (False, True) if number % 2 else (True, False):
                pair.checkpoint()
                with _open(dsn) if is_open else nullcontext():
                    stretches[is_open] = _stretch(pair, seconds)
                    pair.settle()
            found.append((stretches[True], stretches[False]))
            one, other = found[-1]
            say(f"oldest   {one.rate:,.0f} tps with it, {other.rate:,.0f} without")
        grown = [_step(pair, 0, 0, seconds)]
        with _open(dsn):
            for step in range(steps):
                grown.append(_step(pair, rows, step, seconds))
                last = grown[-1]
                say(
                    f"oldest   {last.rows:,} rows in the log: "
                    f"{last.reading.milliseconds:.2f} ms, {last.reading.blocks} blocks"
                )
            pair.settle()
        pair.settle()
        many = (
            f"INSERT INTO bench SELECT {BENCH_ROW.format(id='-g')} "
            f"FROM generate_series(1, {rows}) g"
        )
        with _open(dsn, many):
            pair.settle()
            large = _reading(pair)
            say(f"oldest   {rows:,} rows written by it: {large.milliseconds:.2f} ms")
        execute(dsn, "TRUNCATE bench")
    return Found(found, grown, large, rows)


def _stretch(pair: Pair, seconds: float) -> Stretch:
    with Writers(pair, bulk=0, single=CLIENTS) as writers:
        return writers.stretch(seconds)


def _step(pair: Pair, rows: int, step: int, seconds: float) -> Step:
    dsn = pair.system.master_dsn
    stretch = _stretch(pair, seconds)
    pair.settle()
    bulk = 0.0
    if rows:
        execute(
            dsn,
            f"INSERT INTO bench SELECT {BENCH_ROW.format(id='g')} "
            f"FROM generate_series({step * rows}, {(step + 1) * rows - 1}) g",
        )
        began = time.perf_counter()
        pair.settle()
        bulk = rows / (time.perf_counter() - began)
    with session(dsn) as cursor:
        cursor.execute(_LOG)
        row = cursor.fetchone()
    assert row is not None
    logged, log, batches = row
    return Step(logged, log, batches, _reading(pair), stretch, bulk)


@contextmanager
def _open(dsn: str, written: str = "UPDATE acc SET bal = bal + 1 WHERE aid = 1") -> Iterator[None]:
    """A transaction that has written something, and is committed at the end."""
    with session(dsn) as opened:
        opened.execute("BEGIN")
        opened.execute(written)
        yield
        opened.execute("COMMIT")


def _reading(pair: Pair) -> Reading:
    """Read the log as the daemon does, from where it is; the slave has everything."""
    with closing(Master(pair.system.config)) as master:
        confirmed = master.record.confirmed()
        assert confirmed is not None
        after = confirmed.cursor.position.snapshot
        taken = []
        for _ in range(_READINGS):
            began = time.perf_counter()
            fetched = master.log.fetch(after)
            taken.append(1000 * (time.perf_counter() - began))
            if fetched.changes != ():
                raise Wrong("there is something new in the log")
        running = ",".join(map(str, after.running))
        fetch = (
            f"EXECUTE pyreplica_fetch ('{{{running}}}', '{after.xmax}', {FETCH_ROWS}, "
            f"{FETCH_BYTES}, '{{}}', false)"
        )
        record = (
            "SELECT FROM pyreplica.replica_slave "
            f"WHERE replication = '{pair.system.config.name}' AND batch = {confirmed.cursor.batch}"
        )
        blocks = []
        for statement in (fetch, record):
            explained = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
            plan = master.connection.one(explained)[0][0]["Plan"]
            blocks.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    return Reading(statistics.median(taken), *blocks)
