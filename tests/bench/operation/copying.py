"""The initial copy beside pg_dump and pg_restore, with the same number of workers."""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml

from pyreplica.demo.cluster import Cluster
from tests.bench.contest import Wrong
from tests.bench.operation.figures import Figure, Section
from tests.bench.operation.operated import Say
from tests.bench.operation.processes import server_cpu
from tests.bench.system import BASE, execute, session
from tests.support import pyreplica as command

WORKERS = (1, 2, 4)
_LIMIT = 3600.0
_WIDE = range(20)
_TABLES = f"""
CREATE TABLE plain (id int PRIMARY KEY, t text, n float8, f timestamptz, b bool);
CREATE TABLE indexed (id int PRIMARY KEY, a int, b text, c timestamptz, filler text);
CREATE INDEX ON indexed (a);
CREATE INDEX ON indexed (b);
CREATE INDEX ON indexed (c, a);
CREATE TABLE wide (id int PRIMARY KEY, {", ".join(f"i{n} int, t{n} text" for n in _WIDE)});
CREATE TABLE texts (id bigint PRIMARY KEY, subject text, body text);
CREATE TABLE pairs (a int, b int, amount numeric(12,2), PRIMARY KEY (a, b));
CREATE INDEX ON pairs (b);
"""
_START = "timestamptz '2020-01-01 UTC'"
_ROWS = {
    "plain": (0.36, f"g, 'row number ' || g, g * 0.5, {_START} + g * interval '1 s', g % 2 = 0"),
    "indexed": (
        0.2,
        f"g, (g::bigint * 7919 % 100003)::int, md5(g::text), {_START} + g * interval '1 s', "
        "'filler'",
    ),
    "texts": (0.12, "g, md5(g::text), repeat(md5(g::text), 20)"),
    "pairs": (0.3, "g / 100, g % 100, g / 100.0"),
    "wide": (0.02, ", ".join(["g", *(f"g + {n}, 'some text ' || g" for n in _WIDE)])),
}
"""What part of all rows a table has, and its columns' values."""


@dataclass(frozen=True)
class Took:
    """What a copy took, in seconds.

    Attributes:
        loaded: on the clock, until all rows and indexes were there.
        analysed: on the clock, until the planner had its statistics as well.
        servers, programs: of CPU, of both servers and of what was started, with the statistics.
    """

    loaded: float
    analysed: float
    servers: float
    programs: float

    @property
    def cpu(self) -> float:
        """Of CPU in all."""
        return self.servers + self.programs


@dataclass(frozen=True)
class Way:
    """One way to copy.

    Attributes:
        name: the program.
        into: "indexed": tables that are there, empty, with their indexes; "nothing": an empty
            database.
        workers: how many.
    """

    name: str
    into: str
    workers: int


PEER = {"psql": "pg_dump | psql", "restore": "pg_dump -Fd, pg_restore", "ours": "pyreplica copy"}
INTO = {"indexed": "into empty tables with indexes", "nothing": "into an empty database"}


@dataclass(frozen=True)
class Found:
    """What each way took, a value for each round."""

    rows: int
    size: int
    took: Mapping[Way, Sequence[Took]]

    def ratio(
        self, ours: Way, other: Way, what: Callable[[Took], float] = lambda took: took.analysed
    ) -> float:
        """How many times as long the other one takes, the median over the rounds."""
        pairs = zip(self.took[ours], self.took[other], strict=True)
        return statistics.median(what(b) / what(a) for a, b in pairs)

    def section(self) -> Section:
        """For people."""
        figures = []
        counts = sorted({way.workers for way in self.took})
        for into, where in INTO.items():
            for workers in counts:
                for name in ("psql", "restore"):
                    other = Way(name, into, workers)
                    if other not in self.took:
                        continue
                    ours = Way("ours", into, workers)
                    what = f"{where}, {_counted(workers)}: times as fast as {PEER[name]}"
                    loaded = self.ratio(ours, other, lambda took: took.loaded)
                    figures.append(Figure(f"{what}, loaded", f"{loaded:.2f}", ">= 1", loaded >= 1))
                    ratio = self.ratio(ours, other)
                    cpu = self.ratio(ours, other, lambda took: took.cpu)
                    found = f"{ratio:.2f} ({cpu:.2f})"
                    figures.append(Figure(f"{what}, analysed", found, ">= 1", ratio >= 1))
            alone, more = (Way("ours", into, workers) for workers in (counts[0], counts[-1]))
            what = f"{where}: {_counted(counts[-1])}, times as fast as {counts[0]}"
            figures.append(Figure(what, f"{self.ratio(more, alone):.2f}"))
        lines = [
            ("", "", "workers", "loaded", "analysed", "rows/s", "servers' CPU", "programs' CPU"),
            *(
                (
                    PEER[way.name],
                    INTO[way.into],
                    str(way.workers),
                    f"{statistics.median(one.loaded for one in took):.2f} s",
                    f"{statistics.median(one.analysed for one in took):.2f} s",
                    f"{self.rows / statistics.median(one.analysed for one in took):,.0f}",
                    f"{statistics.median(one.servers for one in took):.1f} s",
                    f"{statistics.median(one.programs for one in took):.2f} s",
                )
                for way, took in self.took.items()
            ),
        ]
        rounds = len(next(iter(self.took.values())))
        return Section(
            "Initial copy",
            (
                f"{self.rows:,} rows in {len(_ROWS)} tables, {self.size / 2**20:,.0f} MB with "
                f"indexes; {rounds} rounds in turns, medians.",
                "All tables are compared after each copy. Loaded: all rows and indexes are there; "
                "analysed: the planner's statistics as well.",
                "In parentheses: by CPU until then, of the servers and the programs together.",
                "pyreplica copy: the command from its start: Python, the slave's registration, the "
                "rows in one snapshot, ANALYZE of each table,",
                "the cursor. Its modules are compiled, as after an installation. Into an empty "
                "database with --schema: each table's indexes after its",
                "rows, and its statistics after them; so it is called loaded when it is analysed. "
                "The triggers are there before.",
                "pg_dump | psql: text in a pipe. pg_dump -Fd, pg_restore: both with -j, one after "
                "the other, files without compression. Into empty",
                "tables with --data-only. After them vacuumdb --analyze-only of these tables, with "
                "as many workers.",
                "Their master is a copy of the database without PyReplica.",
            ),
            figures,
            [lines],
        )


