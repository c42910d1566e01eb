"""One transaction of very many rows: the daemon's memory, and its CPU beside the slave's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.operation.figures import Figure, Section, mb, percent
from tests.bench.operation.operated import Pair, Say
from tests.bench.operation.processes import cpu, memory, server_cpu
from tests.bench.system import execute
from tests.bench.workloads import BENCH_ROW

TARGET = 100 << 20
"""Bytes of memory that the daemon may have at the most."""


@dataclass(frozen=True)
class Moved:
    """What a transaction took to be applied.

    Attributes:
        kind: what its statement was.
        seconds: on the clock.
        peak: bytes of memory that the daemon had at the most.
        daemon, slave, master: seconds of CPU of the daemon and of the servers.
    """

    kind: str
    seconds: float
    peak: int
    daemon: float
    slave: float
    master: float


@dataclass(frozen=True)
class Found:
    """The transactions, and how many rows each has changed."""

    rows: int
    moved: Sequence[Moved]

    def section(self) -> Section:
        """For people."""
        figures = []
        for one in self.moved:
            name = f"{one.kind} of {self.rows:,} rows"
            figures += [
                Figure(
                    f"{name}: daemon's peak resident memory",
                    mb(one.peak),
                    f"< {mb(TARGET)}",
                    one.peak < TARGET,
                ),
                Figure(
                    f"{name}: CPU of the daemon, as a part of the slave server's",
                    percent(one.daemon / one.slave),
                    "a small part",
                ),
            ]
        return Section(
            "Memory",
            (
                "One transaction with one statement is written while nothing is applied, then "
                "applied by a new daemon.",
                "Peak memory is the kernel's (VmHWM), Python with all modules in it. CPU is that "
                "of all processes of a server.",
            ),
            figures,
            [
                [
                    ("", "rows/s", "daemon's CPU", "slave's CPU", "master's CPU"),
                    *(
                        (
                            one.kind,
                            f"{self.rows / one.seconds:,.0f}",
                            f"{one.daemon:.2f} s",
                            f"{one.slave:.1f} s",
                            f"{one.master:.1f} s",
                        )
                        for one in self.moved
                    ),
                ]
            ],
        )


def measure(pair: Pair, rows: int, say: Say) -> Found:
    """Have transactions with so many rows applied, one after the other."""
    statements = {
        "INSERT": f"INSERT INTO bench SELECT {BENCH_ROW.format(id='g')} "
        f"FROM generate_series(1, {rows}) g",
        "UPDATE": "UPDATE bench SET n = n + 1, b = NOT b",
        "DELETE": "DELETE FROM bench",
    }
    moved = []
    for kind, statement in statements.items():
        execute(pair.system.master_dsn, statement)
        pair.checkpoint()
        daemon = pair.system.daemon
        before = cpu(daemon), server_cpu(pair.slave), server_cpu(pair.master)
        began = time.perf_counter()
        pair.system.resume()
        pair.settle()
        seconds = time.perf_counter() - began
        after = cpu(daemon), server_cpu(pair.slave), server_cpu(pair.master)
        peak = memory(daemon).peak
        pair.check()
        pair.system.pause()
        moved.append(
            Moved(kind, seconds, peak, *(b - a for a, b in zip(before, after, strict=True)))
        )
        say(f"memory   {kind} of {rows:,} rows: {mb(peak)}, {rows / seconds:,.0f} rows/s")
    return Found(rows, moved)
