"""The four scripts of sql/, run by psql alone as their headers say."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyreplica import sqlfiles
from pyreplica.demo.binaries import find_binaries
from pyreplica.demo.cluster import Cluster
from pyreplica.model import SQL_VERSION
from tests.integration.capture.oracle import Session

BOTH = "-c pyreplica.both=on"
SIDES = ["master", "slave"]

# What is in a database, by names: the numbers that things have differ from one install to the next.
LISTING = """
SELECT 'namespace', nspname::text, nspacl::text FROM pg_namespace
UNION ALL SELECT 'relation', oid::regclass::text, concat(relkind, relpersistence, relacl)
    FROM pg_class
UNION ALL SELECT 'column', attrelid::regclass::text, attname || format_type(atttypid, atttypmod)
    FROM pg_attribute WHERE attnum > 0
UNION ALL SELECT 'function', oid::regprocedure::text, concat(md5(prosrc), proacl) FROM pg_proc
UNION ALL SELECT 'type', oid::regtype::text, typtype::text FROM pg_type
UNION ALL SELECT 'trigger', tgrelid::regclass::text, tgname::text FROM pg_trigger
UNION ALL SELECT 'event trigger', evtname::text, evttags::text FROM pg_event_trigger
UNION ALL SELECT 'extension', extname::text, extversion FROM pg_extension
UNION ALL SELECT 'language', lanname::text, lanacl::text FROM pg_language
UNION ALL SELECT 'cast', castsource::regtype::text, casttarget::regtype::text FROM pg_cast
UNION ALL SELECT 'operator', oid::regoperator::text, NULL FROM pg_operator
UNION ALL SELECT 'constraint', conrelid::regclass::text, conname::text FROM pg_constraint
UNION ALL SELECT 'rule', ev_class::regclass::text, rulename::text FROM pg_rewrite
UNION ALL SELECT 'comment', classoid::regclass::text, description FROM pg_description
UNION ALL SELECT 'default rights', defaclrole::regrole::text, defaclacl::text FROM pg_default_acl
UNION ALL SELECT 'setting', setrole::text, setconfig::text FROM pg_db_role_setting
"""
# Some things have no names of their own: how many rows every catalog has.
COUNTS = """
SELECT oid::regclass::text, (xpath('/row/n/text()', query_to_xml(
    'SELECT count(*) AS n FROM ' || oid::regclass, false, true, '')))[1]::text
FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r'
    AND relname NOT IN ('pg_statistic', 'pg_statistic_ext_data')
