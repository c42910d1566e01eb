"""The throw-away servers of the demo and the tests, and the fixtures made of them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from pyreplica.demo import binaries
from pyreplica.demo import cluster as cluster_module
from pyreplica.demo.binaries import find_binaries
from pyreplica.demo.cluster import Cluster
from pyreplica.errors import PyReplicaError, TimedOut
from tests.conftest import Databases

_FAST = {"fsync": "off"}
_SECONDS_TO_END = 30


@pytest.fixture
def cluster(servers_directory: Path) -> Iterator[Cluster]:
    with Cluster.create(servers_directory, "own", _FAST) as cluster:
        cluster.start()
        yield cluster


@pytest.fixture(scope="module")
def shared(servers_directory: Path) -> Iterator[Cluster]:
    """A server for the tests that do not stop it."""
    with Cluster.create(servers_directory, "shared", _FAST) as cluster:
        cluster.start()
        yield cluster


def _ask(cluster: Cluster, question: str, dbname: str = "postgres") -> str:
    return cluster.psql("-Atc", question, dbname=dbname).stdout.strip()


def _has_ended(process: int) -> bool:
    """Wait for the end of a process, given as a pidfd, which cannot mean another one by then."""
    ended, _, _ = select.select([process], [], [], _SECONDS_TO_END)
    os.close(process)
    return bool(ended)


def test_a_started_server_answers_on_its_socket_and_on_tcp(shared: Cluster) -> None:
    for dsn in (shared.dsn(), shared.dsn(tcp=True)):
        connection = psycopg2.connect(dsn)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT current_user, current_setting('cluster_name'), inet_server_port()"
            )
            port = shared.port if "127.0.0.1" in dsn else None
            assert cursor.fetchone() == ("postgres", "shared", port)
        connection.close()


def test_a_server_has_utf8_the_c_locale_plpython_and_its_settings(shared: Cluster) -> None:
    assert _ask(shared, "SHOW server_encoding") == "UTF8"
    assert _ask(shared, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'") == (
        "C.UTF-8"
    )
    assert _ask(shared, "SHOW fsync") == "off"
    shared.psql(
        input="BEGIN; CREATE EXTENSION plpython3u; DO LANGUAGE plpython3u $$import json$$; ROLLBACK"
    )


def test_a_server_stays_the_same_through_stop_immediate_and_start(cluster: Cluster) -> None:
    cluster.psql("-c", "CREATE TABLE kept AS SELECT 1 AS one")
    system = _ask(cluster, "SELECT system_identifier FROM pg_control_system()")
    dsn = cluster.dsn()

    cluster.stop("immediate")
    assert not cluster.running
    assert cluster.psql("-c", "SELECT 1", check=False).returncode != 0

    cluster.start()
    assert cluster.dsn() == dsn
    assert _ask(cluster, "SELECT one FROM kept") == "1"
    assert _ask(cluster, "SELECT system_identifier FROM pg_control_system()") == system


def test_starting_twice_stopping_twice_and_destroying_twice_is_no_error(cluster: Cluster) -> None:
    cluster.start()
    first = cluster.pid
    cluster.restart()
    assert cluster.pid != first
    cluster.stop()
    cluster.stop()
    cluster.destroy()
    cluster.destroy()


def test_destroy_leaves_no_process_and_no_folder(servers_directory: Path) -> None:
    with Cluster.create(servers_directory, "gone", _FAST) as cluster:
        cluster.start()
        process = os.pidfd_open(cluster.pid)
        assert cluster.log_path.parent == servers_directory / "gone"
    assert _has_ended(process)
    assert not (servers_directory / "gone").exists()
    assert not cluster.running
    with pytest.raises(PyReplicaError, match="does not run"):
        _ = cluster.pid


@pytest.mark.parametrize("ending", ["pass", "sys.exit(3)", "raise RuntimeError"])
def test_a_server_ends_with_the_process_that_made_it(servers_directory: Path, ending: str) -> None:
    program = f"""
