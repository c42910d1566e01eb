"""The view replication_status on both sides: what it tells, to whom, and what it costs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.support import connect, copied, eventually, running, sql

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring.md"
TABLE = "CREATE TABLE public.t (id integer PRIMARY KEY)"


def shown(dsn: str) -> dict[str, Any]:
    """The one row of the view."""
    with connect(dsn) as session:
        columns = [
            name
            for (name,) in session.query(
                "SELECT attname::text FROM pg_attribute "
                "WHERE attrelid = 'pyreplica.replication_status'::regclass AND attnum > 0 "
                "ORDER BY attnum"
            )
        ]
        return dict(
            zip(columns, session.one("SELECT * FROM pyreplica.replication_status"), strict=True)
        )


def states(databases: Databases) -> tuple[str, str]:
    return shown(databases.master)["state"], shown(databases.slave)["state"]


def test_both_sides_tell_what_they_know_of_a_life(databases: Databases) -> None:
    made = copied(databases, TABLE, max_log_size="10MB", keepalive="1s")
    assert states(databases) == ("no daemon", "stopped")
    with running(made) as daemon:
        daemon.until_asleep()
        sql(databases.master, "INSERT INTO public.t SELECT generate_series(1, 10)")
        wait(made, 30)
        eventually(lambda: states(databases) == ("in step", "running"))
        master, slave = shown(databases.master), shown(databases.slave)
        assert (master["side"], slave["side"]) == ("master", "slave")
        assert master["batch"] == slave["batch"] == 2
        assert (slave["changes"], slave["last_batch_changes"]) == (10, 10)
        assert (master["waiting"].total_seconds(), master["log_percent"]) == (0, 0)
        assert (master["daemon"], slave["daemon"]) == (True, True)
        assert master["as_of"] == slave["as_of"]
        sql(databases.slave, "SELECT pyreplica.pause('shop', 'tea')")
        eventually(lambda: states(databases)[1] == "paused")
        sql(databases.master, "INSERT INTO public.t SELECT generate_series(11, 30000)")
        master, slave = shown(databases.master), shown(databases.slave)
        assert master["state"] == "catching up"
        assert master["waiting"].total_seconds() > 0
        assert master["log_bytes"] > 1 << 20
        assert 0 < master["log_percent"] < 100
        assert (slave["pause_reason"], slave["paused_by"]) == ("tea", "postgres")
        sql(databases.slave, "SELECT pyreplica.resume('shop')")
        wait(made, 30)
        sql(databases.slave, "INSERT INTO public.t VALUES (-1)")
        sql(databases.master, "INSERT INTO public.t VALUES (-1)")
        eventually(lambda: states(databases)[1] == "failing")
        assert "insert_exists" in shown(databases.slave)["last_error"]
        sql(databases.slave, "DELETE FROM public.t WHERE id = -1")
        wait(made, 30)
    assert states(databases) == ("no daemon", "stopped")
    sql(databases.slave, "SELECT pyreplica.pause('shop')")
    assert states(databases)[1] == "paused"
    sql(databases.slave, "SELECT pyreplica.resume('shop')")
    sql(databases.slave, "UPDATE pyreplica.replica_status SET state = 'running'")
    assert states(databases)[1] == "died"
    sql(
        databases.master,
        "UPDATE pyreplica.replica_slave SET state = 'dropped', dropped_at = now(), "
        "dropped_why = 'too much'",
    )
    master = shown(databases.master)
    assert (master["state"], master["last_error"]) == ("needs a new copy", "too much")


@pytest.mark.parametrize("side", ["master", "slave"])
def test_a_role_with_the_documented_grants_reads_the_view_and_nothing_else(
    side: str, databases: Databases
) -> None:
    copied(databases, TABLE)
    dsn = databases.master if side == "master" else databases.slave
    grants = re.findall(r"^GRANT .*?;", MONITORING.read_text("utf-8"), re.MULTILINE)
    assert len(grants) == 3
    with connect(dsn) as session:
        # a role belongs to all databases of the server
        role = f"monitor_{databases.name[-20:]}"
        session.execute(f'CREATE ROLE "{role}"')
        try:
            for grant in grants:
                ours = grant.replace("master_status", f"{side}_status")
                session.execute(ours.replace("TO monitor", f'TO "{role}"'))
            session.execute(f'SET ROLE "{role}"')
            assert session.one("SELECT replication, side FROM pyreplica.replication_status") == (
                "shop",
                side,
            )
            for table, right in (
                ("replica_version", "SELECT"),
                ("replication_status", "DELETE"),
                ("replica_log" if side == "master" else "replica_cursor", "SELECT"),
            ):
                assert session.one(
                    "SELECT has_table_privilege(%s, %s)", (f"pyreplica.{table}", right)
                ) == (False,)
        finally:
            session.execute("RESET ROLE")
            session.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_every_column_is_documented_in_the_database_and_in_monitoring_md(
    databases: Databases,
) -> None:
    copied(databases, TABLE)
    part = MONITORING.read_text("utf-8").split("## In SQL")[1].split("## The page")[0]
    documented = re.findall(r"^\| `(\w+)` \| (?:both|master|slave) \| `(\w+)` \|", part, re.M)
    for dsn in (databases.master, databases.slave):
        with connect(dsn) as session:
            found = session.query(
                "SELECT attname::text, replace(format_type(atttypid, atttypmod), "
                "'timestamp with time zone', 'timestamptz'), col_description(attrelid, attnum) "
                "FROM pg_attribute WHERE attrelid = 'pyreplica.replication_status'::regclass "
                "AND attnum > 0 ORDER BY attnum"
            )
        assert [(name, type_) for name, type_, _ in found] == documented
        assert all(comment for _, _, comment in found)


def test_a_database_that_is_both_has_the_rows_of_both(databases: Databases) -> None:
    copied(databases, TABLE)
    databases.slave_cluster.psql(
        *("-q", "-c", 'SET pyreplica."both" = on', "-f", "sql/master-install.sql"),
        dbname=databases.name,
    )
    with connect(databases.slave) as session:
        query = "SELECT side, replication FROM pyreplica.replication_status"
        assert session.query(query) == [("slave", "shop")]
        session.execute(
            "INSERT INTO pyreplica.replica_slave (replication, bit, slave_system, slave_database) "
            "VALUES ('next', 1, 'x', 'y')"
        )
        assert sorted(session.query(query)) == [("master", "next"), ("slave", "shop")]
    databases.slave_cluster.psql("-q", "-f", "sql/slave-uninstall.sql", dbname=databases.name)
    with connect(databases.slave) as session:
        assert session.query(query) == [("master", "next")]
