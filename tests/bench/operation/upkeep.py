"""The log's upkeep: what it takes on disk, what is left of it, what trimming costs writers."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from tests.bench.contest import Wrong
from tests.bench.operation.figures import Figure, Section, kb, mb, percent
from tests.bench.operation.operated import LIMIT, Pair, Say, Stretch, Writers
from tests.bench.system import execute, session, value
from tests.support import eventually, rotated

TARGET = 0.03
"""What of the writers' throughput trimming may cost."""
BULK, SINGLE = 2, 2
"""Writers of each kind."""
_LOOKS = 16
"""Lines of the table of sizes."""
_SIZES = """
SELECT pg_total_relation_size('pyreplica.replica_log_0'),
    pg_total_relation_size('pyreplica.replica_log_1'),
    pg_total_relation_size('pyreplica.replica_tick'),
    pg_total_relation_size('pyreplica.replica_slave'),
    pg_total_relation_size('pg_class'),
    l.last_value, l.last_value - s.log_id,
    pg_relation_filenode('pyreplica.replica_log_0'), pg_relation_filenode('pyreplica.replica_log_1')
FROM pyreplica.replica_log_id l, pyreplica.replica_slave s
"""


class Size(NamedTuple):
    """What the log and what belongs to it took at a moment.

    Sizes are bytes with indexes and TOAST.

    Attributes:
        seconds: since the writers began.
        first, second: the segments.
        rows: the changes that were logged by then.
        waiting: the changes of these that the slave has not confirmed.
        first_file, second_file: the numbers of the segments' files; TRUNCATE gives a new one.
    """

    seconds: float
    first: int
    second: int
    tick: int
    slave: int
    pg_class: int
    rows: int
    waiting: int
    first_file: int
    second_file: int

    @property
    def log(self) -> int:
        """Both segments."""
        return self.first + self.second


class Trimming(NamedTuple):
    """What looking after the log has taken so far: calls of rotate_log(), seconds in them."""

    calls: int
    seconds: float

    def since(self, before: Trimming) -> Trimming:
        """What it took in between."""
        return Trimming(self.calls - before.calls, self.seconds - before.seconds)


@dataclass(frozen=True)
class Turn:
    """Writers with trimming and without, one right after the other."""

    trimmed: Stretch
    untrimmed: Stretch
    trimming: Trimming
    truncated: int


