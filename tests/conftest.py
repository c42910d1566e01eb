"""What the tests share: two real PostgreSQL servers, and fresh databases on them for each test."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyreplica.demo.cluster import Cluster
from tests.folders import servers_folder

# Nothing of a test server has to survive the machine. A server that is stopped, even by a crash of
# its own, loses nothing by these: the operating system still has what it wrote.
_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "log_line_prefix": "%m [%p] db=%d app=%a ",
    "max_connections": "100",
    "max_wal_size": "256MB",
    "shared_buffers": "64MB",
    "synchronous_commit": "on",
}
# Only a slave needs prepared transactions, so the master keeps the default, which is none.
PREPARING_SETTINGS = {**_SETTINGS, "max_prepared_transactions": "20"}

# Bytes of memory for the servers of a worker: some 120 MB is what they need, with all their WAL it
# is 700 MB, and there may be further servers beside these two for a while.
_ROOM = 1 << 30

_numbers = itertools.count(1)

# A shell that starts us in the background has us ignore Ctrl-C, and so would all that we start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Databases:
    """Two empty databases of one test.

    Attributes:
        master: the connection string of the one on the master.
        slave: the connection string of the one on the slave.
        name: what both are called.
        master_cluster: the server of the master, which the test may stop.
        slave_cluster: the server of the slave, which the test may stop.
    """

    master: str
    slave: str
    name: str
    master_cluster: Cluster
    slave_cluster: Cluster


def _in_memory() -> Path | None:
    """A file system in memory with room for the servers of all workers; None: the usual folder.

    A database is some 300 files, and each test makes two: on a disk's file system that is a third
    of all the time that the tests take. Where TMPDIR names a folder, that is the one.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    shared, memory = Path("/dev/shm"), Path("/proc/meminfo")
    if "TMPDIR" in os.environ or not (memory.exists() and os.access(shared, os.W_OK)):
        return None
    available = re.search(r"^MemAvailable: *(\d+) kB$", memory.read_text(), re.MULTILINE)
    if available is None:
        return None
    free = min(shutil.disk_usage(shared).free, int(available[1]) * 1024)
    return shared if free >= workers * _ROOM else None


@pytest.fixture(scope="session")
def servers_directory() -> Iterator[Path]:
    """A folder for the servers of all tests."""
    with servers_folder(_in_memory()) as directory:
        yield directory


@pytest.fixture(scope="session")
def master_cluster(servers_directory: Path) -> Iterator[Cluster]:
    """The server of the masters, one for all tests."""
    with Cluster.create(servers_directory, "master", _SETTINGS) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slave_cluster(servers_directory: Path) -> Iterator[Cluster]:
    """The server of the slaves, one for all tests."""
    with Cluster.create(servers_directory, "slave", PREPARING_SETTINGS) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _servers_run(request: pytest.FixtureRequest) -> None:
    """Start the servers a test asks for: they are new, or the test before left them stopped."""
    for fixture in ("master_cluster", "slave_cluster"):
        if fixture in request.fixturenames:
            request.getfixturevalue(fixture).start()


@pytest.fixture
def databases(
    request: pytest.FixtureRequest, master_cluster: Cluster, slave_cluster: Cluster
) -> Iterator[Databases]:
    """A fresh database on each server, removed afterwards with whatever the test left in them."""
    # The test's own name, so that the servers' logs and process lists tell whose it is; PostgreSQL
    # cuts names at 63 bytes.
    words = re.sub(r"\W+", "_", request.node.name, flags=re.ASCII).strip("_").lower()
    name = f"{words[:50]}_{next(_numbers)}"
    clusters = (master_cluster, slave_cluster)
    for cluster in clusters:
        cluster.create_database(name)
    yield Databases(
        master=master_cluster.dsn(name),
        slave=slave_cluster.dsn(name),
        name=name,
        master_cluster=master_cluster,
        slave_cluster=slave_cluster,
    )
    for cluster in clusters:
        cluster.start()
        cluster.drop_database(name)
