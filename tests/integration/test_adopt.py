"""A database that has moved, by pg_upgrade or to another name, goes on being replicated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.demo.cluster import Cluster
from pyreplica.errors import Refused
from pyreplica.replication.adoption import adopt
from tests.conftest import PREPARING_SETTINGS, Databases
from tests.support import assert_same, copied, running, sql, value

TABLES = """
CREATE TYPE public.mood AS ENUM ('glad', 'sad');
CREATE TABLE public.t (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, m public.mood);
CREATE TABLE public.parted (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE public.parted_low PARTITION OF public.parted FOR VALUES FROM (0) TO (100);
"""
WRITES = (
    "INSERT INTO public.t (v, m) SELECT 'row ' || i, 'glad' FROM generate_series(1, 20) i",
    "UPDATE public.t SET m = 'sad', v = v || '!' WHERE id % 3 = 0",
    "DELETE FROM public.t WHERE id % 5 = 0",
    "INSERT INTO public.parted VALUES ((SELECT count(*) FROM public.parted), 'x')",
)


@pytest.fixture
def new_cluster(servers_directory: Path, databases: Databases) -> Iterator[Cluster]:
    """A server that pg_upgrade can move another one's databases to."""
    with Cluster.create(servers_directory, databases.name[-40:], PREPARING_SETTINGS) as cluster:
        yield cluster


@pytest.fixture
def old_cluster(servers_directory: Path, databases: Databases) -> Iterator[Cluster]:
    """A server of this test alone, which is moved as a whole."""
    name = f"{databases.name[-40:]}_old"
    with Cluster.create(servers_directory, name, PREPARING_SETTINGS) as cluster:
        cluster.start()
        cluster.create_database("shop")
        yield cluster


def refusal(made: ReplicationConfig) -> str:
    """What the daemon says that ends by itself."""
    with running(made) as daemon:
        daemon.until(lambda: daemon.error, "it goes on")
    assert isinstance(daemon.error, Refused)
    assert "pyreplica adopt shop" in daemon.error.hint
    return daemon.error.line


@pytest.mark.parametrize("side", ["master", "slave"])
def test_a_server_that_pg_upgrade_has_moved_goes_on_where_it_was(
    databases: Databases, old_cluster: Cluster, new_cluster: Cluster, side: str
) -> None:
    before = (
        replace(databases, master=old_cluster.dsn("shop"))
        if side == "master"
        else replace(databases, slave=old_cluster.dsn("shop"))
    )
    made = copied(before, TABLES)
    with running(made):
        sql(before.master, *WRITES)
        assert_same(made)
    sql(before.master, *WRITES)  # not on the slave yet
    old_cluster.stop()
    new_cluster.take_over(old_cluster)
    new_cluster.start()
    after = (
        replace(made, master=new_cluster.dsn("shop"))
        if side == "master"
        else replace(made, slave=new_cluster.dsn("shop"))
    )
    assert "but the replication was set up with" in refusal(after)
    sql(after.master, *WRITES)  # captured as before
    assert [line.split(":")[0] for line in adopt(after)] == [side]
    with running(after):
        assert_same(after)
        sql(after.master, *WRITES)
        assert_same(after)
    assert value(after.slave, "SELECT count(*) FROM public.parted") == 4
    assert adopt(after) == []


def test_a_database_with_another_name_goes_on_where_it_was(databases: Databases) -> None:
    made = copied(databases, TABLES)
    name = f"{databases.name}_renamed"
    sql(databases.slave_cluster.dsn(), f'ALTER DATABASE "{databases.name}" RENAME TO "{name}"')
    try:
        moved = replace(made, slave=databases.slave_cluster.dsn(name))
        sql(moved.master, *WRITES)
        refusal(moved)
        assert [line.split(":")[0] for line in adopt(moved)] == ["slave"]
        with running(moved):
            assert_same(moved)
    finally:
        sql(databases.slave_cluster.dsn(), f'ALTER DATABASE "{name}" RENAME TO "{databases.name}"')


def test_a_slave_that_is_not_where_the_master_left_it_is_not_adopted(databases: Databases) -> None:
    made = copied(databases, TABLES)
    sql(databases.slave, "UPDATE pyreplica.replica_cursor SET master_system = '42', batch = 7")
    with pytest.raises(Refused, match="the master recorded batch 1, the slave has batch 7"):
        adopt(made)
    assert value(databases.slave, "SELECT master_system FROM pyreplica.replica_cursor") == "42"


def test_a_master_that_was_restored_from_a_dump_is_not_adopted(databases: Databases) -> None:
    made = copied(databases, TABLES)
    sql(
        databases.slave,
        "UPDATE pyreplica.replica_cursor SET master_system = '42'",
    )
    sql(
        databases.master,
        "UPDATE pyreplica.replica_table SET relid = relid::bigint + 100000 WHERE table_name = 't'",
    )
    with pytest.raises(Refused, match=r"not where they were recorded: public\.t") as refused:
        adopt(made)
    assert "copy the slave anew" in refused.value.hint


def test_a_server_whose_transaction_ids_began_anew_is_not_adopted(databases: Databases) -> None:
    made = copied(databases, TABLES)
    future = "UPDATE pyreplica.{} SET snapshot = '4000000000:4000000000:'"
    sql(databases.master, future.format("replica_slave"))
    sql(
        databases.slave,
        future.format("replica_cursor"),
        "UPDATE pyreplica.replica_cursor SET master_system = '42'",
    )
    with pytest.raises(Refused, match="the slave has seen up to 4000000000"):
        adopt(made)


def test_a_running_daemon_is_not_disturbed(databases: Databases) -> None:
    made = copied(databases, TABLES)
    with running(made) as daemon:
        daemon.until_asleep()
        with pytest.raises(Refused, match="another daemon or copy is at work"):
            adopt(made)


def test_a_slave_that_was_moved_by_a_dump_goes_on_where_it_was(databases: Databases) -> None:
    made = copied(databases, TABLES)
    cluster, name = databases.slave_cluster, f"{databases.name}_moved"
    dump = cluster.run("pg_dump", "-d", databases.slave).stdout
    cluster.create_database(name)
    try:
        cluster.psql("-q", dbname=name, input=dump)
        moved = replace(made, slave=cluster.dsn(name))
        sql(moved.master, *WRITES)
        assert "but the replication was set up with" in refusal(moved)
        assert [line.split(":")[0] for line in adopt(moved)] == ["slave"]
        relid = "SELECT slave_relid = 'public.t'::regclass FROM pyreplica.replica_copy"
        assert value(moved.slave, f"{relid} WHERE table_name = 't'")
        with running(moved):
            assert_same(moved)
    finally:
        cluster.drop_database(name)