"""


class Database:
    """A database that scripts are run in."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._name = name
        self.session = Session(cluster.dsn(name))

    def script(
        self, name: str, *, user: str = "postgres", options: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a script of sql/ as its header says: a psql, nothing else."""
        return subprocess.run(
            [
                *(self._cluster.binary("psql"), "-X", "-v", "ON_ERROR_STOP=1", "-q"),
                *("-d", self._cluster.dsn(self._name, user=user)),
                *("-f", sqlfiles.path(f"{name}.sql")),
            ],
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PGOPTIONS": options},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )

    def install(self, side: str, *, options: str = "") -> None:
        """Run a script that works without a word."""
        done = self.script(f"{side}-install", options=options)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def uninstall(self, side: str) -> None:
        done = self.script(f"{side}-uninstall")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    def refusal(self, name: str, *, user: str = "postgres", options: str = "") -> tuple[str, str]:
        """Run a script that refuses; gives its one line and its hint. Nothing may have changed."""
        before = self.listing()
        done = self.script(name, user=user, options=options)
        assert done.returncode == 3
        error, hint = (
            [line.split(f"{word}:  ")[1] for line in done.stderr.splitlines() if f"{word}:" in line]
            for word in ("ERROR", "HINT")
        )
        assert self.listing() == before
        ((one,), (cure,)) = (error, hint)
        return one, cure

    def listing(self) -> list[tuple[str | None, ...]]:
        """What is in the catalogs."""
        return sorted(self.session.run(LISTING) + self.session.run(COUNTS), key=str)


@pytest.fixture
def database(request: pytest.FixtureRequest, slave_cluster: Cluster) -> Iterator[Database]:
    """An empty database, on a server that takes prepared transactions."""
    yield from new_database(slave_cluster, "install_sql")


def new_database(cluster: Cluster, name: str) -> Iterator[Database]:
    cluster.create_database(name)
    database = Database(cluster, name)
    with database.session:
        yield database
    cluster.drop_database(name)


def capture_a_table(database: Database) -> None:
    """Add a table and write to it."""
    database.session.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "SELECT pyreplica.add_table('t')",
        "INSERT INTO t VALUES (1, 'a')",
    )


def logged(database: Database) -> list[tuple[str, dict[str, str], dict[str, str] | None]]:
    return database.session.run("SELECT op, key, row FROM pyreplica.changes ORDER BY id")


# Once and again


@pytest.mark.parametrize("side", SIDES)
def test_what_was_installed_is_taken_away_without_a_trace(database: Database, side: str) -> None:
    database.session.run("CREATE TABLE t (id int PRIMARY KEY, v text)")
    before = database.listing()
    database.install(side)
    assert database.listing() != before
    if side == "master":
        database.session.run(
            "CREATE TABLE tree (id int PRIMARY KEY) PARTITION BY LIST (id)",
            "CREATE TABLE leaf PARTITION OF tree DEFAULT",
            "SELECT pyreplica.add_all_tables()",
            "INSERT INTO t VALUES (1, 'a')",
            "INSERT INTO leaf VALUES (1)",
            "ALTER TABLE t RENAME TO u",
            "ALTER TABLE u RENAME TO t",
            "DROP TABLE tree",
        )
    else:
        # as the daemon does
        database.session.run(
            "CREATE UNLOGGED TABLE pyreplica.stage_1 (id bigint)",
            "CREATE UNLOGGED TABLE pyreplica.net_1 (id bigint)",
        )
    database.uninstall(side)
    assert database.listing() == before
    database.session.run("INSERT INTO t VALUES (2, 'b')")


def test_installing_the_master_again_changes_nothing(database: Database) -> None:
    database.install("master")
    capture_a_table(database)
    other = "SELECT version, made_plpython3u, installed_at FROM pyreplica.replica_version"
    before = (database.listing(), logged(database), database.session.run(other))
    database.install("master")
    assert (database.listing(), logged(database), database.session.run(other)) == before
    # a session that was there all the time goes on
    database.session.run("UPDATE t SET v = 'b'")
    assert logged(database)[1:] == [("U", {"id": "1"}, {"v": "b"})]


def test_installing_the_slave_again_changes_nothing(database: Database) -> None:
    database.install("slave")
    database.session.run(
        "INSERT INTO pyreplica.replica_cursor (replication, master_system, master_database, batch) "
        "VALUES ('shop', 'system', 'database', 7)"
    )
    rows = "SELECT replication, batch FROM pyreplica.replica_cursor"
    before = (database.listing(), database.session.run(rows))
    database.install("slave")
    assert (database.listing(), database.session.run(rows)) == before


@pytest.mark.parametrize("side", SIDES)
def test_an_older_version_is_upgraded_by_installing_again(database: Database, side: str) -> None:
    database.install(side)
    version = "SELECT version, installed_at > '2001-01-01' FROM pyreplica.replica_version"
    current = database.session.run(version)
    database.session.run(
        "UPDATE pyreplica.replica_version SET version = 0, installed_at = '2000-01-01'"
    )
    database.install(side)
    assert database.session.run(version) == current


def test_captures_of_an_older_version_are_built_anew(database: Database) -> None:
    database.install("master")
    capture_a_table(database)
    # an older version made other triggers than this one
    database.session.run(
        "UPDATE pyreplica.replica_table SET shape = shape - 'deferrable', statements = '{}'",
        "UPDATE pyreplica.replica_version SET version = 0",
    )
    database.install("master")
    database.session.run("UPDATE t SET v = 'b'")
    assert logged(database)[1:] == [("U", {"id": "1"}, {"v": "b"})]


# Refusals


@pytest.mark.parametrize("side", SIDES)
def test_a_newer_version_is_refused(database: Database, side: str) -> None:
    database.install(side)
    database.session.run("UPDATE pyreplica.replica_version SET version = 99")
    line, hint = database.refusal(f"{side}-install")
    assert line == (
        f"database install_sql has version 99 of PyReplica's {side} side, this script is "
        f"version {SQL_VERSION}"
    )
    assert hint == "Use the scripts of the newer release."


def test_the_wrong_side_is_refused(database: Database) -> None:
    database.install("master")
    line, hint = database.refusal("slave-install")
    assert line == (
        "database install_sql is installed as a master of PyReplica, "
        "this is the script for the slave"
    )
    assert "pyreplica.both=on" in hint
    assert database.refusal("slave-uninstall") == (
        "database install_sql has no slave side of PyReplica to uninstall",
        "It is a master: use master-uninstall.sql.",
    )
    database.uninstall("master")

    database.install("slave")
    line, hint = database.refusal("master-install")
    assert line == (
        "database install_sql is installed as a slave of PyReplica, "
        "this is the script for the master"
    )
    assert "pyreplica.both=on" in hint
    assert database.refusal("master-uninstall") == (
        "database install_sql has no master side of PyReplica to uninstall",
        "It is a slave: use slave-uninstall.sql.",
    )


@pytest.mark.parametrize("side", SIDES)
def test_there_must_be_something_to_uninstall(database: Database, side: str) -> None:
    assert database.refusal(f"{side}-uninstall") == (
        f"database install_sql has no {side} side of PyReplica to uninstall",
        "Is it the right database?",
    )


def test_a_master_is_installed_by_a_superuser_alone(database: Database) -> None:
    database.session.run("DROP ROLE IF EXISTS ordinary", "CREATE ROLE ordinary LOGIN CREATEDB")
    database.session.run("GRANT CREATE ON DATABASE install_sql TO ordinary")
    line, hint = database.refusal("master-install", user="ordinary")
    assert line == "role ordinary may not install PyReplica on a master: it is no superuser"
    assert "superuser" in hint
    # a slave by any role that may make a schema
    done = database.script("slave-install", user="ordinary")
    assert (done.returncode, done.stderr) == (0, "")
    assert database.script("slave-install", user="ordinary").returncode == 0
    assert database.script("slave-uninstall", user="ordinary").returncode == 0
    database.session.run("DROP OWNED BY ordinary", "DROP ROLE ordinary")


def test_a_slave_with_an_undecided_batch_is_not_uninstalled(database: Database) -> None:
    database.install("slave")
    database.session.run(
        "CREATE TABLE t (id int)",
        "BEGIN",
        "INSERT INTO t VALUES (1)",
        "PREPARE TRANSACTION 'pyreplica:shop:7'",
    )
    line, hint = database.refusal("slave-uninstall")
    assert line == "a batch of replication is prepared and not decided: pyreplica:shop:7"
    assert "ROLLBACK PREPARED 'pyreplica:shop:7'" in hint
    database.session.run(
        "ROLLBACK PREPARED 'pyreplica:shop:7'",
        "BEGIN",
        "INSERT INTO t VALUES (1)",
        "PREPARE TRANSACTION 'somebody else''s'",
    )
    database.uninstall("slave")
    database.session.run("ROLLBACK PREPARED 'somebody else''s'")


# A database that is both


@pytest.mark.parametrize("order", [SIDES, SIDES[::-1]])
def test_a_database_can_be_master_and_slave_when_that_is_meant(
    database: Database, order: list[str]
) -> None:
    before = database.listing()
    first, second = order
    database.install(first)
    database.install(second, options=BOTH)
    # afterwards it need not be said again
    database.install(first)
    database.install(second)
    versions = "SELECT side FROM pyreplica.replica_version ORDER BY side"
    assert database.session.run(versions) == [("master",), ("slave",)]
    for side in order:
        database.uninstall(side)
    assert database.listing() == before


def test_the_master_side_goes_and_the_slave_side_works_on(database: Database) -> None:
    database.install("slave")
    alone = database.listing()
    database.install("master", options=BOTH)
    capture_a_table(database)
    database.uninstall("master")
    database.session.run("INSERT INTO t VALUES (2, 'b')", "DROP TABLE t")
    assert database.listing() == alone
    assert database.session.run("SELECT side FROM pyreplica.replica_version") == [("slave",)]
    database.session.run(
        "INSERT INTO pyreplica.replica_cursor (replication, master_system, master_database, state, "
        "batch) VALUES ('shop', 'system', 'database', 'ready', 6)",
        "SELECT pyreplica.move_cursor('shop', 7, '1:1:', 5, now(), 3)",
    )
    merged = "SELECT pyreplica.merge(j) FROM (VALUES ('{\"a\": 1}'::jsonb), ('{\"b\": 2}')) v(j)"
    assert database.session.value(merged) == {"a": 1, "b": 2}
    database.uninstall("slave")


def test_the_slave_side_goes_and_the_master_side_works_on(database: Database) -> None:
    database.install("master")
    alone = database.listing()
    database.install("slave", options=BOTH)
    database.session.run("CREATE UNLOGGED TABLE pyreplica.stage_1 (id bigint)")
    database.uninstall("slave")
    assert database.listing() == alone
    assert database.session.run("SELECT side FROM pyreplica.replica_version") == [("master",)]
    capture_a_table(database)
    assert logged(database) == [("I", {"id": "1"}, {"v": "a"})]
    database.uninstall("master")


# The language


def test_a_language_that_was_there_before_stays(database: Database) -> None:
    database.session.run("CREATE EXTENSION plpython3u")
    before = database.listing()
    database.install("master")
    database.install("master")
    database.uninstall("master")
    assert database.listing() == before


def test_a_language_that_is_used_meanwhile_stays(database: Database) -> None:
    database.install("master")
    database.session.run("CREATE FUNCTION mine() RETURNS int LANGUAGE plpython3u AS 'return 7'")
    done = database.script("master-uninstall")
    assert done.returncode == 0
    assert "WARNING:  the language plpython3u stays" in done.stderr
    assert database.session.value("SELECT mine()") == 7


@pytest.fixture(scope="module")
def bare(servers_directory: Path) -> Iterator[Cluster]:
    """A server without plpython3u: a copy of the programs that finds its files elsewhere."""
    programs = find_binaries()
    shared = Path(f"/usr/share/postgresql/{programs.parent.name}")
    if programs != Path(f"/usr/lib/postgresql/{programs.parent.name}/bin"):
        pytest.skip("only Debian's PostgreSQL is known to find its files beside a copy")
    home = servers_directory / "bare-programs"
    copied = home / str(programs).lstrip("/").removeprefix("usr/")
    copied.mkdir(parents=True)
    for program in ("postgres", "initdb", "pg_ctl", "psql"):
        shutil.copy(programs / program, copied)
    (copied.parent / "lib").symlink_to(programs.parent / "lib")
    files = home / str(shared).lstrip("/").removeprefix("usr/")
    (files / "extension").mkdir(parents=True)
    for file in (*shared.iterdir(), *(shared / "extension").iterdir()):
        link = files / file.relative_to(shared)
        if not link.exists() and not file.name.startswith("plpython3u"):
            link.symlink_to(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYREPLICA_PG_BIN", str(copied))
        cluster = Cluster.create(servers_directory, "bare", {"fsync": "off"})
    with cluster:
        cluster.start()
        yield cluster
    shutil.rmtree(home)


def test_a_server_without_the_language_is_told_what_to_install(bare: Cluster) -> None:
    for database in new_database(bare, "install_sql"):
        line, hint = database.refusal("master-install")
        assert line == "the server of database install_sql does not have the language plpython3u"
        assert "apt-get install postgresql-plpython3-" in hint
        # a slave does without
        database.install("slave")


def test_a_hot_standby_is_told_so(bare: Cluster) -> None:
    bare.create_database("standby")
    data = Path(bare.psql("-Atc", "SHOW data_directory").stdout.strip())
    bare.stop()
    (data / "standby.signal").touch()
    try:
        bare.start()
        database = Database(bare, "standby")
        with database.session:
            for side in SIDES:
                line, _ = database.refusal(f"{side}-install")
                assert line == "database standby is a hot standby and cannot be changed"
    finally:
        bare.stop()
        (data / "standby.signal").unlink()
