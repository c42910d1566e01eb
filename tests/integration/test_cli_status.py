"""status, wait and compare: what they say of every state, and what machines read of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Databases
from tests.integration.cli_support import (
    TABLES,
    execute,
    once,
    pair,
    refused,
    rows,
    state,
    status,
    unchanged,
    wait,
    write_config,
)
from tests.support import LIMIT, config_file, connect, daemon, eventually, pyreplica, set_up


@pytest.fixture
def shop(databases: Databases, tmp_path: Path) -> Path:
    """A replication that is copied and not running."""
    execute(databases.master, TABLES)
    path = config_file(tmp_path, databases, retry_first="10ms", retry_max="200ms")
    set_up(path)
    return path


# Before there is anything


@pytest.mark.parametrize("command", ["status", "wait", "compare"])
def test_before_install_and_before_the_copy_they_say_so(
    command: str, databases: Databases, tmp_path: Path
) -> None:
    path = config_file(tmp_path, databases)
    for step, says in (
        (None, "side is not installed in this database"),
        ("install", "the slave has not been copied yet"),
    ):
        if step:
            pyreplica(path, step)
        with unchanged(databases):
            if command == "status":
                (shown,) = status(path)
                assert shown["state"] == "not copied"
                assert says in shown["error"]
                assert says in pyreplica(path, "status", code=1).stdout
            else:
                refused(path, command, says=says, hint="pyreplica")


# status


def test_status_of_a_fresh_copy_is_stopped(shop: Path) -> None:
    shown = pyreplica(shop, "status", code=1).stdout
    assert "stopped" in shown
    assert "  hint: Start the daemon: `pyreplica run shop`." in shown


def test_status_after_a_copy_forgets_what_failed_before_it(
    databases: Databases, tmp_path: Path
) -> None:
    execute(databases.master, TABLES)
    path = config_file(tmp_path, databases)
    pyreplica(path, "install")
    pyreplica(path, "run", code=1)
    pyreplica(path, "copy", "--schema")
    (shown,) = status(path)
    assert (shown["state"], shown["error"]) == ("stopped", None)


def test_status_of_a_running_daemon_is_in_step(shop: Path, databases: Databases) -> None:
    with daemon(shop):
        execute(databases.master, "INSERT INTO item VALUES (1000, 'new', 1)")
        wait(shop)
        done = pyreplica(shop, "status")
        assert done.stdout.splitlines()[1].split()[:3] == ["shop", "in", "step"]
        (shown,) = status(shop)
    assert (shown["lag_seconds"], shown["lag_changes"]) == (0, 0)
    assert (shown["batch"], shown["last_batch_changes"], shown["changes"]) == (2, 1, 1)
    assert state(shop) == "stopped"


def test_status_of_a_daemon_with_work_left_is_catching_up(shop: Path, databases: Databases) -> None:
    with daemon(shop), connect(databases.slave) as blocker:
        blocker.execute("BEGIN; SELECT FROM public.item WHERE id = 7 FOR UPDATE")
        execute(databases.master, "UPDATE item SET name = 'blocked' WHERE id = 7")
        shown = once(shop, "catching up")
        assert shown["lag_changes"] == 1
        assert shown["lag_seconds"] > 0
        pyreplica(shop, "status")
        blocker.execute("ROLLBACK")
        wait(shop)


def test_status_of_a_row_that_cannot_be_applied_is_failing_and_names_it(
    shop: Path, databases: Databases
) -> None:
    execute(databases.slave, "INSERT INTO item VALUES (1000, 'mine', 1)")
    with daemon(shop) as running:
        execute(databases.master, "INSERT INTO item VALUES (1000, 'theirs', 1)")
        says = 'shop: slave: conflict insert_exists: cannot insert public.item {"id": "1000"}'
        assert says in once(shop, "failing")["error"]
        assert says in pyreplica(shop, "status", code=None).stdout
        assert says in running.log
        execute(databases.slave, "DELETE FROM item WHERE id = 1000")
        wait(shop)
        eventually(lambda: state(shop) == "in step")


def test_status_of_a_failing_daemon_does_not_ask_to_start_another(
    shop: Path, databases: Databases
) -> None:
    execute(databases.slave, "INSERT INTO item VALUES (1000, 'mine', 1)")
    with daemon(shop):
        execute(databases.master, "INSERT INTO item VALUES (1000, 'theirs', 1)")
        assert "Start the daemon" not in (once(shop, "failing")["hint"] or "")


def test_status_of_a_failing_daemon_that_was_killed_is_died(
    shop: Path, databases: Databases
) -> None:
    execute(databases.slave, "INSERT INTO item VALUES (1000, 'mine', 1)")
    with daemon(shop) as running:
        execute(databases.master, "INSERT INTO item VALUES (1000, 'theirs', 1)")
        once(shop, "failing")
        running.kill()
    eventually(lambda: state(shop) == "died", timeout=5)


def test_the_log_says_a_failure_that_repeats_once(shop: Path, databases: Databases) -> None:
    execute(databases.slave, "INSERT INTO item VALUES (1000, 'mine', 1)")
    with daemon(shop) as running:
        execute(databases.master, "INSERT INTO item VALUES (1000, 'theirs', 1)")
        eventually(lambda: running.log.count("next try in") >= 4)
    assert running.log.count("ERROR") == 1, running.log


def test_status_of_a_killed_daemon_is_died(shop: Path, databases: Databases) -> None:
    with daemon(shop) as running:
        eventually(lambda: state(shop) == "in step")
        running.kill()
    eventually(lambda: state(shop) == "died")
    execute(databases.master, "INSERT INTO item VALUES (1000, 'new', 1)")
    (shown,) = status(shop)
    assert shown["lag_changes"] == 1
    assert shown["hint"] == "Start the daemon: `pyreplica run shop`."
    with daemon(shop):
        wait(shop)
        eventually(lambda: state(shop) == "in step")


@pytest.mark.parametrize("side", ["master", "slave"])
def test_status_of_an_unreachable_server_says_which(
    side: str, shop: Path, databases: Databases
) -> None:
    (databases.master_cluster if side == "master" else databases.slave_cluster).stop()
    (shown,) = status(shop)
    assert shown["state"] == "unreachable"
    assert shown["error"].startswith(f"shop: {side}: cannot connect")
    assert f"shop: {side}: cannot connect" in pyreplica(shop, "status", code=1).stdout


def test_status_of_exchanged_databases_is_refused(shop: Path, databases: Databases) -> None:
    name = f"{databases.name[:50]}_x"
    databases.master_cluster.create_database(name)
    other = {**pair(databases), "master": databases.master_cluster.dsn(name)}
    path = write_config(shop.parent / "other.yaml", {"shop": other})
    databases.master_cluster.psql("-q", "-f", "sql/master-install.sql", dbname=name)
    assert state(path) == "not copied"
    execute(
        other["master"],
        "INSERT INTO pyreplica.replica_slave (replication, bit, slave_system, slave_database, "
        "state) VALUES ('shop', 1, 'x', 'y', 'ready')",
    )
    (shown,) = status(path)
    assert shown["state"] == "refused"
    assert "but the replication was set up with" in shown["error"]
    refused(path, "wait", says="but the replication was set up with", hint="copied with")
    databases.master_cluster.drop_database(name)


# wait


def test_wait_ends_with_4_and_says_whether_a_daemon_is_at_work(
    shop: Path, databases: Databases
) -> None:
    pyreplica(shop, "wait", "--timeout", "0.1")  # nothing to wait for
    execute(databases.master, "UPDATE item SET name = 'new' WHERE id = 7")
    refused(
        shop,
        "wait",
        "--timeout",
        "100ms",
        code=4,
        says="shop: the slave is not there after 0.1 s, 1 changes behind",
        hint="No daemon is at work: `pyreplica run shop`.",
    )
    with connect(databases.slave) as blocker:
        blocker.execute("BEGIN; SELECT FROM public.item WHERE id = 7 FOR UPDATE")
        with daemon(shop):
            eventually(lambda: state(shop) == "catching up")
            refused(shop, "wait", "--timeout", "1", code=4, says="after 1 s", hint="Wait longer")
            blocker.execute("ROLLBACK")
            wait(shop)


# compare


def damage(databases: Databases) -> None:
    execute(
        databases.slave,
        "UPDATE item SET price = 0 WHERE id = 10",
        "DELETE FROM item WHERE id = 2",
        "INSERT INTO item VALUES (1000, 'extra', 1)",
    )


def test_compare_of_different_databases_ends_with_3_and_names_the_keys(
    shop: Path, databases: Databases
) -> None:
    damage(databases)
    done = pyreplica(shop, "compare", code=3)
    assert done.stdout.splitlines()[2:] == [
        'shop: public.item {"id": "2"} is missing on the slave',
        'shop: public.item {"id": "10"} differs in price',
        'shop: public.item {"id": "1000"} is on the slave only',
    ]
    assert done.stderr.splitlines() == [
        "shop: public.item: 101 rows",
        "pyreplica: shop: public.item differs",
        "  hint: See what makes them equal: `pyreplica repair shop`.",
    ]


def test_compare_shows_ten_keys_of_a_table_and_counts_the_rest(
    shop: Path, databases: Databases
) -> None:
    execute(databases.slave, "DELETE FROM item WHERE id <= 12")
    shown = pyreplica(shop, "compare", code=3).stdout
    assert shown.count("is missing on the slave") == 10
    assert shown.endswith("shop: public.item and 2 more\n")


def test_compare_without_a_daemon_ends_with_4_when_changes_are_missing(
    shop: Path, databases: Databases
) -> None:
    execute(databases.master, "DELETE FROM item WHERE id = 1")
    refused(shop, "compare", "--timeout", "100ms", code=4, says="1 changes behind", hint="run shop")


def test_compare_without_a_table_says_so(shop: Path, databases: Databases) -> None:
    path = config_file(shop.parent, databases, tables=["other.*"])
    refused(path, "compare", says="there is no table to compare", hint="`tables:`")


# JSON

Check = Callable[[Any], bool]


def is_moment(value: Any) -> bool:
    return datetime.fromisoformat(value).tzinfo is not None


STATUS: dict[str, Check] = {
    "replication": lambda v: v == "shop",
    "state": lambda v: v == "failing",
    "lag_seconds": lambda v: isinstance(v, float),
    "lag_changes": lambda v: v == 1,
    "batch": lambda v: v == 1,
    "last_batch_changes": lambda v: v == 0,
    "last_batch_at": is_moment,
    "changes": lambda v: v == 0,
    "in_doubt": lambda v: v == [],
    "in_doubt_seconds": lambda v: v is None,
    "error": lambda v: "insert_exists" in v,
    "error_at": is_moment,
    "hint": lambda v: v is None or isinstance(v, str),
    "log_bytes": lambda v: isinstance(v, int),
    "log_age_seconds": lambda v: v > 0,
    "log_percent": lambda v: v is None,
    "conflicts_waiting": lambda v: v == 0,
    "conflicts_last_day": lambda v: v == 0,
    "daemon": lambda v: v is True,
    "paused_at": lambda v: v is None,
    "paused_by": lambda v: v is None,
    "pause_reason": lambda v: v is None,
}


def test_status_json_has_the_documented_shape(shop: Path, databases: Databases) -> None:
    execute(databases.slave, "INSERT INTO item VALUES (1000, 'mine', 1)")
    with daemon(shop):
        execute(databases.master, "INSERT INTO item VALUES (1000, 'theirs', 1)")
        shown = once(shop, "failing")
    assert shown.keys() == STATUS.keys()
    for key, check in STATUS.items():
        assert check(shown[key]), (key, shown[key])


def test_status_json_has_every_key_whatever_the_state(databases: Databases, tmp_path: Path) -> None:
    path = config_file(tmp_path, databases)
    (shown,) = status(path)
    assert shown.keys() == STATUS.keys()
    for key in STATUS.keys() - {"replication", "state", "in_doubt", "error", "hint"}:
        assert shown[key] is None


def test_status_json_names_a_batch_in_doubt(shop: Path, databases: Databases) -> None:
    ((oid,),) = rows(
        databases.slave, "SELECT oid::bigint FROM pg_database WHERE datname = current_database()"
    )
    execute(
        databases.slave,
        f"BEGIN; UPDATE item SET name = name WHERE id = 1; "
        f"PREPARE TRANSACTION 'pyreplica:shop:{oid}:2'",
    )
    (shown,) = status(shop)
    assert shown["in_doubt"] == [2]
    assert 0 < shown["in_doubt_seconds"] < 60
    assert "shop: batches in doubt: 2, for " in pyreplica(shop, "status", code=1).stdout
    with daemon(shop):
        eventually(lambda: state(shop) == "in step")
        assert status(shop)[0]["in_doubt"] == []


# status --watch


@contextmanager
def watching(path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """`status --watch` for the time of the block."""
    command = [sys.executable, "-m", "pyreplica", "--config", str(path), "status", "--watch", "0.1"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=LIMIT)


def read_until(process: subprocess.Popen[str], words: str) -> list[str]:
    """The lines that it prints, up to one with these words."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return lines
    raise AssertionError(f"it has ended without: {words}; {lines}")


