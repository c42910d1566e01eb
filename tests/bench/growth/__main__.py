"""python -m tests.bench.growth: what a row costs with more rows, tables, columns and slaves."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from pyreplica.demo.cluster import Cluster
from tests.bench.__main__ import say
from tests.bench.document import write_part
from tests.bench.growth.report import report
from tests.bench.growth.series import SERIES, Plan, run
from tests.bench.system import server_version


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.growth", description=__doc__)
    parser.add_argument("--series", type=_series, default=list(SERIES))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--text", type=Path, help="where the figures are written as well")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    plan = Plan.of(given.scale, given.rounds)
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="pyreplica-bench-"))
    folder.chmod(0o755)
    try:
        with Cluster.create(folder, "version") as cluster:
            cluster.start()
            version = server_version(cluster)
        found = run(plan, given.series, folder, say)
    finally:
        shutil.rmtree(folder)
    text = report(plan, found, time.monotonic() - began, version)
    say(f"\n{text}")
    if given.text is not None:
        write_part(given.text, text)
    return 0


def _series(text: str) -> list[str]:
    """Names with commas or blanks in between."""
    chosen = text.replace(",", " ").split()
    for name in chosen:
        if name not in SERIES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(SERIES)}")
    return chosen


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
