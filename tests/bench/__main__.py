"""python -m tests.bench: PyReplica beside other replication systems; see docs/performance.md."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from tests.bench.bucardo import Bucardo
from tests.bench.builtin import Builtin
from tests.bench.chart import chart
from tests.bench.contest import Contestant
from tests.bench.document import write_part
from tests.bench.kept import Kept
from tests.bench.londiste import Londiste, LondisteBulk
from tests.bench.ours import OnePhase, PlPgSQL, PyReplica
from tests.bench.pglogical import Pglogical
from tests.bench.program import folder, names, say
from tests.bench.report import report
from tests.bench.run import MEASURES, Plan, run
from tests.bench.slony import Slony
from tests.bench.system import System

SYSTEMS: dict[str, type[System]] = {
    kind.name: kind
    for kind in (
        *(PyReplica, PlPgSQL, OnePhase),
        *(Builtin, Pglogical, Slony, Londiste, LondisteBulk, Bucardo),
    )
}
_DEFAULTS = Plan()


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--systems", type=names(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--measures", type=names(MEASURES), default=MEASURES)
    parser.add_argument("--backlogs", type=names(_DEFAULTS.backlogs), default=_DEFAULTS.backlogs)
    parser.add_argument("--rounds", type=int, default=_DEFAULTS.rounds)
    parser.add_argument("--scale", type=float, default=_DEFAULTS.scale)
    parser.add_argument("--commits", type=int, default=_DEFAULTS.commits)
    parser.add_argument("--seconds", type=float, default=_DEFAULTS.seconds)
    parser.add_argument("--text", type=Path, help="where the tables are written as well")
    parser.add_argument("--chart", type=Path, help="where a picture is written (SVG)")
    parser.add_argument(
        "--keep", type=Path, help="where each figure is kept at once; what is there goes on"
    )
    parser.add_argument(
        "--packages", action="store_true", help="print the Debian packages of all systems"
    )
    given = parser.parse_args()
    if given.packages:
        packages = (package for kind in SYSTEMS.values() for package in kind.packages)
        print(" ".join(dict.fromkeys(packages)))
        return 0
    plan = Plan(
        given.measures, given.backlogs, given.rounds, given.scale, given.commits, given.seconds
    )
    with ExitStack() as stack:
        home = stack.enter_context(folder())
        contestants: dict[str, Contestant] = {}
        for name in given.systems:
            if missing := SYSTEMS[name].missing():
                say(f"{name} is left out: not installed are {', '.join(missing)} (make peers)")
                continue
            say(f"{name}: making its servers")
            contestants[name] = stack.enter_context(Contestant(SYSTEMS[name], home))
        if given.keep is None:
            figures = run(plan, contestants, home, say)
        else:
            kept = Kept(given.keep, plan, contestants)
            figures = run(plan, contestants, home, say, kept.load(), kept.save)
        text = report(plan, contestants, figures)
        titles = {name: one.system.title for name, one in contestants.items()}
    say(f"\n{text}")
    if given.text is not None:
        write_part(given.text, text)
    if given.chart is not None and figures.caught_up:
        given.chart.write_text(chart(plan, titles, figures), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
