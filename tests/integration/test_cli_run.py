"""The daemon as a user runs it: signals, several replications, chosen tables, odd names."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Databases
from tests.integration.cli_support import (
    TABLES,
    execute,
    pair,
    refused,
    rows,
    state,
    status,
    wait,
    write_config,
)
from tests.support import config_file, connect, daemon, eventually, pyreplica, set_up

QUICKLY = 3.0
"""Seconds that an idle daemon may take to stop."""
BLOCKED = 10.0
"""The same while a batch cannot go on."""


@pytest.fixture
def shop(databases: Databases, tmp_path: Path) -> Path:
    """A replication that is copied and not running."""
    execute(databases.master, TABLES)
    path = config_file(tmp_path, databases)
    set_up(path)
    return path


@contextmanager
def second_slave(databases: Databases) -> Iterator[str]:
    """A further empty database on the slave's server; gives its connection string."""
    name = f"{databases.name[:50]}_2"
    databases.slave_cluster.create_database(name)
    yield databases.slave_cluster.dsn(name)
    databases.slave_cluster.drop_database(name)


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_with_0(
    number: signal.Signals, shop: Path, databases: Databases
) -> None:
    with daemon(shop) as running:
        eventually(lambda: state(shop) == "in step")
        began = time.monotonic()
        assert running.stop(number) == 0
        assert time.monotonic() - began < QUICKLY
    assert state(shop) == "stopped"
    assert "Traceback" not in running.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_with_0_while_its_batch_is_blocked(
    number: signal.Signals, shop: Path, databases: Databases
) -> None:
    with daemon(shop) as running, connect(databases.slave) as blocker:
        eventually(lambda: state(shop) == "in step")
        blocker.execute("BEGIN; SELECT FROM public.item WHERE id = 7 FOR UPDATE")
        execute(databases.master, "UPDATE item SET name = 'blocked' WHERE id = 7")
        eventually(
            lambda: bool(
                rows(
                    databases.slave,
                    "SELECT 1 FROM pg_locks WHERE NOT granted AND pid IN (SELECT "
                    "pid FROM pg_stat_activity WHERE datname = current_database())",
                )
            )
        )
        began = time.monotonic()
        assert running.stop(number) == 0
        assert time.monotonic() - began < BLOCKED
    assert "Traceback" not in running.log
    with daemon(shop):
        wait(shop)
        pyreplica(shop, "compare")


def test_a_daemon_that_a_signal_ended_while_its_batch_was_blocked_is_shown_as_stopped(
    shop: Path, databases: Databases
) -> None:
    with daemon(shop) as running, connect(databases.slave) as blocker:
        eventually(lambda: state(shop) == "in step")
        blocker.execute("BEGIN; SELECT FROM public.item WHERE id = 7 FOR UPDATE")
        execute(databases.master, "UPDATE item SET name = 'blocked' WHERE id = 7")
        eventually(lambda: state(shop) == "catching up")
        assert running.stop() == 0
    assert state(shop) == "stopped"


def test_a_signal_ends_the_daemon_with_0_while_no_server_can_be_reached(
    shop: Path, databases: Databases
) -> None:
    with daemon(shop) as running:
        eventually(lambda: state(shop) == "in step")
        databases.slave_cluster.stop()
        eventually(lambda: "next try in" in running.log)
        began = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - began < QUICKLY


# Refusals


def test_run_before_install_and_before_the_copy_says_so(
    databases: Databases, tmp_path: Path
) -> None:
    execute(databases.master, TABLES)
    path = config_file(tmp_path, databases)
    for step, says in (
        (None, "shop: master: PyReplica's master side is not installed in this database"),
        ("install", "shop: the slave has not been copied yet (Run `pyreplica copy shop`.)"),
    ):
        if step:
            pyreplica(path, step)
        done = pyreplica(path, "run", code=1)
        assert says in done.stderr
        assert "replication shop has ended" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_second_daemon_waits_until_the_first_is_gone(shop: Path, databases: Databases) -> None:
    other = write_config(
        shop.parent / "other.yaml",
        {"shop": pair(databases, retry_first="10ms", retry_max="50ms")},
    )
    with daemon(shop) as first:
        eventually(lambda: state(shop) == "in step")
        with daemon(other) as second:
            says = "another daemon or copy is at work for this replication"
            eventually(lambda: says in second.log, lambda: second.log)
            assert first.stop() == 0
            eventually(lambda: "connected, at batch" in second.log, lambda: second.log)
            execute(databases.master, "DELETE FROM item WHERE id = 1")
            wait(shop)


