"""The tables, and the backlogs that are written while nothing is applied."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pyreplica.demo.cluster import Cluster
from tests.bench.system import DATABASE, execute

WIDE_COLUMNS = (
    *(f"i{n} int" for n in range(8)),
    *(f"l{n} bigint" for n in range(4)),
    *(f"t{n} text" for n in range(8)),
    *(f"v{n} varchar(40)" for n in range(4)),
    *(f"d{n} numeric(12,2)" for n in range(4)),
    *(f"f{n} float8" for n in range(3)),
    *(f"z{n} timestamptz" for n in range(3)),
    *(f"b{n} boolean" for n in range(3)),
    "day date",
    "mark uuid",
)

TABLES = f"""
CREATE TABLE bench (id int PRIMARY KEY, t text, n float8, f timestamptz, b bool);
CREATE TABLE acc (aid int PRIMARY KEY, bal int, filler text);
CREATE TABLE wide (id int PRIMARY KEY, {", ".join(WIDE_COLUMNS)});
CREATE TABLE indexed (id int PRIMARY KEY, a int, b text, c timestamptz, filler text);
CREATE INDEX ON indexed (a);
CREATE INDEX ON indexed (b);
CREATE INDEX ON indexed (c, a);
CREATE TABLE done (id int PRIMARY KEY);
"""
"""On both sides. A row of ``done`` is the last that a backlog writes."""

NAMES = ("bench", "acc", "wide", "indexed", "done")

_LIMIT = 1800.0
KEYS = 20_000
"""The rows of acc."""

SEED = f"""
INSERT INTO acc SELECT g, 0, repeat('x', 84) FROM generate_series(1, {KEYS}) g
"""

BENCH_ROW = "{id}, 'row number ' || {id}, {id} * 0.5, now(), {id} % 2 = 0"


def _wide_value(column: str) -> str:
    kind = column.split()[1]
    return {
        "int": "g",
        "bigint": "g::bigint * 1000003",
        "text": "'some text of row ' || g",
        "varchar(40)": "md5(g::text)",
        "numeric(12,2)": "g / 100.0",
        "float8": "g * 0.37",
        "timestamptz": "now() + g * interval '1 s'",
        "boolean": "g % 3 = 0",
        "date": "date '2020-01-01' + g % 3000",
        "uuid": "md5(g::text)::uuid",
    }[kind]


@dataclass(frozen=True)
class Backlog:
    """What is written while nothing is applied.

    Attributes:
        name: the short name.
        title: what it is, for people.
        rows: how many changes it is.
        before: writes what has to be there on both sides before; it is applied first.
        write: writes it.
        after: takes it away again.
    """

    name: str
    title: str
    rows: int
    before: tuple[str, ...]
    write: Callable[[Cluster], None]
    after: tuple[str, ...]


def backlogs(scale: float = 1.0) -> list[Backlog]:
    """All of them.

    Args:
        scale: 1 for those of the targets; the number of rows is multiplied by it.
    """
    many, most, some = (round(n * scale / 100) * 100 for n in (200_000, 500_000, 50_000))
    wide = ", ".join(map(_wide_value, WIDE_COLUMNS))
    return [
        Backlog(
            "A",
            f"{many:,} single-row INSERTs, 100 a transaction",
            many,
            (),
            lambda master: _pgbench(master, _inserts(), many // 100),
            ("bench",),
        ),
        Backlog(
            "B",
            f"{many:,} single-row UPDATEs of {KEYS:,} rows, 100 a transaction",
            many,
            (),
            lambda master: _pgbench(master, _updates(), many // 100),
            (),
        ),
        Backlog(
            "C",
            f"one statement inserts {most:,} rows",
            most,
            (),
            lambda master: _one(
                master,
                f"INSERT INTO bench SELECT {BENCH_ROW.format(id='g')} "
                f"FROM generate_series(1, {most}) g",
            ),
            ("bench",),
        ),
        Backlog(
            "D",
            f"one statement deletes {many:,} rows",
            many,
            (
                f"INSERT INTO bench SELECT {BENCH_ROW.format(id='g')} "
                f"FROM generate_series(1, {many}) g",
            ),
            lambda master: _one(master, "DELETE FROM bench"),
            ("bench",),
        ),
        Backlog(
            "wide",
            f"{some:,} rows of {len(WIDE_COLUMNS) + 1} columns, 1,000 a statement",
            some,
            (),
            lambda master: _many(
                master,
                [
                    f"INSERT INTO wide SELECT g, {wide} "
                    f"FROM generate_series({first}, {first + 999}) g"
                    for first in range(1, some, 1000)
                ],
            ),
            ("wide",),
        ),
        Backlog(
            "indexed",
            f"{many:,} rows into a table with three more indexes, 1,000 a statement",
            many,
            (),
            lambda master: _many(
                master,
                [
                    "INSERT INTO indexed SELECT g, (g::bigint * 7919 % 100003)::int, md5(g::text), "
                    "now() + g * interval '1 s', 'filler' "
                    f"FROM generate_series({first}, {first + 999}) g"
                    for first in range(1, many, 1000)
                ],
            ),
            ("indexed",),
        ),
    ]


def _inserts() -> str:
    lines = ["BEGIN;"]
    for _ in range(100):
        lines += ["\\set i :i + 1", f"INSERT INTO bench VALUES ({BENCH_ROW.format(id=':i')});"]
    return "\n".join([*lines, "COMMIT;"])


def _updates() -> str:
    lines = ["BEGIN;"]
    for _ in range(100):
        lines += [
            f"\\set a random(1, {KEYS})",
            "UPDATE acc SET bal = bal + 1 WHERE aid = :a;",
        ]
    return "\n".join([*lines, "COMMIT;"])


class Pgbench:
    """pgbench at work.

    Args:
        command: with all that it needs.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def output(self) -> str:
        """Wait for its end; gives what it printed."""
        output, errors = self._process.communicate(timeout=_LIMIT)
        if self._process.returncode:
            raise RuntimeError(f"pgbench: {errors}")
        return output

    def end(self) -> None:
        """End it, unless it has ended."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.communicate(timeout=_LIMIT)


@contextmanager
def pgbench(master: Cluster, script: str, *options: str) -> Iterator[Pgbench]:
    """pgbench with a script and these options, for the time of the block."""
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        command = [str(master.binary("pgbench")), "--no-vacuum", "--random-seed=42"]
        running = Pgbench([*command, "--file", file.name, *options, master.dsn(DATABASE)])
        try:
            yield running
        finally:
            running.end()


def _pgbench(master: Cluster, script: str, transactions: int) -> None:
    with pgbench(master, script, "-t", str(transactions), "-D", "i=0") as running:
        running.output()


def _one(master: Cluster, statement: str) -> None:
    execute(master.dsn(DATABASE), statement)


def _many(master: Cluster, statements: list[str]) -> None:
    execute(master.dsn(DATABASE), *statements)
