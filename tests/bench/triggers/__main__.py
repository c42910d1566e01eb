"""python -m tests.bench.triggers: what capture costs a writer, beside other triggers."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from tests.bench.__main__ import say
from tests.bench.document import write_part
from tests.bench.triggers.report import report
from tests.bench.triggers.run import Plan, run


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.triggers", description=__doc__)
    parser.add_argument("--rows", type=int, default=Plan.rows)
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    parser.add_argument("--sessions", type=int, default=Plan.sessions)
    parser.add_argument("--text", type=Path, help="where the figures are written as well")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    folder = Path(tempfile.mkdtemp(prefix="pyreplica-bench-"))
    folder.chmod(0o755)
    try:
        text = report(run(Plan(given.rows, given.rounds, given.sessions), folder, say))
    finally:
        shutil.rmtree(folder)
    say(f"\n{text}")
    if given.text is not None:
        write_part(given.text, text)
    return 0


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