def test_one_broken_replication_leaves_the_others_alone(shop: Path, databases: Databases) -> None:
    broken = {**pair(databases), "master": "host=127.0.0.1 port=1 dbname=x"}
    path = write_config(
        shop.parent / "three.yaml",
        {"broken": broken, "never_copied": pair(databases), "shop": pair(databases)},
    )
    with daemon(path) as running:
        eventually(lambda: "replication never_copied has ended" in running.log)
        execute(databases.master, "INSERT INTO item VALUES (1000, 'new', 1)")
        wait(path, "shop")
        pyreplica(path, "compare", "shop")
        shown = {one["replication"]: one["state"] for one in status(path)}
        assert shown == {"broken": "unreachable", "never_copied": "not copied", "shop": "in step"}
        assert "broken: master: cannot connect" in running.log
        # one of them did not end well, and the exit code says so
        assert running.stop() == 1


# Which tables


def test_only_the_chosen_tables_are_captured_copied_replicated_and_compared(
    databases: Databases, tmp_path: Path
) -> None:
    execute(
        databases.master,
        TABLES,
        "CREATE SCHEMA billing",
        "CREATE TABLE billing.invoice_2024 (id int PRIMARY KEY)",
        "CREATE TABLE billing.invoice_old (id int PRIMARY KEY)",
    )
    tables = ["public.*", "billing.invoice_20??"]
    path = config_file(tmp_path, databases, tables=tables)
    shown = pyreplica(path, "install").stdout
    assert "billing.invoice_2024: added" in shown
    assert "invoice_old" not in shown
    assert "2 tables" in pyreplica(path, "copy", "--schema").stdout
    with daemon(path):
        execute(
            databases.master,
            "INSERT INTO billing.invoice_2024 VALUES (1)",
            "INSERT INTO billing.invoice_old VALUES (1)",
            "DELETE FROM item WHERE id = 1",
        )
        wait(path)
        compared = pyreplica(path, "compare").stdout
    assert "billing.invoice_2024" in compared
    assert "public.item" in compared
    assert "invoice_old" not in compared
    assert rows(databases.slave, "SELECT * FROM billing.invoice_2024") == [(1,)]
    # --schema makes all tables; this one stays empty
    assert rows(databases.slave, "SELECT * FROM billing.invoice_old") == []


def test_a_captured_table_that_is_not_chosen_is_not_applied(
    databases: Databases, tmp_path: Path
) -> None:
    execute(databases.master, TABLES, "CREATE TABLE other (id int PRIMARY KEY)")
    all_tables = config_file(tmp_path, databases)
    pyreplica(all_tables, "install")
    chosen = config_file(tmp_path, databases, tables=["public.item"])
    pyreplica(chosen, "copy", "--schema")
    with daemon(chosen):
        execute(databases.master, "INSERT INTO other VALUES (1)", "DELETE FROM item WHERE id = 1")
        wait(chosen)
        pyreplica(chosen, "compare")
        eventually(lambda: state(chosen) == "in step")
    assert rows(databases.slave, "SELECT * FROM other") == []
    assert rows(databases.slave, "SELECT count(*) FROM item") == [(99,)]


def test_a_captured_table_that_was_never_copied_is_passed_over_with_a_warning(
    shop: Path, databases: Databases
) -> None:
    execute(databases.master, "CREATE TABLE late (id int PRIMARY KEY)")
    execute(databases.slave, "CREATE TABLE late (id int PRIMARY KEY)")
    pyreplica(shop, "install")
    with daemon(shop) as running:
        execute(databases.master, "INSERT INTO late VALUES (1)", "DELETE FROM item WHERE id = 1")
        wait(shop)
    says = "table public.late is captured on the master but was never copied to this slave"
    assert says in running.log
    assert f"public.late: problem: {'was never copied to the slave'}" in (
        pyreplica(shop, "check", code=1).stdout
    )
    assert "it was never copied" in pyreplica(shop, "compare", code=3).stdout
    pyreplica(shop, "copy", "--truncate")
    pyreplica(shop, "compare")


