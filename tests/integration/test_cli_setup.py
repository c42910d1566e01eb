"""check, install, copy and uninstall, and what they refuse."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Databases
from tests.integration.cli_support import (
    TABLES,
    contents,
    dump,
    execute,
    once,
    pair,
    refused,
    rows,
    state,
    unchanged,
    wait,
    write_config,
)
from tests.support import LIMIT, config_file, connect, daemon, eventually, pyreplica, set_up


@pytest.fixture
def shop(databases: Databases, tmp_path: Path) -> Path:
    """A configuration whose master has a table with rows; nothing is installed."""
    execute(databases.master, TABLES)
    return config_file(tmp_path, databases)


@pytest.fixture
def plain_role(databases: Databases) -> Iterator[str]:
    """A role that may log in and nothing else, on both servers."""
    clusters = (databases.master_cluster, databases.slave_cluster)
    role = f"plain_{os.getpid()}"
    for cluster in clusters:
        execute(cluster.dsn(), f"CREATE ROLE {role} LOGIN")
    yield role
    for cluster in clusters:
        execute(cluster.dsn(databases.name), f"DROP OWNED BY {role}")
        execute(cluster.dsn(), f"DROP OWNED BY {role}", f"DROP ROLE {role}")


# check


def test_check_names_each_problem_with_its_cure_and_changes_nothing(
    shop: Path, databases: Databases
) -> None:
    execute(databases.master, "CREATE TABLE keyless (a int)", "CREATE UNLOGGED TABLE u (a int)")
    with unchanged(databases):
        found = pyreplica(shop, "check", code=1).stdout
    for line in (
        "shop: master: problem: PyReplica's master side is not installed in this database",
        "shop: slave: problem: PyReplica's slave side is not installed in this database",
        "    Run `pyreplica install`, or sql/slave-install.sql with psql.",
        "shop: public.item: note: can be replicated; it is not captured yet",
        "shop: public.item: note: the slave has no table public.item",
        "    Create it, or let `pyreplica copy shop --schema` make all tables.",
        "shop: public.keyless: note: will not be replicated: it has no primary key",
        "shop: public.u: note: will not be replicated: it is unlogged",
    ):
        assert line in found.splitlines()


def test_check_counts_the_problems_of_each_replication_by_itself(
    shop: Path, databases: Databases, tmp_path: Path
) -> None:
    set_up(shop)
    broken = {**pair(databases), "master": "host=127.0.0.1 port=1 dbname=x"}
    path = write_config(tmp_path / "two.yaml", {"broken": broken, "shop": pair(databases)})
    shown = pyreplica(path, "check", code=1).stdout
    assert "shop: no problems found" in shown
    assert "broken: no problems found" not in shown


def test_check_names_a_slave_without_prepared_transactions(
    databases: Databases, tmp_path: Path
) -> None:
    here = databases.master_cluster
    other = f"{databases.name[:50]}_s"
    here.create_database(other)
    execute(databases.master, TABLES)
    path = config_file(tmp_path, replace(databases, slave=here.dsn(other)))
    found = pyreplica(path, "check", code=1).stdout
    assert "problem: max_prepared_transactions is 0, two-phase commit cannot work" in found
    assert "Set max_prepared_transactions = 10" in found
    assert "`commit: one-phase`" in found
    set_up(path)
    # without that advice being taken: the daemon says the same, and goes on when it is
    with daemon(path) as running:
        execute(databases.master, "INSERT INTO item VALUES (1000, 'new', 1)")
        eventually(lambda: "max_prepared_transactions" in running.log, lambda: running.log)
        assert running.stop() == 0
    path = config_file(tmp_path, replace(databases, slave=here.dsn(other)), commit="one-phase")
    with daemon(path):
        wait(path)
    pyreplica(path, "compare")
    here.drop_database(other)


def test_check_names_one_database_on_both_sides(shop: Path, databases: Databases) -> None:
    path = config_file(shop.parent, replace(databases, slave=databases.master), name="same")
    assert "problem: master and slave are the same database" in (
        pyreplica(path, "check", code=1).stdout
    )


# What does not fit, in check, copy and the daemon

MISFITS = {
    "missing column": (
        "ALTER TABLE item DROP COLUMN name",
        "table public.item on the slave has no column name",
        "ALTER TABLE item ADD COLUMN name text",
    ),
    "missing table": (
        "ALTER TABLE item RENAME TO moved",
        "the slave has no table public.item",
        "ALTER TABLE moved RENAME TO item",
    ),
    "wrong type": (
        "ALTER TABLE item ALTER COLUMN price TYPE integer USING price::integer",
        "column price of table public.item is numeric on the master and integer on the slave",
        "ALTER TABLE item ALTER COLUMN price TYPE numeric",
    ),
    "no key": (
        "ALTER TABLE item DROP CONSTRAINT item_pkey",
        "table public.item on the slave has no unique key on (id)",
        "ALTER TABLE item ADD PRIMARY KEY (id)",
    ),
    "unlogged table": (
        "ALTER TABLE item SET UNLOGGED",
        "table public.item on the slave is unlogged, a crash would empty it unnoticed",
        "ALTER TABLE item SET LOGGED",
    ),
    "extra column": (
        "ALTER TABLE item ADD COLUMN extra int NOT NULL DEFAULT 1; "
        "ALTER TABLE item ALTER COLUMN extra DROP DEFAULT",
        "column extra of table public.item is on the slave only, NOT NULL and has no default",
        "ALTER TABLE item DROP COLUMN extra",
    ),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_table_of_the_slave_that_does_not_fit_is_named_by_check_and_copy(
    misfit: str, shop: Path, databases: Databases
) -> None:
    damage, says, cure = MISFITS[misfit]
    pyreplica(shop, "install")
    execute(databases.slave, "CREATE TABLE item (id int PRIMARY KEY, name text, price numeric)")
    execute(databases.slave, damage)
    with unchanged(databases):
        checked = pyreplica(shop, "check", code=None)
        assert says in checked.stdout
        # a table that is not there yet is nothing wrong before the copy
        assert checked.returncode == (0 if misfit == "missing table" else 1)
        refused(shop, "copy", says=f"shop: {says}")
    execute(databases.slave, cure)
    pyreplica(shop, "copy")


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_table_of_the_slave_that_does_not_fit_any_more_is_named_by_the_daemon(
    misfit: str, shop: Path, databases: Databases
) -> None:
    damage, says, cure = MISFITS[misfit]
    set_up(shop)
    execute(databases.slave, damage)
    execute(databases.master, "INSERT INTO item VALUES (1000, 'new', 1.25)")
    with daemon(shop) as running:
        assert says in once(shop, "failing")["error"]
        assert says in running.log
        assert says in pyreplica(shop, "check", code=1).stdout
        compared = pyreplica(shop, "compare", "--timeout", "100ms", code=None)
        assert compared.returncode in (3, 4)
        execute(databases.slave, cure)
        wait(shop)


# install


def test_install_names_what_it_refuses_and_goes_on(shop: Path, databases: Databases) -> None:
    execute(
        databases.master,
        "CREATE TABLE keyless (a int)",
        "CREATE UNLOGGED TABLE sessions (a int PRIMARY KEY)",
        "CREATE TABLE zoo (a int PRIMARY KEY)",
    )
    assert pyreplica(shop, "install").stdout.splitlines() == [
        "shop: master: installed",
        "shop: slave: installed",
        "shop: public.item: added, key (id)",
        "shop: public.keyless: not added: it has no primary key; "
        "ALTER TABLE public.keyless ADD PRIMARY KEY (...)",
        "shop: public.sessions: not added: it is unlogged, a crash of the master would empty it "
        "unnoticed; ALTER TABLE public.sessions SET LOGGED",
        "shop: public.zoo: added, key (a)",
    ]


def test_install_may_be_run_again_and_changes_nothing_then(
    shop: Path, databases: Databases
) -> None:
    pyreplica(shop, "install")
    with unchanged(databases):
        shown = pyreplica(shop, "install").stdout
    assert "shop: public.item: is added already" in shown


def test_install_by_an_ordinary_role_is_refused_and_changes_nothing(
    shop: Path, databases: Databases, plain_role: str
) -> None:
    there = databases.master_cluster.dsn(databases.name, user=plain_role)
    path = config_file(shop.parent, replace(databases, master=there), name="plain")
    with unchanged(databases):
        shown = refused(
            path,
            "install",
            says=f"plain: master: role {plain_role} may not install PyReplica on a master",
            hint="run the script as one",
        )
        assert "CONTEXT" not in shown
        assert f"role {plain_role} is no superuser" in pyreplica(path, "check", code=1).stdout


def test_install_on_a_slave_where_nothing_may_be_made_leaves_the_master_as_it_was(
    shop: Path, databases: Databases, plain_role: str
) -> None:
    there = databases.slave_cluster.dsn(databases.name, user=plain_role)
    path = config_file(shop.parent, replace(databases, slave=there), name="plain")
    with unchanged(databases):
        refused(path, "install", says="plain: slave: permission denied")


def test_install_with_an_unreachable_slave_leaves_the_master_as_it_was(
    shop: Path, databases: Databases
) -> None:
    nowhere = replace(databases, slave="host=127.0.0.1 port=1 dbname=x")
    path = config_file(shop.parent, nowhere, name="nowhere")
    with unchanged(databases):
        refused(path, "install", says="nowhere: slave: cannot connect")


def test_install_with_one_database_on_both_sides_changes_nothing(
    shop: Path, databases: Databases
) -> None:
    path = config_file(shop.parent, replace(databases, slave=databases.master), name="same")
    with unchanged(databases):
        refused(path, "install", says="same")


def test_install_with_the_sides_exchanged_is_refused_and_changes_nothing(
    shop: Path, databases: Databases
) -> None:
    set_up(shop)
    exchanged = replace(databases, master=databases.slave, slave=databases.master)
    path = config_file(shop.parent, exchanged, name="exchanged")
    with unchanged(databases):
        refused(
            path,
            "install",
            says=f"database {databases.name} is installed as a slave of PyReplica, this is the "
            "script for the master",
            hint="Run it on the master.",
        )
        for command in ("copy", "wait", "compare", "run"):
            done = pyreplica(path, command, code=1)
            assert "exchanged: master: PyReplica's master side is not installed" in done.stderr


# copy


def test_copy_before_install_says_so(shop: Path, databases: Databases) -> None:
    with unchanged(databases):
        refused(
            shop,
            "copy",
            "--schema",
            says="shop: master: PyReplica's master side is not installed in this database",
            hint="pyreplica install",
        )


def test_copy_into_rows_is_refused_unless_they_may_go(shop: Path, databases: Databases) -> None:
    pyreplica(shop, "install")
    execute(databases.slave, "CREATE TABLE item (id int PRIMARY KEY, name text, price numeric)")
    execute(databases.slave, "INSERT INTO item VALUES (-1, 'mine', 0)")
    with unchanged(databases):
        refused(
            shop, "copy", says="shop: table public.item on the slave has rows", hint="--truncate"
        )
        refused(
            shop,
            "copy",
            "--schema",
            says="shop: --schema wants to make table public.item, but the slave has it already",
        )
    assert "shop: copied 1 table, 100 rows in " in pyreplica(shop, "copy", "--truncate").stdout
    pyreplica(shop, "compare")


def test_a_second_copy_is_refused_unless_it_may_begin_again(
    shop: Path, databases: Databases
) -> None:
    set_up(shop)
    with unchanged(databases):
        refused(shop, "copy", says="shop: the slave is copied already", hint="--truncate")
    execute(databases.slave, "DELETE FROM item WHERE id > 50")
    pyreplica(shop, "compare", code=3)
    pyreplica(shop, "copy", "--truncate")
    pyreplica(shop, "compare")


def test_copy_without_a_table_is_refused(shop: Path, databases: Databases) -> None:
    path = config_file(shop.parent, databases, tables=["other.*"])
    pyreplica(path, "install")
    with unchanged(databases):
        refused(path, "copy", says="there is nothing to copy: no captured table", hint="`tables:`")


def test_copy_beside_a_running_daemon_is_refused(shop: Path, databases: Databases) -> None:
    set_up(shop)
    with daemon(shop):
        eventually(lambda: state(shop) == "in step")
        refused(
            shop,
            "copy",
            "--truncate",
            says="another daemon or copy is at work for this replication",
        )
        uninstalled = refused(shop, "uninstall", says="another daemon or copy is at work")
        assert "forgotten" not in uninstalled
        pyreplica(shop, "compare")


def test_a_copy_that_is_broken_off_says_so_and_succeeds_later(
    shop: Path, databases: Databases
) -> None:
    pyreplica(shop, "install")
    execute(databases.slave, "CREATE TABLE item (id int PRIMARY KEY, name text, price numeric)")
    with connect(databases.slave) as lock, lock.transaction():
        lock.execute("LOCK TABLE public.item IN SHARE MODE")
        copying = subprocess.Popen(
            [sys.executable, "-m", "pyreplica", "--config", str(shop), "copy"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        eventually(lambda: state(shop) == "copying")
        copying.send_signal(signal.SIGTERM)
        output, _ = copying.communicate(timeout=LIMIT)
        assert copying.returncode == 130, output
        assert output.strip() == "pyreplica: interrupted"
    assert state(shop) == "not copied"
    assert "the copy was not finished" in pyreplica(shop, "status", code=1).stdout
    refused(shop, "wait", says="the slave has not been copied yet")
    pyreplica(shop, "copy")
    pyreplica(shop, "compare")


# uninstall


def test_uninstall_leaves_both_databases_as_they_were_before(
    shop: Path, databases: Databases
) -> None:
    execute(databases.slave, "CREATE TABLE item (id int PRIMARY KEY, name text, price numeric)")
    before = contents(databases)
    pyreplica(shop, "install")
    pyreplica(shop, "copy")
    with daemon(shop):
        execute(databases.master, "INSERT INTO item VALUES (1000, 'new', 1)")
        wait(shop)
    assert pyreplica(shop, "uninstall").stdout.splitlines() == [
        "shop: slave: the replication is forgotten; its tables stay as they are",
        "shop: slave: uninstalled",
        "shop: master: the replication is forgotten",
        "shop: master: uninstalled",
    ]
    assert rows(databases.slave, "SELECT count(*) FROM item") == [(101,)]
    for dsn in (databases.master, databases.slave):
        assert rows(dsn, "SELECT * FROM pg_event_trigger") == []
        assert rows(dsn, "SELECT * FROM pg_trigger") == []
    execute(databases.slave, "TRUNCATE item")
    execute(databases.master, "DELETE FROM item WHERE id = 1000")
    assert contents(databases) == before


def test_uninstall_of_what_is_not_there_says_so(shop: Path, databases: Databases) -> None:
    with unchanged(databases):
        assert pyreplica(shop, "uninstall").stdout.splitlines() == [
            "shop: slave: nothing is installed",
            "shop: master: nothing is installed",
        ]


def test_uninstall_with_an_unreachable_side_changes_nothing(
    shop: Path, databases: Databases
) -> None:
    set_up(shop)
    for side in ("master", "slave"):
        settings = {**pair(databases), side: "host=127.0.0.1 port=1 dbname=x"}
        path = write_config(shop.parent / "half.yaml", {"shop": settings})
        with unchanged(databases):
            refused(path, "uninstall", says=f"shop: {side}: cannot connect")


def test_uninstall_of_one_of_two_replications_keeps_the_other_working(
    shop: Path, databases: Databases
) -> None:
    other = f"{databases.name[:50]}_2"
    databases.slave_cluster.create_database(other)
    second = {**pair(databases), "slave": databases.slave_cluster.dsn(other)}
    path = write_config(shop.parent / "two.yaml", {"shop": pair(databases), "second": second})
    set_up_each(path)
    assert pyreplica(path, "uninstall", "shop").stdout.splitlines() == [
        "shop: slave: the replication is forgotten; its tables stay as they are",
        "shop: slave: uninstalled",
        "shop: master: the replication is forgotten",
    ]
    assert "pyreplica" not in dump(databases, databases.slave)
    with daemon(path, "second"):
        execute(databases.master, "INSERT INTO item VALUES (1000, 'new', 1)")
        wait(path, "second")
        pyreplica(path, "compare", "second")
    assert rows(databases.slave, "SELECT count(*) FROM item") == [(100,)]
    pyreplica(path, "uninstall", "second")
    assert "pyreplica" not in dump(databases, databases.master)
    databases.slave_cluster.drop_database(other)


def set_up_each(path: Path) -> None:
    """install and copy --schema of all replications of a configuration."""
    pyreplica(path, "install")
    pyreplica(path, "copy", "--schema")


# Rights


def test_a_missing_right_is_named_with_the_grant_that_cures_it(
    shop: Path, databases: Databases, plain_role: str
) -> None:
    pyreplica(shop, "install")
    execute(databases.slave, "CREATE TABLE item (id int PRIMARY KEY, name text, price numeric)")
    server = databases.slave_cluster
    there = server.dsn(databases.name, user=plain_role)
    path = config_file(shop.parent, replace(databases, slave=there), name="plain")
    says = 'plain: slave: permission denied to set parameter "session_replication_role"'
    with unchanged(databases):
        refused(path, "copy", says=says, hint="GRANT SET ON PARAMETER")
    assert 'problem: permission denied to set parameter "session_replication_role"' in (
        pyreplica(path, "check", code=1).stdout
    )
    execute(server.dsn(), f"GRANT SET ON PARAMETER session_replication_role TO {plain_role}")
    with unchanged(databases):
        refused(path, "copy", says="plain: slave: permission denied for schema pyreplica")
    execute(
        databases.slave,
        f"GRANT USAGE ON SCHEMA pyreplica TO {plain_role}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA pyreplica TO {plain_role}",
    )
    shown = pyreplica(path, "check", code=1).stdout
    assert "plain: public.item: problem: cannot be written on the slave" in shown
    assert "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON public.item" in shown
    refused(path, "copy", says="permission denied for table item")