def test_watch_prints_block_after_block_outlives_servers_and_ends_with_ctrl_c(
    shop: Path, databases: Databases
) -> None:
    with watching(shop) as process:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n", read_until(process, ":")[0])
        read_until(process, "shop         stopped")
        databases.slave_cluster.stop()
        read_until(process, "unreachable")
        databases.slave_cluster.start()
        read_until(process, "shop         stopped")
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT) == 0


def test_watch_prints_a_line_of_json_for_each_look(shop: Path) -> None:
    with watching(shop, "--json") as process:
        for _ in range(2):
            (line,) = read_until(process, "shop")
            assert json.loads(line)[0].keys() == STATUS.keys()


def test_watch_on_a_terminal_shows_each_look_in_the_place_of_the_one_before(shop: Path) -> None:
    """A real terminal: a pseudo-terminal, as every terminal program has one."""
    import pty  # noqa: PLC0415 - not there on Windows

    pid, terminal = pty.fork()
    if pid == 0:
        arguments = ["-m", "pyreplica", "--config", str(shop), "status", "--watch", "0.1"]
        os.execvpe(sys.executable, [sys.executable, *arguments], {**os.environ, "TERM": "xterm"})
    shown = b""
    # the cursor goes up to where the look before began
    while shown.count(b"stopped") < 3 or b"\x1b[1A" not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    with suppress(OSError):
        while os.read(terminal, 4096):
            pass
    _, status_ = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status_) == 0


def test_compare_json_has_the_documented_shape(shop: Path, databases: Databases) -> None:
    execute(databases.master, "CREATE TABLE late (id int PRIMARY KEY)")
    pyreplica(shop, "install")
    damage(databases)
    done = pyreplica(shop, "compare", "--json", code=3)
    assert json.loads(done.stdout) == {
        "shop": {
            "tables": [
                {
                    "table": "public.item",
                    "rows": 101,
                    "differing": 3,
                    "differences": [
                        {"kind": "missing", "key": {"id": "2"}, "master": None, "slave": None},
                        {
                            "kind": "differs",
                            "key": {"id": "10"},
                            "master": {"price": "15.0"},
                            "slave": {"price": "0"},
                        },
                        {"kind": "extra", "key": {"id": "1000"}, "master": None, "slave": None},
                    ],
                    "problem": None,
                    "hint": None,
                    "equal": False,
                },
                {
                    "table": "public.late",
                    "rows": 0,
                    "differing": 0,
                    "differences": [],
                    "problem": "it was never copied",
                    "hint": "Copy it: `pyreplica add-table shop public.late`.",
                    "equal": False,
                },
            ],
            "sequences": [],
        }
    }
