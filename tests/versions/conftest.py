"""Masters and slaves of other versions of PostgreSQL than the installed one.

``make test-versions`` fetches them and names their folder in PYREPLICA_VERSIONS; without it these
tests are skipped.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pyreplica.demo.binaries import find_binaries
from pyreplica.demo.cluster import Cluster
from pyreplica.demo.places import am_root
from tests import support
from tests.conftest import PREPARING_SETTINGS, Databases
from tests.versions.fetch import MAJORS

INSTALLED = "installed"
"""The PostgreSQL of the other tests, the only one here that has plpython3u."""

PAIRS = [
    *((INSTALLED, str(major)) for major in MAJORS),
    *((str(major), INSTALLED) for major in MAJORS),
    (str(MAJORS[0]), str(MAJORS[-1])),
    (str(MAJORS[-1]), str(MAJORS[0])),
]
"""What is tested: the versions of a master and its slave."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Pair:
    """A master and a slave of two versions.

    Attributes:
        databases: two fresh databases.
        master: the major version of the master.
        slave: that of the slave.
        options: what a replication's configuration has to say.
    """

    databases: Databases
    master: int
    slave: int
    options: dict[str, Any]

    @property
    def dumps(self) -> bool:
        """Whether there is a pg_dump for the master; the installed one reads older servers."""
        return self.master <= _installed_major()


class Servers:
    """Servers by version, each made when it is first asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: dict[str, Cluster] = {}

    def get(self, version: str, role: str) -> Cluster:
        """The running server of that version that has masters, or slaves."""
        name = f"{role}-{version}"
        if name not in self._made:
            binaries = None if version == INSTALLED else self._binaries(version)
            # slaves prepare; a master's writers ring when it does not
            settings = dict(PREPARING_SETTINGS)
            if role == "master":
                del settings["max_prepared_transactions"]
            self._made[name] = Cluster.create(self._directory, name, settings, binaries=binaries)
        self._made[name].start()
        return self._made[name]

    def destroy(self) -> None:
        """End and remove them all."""
        for cluster in self._made.values():
            cluster.destroy()

    def _binaries(self, version: str) -> Path:
        """The programs of a version, where the account of the servers reaches them."""
        home = Path(os.environ["PYREPLICA_VERSIONS"]).absolute() / version
        if not am_root() or all(folder.stat().st_mode & 0o001 for folder in home.parents):
            return home / "bin"
        copied = self._directory / f"postgresql-{version}"
        if not copied.exists():
            shutil.copytree(home, copied, symlinks=True)
        return copied / "bin"


@cache
def _installed_major() -> int:
    done = subprocess.run(
        [find_binaries() / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    assert found, done.stdout
    return int(found[1])


def major(version: str) -> int:
    """The number of a version of PAIRS."""
    return _installed_major() if version == INSTALLED else int(version)


@pytest.fixture(scope="session")
def servers(servers_directory: Path) -> Iterator[Servers]:
    """The servers of all versions."""
    if "PYREPLICA_VERSIONS" not in os.environ:
        pytest.skip("make test-versions runs it")
    made = Servers(servers_directory)
    yield made
    made.destroy()


def new_pair(servers: Servers, master: str, slave: str) -> Iterator[Pair]:
    """Fresh databases on servers of two versions, removed afterwards."""
    clusters = servers.get(master, "master"), servers.get(slave, "slave")
    name = f"versions_{next(_numbers)}"
    for cluster in clusters:
        cluster.create_database(name)
    yield Pair(
        Databases(clusters[0].dsn(name), clusters[1].dsn(name), name, *clusters),
        major(master),
        major(slave),
        {"capture": "plpython3u" if master == INSTALLED else "plpgsql"},
    )
    for cluster in clusters:
        cluster.start()
        cluster.drop_database(name)


@pytest.fixture(params=PAIRS, ids=["-to-".join(pair) for pair in PAIRS])
def pair(
    request: pytest.FixtureRequest, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pair]:
    """A master and a slave of two versions, and the configuration that they need."""
    for made in new_pair(servers, *request.param):
        for key, value in made.options.items():
            monkeypatch.setitem(support.DEFAULTS, key, value)
        yield made
