"""What has diverged is refused and stays refused until it is copied anew; what has not goes on.

The servers are real ones that are restored from copies of their files, and standbys that are
promoted. What needs no other server is in test_replication_refusals.py.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.database import Connection
from pyreplica.demo.cluster import Cluster
from pyreplica.errors import DatabaseError, NotInstalled, PyReplicaError, Refused
from pyreplica.master import Master
from pyreplica.replication.setup import install
from tests.conftest import PREPARING_SETTINGS, Databases
from tests.support import (
    LIMIT,
    assert_same,
    config_file,
    connect,
    copied,
    copy,
    cursors,
    daemon,
    eventually,
    pyreplica,
    rotated,
    running,
    sql,
    value,
)

TABLE = "CREATE TABLE public.t (id integer PRIMARY KEY, v text)"


# Servers that can be put back


def data(cluster: Cluster) -> Path:
    """The folder with a server's files."""
    return cluster.log_path.parent / "data"


def back_up(cluster: Cluster) -> None:
    """Copy the files of a server, which is stopped for it."""
    cluster.stop()
    shutil.rmtree(backup(cluster), ignore_errors=True)
    subprocess.run(["cp", "-a", data(cluster), backup(cluster)], check=True, timeout=LIMIT)
    cluster.start()


def backup(cluster: Cluster) -> Path:
    return cluster.log_path.parent / "backup"


def restore(cluster: Cluster) -> None:
    """Put the files back as they were copied."""
    cluster.stop("immediate")
    shutil.rmtree(data(cluster))
    subprocess.run(["cp", "-a", backup(cluster), data(cluster)], check=True, timeout=LIMIT)
    cluster.start()


@pytest.fixture(scope="module")
def servers(servers_directory: Path) -> Iterator[dict[str, Cluster]]:
    """Servers of this module alone: the databases of other tests must not go back in time."""
    with ExitStack() as stack:
        yield {
            side: stack.enter_context(
                Cluster.create(servers_directory, f"restored-{side}", PREPARING_SETTINGS)
            )
            for side in ("master", "slave")
        }


@pytest.fixture
def own(servers: dict[str, Cluster], request: pytest.FixtureRequest) -> Iterator[Databases]:
    """Empty databases on those servers."""
    name = "restored"
    for cluster in servers.values():
        cluster.start()
        cluster.create_database(name)
    yield Databases(
        servers["master"].dsn(name),
        servers["slave"].dsn(name),
        name,
        servers["master"],
        servers["slave"],
    )
    for cluster in servers.values():
        cluster.start()
        cluster.drop_database(name)


def move_a_batch(made: ReplicationConfig, number: int) -> None:
    """Write a row and see it through."""
    sql(made.master, f"INSERT INTO public.t VALUES ({number}, 'x')")
    with running(made):
        assert_same(made)


def refused(path: Path, line: str, hint: str) -> None:
    """The program must end by itself with code 1, and say so in its log; `status` says it, too."""
    path.with_suffix(".log").unlink(missing_ok=True)
    with daemon(path) as started:
        assert started.process.wait(LIMIT) == 1
    assert "Traceback" not in started.log
    (error,) = [words for words in started.log.splitlines() if f" {line} (" in words]
    assert " ERROR " in error
    assert hint in error
    status = pyreplica(path, "status", "--json", code=1).stdout
    assert line.removeprefix("shop: ").split(": ")[-1] in status


def rows(dsn: str) -> list[int]:
    with connect(dsn) as session:
        return [id_ for (id_,) in session.query("SELECT id FROM public.t ORDER BY id")]


@pytest.mark.parametrize("commit", ["two-phase", "one-phase"])
def test_a_master_that_is_restored_from_a_backup_is_refused(
    own: Databases, tmp_path: Path, commit: str
) -> None:
    made = copied(own, TABLE, commit=commit)
    move_a_batch(made, 1)
    back_up(own.master_cluster)
    move_a_batch(made, 2)
    move_a_batch(made, 3)
    before = cursors(made)[1].batch
    restore(own.master_cluster)
    # it goes on, with other rows under numbers that were there before
    sql(own.master, "INSERT INTO public.t VALUES (3, 'other')", "INSERT INTO public.t VALUES (4)")
    path = config_file(tmp_path, own, commit=commit)
    line = f"shop: the master recorded batch {before - 2}, the slave has batch {before}"
    for _ in range(2):
        refused(path, line, "restored from a backup, or failed over with loss")
    assert rows(own.slave) == [1, 2, 3]
    copy(made, truncate=True)
    with running(made):
        assert_same(made)
    assert rows(own.slave) == [1, 3, 4]


