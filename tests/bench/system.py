"""What a replication system has to do to be measured: the same for PyReplica and its peers."""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import psycopg2
import psycopg2.extensions

from pyreplica.demo.cluster import Cluster

DATABASE = "bench"
"""The database, on the master and on the slave."""

BASE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "30min",
    "max_connections": "120",
    "autovacuum_naptime": "10s",
}
"""Settings of all servers."""


class System(ABC):
    """A replication system between two servers of its own.

    The tables are there on both sides, and empty, before :meth:`set_up`.

    Args:
        master, slave: servers, made with the settings below and running.
        folder: for files.

    Attributes:
        name: what it is called on the command line.
        title: what it is called in tables.
        packages: Debian's packages that it is in.
        measures: what is worth measuring of it, see tests.bench.run; None for everything.
        master_settings, slave_settings: settings of its servers besides BASE.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    measures: ClassVar[tuple[str, ...] | None] = None
    master_settings: ClassVar[Mapping[str, str]] = {}
    slave_settings: ClassVar[Mapping[str, str]] = {}

    def __init__(self, master: Cluster, slave: Cluster, folder: Path) -> None:
        self.master, self.slave, self.folder = master, slave, folder

    @classmethod
    def missing(cls) -> list[str]:
        """The packages that are not installed."""
        return [package for package in cls.packages if not _installed(package)]

    @property
    def master_dsn(self) -> str:
        """Connects to the master's database."""
        return self.master.dsn(DATABASE)

    @property
    def slave_dsn(self) -> str:
        """Connects to the slave's database."""
        return self.slave.dsn(DATABASE)

    @abstractmethod
    def set_up(self, tables: Sequence[str]) -> None:
        """Replicate these tables of the schema public from now on; returns when it does."""

    @abstractmethod
    def pause(self) -> None:
        """Capture goes on, and nothing is applied any more; returns when that is so."""

    @abstractmethod
    def resume(self) -> None:
        """Apply again; returns at once, the clock runs since it was called."""

    @abstractmethod
    def tear_down(self) -> None:
        """End what was started; the servers go away afterwards."""

    @property
    @abstractmethod
    def version(self) -> str:
        """The version, and in a few words how it is set up."""

    def same(self, table: str) -> tuple[str, str]:
        """What has to be the same on both sides: what comes after FROM, on the master and on the
        slave."""
        return table, table

    def empty(self, table: str) -> None:
        """Take all rows away on both sides, without replicating that."""
        for dsn in (self.master_dsn, self.slave_dsn):
            execute(dsn, "SET session_replication_role = replica", f"TRUNCATE {table}")

    def processes(self) -> list[int]:
        """The process ids of its daemons, if it has any outside of the servers."""
        return []


def debian_version(package: str) -> str:
    """The version of an installed package."""
    query = ("dpkg-query", "--show", "--showformat=${Version}", package)
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout


def server_version(cluster: Cluster) -> str:
    """As the server prints it, without the packager's words."""
    return str(value(cluster.dsn(), "SHOW server_version")).split()[0]


@contextmanager
def session(dsn: str) -> Iterator[psycopg2.extensions.cursor]:
    """An application's session, in autocommit mode, with the server's settings."""
    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            yield cursor
    finally:
        connection.close()


def execute(dsn: str, *statements: str) -> None:
    """Execute statements, each by itself."""
    with session(dsn) as cursor:
        for statement in statements:
            cursor.execute(statement)


def value(dsn: str, query: str) -> Any:
    """The one value that a query gives."""
    with session(dsn) as cursor:
        cursor.execute(query)
        row = cursor.fetchone()
    assert row is not None
    return row[0]


def _installed(package: str) -> bool:
    query = ("dpkg-query", "--show", "--showformat=${db:Status-Abbrev}", package)
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.startswith("ii")
