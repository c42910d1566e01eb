"""What must hold at the end of a soak. Every rule can fail."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.conftest import Databases
from tests.soak.load import TABLE_NAMES
from tests.soak.place import Place
from tests.soak.watch import FIGURES, Sample
from tests.support import connect, prepared, pyreplica, rotated, value

MIB = 1 << 20
FLAT_FROM = 240.0
"""Seconds: a shorter load is over before the daemon's memory has come to rest."""
COMPARE = 600.0
"""Seconds that `pyreplica compare` may take."""

_FLOOR = MIB // 4
"""Bytes of a log with nothing in it: empty indexes."""
_SEGMENT = 64 * MIB
"""Past this size a segment is given up, by the daemon."""

_BAD = re.compile(r"Traceback|defect|conflict|insert_exists|_missing", re.IGNORECASE)
_OUTAGE = re.compile(
    r"connection lost|cannot connect|deadlock detected|the database system is|"
    r"server closed the connection|terminating connection|Connection refused|No such file"
)
"""What writers may be told: their server is down, or two of them had each other's rows."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that must hold.

    Args:
        text: what.
        broken: why it does not hold; empty if it does.
    """

    text: str
    broken: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A figure over the whole run, with the medians and maxima of its second and last quarters."""

    figure: str
    least: float
    median: float
    most: float
    first: float
    last: float
    second_quarter: float
    last_quarter: float
    second_most: float
    last_most: float


def rows(samples: Sequence[Sample], seconds: float) -> list[Row]:
    """A row for every figure that was ever seen.

    Args:
        seconds: how long the load lasted; what was sampled later does not count.
    """
    found = []
    for figure in FIGURES:
        seen = [(s.at, it) for s in samples if (it := getattr(s, figure)) is not None]
        seen = [(at, it) for at, it in seen if at <= seconds]
        if not seen:
            continue
        values = [it for _, it in seen]
        second = [it for at, it in seen if seconds / 4 <= at < seconds / 2] or values
        last = [it for at, it in seen if at >= seconds * 3 / 4] or values
        found.append(
            Row(
                figure,
                min(values),
                statistics.median(values),
                max(values),
                values[0],
                values[-1],
                statistics.median(second),
                statistics.median(last),
                max(second),
                max(last),
            )
        )
    return found


def flat(table: Iterable[Row]) -> list[Rule]:
    """The last quarter against the second one."""
    by_figure = {row.figure: row for row in table}
    rules = []

    def rule(words: str, now: float, allowed: float) -> None:
        broken = "" if now <= allowed else f"{now:,.0f}, and {allowed:,.0f} are allowed"
        rules.append(Rule(words, broken))

    rss = by_figure["rss"]
    rule(
        "memory: the median of the last quarter is at most that of the second and 10 %, or 4 MiB",
        rss.last_quarter,
        rss.second_quarter + max(rss.second_quarter / 10, 4 * MIB),
    )
    for figure, what in (
        ("files", "open files"),
        ("threads", "threads"),
        ("daemon_master", "the daemon's connections to the master"),
        ("daemon_slave", "the daemon's connections to the slave"),
        ("all_master", "all connections to the master"),
        ("all_slave", "all connections to the slave"),
    ):
        row = by_figure[figure]
        words = f"{what}: the median of the last quarter is at most that of the second"
        rule(words, row.last_quarter, row.second_quarter)
    log = by_figure["log"]
    rule(
        "the log: its median in the last quarter is at most that of the second and a segment",
        log.last_quarter,
        log.second_quarter + _SEGMENT,
    )
    rule(
        "the log: its maximum in the last quarter is at most that of the second and two segments",
        log.last_most,
        log.second_most + 2 * _SEGMENT,
    )
    ticks = by_figure["ticks"]
    rule(
        "ticks: their median in the last quarter is at most 1.5 times that of the second and 20",
        ticks.last_quarter,
        1.5 * ticks.second_quarter + 20,
    )
    stage = by_figure["stage"]
    rule(
        "staging tables: their median in the last quarter is at most 1.5 times that of the second "
        "and 8 MiB",
        stage.last_quarter,
        1.5 * stage.second_quarter + 8 * MIB,
    )
    return rules


def the_same(place: Place) -> list[Rule]:
    """Master and slave, once the writers have stopped and the slave has caught up."""
    done = pyreplica(place.direct, "compare", code=None, timeout=COMPARE)
    return [
        Rule(
            "`pyreplica compare` finds no difference",
            "" if done.returncode == 0 else f"exit code {done.returncode}: {done.stdout[-2000:]}",
        ),
        Rule(
            "every row of every table is the same, by a query of its own",
            "; ".join(_differences(place.databases)),
        ),
        Rule("no change was applied twice or passed over", _miscounted(place)),
        Rule(
            "no reader of the slave has seen part of a transaction",
            ", ".join(map(str, place.reader.torn[:3])),
        ),
        Rule("nothing is left prepared", ", ".join(prepared(place.databases))),
    ]


def _differences(databases: Databases) -> list[str]:
    differences = []
    for table in TABLE_NAMES:
        found = []
        for dsn in (databases.master, databases.slave):
            with connect(dsn) as session:
                query = f"SELECT md5(t::text), left(t::text, 60) FROM public.{table} t ORDER BY 1"
                found.append(session.query(query))
        there, here = map(set, found)
        if found[0] != found[1]:
            some = sorted(text for _, text in there ^ here)[:3]
            differences.append(
                f"{table}: {len(there - here)} rows are missing or old, "
                f"{len(here - there)} too many: {some}"
            )
    return differences


def _miscounted(place: Place) -> str:
    logged = value(place.databases.master, "SELECT coalesce(sum(n), 0) FROM public.counted")
    applied = value(place.databases.slave, "SELECT changes FROM pyreplica.replica_cursor")
    return "" if applied == logged else f"{logged:,} were logged and {applied:,} applied"


def at_rest(place: Place) -> list[Rule]:
    """After an idle time: nobody wrote, the daemon slept."""
    done = pyreplica(place.direct, "status", code=None)
    databases = place.databases
    sizes = [_size(databases.master, segment) for segment in (0, 1)]
    rules = [
        Rule("`pyreplica status` is content", "" if done.returncode == 0 else done.stdout.strip()),
        Rule(
            "the daemon has emptied the log by itself but for one segment that is not full",
            ""
            if min(sizes) < _FLOOR and max(sizes) < 2 * _SEGMENT
            else " and ".join(f"{size:,} bytes" for size in sizes),
        ),
    ]
    # the segment that is written is given up once more, and has to go
    answers = [rotated(databases.master)] if max(sizes) > _FLOOR else []
    if answers == ["switched"]:
        answers.append(rotated(databases.master))
    left = sum(_size(databases.master, segment) for segment in (0, 1))
    ticks = value(databases.master, "SELECT count(*) FROM pyreplica.replica_tick")
    rules.append(
        Rule(
            "rotated once more, the log is at its floor: empty",
            "" if left < 2 * _FLOOR else f"{left:,} bytes; the rotation said {answers}",
        )
    )
    rules.append(Rule("hardly a tick is left", "" if ticks <= 5 else f"{ticks:,}"))
    return rules


def _size(dsn: str, segment: int) -> int:
    query = f"SELECT pg_total_relation_size('pyreplica.replica_log_{segment}')"
    return int(value(dsn, query))


def told(place: Place) -> list[Rule]:
    """What the writers and the daemon were told, and how the daemon stops."""
    strange = [line for line in place.load.errors.splitlines() if not _OUTAGE.search(line)]
    place.daemon.terminate()
    code = place.daemon.end()
    log = place.daemon_log.read_text(encoding="utf-8", errors="replace")
    bad = [line for line in log.splitlines() if _BAD.search(line)]
    return [
        Rule(
            "the writers met no error but outages of their server and deadlocks",
            "; ".join(strange[:3]),
        ),
        Rule("the daemon's log has no conflict and no traceback", "; ".join(bad[:3])),
        Rule("the daemon stops with status 0", "" if code == 0 else f"it was {code}"),
    ]
