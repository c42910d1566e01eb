"""Databases with the daemon's roles, made by sql/roles.sql, and an ordinary one that attacks."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.database import Connection
from pyreplica.demo.cluster import Cluster
from tests.conftest import Databases
from tests.support import config, config_file, connect

ROLES = Path(__file__).parents[3] / "sql" / "roles.sql"
_SQL = ROLES.parent

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Roles:
    """Two databases and who uses them.

    Attributes:
        databases: the connection strings in it are the superuser's.
        master_role: the daemon's role on the master.
        slave_role: the daemon's role on the slave.
        app: an ordinary role on both servers; owns what it makes in the master's schema public.
    """

    databases: Databases
    master_role: str
    slave_role: str
    app: str

    @property
    def as_daemon(self) -> Databases:
        """The databases as the daemon's roles reach them."""
        there = self.databases
        return Databases(
            master=there.master_cluster.dsn(there.name, user=self.master_role),
            slave=there.slave_cluster.dsn(there.name, user=self.slave_role),
            name=there.name,
            master_cluster=there.master_cluster,
            slave_cluster=there.slave_cluster,
        )

    def config(self, **options: Any) -> ReplicationConfig:
        """The replication under the daemon's roles."""
        return config(self.as_daemon, **options)

    def file(self, folder: Path, **options: Any) -> Path:
        """The same in a file."""
        return config_file(folder, self.as_daemon, **options)

    def install(self) -> None:
        """A superuser runs the SQL of both sides with psql, and captures all tables."""
        there = self.databases
        for cluster, script in (
            (there.master_cluster, "master-install.sql"),
            (there.slave_cluster, "slave-install.sql"),
        ):
            cluster.psql("-q", "-f", str(_SQL / script), dbname=there.name)
        there.master_cluster.psql("-c", "SELECT pyreplica.add_all_tables()", dbname=there.name)

    def make(self, side: str, *variables: str) -> str:
        """A superuser runs sql/roles.sql; gives what it said."""
        there = self.databases
        cluster = there.master_cluster if side == "master" else there.slave_cluster
        names = (f"master_role={self.master_role}", f"slave_role={self.slave_role}")
        options = [it for name in (*names, *variables) for it in ("-v", name)]
        done = cluster.psql(*options, "-f", str(ROLES), dbname=there.name, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def attacker(self, side: str = "master", **settings: str) -> Connection:
        """A session of the ordinary role."""
        there = self.databases
        cluster = there.master_cluster if side == "master" else there.slave_cluster
        session = connect(cluster.dsn(there.name, user=self.app))
        session.execute("SET search_path = public")
        for name, value in settings.items():
            session.execute(f"SET {name} = {value}")
        return session


@pytest.fixture
def roles(databases: Databases) -> Iterator[Roles]:
    """Empty databases, and names of roles; only the ordinary one is there already."""
    number = f"{os.getpid()}_{next(_numbers)}"
    made = Roles(databases, f"py-master {number}", f"py_slave_{number}", f"app_{number}")
    clusters = (databases.master_cluster, databases.slave_cluster)
    for cluster in clusters:
        cluster.psql("-qc", f"CREATE ROLE {made.app} LOGIN", dbname=databases.name)
    databases.master_cluster.psql(
        "-qc", f"GRANT CREATE ON SCHEMA public TO {made.app}", dbname=databases.name
    )
    yield made
    for cluster in clusters:
        cluster.start()
        for role in (made.master_role, made.slave_role, made.app):
            _drop(cluster, databases.name, role)


def _drop(cluster: Cluster, database: str, role: str) -> None:
    there = cluster.psql("-Atqc", f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'").stdout
    if not there:
        return
    cluster.psql("-qc", f'REASSIGN OWNED BY "{role}" TO postgres', dbname=database)
    cluster.psql("-qc", f'DROP OWNED BY "{role}"', dbname=database)
    cluster.psql("-qc", f'DROP OWNED BY "{role}"', "-c", f'DROP ROLE "{role}"')