def _counted(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"


class Copies:
    """A master, a slave, and what copies from one to the other.

    Args:
        folder: for the servers and files.
        rows: in all tables together.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self._stack = ExitStack()
        self._folder = folder
        self._path = folder / "copy.yaml"
        compiled = {"PYTHONPYCACHEPREFIX": str(folder / "compiled")}
        self._environment = {**os.environ, **compiled}
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        try:
            self.master, self.slave = (
                self._stack.enter_context(Cluster.create(folder, side, {**BASE, **settings}))
                for side, settings in (
                    ("master", {}),
                    ("slave", {"max_prepared_transactions": "5"}),
                )
            )
            for cluster in (self.master, self.slave):
                cluster.start()
            self.master.create_database("bare")
            self.slave.create_database("indexed")
            execute(self.master.dsn("bare"), _TABLES)
            execute(self.slave.dsn("indexed"), _TABLES)
            self.rows = sum(self._fill(table, rows) for table in _ROWS)
            execute(self.master.dsn("bare"), "VACUUM ANALYZE")
            self.wanted = self._contents(self.master.dsn("bare"))
            with session(self.master.dsn("bare")) as cursor:
                cursor.execute(
                    "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
                    "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
                )
                row = cursor.fetchone()
                assert row is not None
                self.size = int(row[0])
            execute(self.master.dsn(), "CREATE DATABASE captured TEMPLATE bare")
            made = {
                into: {"master": self.master.dsn("captured"), "slave": self.slave.dsn(into)}
                for into in INTO
            }
            self._path.write_text(yaml.safe_dump({"replications": made}), encoding="utf-8")
            command(self._path, "install", "indexed", timeout=_LIMIT)
            helping = [*self._program_of_ours, "copy", "--help"]
            subprocess.run(
                helping,
                env=self._environment,
                stdout=subprocess.DEVNULL,
                timeout=_LIMIT,
                check=True,
            )
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def take(self, way: Way) -> Took:
        """Copy; what is not of the copy itself is done before and after.

        Raises:
            Wrong: the slave's tables have other rows than the master's.
        """
        self._make_ready(way)
        for cluster in (self.master, self.slave):
            execute(cluster.dsn(), "CHECKPOINT")
        run = {"ours": self._ours, "psql": self._psql, "restore": self._restore}[way.name]
        servers, programs, began = self._cpu(), _children_cpu(), time.perf_counter()
        loaded = run(way)
        ended = time.perf_counter()
        took = Took(
            loaded - began, ended - began, self._cpu() - servers, _children_cpu() - programs
        )
        shutil.rmtree(self._dump, ignore_errors=True)
        if self._contents(self.slave.dsn(way.into)) != self.wanted:
            raise Wrong(f"{PEER[way.name]} {INTO[way.into]} has copied something else")
        return took

    def _make_ready(self, way: Way) -> None:
        if way.into == "indexed":
            execute(self.slave.dsn("indexed"), f"TRUNCATE {', '.join(_ROWS)}")
            return
        self.slave.psql("-q", input="DROP DATABASE IF EXISTS nothing WITH (FORCE)")
        self.slave.create_database("nothing")
        if way.name == "ours":
            command(self._path, "install", "nothing", timeout=_LIMIT)

    def _ours(self, way: Way) -> float:
        """Gives when all was loaded, by the performance counter; likewise the others."""
        options = ["--schema"] if way.into == "nothing" else ["--truncate"]
        copy = [*self._program_of_ours, "copy", way.into, *options, "--workers", str(way.workers)]
        loaded = 0.0
        with subprocess.Popen(
            copy,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as copying:
            assert copying.stderr is not None
            lines = []
            for line in copying.stderr:
                lines.append(line)
                if line.rstrip().endswith(" rows"):  # a table is there
                    loaded = time.perf_counter()
        if copying.returncode:
            raise RuntimeError(f"pyreplica copy has failed: {''.join(lines)}")
        return loaded if way.into == "indexed" else time.perf_counter()

    @property
    def _program_of_ours(self) -> list[str]:
        return [sys.executable, "-m", "pyreplica", "--config", str(self._path)]

    def _psql(self, way: Way) -> float:
        dump = [*self._program("pg_dump", way), self.master.dsn("bare")]
        load = [str(self.slave.binary("psql")), "-X", "-q", "-v", "ON_ERROR_STOP=1"]
        with subprocess.Popen(dump, stdout=subprocess.PIPE) as dumping:
            subprocess.run(
                [*load, "-d", self.slave.dsn(way.into)],
                stdin=dumping.stdout,
                stdout=subprocess.DEVNULL,
                timeout=_LIMIT,
                check=True,
            )
        if dumping.returncode:
            raise RuntimeError("pg_dump has failed")
        return self._analysed(way)

    def _restore(self, way: Way) -> float:
        jobs = ("-j", str(way.workers))
        dump = [*self._program("pg_dump", way), "-Fd", "-Z0", *jobs, "-f", str(self._dump)]
        load = [*self._program("pg_restore", way), *jobs, "-d", self.slave.dsn(way.into)]
        subprocess.run([*dump, self.master.dsn("bare")], timeout=_LIMIT, check=True)
        subprocess.run([*load, str(self._dump)], timeout=_LIMIT, check=True)
        return self._analysed(way)

    def _analysed(self, way: Way) -> float:
        loaded = time.perf_counter()
        analyse = [str(self.slave.binary("vacuumdb")), "--analyze-only", "--quiet"]
        tables = [option for table in _ROWS for option in ("-t", table)]
        jobs = ("-j", str(way.workers), "-d", self.slave.dsn(way.into))
        subprocess.run([*analyse, *tables, *jobs], timeout=_LIMIT, check=True)
        return loaded

    def _program(self, name: str, way: Way) -> list[str]:
        options = ["--data-only"] if way.into == "indexed" else []
        return [str(self.master.binary(name)), *options]

    @property
    def _dump(self) -> Path:
        return self._folder / "dump"

    def _fill(self, table: str, rows: int) -> int:
        part, values = _ROWS[table]
        count = max(1, round(rows * part))
        execute(
            self.master.dsn("bare"),
            f"INSERT INTO {table} SELECT {values} FROM generate_series(1, {count}) g",
        )
        return count

    def _contents(self, dsn: str) -> list[tuple[object, ...]]:
        found: list[tuple[object, ...]] = []
        with session(dsn) as cursor:
            for table in _ROWS:
                cursor.execute(
                    f"SELECT count(*), sum(hashtextextended(_row::text, 0)) FROM {table} _row"
                )
                found += cursor.fetchall()
        return found

    def _cpu(self) -> float:
        return server_cpu(self.master) + server_cpu(self.slave)


def _children_cpu() -> float:
    """Seconds of CPU of the programs that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(
    folder: Path, rows: int, rounds: int, say: Say, counts: Sequence[int] = WORKERS
) -> Found:
    """Copy in all ways, in turns, with each of these numbers of workers."""
    ways = [
        Way(name, into, workers)
        for into in INTO
        for workers in counts
        for name in PEER
        if name != "psql" or workers == 1
    ]
    took: defaultdict[Way, list[Took]] = defaultdict(list)
    with Copies(folder, rows) as copies:
        for number in range(rounds):
            # each way comes after another one in the next round
            for way in ways if number % 2 == 0 else reversed(ways):
                one = copies.take(way)
                took[way].append(one)
                say(
                    f"copy     {PEER[way.name]:24} {INTO[way.into]}, {_counted(way.workers)}: "
                    f"loaded in {one.loaded:.2f} s, analysed in {one.analysed:.2f} s"
                )
        return Found(copies.rows, copies.size, {way: took[way] for way in ways})
