"""What the tests of chains and trees share: databases, and replications between them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from pyreplica.config import ReplicationConfig, parse
from pyreplica.replication.compare import compare
from pyreplica.replication.setup import install
from pyreplica.replication.wait import wait
from tests import support
from tests.support import LIMIT, Running, connect, copy, running, sql, value

TABLES = """
CREATE TABLE public.a (id integer PRIMARY KEY, n bigint NOT NULL, v text);
CREATE TABLE public.b (id integer PRIMARY KEY, n bigint NOT NULL, u integer UNIQUE);
CREATE TABLE public.p (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE public.p_1 PARTITION OF public.p FOR VALUES FROM (0) TO (100);
CREATE TABLE public.p_2 PARTITION OF public.p FOR VALUES FROM (100) TO (1000000);
"""
ROWS = """
INSERT INTO public.a SELECT i, 100, 'old' FROM generate_series(1, 20) i;
INSERT INTO public.b SELECT i, 100, i FROM generate_series(1, 20) i;
INSERT INTO public.p SELECT i * 15, 'old' FROM generate_series(1, 10) i;
"""
TOTAL = "SELECT (SELECT sum(n) FROM public.a) + (SELECT sum(n) FROM public.b)"
CONTENTS = (
    "SELECT (SELECT json_agg(t ORDER BY id)::text FROM public.a t), "
    "(SELECT json_agg(t ORDER BY id)::text FROM public.b t), "
    "(SELECT json_agg(t ORDER BY id)::text FROM public.p t)"
)
LOG = (
    "SELECT l.op::text, l.origin FROM pyreplica.replica_log l "
    "JOIN pyreplica.replica_table t ON t.id = l.tab "
    "WHERE t.table_name = %s AND l.id > %s ORDER BY l.id"
)

Edge = tuple[str, str, bool]
"""Master, slave, forward."""


class Tree:
    """Databases, and replications between them.

    Args:
        dsns: the databases' connection strings by their names.
        options: further settings of all replications.
    """

    def __init__(self, dsns: Mapping[str, str], **options: Any) -> None:
        self.dsns = dsns
        self.options = options
        self.edges: dict[str, ReplicationConfig] = {}

    def edge(self, master: str, slave: str, *, forward: bool = False) -> ReplicationConfig:
        """The configuration of a replication."""
        name = f"{master}-{slave}"
        text = self._text(name, self.dsns[master], self.dsns[slave], forward=forward)
        self.edges[name] = parse(text, "test.yaml", {}).select([])[0]
        return self.edges[name]

    def _text(self, name: str, master: str, slave: str, *, forward: bool) -> str:
        settings = {"master": master, "slave": slave, "forward": forward}
        settings |= {**support.DEFAULTS, **self.options}
        return yaml.safe_dump({"replications": {name: settings}})

    def grow(self, *edges: Edge, tables: str = TABLES, rows: str = ROWS) -> None:
        """Make the tables everywhere, rows in the first edge's master, install and copy."""
        for dsn in self.dsns.values():
            sql(dsn, tables)
        sql(self.dsns[edges[0][0]], rows)
        for master, slave, forward in edges:
            made = self.edge(master, slave, forward=forward)
            install(made)
            copy(made, truncate=True)

    @contextmanager
    def all_running(self, *names: str) -> Iterator[dict[str, Running]]:
        """The daemons of all replications, or of these."""
        with ExitStack() as stack:
            yield {
                name: stack.enter_context(running(self.edges[name])) for name in names or self.edges
            }

    def path(self, folder: Path, name: str) -> Path:
        """The configuration of one in a file."""
        made = self.edges[name]
        text = self._text(name, made.master, made.slave, forward=made.forward)
        path = folder / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        return path

    def settle(self) -> None:
        """Wait until every change has come everywhere; in the order of the edges."""
        for made in self.edges.values():
            wait(made, LIMIT)

    def assert_equal(self) -> None:
        """All databases have the same rows; and each slave what its master has, by `compare`."""
        self.settle()
        found = {name: contents(dsn) for name, dsn in self.dsns.items()}
        first = next(iter(found))
        for name, rows in found.items():
            assert rows == found[first], f"{name} differs from {first}"
        for made in self.edges.values():
            different = [result for result in compare(made, timeout=LIMIT) if not result.equal]
            assert not different, different


def both(dsns: Mapping[str, str]) -> dict[str, str]:
    """Connection strings with which a database may become master and slave."""
    return {name: f"{dsn} options='-c pyreplica.both=on'" for name, dsn in dsns.items()}


def contents(dsn: str) -> tuple[Any, ...]:
    """All rows of the tables."""
    with connect(dsn) as session:
        return session.one(CONTENTS)


def logged(dsn: str, table: str, after: int = 0) -> list[tuple[str, int | None]]:
    """The operations that a database's log has of a table, and their origins."""
    with connect(dsn) as session:
        return [(op, origin) for op, origin in session.query(LOG, (table, after))]


def log_end(dsn: str) -> int:
    """The highest id in the log."""
    return int(value(dsn, "SELECT coalesce(max(id), 0) FROM pyreplica.replica_log"))


@contextmanager
def watched(dsn: str, expected: int) -> Iterator[None]:
    """Look all the time whether an invariant over two tables holds there."""
    ended = threading.Event()
    wrong: list[Any] = []

    def look() -> None:
        with connect(dsn) as session:
            while not ended.is_set():
                (found,) = session.one(TOTAL)
                if found != expected:
                    wrong.append(found)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(LIMIT)
    assert not wrong, wrong[:5]


def transfer(number: int) -> str:
    """A transaction that moves something from one table to the other, and writes others."""
    return (
        f"BEGIN; UPDATE public.a SET n = n - {number}, v = 'from {number}' "
        f"WHERE id = {1 + number % 20};"
        f"UPDATE public.b SET n = n + {number} WHERE id = {1 + number * 7 % 20};"
        f"DELETE FROM public.b WHERE id = {100 + number}; "
        f"INSERT INTO public.b VALUES ({101 + number}, 0);"
        f"INSERT INTO public.p VALUES ({1000 + number}, 'new'); COMMIT"
    )
