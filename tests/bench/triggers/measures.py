"""What is measured of a trigger: very many INSERTs of one row, and the first one of a session."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg2
import psycopg2.extensions

from tests.bench.operation.processes import cpu
from tests.bench.system import execute, session
from tests.bench.triggers.kinds import Kind
from tests.bench.workloads import BENCH_ROW

WAYS = ("loop", "client")
"""How the rows come: from a loop in PL/pgSQL, or from a client, one statement after the other."""


class Wrong(Exception):
    """A trigger has not logged what was written."""


@dataclass(frozen=True)
class Took:
    """What very many INSERTs took.

    Attributes:
        seconds: on the clock, with the commit.
        cpu: seconds of CPU of the session's process in the server.
    """

    seconds: float
    cpu: float


def insert(kind: Kind, rows: int, way: str) -> Took:
    """Insert rows one by one, all in one transaction; the table is empty before and afterwards.

    Raises:
        Wrong: the rows that were logged are not as many.
    """
    execute(kind.dsn, "CHECKPOINT")  # so that none comes by itself while the clock runs
    _, logged_before = kind.count()
    with session(kind.dsn) as cursor:
        pid = cursor.connection.info.backend_pid
        cursor.execute(
            f"PREPARE add AS INSERT INTO bench VALUES ({BENCH_ROW.format(id='$1::int')})"
        )
        cpu_before, began = cpu(pid), time.perf_counter()
        if way == "loop":
            cursor.execute(
                f"DO $$ BEGIN FOR i IN 1..{rows} LOOP "
                f"INSERT INTO bench VALUES ({BENCH_ROW.format(id='i')}); END LOOP; END $$"
            )
        else:
            cursor.execute("BEGIN")
            for number in range(1, rows + 1):
                cursor.execute(f"EXECUTE add ({number})")
            cursor.execute("COMMIT")
        took = Took(time.perf_counter() - began, cpu(pid) - cpu_before)
    _check(kind, rows, logged_before)
    kind.empty()
    return took


def _check(kind: Kind, rows: int, logged_before: int) -> None:
    written, logged = kind.count()
    expected = logged_before + (rows if kind.logged else 0)
    if (written, logged) != (rows, expected):
        raise Wrong(
            f"{kind.title}: {rows} rows were written, {written} are there; "
            f"{logged} of {expected} are in the log"
        )


@dataclass(frozen=True)
class Write:
    """One INSERT of one row.

    Attributes:
        ms: milliseconds on the clock.
        cpu: milliseconds of CPU of the session's process in the server.
    """

    ms: float
    cpu: float


@dataclass(frozen=True)
class Beginning:
    """What a new session has to do before it is at work; of several sessions the medians.

    Attributes:
        connect: milliseconds until it is connected.
        first: its first INSERT.
        second: its second one, in another transaction.
        reset: its first one after DISCARD ALL.
        before, after: bytes of memory of its process that are no file's (RssAnon), before and
            after the first INSERT.
    """

    connect: float
    first: Write
    second: Write
    reset: Write
    before: int
    after: int


def begin(kind: Kind, number: int, options: str = "") -> Beginning:
    """Have a new session write its first rows; they are taken away again.

    Args:
        number: the id of its first row.
        options: settings that the session begins with, as ``-c name=value``.

    Raises:
        Wrong: the rows that were logged are not as many.
    """
    _, logged_before = kind.count()
    began = time.perf_counter()
    connection = psycopg2.connect(kind.cluster.dsn(kind.name, options=options))
    connect = (time.perf_counter() - began) * 1000
    try:
        connection.autocommit = True
        pid = connection.info.backend_pid
        with connection.cursor() as cursor:
            before = _anonymous(pid)
            first = _write(cursor, pid, number)
            after = _anonymous(pid)
            second = _write(cursor, pid, number + 1)
            cursor.execute("DISCARD ALL")
            reset = _write(cursor, pid, number + 2)
    finally:
        connection.close()
    _check(kind, 3, logged_before)
    kind.empty()
    return Beginning(connect, first, second, reset, before, after)


def _write(cursor: psycopg2.extensions.cursor, pid: int, id_: int) -> Write:
    """Insert a row; committing it, which waits for the disk, is not in it."""
    cursor.execute("BEGIN")
    cpu_before, began = cpu(pid), time.perf_counter()
    cursor.execute(f"INSERT INTO bench VALUES ({BENCH_ROW.format(id=str(id_))})")
    write = Write((time.perf_counter() - began) * 1000, (cpu(pid) - cpu_before) * 1000)
    cursor.execute("COMMIT")
    return write


def _anonymous(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    match = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    assert match is not None, status
    return int(match[1]) * 1024


def median(found: Sequence[Beginning]) -> Beginning:
    """The median of each figure."""

    def of(figure: Callable[[Beginning], float]) -> float:
        return statistics.median(map(figure, found))

    return Beginning(
        of(lambda one: one.connect),
        Write(of(lambda one: one.first.ms), of(lambda one: one.first.cpu)),
        Write(of(lambda one: one.second.ms), of(lambda one: one.second.cpu)),
        Write(of(lambda one: one.reset.ms), of(lambda one: one.reset.cpu)),
        round(of(lambda one: one.before)),
        round(of(lambda one: one.after)),
    )
