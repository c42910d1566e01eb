"""python -m tests.bench: see docs/performance.md."""

from __future__ import annotations

import argparse
import shutil
import signal
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from tests.bench.builtin import Builtin
from tests.bench.contest import Contestant
from tests.bench.ours import OnePhase, PyReplica
from tests.bench.system import System
from tests.bench.workloads import backlogs

SYSTEMS: dict[str, type[System]] = {kind.name: kind for kind in (PyReplica, OnePhase, Builtin)}


def main() -> int:
    """Run it."""
    arguments = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    arguments.add_argument("--systems", default="pyreplica,builtin")
    arguments.add_argument("--backlogs", default="A,B,C,D,wide,indexed")
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--scale", type=float, default=1.0)
    given = arguments.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    wanted = [b for b in backlogs(given.scale) if b.name in given.backlogs.split(",")]
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="pyreplica-bench-"))
        folder.chmod(0o755)
        stack.callback(shutil.rmtree, folder)
        contestants = {}
        for name in given.systems.split(","):
            say(f"{name}: making its servers")
            contestants[name] = stack.enter_context(Contestant(SYSTEMS[name], folder))
        for backlog in wanted:
            rates: dict[str, list[float]] = {name: [] for name in contestants}
            for _ in range(given.rounds):
                for name, contestant in contestants.items():
                    done = contestant.catch_up(backlog)
                    rates[name].append(backlog.rows / done.seconds)
                    say(
                        f"{backlog.name} {name}: {rates[name][-1]:,.0f} rows/s, "
                        f"cpu {done.cpu:.2f} s, {done.peak >> 20} MB"
                    )
            first = next(iter(rates))
            for name, found in rates.items():
                pairs = [a / b for a, b in zip(rates[first], found, strict=True)]
                say(
                    f"= {backlog.name} {name}: {statistics.median(found):,.0f} rows/s; "
                    f"{first} / {name} {statistics.median(pairs):.2f}"
                )
    return 0


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