@dataclass(frozen=True)
class Found:
    """What was found.

    Attributes:
        before, after: with a log that was trimmed down to what nobody has to confirm.
        written: what the writers did.
        sizes: while they wrote, and until the slave had everything and the daemon slept.
        trimming: while they wrote.
        turns: with trimming and without.
    """

    before: Size
    after: Size
    written: Stretch
    sizes: Sequence[Size]
    trimming: Trimming
    turns: Sequence[Turn]

    @property
    def truncated(self) -> int:
        """How often a segment was truncated."""
        return _truncated(self.sizes)

    @property
    def moments(self) -> tuple[float, float] | None:
        """Rows a second between two looks: with a truncation in between, and without; the means.

        None when nothing was truncated while they wrote.
        """
        rates: dict[bool, list[float]] = {True: [], False: []}
        for one, other in pairwise(self.sizes):
            if other.rows > one.rows:
                rate = (other.rows - one.rows) / (other.seconds - one.seconds)
                rates[_truncated((one, other)) > 0].append(rate)
        if not all(rates.values()):
            return None
        return statistics.mean(rates[True]), statistics.mean(rates[False])

    def kept(self, what: Callable[[Stretch], float]) -> float:
        """What is left with trimming of what there is without: the median of the turns."""
        return statistics.median(what(one.trimmed) / what(one.untrimmed) for one in self.turns)

    def section(self) -> Section:
        """For people."""
        last = self.sizes[-1]
        inside = self.trimming.seconds / (self.sizes[-1].seconds * (os.cpu_count() or 1))
        moments = self.moments
        lost = 1 - self.kept(lambda one: one.rate)
        turned = self.turns[0]
        seconds = statistics.mean(one.trimmed.seconds for one in self.turns)
        calls = sum(one.trimming.calls for one in self.turns)
        truncated = sum(one.truncated for one in self.turns)
        return Section(
            "Upkeep of the log",
            (
                f"{BULK} sessions insert, update and delete 3,000 rows a statement, {SINGLE} "
                "insert a row a transaction, as fast as they go,",
                f"while the daemon applies and trims: {self.written.rows:,} rows, "
                f"{self.written.singles:,} of them alone in their transaction, "
                f"{self.written.rate:,.0f} a second.",
                "Floor: the log after both segments were truncated, rotate_log(0), and the daemon "
                "has confirmed everything.",
                f"With trimming and without: {len(self.turns)} turns of {seconds:.0f} s each, "
                "from the floor. Without: a session has",
                "replica_slave locked in ROW EXCLUSIVE mode, for which rotate_log() gives up at "
                "once and nobody else waits. There were",
                f"{calls} calls of rotate_log() and "
                f"{truncated} truncations in the stretches with trimming; without any there is "
                "no verdict.",
            ),
            [
                Figure(
                    "floor of the log afterwards, of that before",
                    f"{kb(self.after.log)} of {kb(self.before.log)}",
                    "the same",
                    self.after.log <= self.before.log,
                ),
                Figure("log when the daemon sleeps again", mb(last.log), "a segment of 64 MB"),
                Figure("most that it had", mb(max(one.log for one in self.sizes))),
                Figure(
                    "most that waited for the slave",
                    f"{max(one.waiting for one in self.sizes):,} rows",
                ),
                Figure("segments truncated", str(self.truncated)),
                Figure(
                    "replica_tick before, at most, afterwards",
                    " ".join(
                        kb(size)
                        for size in (
                            self.before.tick,
                            max(one.tick for one in self.sizes),
                            self.after.tick,
                        )
                    ),
                ),
                Figure(
                    "replica_slave before, afterwards",
                    f"{kb(self.before.slave)} {kb(self.after.slave)}",
                ),
                Figure(
                    "pg_class before, afterwards",
                    f"{kb(self.before.pg_class)} {kb(self.after.pg_class)}",
                ),
                Figure(
                    "time inside rotate_log(), as a part of all processors' time",
                    percent(inside),
                    "< 3 %",
                    inside < TARGET,
                ),
                Figure("calls of rotate_log(), and the mean of a call", self._calls()),
                Figure(
                    "rows a second in half a second with a truncation, and in others",
                    f"{moments[0]:,.0f} {moments[1]:,.0f}" if moments else "none was truncated",
                ),
                Figure(
                    "time inside rotate_log() in the stretches with trimming, most of a turn",
                    percent(max(one.trimming.seconds / one.trimmed.seconds for one in self.turns)),
                ),
                Figure(
                    "writers' throughput lost by trimming, median",
                    percent(lost) + ("" if truncated else " (nothing was truncated)"),
                    "< 3 %",
                    lost < TARGET if truncated else None,
                ),
                Figure(
                    "the same of each turn",
                    " ".join(
                        percent(1 - one.trimmed.rate / one.untrimmed.rate) for one in self.turns
                    ),
                ),
                Figure(
                    "single-row transactions lost by trimming, median",
                    percent(1 - self.kept(lambda one: one.single_rate)),
                ),
                Figure(
                    "writers' CPU for a row added by trimming, median",
                    percent(self.kept(lambda one: one.row_cpu) - 1),
                ),
                Figure("rows a second, first turn", f"{turned.trimmed.rate:,.0f}"),
            ],
            [self._series()],
        )

    def _calls(self) -> str:
        calls, seconds = self.trimming
        return f"{calls}, {1000 * seconds / max(calls, 1):.1f} ms"

    def _series(self) -> list[tuple[str, ...]]:
        step = max(1, (len(self.sizes) - 1) // _LOOKS)
        shown = [*self.sizes[:-1:step], self.sizes[-1]]
        return [
            ("after", "rows", "waiting", "replica_log_0", "replica_log_1", "tick", "pg_class"),
            *(
                (
                    f"{one.seconds:.0f} s",
                    f"{one.rows - self.before.rows:,}",
                    f"{one.waiting:,}",
                    mb(one.first),
                    mb(one.second),
                    kb(one.tick),
                    kb(one.pg_class),
                )
                for one in shown
            ),
        ]


def measure(pair: Pair, rows: int, turns: int, seconds: float, say: Say) -> Found:
    """Write so many rows, then compare stretches with trimming and without.

    Args:
        seconds: of each stretch.
    """
    dsn = pair.system.master_dsn
    # before the daemon connects; it counts calls and their time
    execute(dsn, "ALTER DATABASE bench SET track_functions = pl")
    with pair.running():
        _to_the_floor(pair)
        sizes = _Sizes(dsn)
        before = sizes.look()
        trimming = _trimming(dsn)
        with Writers(pair, bulk=BULK, single=SINGLE) as writers:
            written = writers.until(rows, sizes.watch)
        say(f"upkeep   {written.rows:,} rows, {written.rate:,.0f} a second")
        eventually(lambda: not sizes.watch().waiting, "the slave has not got there", LIMIT)
        pair.settle()
        eventually(lambda: _asleep(dsn), "the daemon does not fall asleep")
        trimmed = _trimming(dsn).since(trimming)
        sizes.look()
        seen = list(sizes.seen[1:])
        _to_the_floor(pair)
        after = sizes.look()
        say(f"upkeep   floor {kb(before.log)} before, {kb(after.log)} afterwards")
        found = []
        for number in range(turns):
            found.append(_turn(pair, seconds, untrimmed_first=bool(number % 2)))
            one = found[-1]
            say(
                f"upkeep   {one.trimmed.rate:,.0f} rows/s with trimming, "
                f"{one.untrimmed.rate:,.0f} without"
            )
        execute(dsn, "TRUNCATE bench")
    execute(dsn, "ALTER DATABASE bench RESET track_functions")
    return Found(before, after, written, seen, trimmed, found)


def _turn(pair: Pair, seconds: float, *, untrimmed_first: bool) -> Turn:
    dsn = pair.system.master_dsn
    stretches: dict[bool, Stretch] = {}
    trimming, truncated = Trimming(0, 0.0), 0
    for trims in (not untrimmed_first, untrimmed_first):
        execute(dsn, "TRUNCATE bench")
        _to_the_floor(pair)
        pair.checkpoint()
        before, sizes = _trimming(dsn), _Sizes(dsn)
        with (
            nullcontext() if trims else _untrimmed(dsn),
            Writers(pair, bulk=BULK, single=SINGLE) as writers,
        ):
            stretches[trims] = writers.stretch(seconds, sizes.watch)
            sizes.look()
        if trims:
            trimming, truncated = _trimming(dsn).since(before), _truncated(sizes.seen)
        elif _truncated(sizes.seen):
            raise Wrong("the log was trimmed although it was to be left alone")
    return Turn(stretches[True], stretches[False], trimming, truncated)


@contextmanager
def _untrimmed(dsn: str) -> Iterator[None]:
    """rotate_log() does nothing: it needs a lock that it does not wait for.

    The lock conflicts with no other that PyReplica takes while it is at work. The session has no
    transaction id and keeps no snapshot.
    """
    with session(dsn) as holder:
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE pyreplica.replica_slave IN ROW EXCLUSIVE MODE")
        yield
        holder.execute("COMMIT")


def _to_the_floor(pair: Pair) -> None:
    """Have both segments truncated; the daemon runs, and nobody writes."""
    dsn = pair.system.master_dsn
    resting = (
        "SELECT pg_relation_size(format('pyreplica.replica_log_%s', 1 - (last_value & 1))) "
        "FROM pyreplica.doorbell"
    )
    eventually(lambda: rotated(dsn) == "switched", "the log's segments are not switched", LIMIT)

    def trimmed() -> bool:
        pair.settle()  # the slave confirms what was written before the switch
        # the daemon may have done it by now
        return not value(dsn, resting) or rotated(dsn) == "truncated"

    eventually(trimmed, "the log cannot be trimmed", LIMIT)


class _Sizes:
    """Looks at the sizes now and then."""

    def __init__(self, dsn: str, every: float = 0.5) -> None:
        self.seen: list[Size] = []
        self._dsn, self._every = dsn, every
        self._began = self._last = time.monotonic()

    def look(self) -> Size:
        """Look now."""
        with session(self._dsn) as cursor:
            cursor.execute(_SIZES)
            row = cursor.fetchone()
        assert row is not None
        self._last = time.monotonic()
        size = Size(self._last - self._began, *row)
        self.seen.append(size)
        return size

    def watch(self) -> Size:
        """What the last look has found; look again if it is long ago."""
        due = not self.seen or time.monotonic() - self._last >= self._every
        return self.look() if due else self.seen[-1]


def _truncated(sizes: Sequence[Size]) -> int:
    """How often a segment has got a new file: at most once between two looks."""
    files = [(one.first_file, one.second_file) for one in sizes]
    return sum(one != other for one, other in pairwise(files))


def _trimming(dsn: str) -> Trimming:
    query = (
        "SELECT calls, total_time / 1000 FROM pg_stat_user_functions "
        "WHERE schemaname = 'pyreplica' AND funcname = 'rotate_log'"
    )
    with session(dsn) as cursor:
        cursor.execute(query)
        calls, seconds = cursor.fetchone() or (0, 0.0)
    return Trimming(calls, seconds)


def _asleep(dsn: str) -> bool:
    """Whether the daemon has its bit set, and has left no segment to be truncated."""
    return bool(value(dsn, "SELECT last_value > 1 FROM pyreplica.doorbell"))
