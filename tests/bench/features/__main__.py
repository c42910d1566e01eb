"""python -m tests.bench.features: what merging, filters, forwarding, maps and transforms cost."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from tests.bench.contest import Contestant
from tests.bench.document import write_part
from tests.bench.features.kinds import FEATURES, Plain
from tests.bench.features.report import report
from tests.bench.program import folder, names, say
from tests.bench.run import Plan, run

MEASURES = ("catch-up", "trigger")
BACKLOGS = ("A", "B", "C", "D")


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.features", description=__doc__)
    parser.add_argument("--features", type=names(FEATURES), default=list(FEATURES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--text", type=Path, help="where the figures are written as well")
    given = parser.parse_args()
    plan = Plan(MEASURES, BACKLOGS, given.rounds, given.scale)
    chosen = dict.fromkeys((Plain.name, *given.features))
    with ExitStack() as stack:
        home = stack.enter_context(folder())
        contestants: dict[str, Contestant] = {}
        for name in chosen:
            say(f"{name}: making its servers")
            contestants[name] = stack.enter_context(Contestant(FEATURES[name], home))
        text = report(plan, contestants, run(plan, contestants, home, say))
    say(f"\n{text}")
    if given.text is not None:
        write_part(given.text, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