def test_a_slave_that_is_restored_from_a_backup_is_refused(own: Databases, tmp_path: Path) -> None:
    made = copied(own, TABLE)
    move_a_batch(made, 1)
    back_up(own.slave_cluster)
    move_a_batch(made, 2)
    # what it has lost is not in the log any more
    assert rotated(own.master) == "switched"
    move_a_batch(made, 3)
    eventually(lambda: rotated(own.master) == "truncated", "the log is kept")
    restore(own.slave_cluster)
    path = config_file(tmp_path, own)
    confirmed, applied = cursors(made)
    line = f"shop: the master recorded batch {confirmed.batch}, the slave has batch {applied.batch}"
    assert applied.batch < confirmed.batch
    refused(path, line, "The slave was restored from a backup")
    assert rows(own.slave) == [1]
    copy(made, truncate=True)
    with running(made):
        assert_same(made)


def test_both_sides_restored_to_the_same_moment_go_on(own: Databases) -> None:
    made = copied(own, TABLE)
    move_a_batch(made, 1)
    for cluster in (own.master_cluster, own.slave_cluster):
        back_up(cluster)
    move_a_batch(made, 2)
    for cluster in (own.master_cluster, own.slave_cluster):
        restore(cluster)
    move_a_batch(made, 7)
    assert rows(own.slave) == [1, 7]


# A standby that takes over


@pytest.fixture
def standby(own: Databases, servers_directory: Path) -> Iterator[Cluster]:
    """A streaming standby of the master, up to date and running."""
    master = own.master_cluster
    made = Cluster.create(servers_directory, "promoted", PREPARING_SETTINGS)
    with made:
        conf = (data(made) / "postgresql.conf").read_text(encoding="utf-8")
        shutil.rmtree(data(made))
        subprocess.run(
            [
                *(master.binary("pg_basebackup"), "-D", data(made), "-d", master.dsn()),
                *("-R", "-X", "stream", "-c", "fast", "--no-sync"),
            ],
            check=True,
            timeout=LIMIT,
        )
        (data(made) / "postgresql.conf").write_text(conf, encoding="utf-8")
        owner = data(master).stat()
        subprocess.run(
            ["chown", "-R", f"{owner.st_uid}:{owner.st_gid}", data(made)], check=True, timeout=LIMIT
        )
        made.start()
        yield made


def until_replayed(master: Cluster, standby: Cluster) -> None:
    """Wait until the standby has everything."""
    lsn = value(master.dsn(), "SELECT pg_current_wal_lsn()::text")
    replayed = f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'"
    eventually(lambda: value(standby.dsn(), replayed), "the standby does not follow")


def test_a_standby_of_the_master_takes_over_without_loss_and_replication_goes_on(
    own: Databases, standby: Cluster
) -> None:
    made = copied(own, TABLE)
    now = replace(made, master=standby.dsn(own.name))
    move_a_batch(made, 1)
    # not yet on the slave
    sql(own.master, "INSERT INTO public.t VALUES (2, 'on its way')")
    until_replayed(own.master_cluster, standby)
    own.master_cluster.stop("immediate")
    with running(now) as daemon_:
        line = daemon_.until_said("the server is a hot standby and cannot be written")
        assert line.startswith("ERROR shop: master: ")
        assert "promote it" in line
        standby.psql("-qc", "SELECT pg_promote()")
        assert_same(now)
        sql(now.master, "INSERT INTO public.t VALUES (3, 'after')")
        assert_same(now)
    assert rows(own.slave) == [1, 2, 3]


def test_a_standby_of_the_master_that_takes_over_with_loss_is_refused(
    own: Databases, standby: Cluster, tmp_path: Path
) -> None:
    made = copied(own, TABLE)
    now = replace(made, master=standby.dsn(own.name))
    move_a_batch(made, 1)
    until_replayed(own.master_cluster, standby)
    standby.stop()
    move_a_batch(made, 2)
    own.master_cluster.stop("immediate")
    standby.start()
    standby.psql("-qc", "SELECT pg_promote()")
    sql(now.master, "INSERT INTO public.t VALUES (3, 'after')")
    there = replace(own, master=now.master)
    refused(
        config_file(tmp_path, there),
        "shop: the master recorded batch 2, the slave has batch 3",
        "failed over with loss",
    )
    assert rows(own.slave) == [1, 2]
    copy(now, truncate=True)
    with running(now):
        assert_same(now)
    assert rows(own.slave) == [1, 3]


# A slave that was taken out


