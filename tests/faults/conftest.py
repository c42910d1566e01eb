"""Servers of the fault matrix's own, which it may crash, and the table at its end."""

from __future__ import annotations

import itertools
import os
import pwd
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyreplica.demo.cluster import Cluster
from pyreplica.replication.setup import install
from tests.conftest import PREPARING_SETTINGS, Databases
from tests.faults.cell import REPLICATED, Cell
from tests.faults.load import LIMITS, MOVING, MOVING_ON_SLAVE, ROWS, TABLES
from tests.faults.matrix import Run, table
from tests.support import config, sql

_numbers = itertools.count(1)
_TEMPLATE = "faults_template"
_SIZE = "96m"
_SETTINGS = {
    **PREPARING_SETTINGS,
    "max_prepared_transactions": "4",
    "autovacuum": "off",  # its locks would have the rotation of the log put off
    "deadlock_timeout": "50ms",
}


class Disks:
    """Small file systems, one for each server, or the reason why there are none."""

    def __init__(self) -> None:
        self.paths: dict[str, Path] = {}
        self.missing = "it has not been tried"

    def mount(self, stack: ExitStack, folder: Path) -> None:
        """Make them, until the stack is closed."""
        if os.geteuid() != 0:
            self.missing = "a small file system can be mounted by root alone"
            return
        account = pwd.getpwnam("postgres")
        for side in ("master", "slave"):
            path = folder / f"disk-{side}"
            path.mkdir()
            options = f"size={_SIZE},mode=700,uid={account.pw_uid},gid={account.pw_gid}"
            command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode != 0:
                self.missing = f"a small file system cannot be mounted: {done.stderr.strip()}"
                return
            stack.callback(subprocess.run, ["umount", str(path)], timeout=60, check=True)
            self.paths[side] = path


@pytest.fixture(scope="session")
def disks(servers_directory: Path) -> Iterator[Disks]:
    """Small file systems; made before the servers, and gone after them."""
    made = Disks()
    with ExitStack() as stack:
        made.mount(stack, servers_directory)
        yield made


@pytest.fixture(scope="session")
def master_cluster(servers_directory: Path, disks: Disks) -> Iterator[Cluster]:
    """The server of the masters, in the place of the usual one."""
    settings = {**_SETTINGS, "max_prepared_transactions": "0"}
    with Cluster.create(servers_directory, "faults-master", settings) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def slave_cluster(servers_directory: Path, disks: Disks) -> Iterator[Cluster]:
    """The server of the slaves, in the place of the usual one."""
    with Cluster.create(servers_directory, "faults-slave", _SETTINGS) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def templates(master_cluster: Cluster, slave_cluster: Cluster, disks: Disks) -> None:
    """Databases to copy: with the tables, and PyReplica installed."""
    clusters = {"master": master_cluster, "slave": slave_cluster}
    for side, cluster in clusters.items():
        cluster.start()
        cluster.create_database(_TEMPLATE)
        if side in disks.paths:
            sql(cluster.dsn(), f"CREATE TABLESPACE small LOCATION '{disks.paths[side]}'")
    master, slave = (cluster.dsn(_TEMPLATE) for cluster in clusters.values())
    sql(master, TABLES + MOVING, ROWS)
    sql(slave, TABLES + MOVING_ON_SLAVE, LIMITS)
    tables = [f"public.{table}" for table in REPLICATED if table != "extra"]
    both = Databases(master, slave, _TEMPLATE, master_cluster, slave_cluster)
    install(config(both, tables=tables))


@pytest.fixture
def cell(
    request: pytest.FixtureRequest,
    master_cluster: Cluster,
    slave_cluster: Cluster,
    templates: None,
    disks: Disks,
    tmp_path: Path,
) -> Iterator[Cell]:
    """The databases of a run, the proxies before them, and writers that are not at work yet."""
    run: Run = request.getfixturevalue("run")
    request.node.user_properties += [("step", run.step.name), ("fault", run.fault.code)]
    small = run.fault.disk
    if small and small not in disks.paths:
        pytest.skip(disks.missing)
    name = f"faults_{next(_numbers)}"
    clusters = {"master": master_cluster, "slave": slave_cluster}
    for side, cluster in clusters.items():
        where = " TABLESPACE small" if side == small == "slave" else ""
        sql(cluster.dsn(), f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}{where}")
    databases = Databases(
        master_cluster.dsn(name), slave_cluster.dsn(name), name, master_cluster, slave_cluster
    )
    if small == "master":
        for segment in (0, 1):
            move = f"ALTER TABLE pyreplica.replica_log_{segment} SET TABLESPACE small"
            sql(databases.master, move)
    made = Cell(databases, tmp_path, seed=run.number)
    made.disk = disks.paths.get(small or "")
    yield made
    made.close()
    for side, cluster in clusters.items():
        if side in disks.paths:
            (disks.paths[side] / "filler").unlink(missing_ok=True)
        cluster.start()
        sql(cluster.dsn(), "ALTER SYSTEM RESET ALL", "SELECT pg_reload_conf()")
        cluster.drop_database(name)
    for further in made.further:
        slave_cluster.drop_database(further)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the matrix, if more than its short form was run."""
    outcomes: dict[tuple[str, str], Counter[str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            where = dict(report.user_properties)
            if "step" in where and (report.when == "call" or outcome != "passed"):
                key = (str(where["step"]), str(where["fault"]))
                counted = "failed" if outcome == "error" else outcome
                outcomes.setdefault(key, Counter())[counted] += 1
    if outcomes and os.environ.get("PYREPLICA_FAULTS"):
        terminalreporter.section("fault matrix")
        terminalreporter.write_line(table(outcomes))
