"""python -m tests.bench.growth: what a row costs with more rows, tables, columns and slaves."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pyreplica.demo.cluster import Cluster
from tests.bench.document import write_part
from tests.bench.growth.report import report
from tests.bench.growth.series import SERIES, Plan, run
from tests.bench.program import folder, names, say
from tests.bench.system import server_version


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--series", type=names(SERIES), default=list(SERIES))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--text", type=Path, help="where the figures are written as well")
    given = parser.parse_args()
    plan = Plan.of(given.scale, given.rounds)
    began = time.monotonic()
    with folder() as home:
        with Cluster.create(home, "version") as cluster:
            cluster.start()
            version = server_version(cluster)
        found = run(plan, given.series, home, say)
    text = report(plan, found, time.monotonic() - began, version)
    say(f"\n{text}")
    if given.text is not None:
        write_part(given.text, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
