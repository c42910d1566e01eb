"""The tables at the end of a soak, as markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

import pyreplica
from tests.faults.faults import FAULTS
from tests.soak.run import Outcome
from tests.soak.verdict import MIB
from tests.soak.watch import Sample

_NAMES = {
    "rss": "memory of the daemon, MiB",
    "files": "its open files",
    "threads": "its threads",
    "daemon_master": "its connections to the master",
    "daemon_slave": "its connections to the slave",
    "all_master": "all connections to the master",
    "all_slave": "all connections to the slave",
    "log": "log on the master, MiB",
    "ticks": "ticks",
    "generations": "generations of tables",
    "stage": "staging tables on the slave, MiB",
    "lag": "lag, s",
}
_MEBIBYTES = {"rss", "log", "stage"}


def report(outcome: Outcome, postgres: str) -> str:
    """All of it.

    Args:
        postgres: the servers' version.
    """
    settings = outcome.settings
    parts = [
        _facts(outcome, postgres),
        _table(
            ("", "min", "median", "max", "first", "last", "2nd quarter", "last quarter", "idle"),
            _figures(outcome),
        ),
        _table(("fault", "times", "over after, s", "caught up after, s"), _faults(outcome)),
        _table(
            ("transactions of the load", "done"),
            [(name, f"{count:,}") for name, count in outcome.transactions.items()],
        ),
        _table(("rule", ""), [(r.text, r.broken or "holds") for r in outcome.rules]),
    ]
    if settings.seconds and not outcome.passed:
        parts.append(
            f"FAILED. Again: make soak MINUTES={settings.seconds / 60:g} SEED={settings.seed}"
        )
    return "\n\n".join(parts) + "\n"


def _facts(outcome: Outcome, postgres: str) -> str:
    settings = outcome.settings
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    changes = max((s.changes or 0 for s in outcome.samples), default=0)
    times = [struck.caught_up for struck in outcome.struck]
    done = sum(outcome.transactions.values())
    return "\n".join(
        [
            f"- {datetime.now(timezone.utc):%Y-%m-%d}, PyReplica {pyreplica.__version__}, "
            f"PostgreSQL {postgres}, Python {platform.python_version()}",
            f"- {os.cpu_count()} cores, {memory:.0f} GiB of memory",
            f"- {settings.seconds / 60:g} minutes, seed {settings.seed}",
            f"- {done:,} transactions of the load, {changes:,} changes applied; "
            f"{outcome.errors:,} errors of writers",
            f"- {len(times)} faults"
            + (f"; caught up after at most {max(times):.1f} s" if times else ""),
            f"- caught up {outcome.caught_up:.1f} s after the last transaction",
        ]
    )


def _figures(outcome: Outcome) -> list[Sequence[str]]:
    found: list[Sequence[str]] = []
    for row in outcome.rows:
        if row.figure not in _NAMES:
            continue
        values = (
            *(row.least, row.median, row.most, row.first, row.last),
            *(row.second_quarter, row.last_quarter),
        )
        idle = getattr(outcome.idle, row.figure) if isinstance(outcome.idle, Sample) else None
        found.append([_NAMES[row.figure], *(_shown(row.figure, it) for it in (*values, idle))])
    return found


def _shown(figure: str, value: float | None) -> str:
    if value is None:
        return "-"
    if figure in _MEBIBYTES:
        return f"{value / MIB:,.1f}"
    return f"{value:.1f}" if figure == "lag" else f"{value:,.0f}"


def _faults(outcome: Outcome) -> list[Sequence[str]]:
    found: list[Sequence[str]] = []
    for fault in FAULTS:
        struck = [one for one in outcome.struck if one.fault.code == fault.code]
        if struck:
            found.append(
                (
                    fault.name,
                    f"{len(struck)}",
                    _range([one.lasted for one in struck]),
                    _range([one.caught_up for one in struck]),
                )
            )
    return found


def _range(values: Sequence[float]) -> str:
    least, most = f"{min(values):.1f}", f"{max(values):.1f}"
    return least if least == most else f"{least} to {most}"


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
