"""The part of benchmarks.txt about triggers."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from datetime import datetime, timezone

from tests.bench.operation.figures import kb, table
from tests.bench.program import machine
from tests.bench.triggers.measures import Beginning
from tests.bench.triggers.run import LIBRARIES, PLAIN, SESSION, SHARED, Figures

CLAIM = 1.5
"""The original's claim: "50 % slower than a C trigger"."""

_WAYS = {
    "loop": "from a loop in PL/pgSQL, a DO block",
    "client": "one by one from a client, prepared, in one transaction",
}


def report(figures: Figures) -> str:
    """The whole text."""
    return "\n".join(_lines(figures)) + "\n"


def _lines(figures: Figures) -> Iterator[str]:
    yield f"Triggers: {datetime.now(timezone.utc):%Y-%m-%d}"
    yield ""
    yield machine(figures.postgresql)
    yield (
        "Each trigger has a database of its own in one server; they take turns. Nothing is applied."
    )
    yield f"Server: {', '.join(f'{key} = {value}' for key, value in figures.settings.items())}"
    yield (
        f"{figures.plan.rounds} rounds, medians; all of it took {figures.seconds / 60:.0f} "
        "minutes. Only ratios inside one run mean anything."
    )
    yield ""
    for name, version in figures.versions.items():
        if version:
            yield f"  {figures.titles[name]}: {version}"
    for title, packages in figures.absent.items():
        yield f"  {title}: left out, not installed are {', '.join(packages)}"
    for way in figures.took:
        yield from _inserts(figures, way)
    yield from _beginnings(figures)


def _inserts(figures: Figures, way: str) -> Iterator[str]:
    yield from _heading(f"{figures.plan.rows:,} INSERTs of one row {_WAYS[way]}")
    yield "Seconds, with the commit. CPU is that of the session's process; all ratios are of CPU."
    yield ""
    ratios = {"none": "to no trigger", "slony": "to Slony-I's"}
    ratios = {name: head for name, head in ratios.items() if name in figures.titles}
    rows: list[tuple[str, ...]]
    rows = [("", "seconds", "CPU seconds", "CPU added, us a row", *ratios.values())]
    for name, title in figures.titles.items():
        took = figures.took[way][name]
        rows.append(
            (
                title,
                f"{statistics.median(one.seconds for one in took):.2f}",
                f"{statistics.median(one.cpu for one in took):.2f}",
                f"{figures.added(way, name):.1f}",
                *(f"{figures.ratio(way, name, other):.2f}" for other in ratios),
            )
        )
    yield from table(rows)
    yield ""
    yield from _claim(figures, way)


def _claim(figures: Figures, way: str) -> Iterator[str]:
    """The claim beside each C trigger, for each trigger that has Python in it, and PL/pgSQL."""
    yield (
        'The original\'s claim is "50 % slower than a C trigger"; for the whole of an INSERT that '
        f"is a ratio of {CLAIM:.2f}:"
    )
    for name in ("original", "pyreplica", "pyreplica_plpgsql"):
        for other in ("slony", "pgq"):
            if other in figures.titles:
                ratio = figures.ratio(way, name, other)
                yield (
                    f"  {figures.titles[name]} beside {figures.titles[other]}: {ratio:.2f}, "
                    f"it {'holds' if ratio <= CLAIM else 'does not hold'}"
                )


def _beginnings(figures: Figures) -> Iterator[str]:
    yield from _heading("The first write of a new session")
    yield (
        f"{figures.plan.sessions} new sessions for each trigger, in turn; medians. Milliseconds "
        "for an INSERT of one row without its commit;"
    )
    yield (
        "in parentheses CPU of the session's process. The second one is in another transaction: "
        "as through a pooler that"
    )
    yield (
        "keeps connections. DISCARD ALL is what a pooler may do between two clients. Memory is "
        "what is no file's (RssAnon)."
    )
    rows: list[tuple[str, ...]]
    rows = [
        (
            "",
            "connecting",
            "first",
            "second",
            "after DISCARD ALL",
            "memory before",
            "after the first",
        )
    ]
    for loaded, found in figures.beginnings.items():
        for name, one in found.items():
            title = figures.titles[name]
            rows.append(
                (
                    title if loaded == PLAIN else f"{title}, {loaded}",
                    f"{one.connect:.1f}",
                    *(
                        f"{write.ms:.2f} ({write.cpu:.2f})"
                        for write in (one.first, one.second, one.reset)
                    ),
                    kb(one.before),
                    kb(one.after),
                )
            )
    yield ""
    yield from table(rows)
    yield ""
    yield (
        f"The last rows have {SESSION} or {SHARED} = '{LIBRARIES}'; with the latter the sessions "
        "share what they had before."
    )
    yield ""
    for name in ("pyreplica", "pyreplica_plpgsql"):
        yield from _told(figures, name)


def _told(figures: Figures, name: str) -> Iterator[str]:
    plain, none = figures.beginnings[PLAIN][name], figures.beginnings[PLAIN]["none"]
    yield (
        f"{figures.titles[name]}: a session's first write takes {_more(plain, none):.1f} ms of CPU "
        f"and {kb(_grown(plain) - _grown(none))} of memory more than without a trigger."
    )
    for loaded in (SESSION, SHARED):
        one = figures.beginnings[loaded][name]
        yield (
            f"  {loaded}: {_more(one, none):.1f} ms and {kb(_grown(one) - _grown(none))} more; "
            f"connecting takes {one.connect:.1f} ms instead of {plain.connect:.1f}."
        )
    yield (
        f"  A session that is kept: {plain.second.cpu - none.second.cpu:.2f} ms more; "
        f"after DISCARD ALL {plain.reset.cpu - none.reset.cpu:.2f}."
    )


def _more(one: Beginning, none: Beginning) -> float:
    return one.first.cpu - none.first.cpu


def _grown(one: Beginning) -> int:
    return one.after - one.before


def _heading(title: str) -> Iterator[str]:
    yield from ("", "", title, "-" * len(title))
