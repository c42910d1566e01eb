"""python -m tests.bench.triggers: what capture costs a writer, beside other triggers."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.bench.document import write_part
from tests.bench.program import folder, say
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
    with folder() as home:
        text = report(run(Plan(given.rows, given.rounds, given.sessions), home, say))
    say(f"\n{text}")
    if given.text is not None:
        write_part(given.text, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
