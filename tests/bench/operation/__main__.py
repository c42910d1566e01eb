"""python -m tests.bench.operation: how PyReplica behaves at work; see docs/performance.md."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from pyreplica.demo.cluster import Cluster
from tests.bench.__main__ import say
from tests.bench.document import write_part
from tests.bench.operation.report import report
from tests.bench.operation.run import MEASURES, Plan
from tests.bench.system import server_version


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.operation", description=__doc__)
    parser.add_argument("--measures", type=_measures, default=list(MEASURES))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--text", type=Path, help="where the figures are written as well")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    began = time.monotonic()
    sections = []
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="pyreplica-bench-"))
        folder.chmod(0o755)
        stack.callback(shutil.rmtree, folder)
        version = _version(folder)
        for name in given.measures:
            say(f"{name}: making its servers")
            own = folder / name
            own.mkdir()
            own.chmod(0o755)
            sections.append(MEASURES[name](Plan.of(given.scale), own, say).section())
    text = report(sections, given.scale, time.monotonic() - began, version)
    say(f"\n{text}")
    if given.text is not None:
        write_part(given.text, text)
    return 0


def _version(folder: Path) -> str:
    with Cluster.create(folder, "version") as cluster:
        cluster.start()
        return server_version(cluster)


def _measures(text: str) -> list[str]:
    """Names with commas or blanks in between."""
    chosen = text.replace(",", " ").split()
    for name in chosen:
        if name not in MEASURES:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(MEASURES)}")
    return chosen


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
