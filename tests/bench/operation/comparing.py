"""How long it takes to compare very many equal rows."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.contest import Wrong
from tests.bench.operation.figures import Figure, Section
from tests.bench.operation.operated import LIMIT, Pair, Say
from tests.bench.operation.processes import server_cpu
from tests.bench.system import execute
from tests.support import pyreplica as command

TARGET = 60.0
"""Seconds that it may take."""
_DIFFERS = 3
"""The exit code when rows differ."""
_SILENT = "SET session_replication_role = replica"


@dataclass(frozen=True)
class Found:
    """What comparing so many rows took: seconds, of each round; and of the servers' CPU."""

    rows: int
    seconds: Sequence[float]
    cpu: Sequence[float]

    def section(self) -> Section:
        """For people."""
        middle = statistics.median(self.seconds)
        return Section(
            "Compare",
            (
                f"`pyreplica compare` of {self.rows:,} rows of five columns that are equal, from "
                "the command's start to its end, beside a daemon",
                f"that sleeps; {len(self.seconds)} rounds. A row that is changed on the slave "
                "afterwards is found.",
            ),
            [
                Figure("median", f"{middle:.1f} s", f"< {TARGET:.0f} s", middle < TARGET),
                Figure("rounds", " ".join(f"{one:.1f}" for one in self.seconds)),
                Figure("CPU of both servers, median", f"{statistics.median(self.cpu):.1f} s"),
            ],
        )


def measure(pair: Pair, rows: int, rounds: int, say: Say) -> Found:
    """Write the same rows on both sides, where nothing captures them, and compare."""
    insert = (
        "INSERT INTO bench SELECT g, 'row number ' || g, g * 0.5, "
        "timestamptz '2020-01-01 UTC' + g * interval '1 s', g % 2 = 0 "
        f"FROM generate_series(1, {rows}) g"
    )
    sides = (pair.system.master_dsn, pair.system.slave_dsn)
    for dsn in sides:
        execute(dsn, _SILENT, insert, "VACUUM ANALYZE bench")
    found, cpu = [], []
    with pair.running():
        for _ in range(rounds):
            before, began = _cpu(pair), time.perf_counter()
            equal, compared = _compare(pair, 0)
            found.append(time.perf_counter() - began)
            cpu.append(_cpu(pair) - before)
            if not equal or compared != rows:
                raise Wrong(f"{compared} of {rows} rows were compared, equal: {equal}")
            say(f"compare  {rows:,} rows: {found[-1]:.1f} s")
        for change in ("+", "-"):
            execute(
                pair.system.slave_dsn,
                _SILENT,
                f"UPDATE bench SET n = n {change} 1 WHERE id = {rows // 2 + 1}",
            )
            if change == "+" and _compare(pair, _DIFFERS)[0]:
                raise Wrong("a row that differs was not found")
    for dsn in sides:
        execute(dsn, _SILENT, "TRUNCATE bench")
    return Found(rows, found, cpu)


def _compare(pair: Pair, code: int) -> tuple[bool, int]:
    """Whether the table bench is equal, and the number of its rows."""
    done = command(
        pair.system.config_path,
        *("compare", "--table", "public.bench", "--json"),
        code=code,
        timeout=LIMIT,
    )
    (result,) = json.loads(done.stdout)[pair.system.config.name]["tables"]
    return result["equal"], result["rows"]


def _cpu(pair: Pair) -> float:
    return server_cpu(pair.master) + server_cpu(pair.slave)