# Several slaves


def test_two_slaves_of_one_master_both_get_everything(databases: Databases, tmp_path: Path) -> None:
    execute(databases.master, TABLES)
    with second_slave(databases) as there:
        path = write_config(
            tmp_path / "two.yaml",
            {"near": pair(databases), "far": {**pair(databases), "slave": there}},
        )
        pyreplica(path, "install")
        pyreplica(path, "copy", "--schema")
        execute(databases.master, "UPDATE item SET name = 'before the daemon'")
        with daemon(path):
            execute(
                databases.master,
                "INSERT INTO item VALUES (1000, 'new', 1)",
                "DELETE FROM item WHERE id < 10",
                "TRUNCATE item",
                "INSERT INTO item SELECT i, 'again', i FROM generate_series(1, 5000) i",
            )
            wait(path)
            pyreplica(path, "compare")
            # the first one goes, the other one goes on
        with daemon(path, "far"):
            execute(databases.master, "DELETE FROM item WHERE id > 100")
            wait(path, "far")
            pyreplica(path, "compare", "far")
        refused(path, "wait", "near", "--timeout", "100ms", code=4, says="changes behind")
        with daemon(path):
            wait(path)
            pyreplica(path, "compare")
        assert rows(there, "SELECT count(*) FROM item") == [(100,)]


# Names

NAMES = [
    ('"Order"', '"Id"', '"select"'),
    ('"two words"', '"the key"', '"the value"'),
    ('"dots.in.name"', '"k.1"', '"v.1"'),
    ('"quo""te\'s"', '"k""\'"', '"v""\'"'),
    ("größe_表", "schlüssel", "数量"),
    ('"per%cent %s %(x)s"', '"%s"', '"%(name)s"'),
    ('"back\\slash"', '"k\\n"', '"v\\t"'),
    ('"{brace} ${X}"', '"{k}"', '"{0}"'),
    ('"$1"', '"$2"', '"key"'),
    ('"row"', '"t"', '"c"'),
]


def test_names_of_all_kinds_go_through_install_copy_replication_and_compare(
    databases: Databases, tmp_path: Path
) -> None:
    tables = [
        (f'"sch.ema ""1""".{table}' if number % 2 else table, key, value)
        for number, (table, key, value) in enumerate(NAMES)
    ]
    execute(
        databases.master,
        'CREATE SCHEMA "sch.ema ""1"""',
        *(
            f"CREATE TABLE {table} ({key} text PRIMARY KEY, {value} text, plain int)"
            for table, key, value in tables
        ),
        *(f"INSERT INTO {table} VALUES ('a', 'b', 1), ('k', 'v', 2)" for table, _, _ in tables),
    )
    path = config_file(tmp_path, databases)
    assert pyreplica(path, "install").stdout.count(": added, key (") == len(NAMES)
    pyreplica(path, "copy", "--schema")
    with daemon(path) as running:
        for table, key, value in tables:
            execute(
                databases.master,
                f"UPDATE {table} SET {value} = 'new', {key} = 'moved' WHERE {key} = 'a'",
                f"UPDATE {table} SET {value} = NULL WHERE {key} = 'k'",
                f"INSERT INTO {table} SELECT i, i, i FROM generate_series(1, 5) i",
                f"DELETE FROM {table} WHERE {key} = '3'",
            )
        # the same through the staging tables
        execute(
            databases.master,
            *(
                f"INSERT INTO {table} SELECT 'x' || i, i, i FROM generate_series(1, 3000) i"
                for table, _, _ in tables
            ),
        )
        wait(path)
        compared = pyreplica(path, "compare").stdout
        assert compared.count(" equal") == len(NAMES)
        # a difference is named by the column's own name
        table, key, _ = tables[3]
        execute(databases.slave, f"DELETE FROM {table} WHERE {key} = 'moved'")
        shown = pyreplica(path, "compare", code=3).stdout
        assert '{"k\\"\'": "moved"} is missing on the slave' in shown
        assert running.stop() == 0
    assert "ERROR" not in running.log