def test_a_slave_that_was_promoted_is_left_alone(databases: Databases, tmp_path: Path) -> None:
    made = copied(databases, TABLE)
    with running(made) as daemon_:
        daemon_.until_asleep()
        # it takes over: now it is written
        sql(databases.slave, sqlfiles.script("slave-uninstall.sql"))
        sql(databases.slave, "INSERT INTO public.t VALUES (100, 'its own')")
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        daemon_.until(lambda: daemon_.error, "it goes on")
    assert isinstance(daemon_.error, NotInstalled)
    path = config_file(tmp_path, databases)
    side = "PyReplica's slave side is not installed in this database"
    with daemon(path) as started:
        assert started.process.wait(LIMIT) == 1
    assert f"shop: slave: {side} (Run `pyreplica install`" in started.log
    # installed again it still knows that it has to be copied
    install(made)
    refused(path, "shop: the slave has not been copied yet", "pyreplica copy shop")
    assert rows(databases.slave) == [100]
    with pytest.raises(Refused, match="has rows"):
        copy(made)
    copy(made, truncate=True)
    with running(made):
        assert_same(made)


# The log


def denied(session: Connection, statement: str) -> PyReplicaError:
    """The error of a statement on the log."""
    with pytest.raises(DatabaseError) as caught:
        session.execute(statement)
    session.rollback()
    return caught.value


def test_a_log_with_what_a_slave_has_not_confirmed_cannot_be_emptied(databases: Databases) -> None:
    made = copied(databases, TABLE)
    sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
    with connect(databases.master) as admin:
        for role in ("origin", "replica"):
            admin.execute(f"SET session_replication_role = {role}")
            for statement in (
                "TRUNCATE pyreplica.replica_log",
                "TRUNCATE pyreplica.replica_log_0",
                "DELETE FROM pyreplica.replica_log",
                "DELETE FROM pyreplica.replica_log_0 WHERE id < 10",
                "BEGIN ISOLATION LEVEL REPEATABLE READ; TRUNCATE pyreplica.replica_log",
            ):
                error = denied(admin, statement)
                assert error.what == (
                    "the log of PyReplica cannot be emptied by hand: a slave has not confirmed "
                    "what is in it"
                )
                assert "replica_slave" in error.hint
        admin.execute("SET session_replication_role = origin")
        for statement in (
            "ALTER TABLE pyreplica.replica_log_0 DISABLE TRIGGER ALL",
            "ALTER TABLE pyreplica.replica_log DISABLE TRIGGER pyreplica_keep_log",
            "DROP TRIGGER pyreplica_keep_log ON pyreplica.replica_log",
        ):
            assert "cannot be d" in denied(admin, statement).what
        with running(made):
            assert_same(made)
        # nobody misses anything
        admin.execute("TRUNCATE pyreplica.replica_log")
    move_a_batch(made, 2)


def test_who_gives_a_slave_up_can_empty_the_log_and_the_slave_needs_a_new_copy(
    databases: Databases, tmp_path: Path
) -> None:
    made = copied(databases, TABLE)
    sql(
        databases.master,
        "INSERT INTO public.t VALUES (1, 'x')",
        "DELETE FROM pyreplica.replica_slave WHERE replication = 'shop'",
        "TRUNCATE pyreplica.replica_log",
        "INSERT INTO public.t VALUES (2, 'x')",
    )
    path = config_file(tmp_path, databases)
    refused(path, "shop: the master does not know this slave any more", "pyreplica copy shop")
    assert rows(databases.slave) == []
    copy(made, truncate=True)
    with running(made):
        assert_same(made)


def test_a_log_that_names_a_table_which_is_not_recorded_any_more_is_refused(
    databases: Databases,
) -> None:
    made = copied(databases, TABLE)
    sql(
        databases.master,
        "INSERT INTO public.t VALUES (1, 'x')",
        "DELETE FROM pyreplica.replica_table",
    )
    with running(made) as daemon_:
        daemon_.until(lambda: daemon_.error, "it goes on")
    assert isinstance(daemon_.error, Refused)
    assert "which pyreplica.replica_table does not have any more" in daemon_.error.line
    assert rows(databases.slave) == []


# Clocks


@pytest.mark.parametrize("jump", ["-10 years", "10 years"])
def test_what_the_clocks_said_decides_nothing(databases: Databases, jump: str) -> None:
    """All the times that are recorded anywhere are of another age, as after a clock has jumped."""
    made = copied(databases, TABLE)
    sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
    times = (
        "SELECT format('UPDATE %s SET %s', attrelid::regclass, string_agg(format("
        f"'%1$I = %1$I + interval ''{jump}''', attname), ', ')) FROM pg_attribute a "
        "JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'pyreplica'::regnamespace "
        "AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 "
        "AND a.atttypid = 'timestamptz'::regtype GROUP BY attrelid"
    )
    for dsn in (databases.master, databases.slave):
        with connect(dsn) as session:
            for (update,) in session.query(times):
                session.execute(update)
    with running(made) as daemon_:
        assert_same(made)
        sql(databases.master, "INSERT INTO public.t VALUES (2, 'x')")
        assert_same(made)
        assert daemon_.error is None
    with closing(Master(made)) as master:
        assert master.record.log_kept() is not None
    assert rows(databases.slave) == [1, 2]
