"""TLS and passwords, with a server of their own: libpq's parameters are passed through."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyreplica.demo.cluster import Cluster
from tests.conftest import PREPARING_SETTINGS
from tests.integration.cli_support import execute, refused, write_config
from tests.support import LIMIT, daemon, eventually, pyreplica, value

HOST = "db.shop.test"
PASSWORD = "two words, it's secret"
TABLES = "CREATE TABLE item (id integer PRIMARY KEY, name text)"


def openssl(folder: Path, *arguments: str) -> None:
    """Run openssl in a folder."""
    subprocess.run(
        ["openssl", *arguments], cwd=folder, capture_output=True, timeout=LIMIT, check=True
    )


def authority(folder: Path, name: str) -> None:
    """Make a certificate authority."""
    openssl(
        folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "2", "-subj", f"/CN={name}",
    )  # fmt: skip


@dataclass(frozen=True)
class Secured:
    """A server that takes TLS and passwords alone.

    Attributes:
        folder: has ca.crt, which has signed its certificate, and other.crt, which has not.
        owner: connects as a superuser, to one of its databases.
    """

    folder: Path
    cluster: Cluster

    def owner(self, database: str) -> str:
        """The connection string of the superuser."""
        return self.cluster.dsn(database)

    def dsn(self, database: str, host: str = HOST, ca: str = "ca.crt", mode: str = "verify-full"
    ) -> str:  # fmt: skip
        """The connection string of an administrator, as INSTALL.md has it."""
        return (
            f"host={host} hostaddr=127.0.0.1 port={self.cluster.port} dbname={database} user=me "
            f"password='{PASSWORD}' sslmode={mode} sslrootcert={self.folder / ca}".replace(
                "it's", "it\\'s"
            )
        )


@pytest.fixture(scope="module")
def secured(servers_directory: Path) -> Iterator[Secured]:
    """The server, with two databases that are master and slave."""
    folder = servers_directory / "tls"
    folder.mkdir()
    folder.chmod(0o755)
    for name in ("ca", "other"):
        authority(folder, name)
    openssl(
        folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
        "server.key", "-out", "server.csr", "-subj", f"/CN={HOST}",
    )  # fmt: skip
    (folder / "names").write_text(f"subjectAltName=DNS:{HOST}\n")
    openssl(
        folder, "x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
        "-CAcreateserial", "-out", "server.crt", "-days", "2", "-extfile", "names",
    )  # fmt: skip
    (folder / "server.key").chmod(0o600)
    if os.geteuid() == 0:
        os.chown(folder / "server.key", pwd.getpwnam("postgres").pw_uid, -1)
    (folder / "hba").write_text("local all all trust\nhostssl all all all scram-sha-256\n")
    settings = {
        **PREPARING_SETTINGS,
        "hba_file": str(folder / "hba"),
        "ssl": "on",
        "ssl_cert_file": str(folder / "server.crt"),
        "ssl_key_file": str(folder / "server.key"),
        "password_encryption": "scram-sha-256",
    }
    with Cluster.create(servers_directory, "secured", settings) as cluster:
        cluster.start()
        password = PASSWORD.replace("'", "''")
        for name in ("master", "slave"):
            cluster.create_database(name)
        execute(cluster.dsn(), f"CREATE ROLE me LOGIN SUPERUSER PASSWORD '{password}'")
        execute(cluster.dsn("master"), TABLES)
        yield Secured(folder, cluster)


def test_everything_works_with_verify_full_and_a_password(secured: Secured, tmp_path: Path) -> None:
    path = write_config(
        tmp_path / "shop.yaml",
        {"shop": {"master": secured.dsn("master"), "slave": secured.dsn("slave")}},
    )
    pyreplica(path, "install")
    pyreplica(path, "copy", "--schema")
    with daemon(path) as running:
        running.until_said("connected, at batch")
        execute(secured.owner("master"), "INSERT INTO item VALUES (1, 'new')")
        pyreplica(path, "wait", "--timeout", "30s")
        assert value(secured.owner("slave"), "SELECT name FROM public.item") == "new"
        encrypted = (
            "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) "
            "WHERE a.application_name LIKE 'pyreplica shop%'"
        )
        eventually(lambda: value(secured.owner("master"), encrypted), "it is not encrypted")
        assert PASSWORD not in running.log
    pyreplica(path, "uninstall")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"ca": "other.crt"}, "certificate verify failed"),
        ({"host": "elsewhere.test"}, f'server certificate for "{HOST}" does not match host name'),
        ({"ca": "nowhere.crt"}, 'root certificate file "'),
        ({"mode": "disable"}, "no encryption"),
    ],
)
def test_a_server_that_is_not_the_right_one_is_refused(
    secured: Secured, tmp_path: Path, wrong: dict[str, str], says: str
) -> None:
    settings = {"master": secured.dsn("master"), "slave": secured.dsn("slave")}
    for side, database in (("master", "master"), ("slave", "slave")):
        path = write_config(
            tmp_path / f"{side}.yaml", {"shop": {**settings, side: secured.dsn(database, **wrong)}}
        )
        shown = refused(path, "copy", code=1, says=says, hint="")
        assert f"shop: {side}: cannot connect" in shown
        assert PASSWORD not in shown
