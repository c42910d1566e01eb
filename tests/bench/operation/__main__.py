"""python -m tests.bench.operation: how PyReplica behaves at work; see docs/performance.md."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pyreplica.demo.cluster import Cluster
from tests.bench.document import write_part
from tests.bench.operation.report import report
from tests.bench.operation.run import MEASURES, Plan
from tests.bench.program import folder, names, say
from tests.bench.system import server_version


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.operation", description=__doc__)
    parser.add_argument("--measures", type=names(MEASURES), default=list(MEASURES))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--text", type=Path, help="where the figures are written as well")
    given = parser.parse_args()
    began = time.monotonic()
    sections = []
    with folder() as home:
        version = _version(home)
        for name in given.measures:
            say(f"{name}: making its servers")
            own = home / name
            own.mkdir()
            own.chmod(0o755)
            sections.append(MEASURES[name](Plan.of(given.scale), own, say).section())
    text = report(sections, given.scale, time.monotonic() - began, version)
    say(f"\n{text}")
    if given.text is not None:
        write_part(given.text, text)
    return 0


def _version(home: Path) -> str:
    with Cluster.create(home, "version") as cluster:
        cluster.start()
        return server_version(cluster)


if __name__ == "__main__":
    raise SystemExit(main())