import pathlib, sys
from pyreplica.demo.cluster import Cluster
cluster = Cluster.create(pathlib.Path(sys.argv[1]), "orphan")
cluster.start()
print(cluster.pid, flush=True)
sys.stdin.readline()
{ending}
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(servers_directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as maker:
        assert maker.stdout is not None
        process = os.pidfd_open(int(maker.stdout.readline()))
        maker.communicate("\n", timeout=_SECONDS_TO_END)
    assert _has_ended(process)
    assert not (servers_directory / "orphan").exists()


def test_a_forked_process_that_exits_leaves_the_server_alone(servers_directory: Path) -> None:
    program = """
import os, pathlib, sys
from pyreplica.demo.cluster import Cluster
cluster = Cluster.create(pathlib.Path(sys.argv[1]), "forking")
cluster.start()
child = os.fork()
if not child:
    sys.exit(0)
os.waitpid(child, 0)
print(cluster.psql("-Atc", "SELECT 'still there'").stdout)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(servers_directory)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "still there"


def test_the_callers_environment_does_not_matter(
    servers_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "LANG": "tlh_XX.UTF-8",
        "LC_ALL": "tlh_XX.UTF-8",
        "PGDATA": "/nowhere",
        "PGHOST": "nowhere.invalid",
        "PGOPTIONS": "-c no_such_setting=1",
        "PGPORT": "1",
        "PGUSER": "nobody",
        "PYTHONHOME": "/nowhere",
    }.items():
        monkeypatch.setenv(name, value)
    with Cluster.create(servers_directory, "elsewhere", _FAST) as cluster:
        cluster.start()
        assert _ask(cluster, "SELECT current_user") == "postgres"
        cluster.psql(
            input="CREATE EXTENSION plpython3u; DO LANGUAGE plpython3u $$import json$$;",
        )


def test_a_server_that_does_not_start_says_why(servers_directory: Path) -> None:
    settings = {"shared_buffers": "a lot"}
    with (
        Cluster.create(servers_directory, "broken", settings) as cluster,
        pytest.raises(PyReplicaError, match="server broken: the server did not start") as caught,
    ):
        cluster.start()
    assert 'invalid value for parameter "shared_buffers": "a lot"' in caught.value.details
    assert "server.log" in caught.value.hint


def test_a_folder_that_is_there_already_is_refused_and_kept(servers_directory: Path) -> None:
    taken = servers_directory / "taken"
    taken.mkdir()
    with pytest.raises(PyReplicaError, match="cannot be made: File exists"):
        Cluster.create(servers_directory, "taken")
    assert taken.exists()


def test_an_initdb_that_fails_leaves_no_folder(
    servers_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_module, "_INITDB_LIMIT", 0.001)
    with pytest.raises(TimedOut, match="initdb did not end within"):
        Cluster.create(servers_directory, "late")
    assert not (servers_directory / "late").exists()


@pytest.mark.parametrize("folder", ["far/" * 30 + "away", "with blank, comma and 'quote'"])
def test_a_path_that_no_socket_can_have_is_no_obstacle(
    servers_directory: Path, folder: str
) -> None:
    with Cluster.create(servers_directory / folder, "server", _FAST) as cluster:
        cluster.start()
        assert _ask(cluster, "SELECT 1") == "1"
        sockets = cluster.socket_directory
        assert sockets.is_dir()
    assert not sockets.exists()


@pytest.mark.parametrize("name", ["plain", "Two Words", "a\"b'c\\d", "größe=1", "drop;--", " "])
def test_a_database_may_have_any_name(shared: Cluster, name: str) -> None:
    shared.create_database(name)
    connection = psycopg2.connect(shared.dsn(name, application_name="it's\\ me"))
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_database(), current_setting('application_name')")
        assert cursor.fetchone() == (name, "it's\\ me")
    # Still connected: a database goes away with its sessions.
    shared.drop_database(name)
    connection.close()
    assert _ask(shared, "SELECT count(*) FROM pg_database WHERE NOT datistemplate") == "1"


def test_psql_failures_carry_what_the_server_said(shared: Cluster) -> None:
    with pytest.raises(PyReplicaError, match="psql failed") as caught:
        shared.psql(input="SELECT 1/0; SELECT 'not reached';")
    assert "division by zero" in caught.value.details
    done = shared.psql(input="SELECT 1/0;\nSELECT 'not reached';", check=False)
    assert done.returncode == 3  # ON_ERROR_STOP, says psql's manual page
    assert "not reached" not in done.stdout


def test_a_command_that_hangs_is_ended_at_its_time_limit(shared: Cluster) -> None:
    with pytest.raises(TimedOut, match=r"psql did not end within 0\.2 seconds"):
        shared.psql("-c", "SELECT pg_sleep(60)", timeout=0.2)


def test_psql_reads_files_of_the_callers_folder(
    shared: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one.sql").write_text("SELECT 1;\n")
    monkeypatch.chdir(tmp_path)
    assert shared.psql("-At", "-f", "one.sql").stdout == "1\n"


def test_binary_finds_programs_and_names_the_missing(shared: Cluster) -> None:
    assert shared.binary("pgbench").parent == find_binaries()
    with pytest.raises(PyReplicaError, match="no program pg_nonsense"):
        shared.binary("pg_nonsense")


def test_pyreplica_pg_bin_names_the_programs_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYREPLICA_PG_BIN", str(tmp_path))
    with pytest.raises(PyReplicaError, match="no initdb"):
        find_binaries()
    (tmp_path / "initdb").touch()
    assert find_binaries() == tmp_path


@pytest.mark.parametrize(
    ("installed", "hint"),
    [
        (["9.6", "12"], "packages postgresql and postgresql-plpython3-"),
        (["9.6", "14", "13"], "package postgresql-plpython3-14,"),
    ],
)
def test_an_incomplete_installation_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: list[str], hint: str
) -> None:
    for major in installed:
        programs = tmp_path / major / "bin"
        programs.mkdir(parents=True)
        (programs / "initdb").touch()
    monkeypatch.delenv("PYREPLICA_PG_BIN", raising=False)
    monkeypatch.setattr(binaries, "_SERVERS", tmp_path)
    monkeypatch.setattr(binaries, "_SHARED_FILES", tmp_path)
    with pytest.raises(PyReplicaError, match="no PostgreSQL 13 or newer") as caught:
        find_binaries()
    assert hint in caught.value.hint


def test_the_newest_complete_installation_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for major in ("9.6", "13", "15", "16"):
        (tmp_path / major / "bin").mkdir(parents=True)
        (tmp_path / major / "bin" / "initdb").touch()
    for major in ("13", "15"):
        (tmp_path / major / "extension").mkdir()
        (tmp_path / major / "extension" / "plpython3u.control").touch()
    monkeypatch.delenv("PYREPLICA_PG_BIN", raising=False)
    monkeypatch.setattr(binaries, "_SERVERS", tmp_path)
    monkeypatch.setattr(binaries, "_SHARED_FILES", tmp_path)
    assert find_binaries() == tmp_path / "15" / "bin"


@pytest.fixture
def after_databases(master_cluster: Cluster, slave_cluster: Cluster) -> Iterator[None]:
    """Prove that `databases`, which begins later and so ends earlier, leaves nothing behind."""
    content = (
        "SELECT datname FROM pg_database UNION ALL SELECT gid FROM pg_prepared_xacts ORDER BY 1"
    )
    clusters = (master_cluster, slave_cluster)
    before = [_ask(cluster, content) for cluster in clusters]
    yield
    assert [_ask(cluster, content) for cluster in clusters] == before


@pytest.mark.usefixtures("after_databases")
def test_two_databases_are_fresh_and_differ_by_server(databases: Databases) -> None:
    for cluster, prepared in ((databases.master_cluster, "0"), (databases.slave_cluster, "20")):
        assert _ask(cluster, "SELECT current_database()", databases.name) == databases.name
        assert _ask(cluster, "SHOW max_prepared_transactions") == prepared
    assert databases.master != databases.slave


@pytest.mark.usefixtures("after_databases")
def test_databases_go_away_with_prepared_transactions_and_servers_that_were_stopped(
    databases: Databases,
) -> None:
    connection = psycopg2.connect(databases.slave)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (a int); PREPARE TRANSACTION 'it''s \"prepared\"'")
    connection.close()
    databases.slave_cluster.stop("immediate")
    databases.master_cluster.stop()
