"""repair: the slave's rows become the master's, beside the daemon and whoever writes meanwhile."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.errors import DatabaseError, TimedOut
from pyreplica.replication import repair as repairing
from pyreplica.replication.repair import TableRepair, repair
from pyreplica.replication.wait import wait as wait_for_slave
from tests.conftest import Databases
from tests.integration.cli_support import TABLES, execute, refused, rows, unchanged, wait
from tests.integration.damage import SHAPES, contents, damage, make
from tests.support import (
    LIMIT,
    assert_same,
    blocked,
    config_file,
    connect,
    connected,
    copied,
    daemon,
    eventually,
    pyreplica,
    set_up,
    sql,
    value,
)

ROWS = (
    "CREATE TABLE public.t (id int PRIMARY KEY, n int, v text); "
    "INSERT INTO public.t SELECT i, 0, 'row ' || i FROM generate_series(1, 100) i"
)


def one(made: ReplicationConfig) -> TableRepair:
    """Repair the only table."""
    (found,) = repair(made, apply=True, timeout=LIMIT / 2)
    return found


def test_every_kind_of_difference_in_every_kind_of_table_is_repaired(
    databases: Databases, apply_path: str
) -> None:
    made = make(databases)
    damage(databases)
    with connected(made) as replication:
        found = {one.table: one for one in repair(made, apply=True)}
        assert not replication.said("ERROR"), replication.lines
    for shape in SHAPES:
        done = found[shape.plain]
        assert (done.insert, done.update, done.delete) == (1, 3, 1)
        assert (done.logged, done.state) == (5, "repaired"), done
        there, here = (contents(databases, shape, slave=side) for side in (False, True))
        assert there == here, shape.name
    assert found["public.child"].state == "equal"


def test_a_key_that_is_equal_and_printed_otherwise_is_repaired(databases: Databases) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.t (id numeric PRIMARY KEY, v text); "
        "INSERT INTO public.t VALUES (1.0, 'a'), (2.0, 'b')",
    )
    sql(databases.slave, "UPDATE public.t SET id = 1.00 WHERE id = 1")
    with connected(made):
        done = one(made)
    assert (done.insert, done.delete, done.state) == (1, 1, "repaired")
    ids = "SELECT string_agg(id::text, ' ' ORDER BY id) FROM public.t"
    assert value(databases.slave, ids) == "1.0 2.0"


def test_values_of_a_unique_key_that_have_changed_hands_are_repaired(databases: Databases) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.t (id int PRIMARY KEY, v int UNIQUE); "
        "INSERT INTO public.t SELECT i, i FROM generate_series(1, 3000) i",
    )
    sql(
        databases.slave,
        "UPDATE public.t SET v = -v; UPDATE public.t SET v = (-v) % 3000 + 1; "
        "INSERT INTO public.t VALUES (4000, 4000)",
    )
    with connected(made) as replication:
        assert one(made).state == "repaired"
        assert not replication.said("ERROR"), replication.lines


def test_without_yes_it_shows_what_it_would_do_and_changes_nothing(
    databases: Databases, tmp_path: Path
) -> None:
    execute(databases.master, TABLES, "CREATE TABLE other (id int PRIMARY KEY)")
    path = config_file(tmp_path, databases)
    set_up(path)
    assert "equal" in pyreplica(path, "repair").stdout
    execute(
        databases.slave,
        "UPDATE item SET price = 0 WHERE id = 10",
        "DELETE FROM item WHERE id > 88",
        "INSERT INTO item VALUES (1000, 'extra', 1)",
    )
    with unchanged(databases):
        done = pyreplica(path, "repair", "shop", code=3)
        planned = json.loads(pyreplica(path, "repair", "--json", code=3).stdout)
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["shop", "public.item", "101", "12", "1", "1", "to", "repair"]
    assert lines[2].split() == ["shop", "public.other", "0", "0", "0", "0", "equal"]
    assert sum("would be inserted" in line for line in lines) == 10 + 1
    assert lines[-3:] == [
        "shop: public.item and 2 more would be inserted",
        'shop: public.item {"id": "10"} would be updated',
        'shop: public.item {"id": "1000"} would be deleted',
    ]
    assert "pyreplica: shop: 14 rows to be repaired in 1 table" in done.stderr
    assert "  hint: Nothing was changed. Do it: `pyreplica repair shop --yes`." in done.stderr
    item, other = planned["shop"]
    assert [d["kind"] for d in item.pop("differences")].count("missing") == 10
    assert item == {
        "table": "public.item",
        "rows": 101,
        "insert": 12,
        "update": 1,
        "delete": 1,
        "logged": 0,
        "state": "to repair",
        "problem": None,
        "hint": None,
    }
    assert other.keys() == {*item, "differences"}


def test_with_the_daemon_stopped_the_rows_wait_in_the_log(
    databases: Databases, tmp_path: Path
) -> None:
    execute(databases.master, TABLES)
    path = config_file(tmp_path, databases)
    set_up(path)
    execute(databases.slave, "DELETE FROM item WHERE id <= 3")
    done = pyreplica(path, "repair", "--yes")
    assert done.stdout.splitlines()[-1] == (
        "shop: 3 rows in the log of the master; no daemon is at work, they are applied once it "
        "runs: `pyreplica run shop`"
    )
    assert value(databases.slave, "SELECT count(*) FROM public.item") == 97
    with daemon(path):
        wait(path)
        pyreplica(path, "compare")
        (item,) = json.loads(pyreplica(path, "repair", "--yes", "--json").stdout)["shop"]
    assert (item["state"], item["logged"]) == ("equal", 0)


def test_thousands_of_rows_are_repaired_and_copying_is_recommended(
    databases: Databases, tmp_path: Path
) -> None:
    execute(databases.master, TABLES)
    execute(databases.master, "INSERT INTO item SELECT i, i, i FROM generate_series(101, 8000) i")
    path = config_file(tmp_path, databases)
    set_up(path)
    execute(
        databases.slave,
        "UPDATE item SET name = 'damaged' WHERE id <= 3000",
        "DELETE FROM item WHERE id > 6500",
        "INSERT INTO item SELECT i, i, i FROM generate_series(10001, 10500) i",
    )
    shown = pyreplica(path, "repair", code=3).stdout
    assert "most rows differ, copying anew is faster: `pyreplica copy shop --truncate`" in shown
    with daemon(path) as running:
        running.until_said("connected, at batch")
        done = json.loads(pyreplica(path, "repair", "--yes", "--json").stdout)
        assert "ERROR" not in running.log
    (item,) = done["shop"]
    assert (item["insert"], item["update"], item["delete"]) == (1500, 3000, 500)
    assert (item["logged"], item["state"]) == (5000, "repaired")


def test_what_cannot_be_repaired_is_named_with_its_cure(
    databases: Databases, tmp_path: Path
) -> None:
    execute(databases.master, TABLES, "CREATE TABLE narrow (id int PRIMARY KEY, v text)")
    path = config_file(tmp_path, databases)
    set_up(path)
    execute(databases.master, "CREATE TABLE late (id int PRIMARY KEY)")
    pyreplica(path, "install")
    execute(databases.slave, "ALTER TABLE narrow DROP COLUMN v", "DELETE FROM item WHERE id = 1")
    with daemon(path) as running:
        running.until_said("connected, at batch")
        done = pyreplica(path, "repair", "--yes", code=3)
        assert "add-table shop public.late" in done.stdout
        assert "ALTER TABLE public.narrow ADD COLUMN v" in done.stdout
        assert "public.late cannot be repaired: it was never copied" in done.stderr
        assert done.stdout.splitlines()[1].split()[-1] == "repaired"


# Beside writers


@contextmanager
def writing(dsn: str, write: Callable[[Callable[[str], object], int], None]) -> Iterator[None]:
    """Threads that write all the time, each with a session of its own."""
    ended = threading.Event()
    failed: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            with connect(dsn) as session:
                for n in itertools.count(thread):
                    if ended.is_set():
                        return
                    write(session.execute, n)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not failed, failed


def test_rows_that_are_written_all_the_time_are_repaired(
    databases: Databases, apply_path: str
) -> None:
    made = copied(databases, ROWS)
    keys = random.Random(3)

    def write(execute: Callable[[str], object], n: int) -> None:
        id_ = keys.randint(1, 30)
        execute(
            [
                f"UPDATE public.t SET n = n + 1 WHERE id = {id_}",
                f"DELETE FROM public.t WHERE id = {id_}",
                f"INSERT INTO public.t VALUES ({id_}, {n}, 'new') ON CONFLICT (id) DO NOTHING",
                f"BEGIN; UPDATE public.t SET n = n - 1 WHERE id = {id_}; "
                f"DELETE FROM public.t WHERE id = {id_}; "
                f"INSERT INTO public.t VALUES ({id_}, {n}, 'again') ON CONFLICT DO NOTHING; COMMIT",
                f"BEGIN; UPDATE public.t SET v = 'rolled back' WHERE id = {id_}; ROLLBACK",
            ][n % 5]
        )

    with connected(made) as replication:
        for _ in range(3):
            # with what the last writers left still being applied, this could meet it in a deadlock
            wait_for_slave(made, LIMIT)
            sql(
                databases.slave,
                "UPDATE public.t SET v = 'damaged' WHERE id % 2 = 0",
                "DELETE FROM public.t WHERE id % 7 = 0",
                "INSERT INTO public.t SELECT i, 0, 'extra' FROM generate_series(201, 210) i",
            )
            with writing(databases.master, write):
                done = one(made)
            assert done.delete >= 10
            assert done.state == "repaired", done
        assert_same(made)
        assert not replication.said("ERROR"), replication.lines


def test_a_row_that_another_transaction_writes_is_waited_for(databases: Databases) -> None:
    made = copied(databases, ROWS)
    sql(databases.slave, "UPDATE public.t SET v = 'damaged' WHERE id IN (1, 2, 3)")
    done: list[TableRepair] = []
    with connected(made), connect(databases.master) as writer:
        writer.execute("BEGIN; UPDATE public.t SET v = 'newest' WHERE id = 2")
        writer.execute("DELETE FROM public.t WHERE id = 3")
        thread = threading.Thread(target=lambda: done.append(one(made)))
        thread.start()
        eventually(blocked(databases.master), "it does not wait for the row")
        writer.execute("COMMIT")
        thread.join()
        assert [found.state for found in done] == ["repaired"]
    assert value(databases.slave, "SELECT v FROM public.t WHERE id = 2") == "newest"


@pytest.mark.parametrize(
    ("transaction", "damaged"),
    [
        ("UPDATE public.t SET v = 'open' WHERE id = 1", "DELETE FROM public.t WHERE id = 1"),
        ("INSERT INTO public.t VALUES (200)", "INSERT INTO public.t VALUES (201)"),
    ],
)
def test_a_busy_master_is_left_alone_and_the_error_says_so(
    transaction: str,
    damaged: str,
    databases: Databases,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repairing, "PATIENCE", (0.01, 0.02))
    made = copied(databases, ROWS)
    sql(databases.slave, damaged)
    with connected(made), connect(databases.master) as writer:
        writer.execute(f"BEGIN; {transaction}")
        with pytest.raises(TimedOut, match=r"master is busy: .*row .* of public.t") as caught:
            one(made)
        assert "Run it again" in caught.value.hint
        writer.execute("COMMIT")
        assert one(made).state == "repaired"


def test_an_interrupted_repair_is_simply_run_again(databases: Databases, tmp_path: Path) -> None:
    execute(databases.master, TABLES)
    path = config_file(tmp_path, databases)
    set_up(path)
    execute(databases.slave, "UPDATE item SET name = 'damaged'")
    with daemon(path), connect(databases.master) as writer:
        writer.execute("BEGIN; UPDATE public.item SET name = 'busy' WHERE id = 50")
        command = [sys.executable, "-m", "pyreplica", "--config", str(path), "repair", "--yes"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            eventually(blocked(databases.master), "it does not wait for the row")
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=LIMIT)
        assert process.returncode == 130, errors
        writer.execute("ROLLBACK")
        pyreplica(path, "repair", "--yes")
        pyreplica(path, "compare")


# What it rests on


def restated(session: Callable[[str], list[tuple[object, ...]]], *keys: str) -> tuple[object, ...]:
    array = ", ".join(f"'{key}'" for key in keys)
    return session(
        f"SELECT restated, busy::text FROM pyreplica.restate('public.t', ARRAY[{array}]::jsonb[])"
    )[0]


def test_restate_logs_each_row_as_it_stands_or_that_it_is_gone(databases: Databases) -> None:
    copied(databases, ROWS)
    with connect(databases.master) as session:
        assert restated(session.query, '{"id": "1"}', '{"id": "1"}', '{"id": "900"}') == (2, "{}")
    logged = rows(databases.master, "SELECT op, key, row FROM pyreplica.changes ORDER BY op")
    assert logged == [
        ("d", {"id": "900"}, None),
        ("i", {"id": "1"}, {"n": "0", "v": "row 1"}),
    ]


def test_restate_leaves_out_rows_that_are_being_written(databases: Databases) -> None:
    copied(databases, ROWS)
    with connect(databases.master) as session, connect(databases.master) as writer:
        writer.execute("BEGIN; UPDATE public.t SET n = 1 WHERE id = 2")
        given = ('{"id": "1"}', '{"id": "2"}', '{"id": "3"}')
        assert restated(session.query, *given) == (2, '{"{\\"id\\": \\"2\\"}"}')
        session.execute("SET lock_timeout = '10ms'")
        with pytest.raises(DatabaseError, match="lock timeout"):
            restated(session.query, '{"id": "2"}')
        # a row that does not stand may be about to come
        with pytest.raises(DatabaseError, match="lock timeout"):
            restated(session.query, '{"id": "1"}', '{"id": "900"}')
        writer.execute("ROLLBACK")
    assert value(databases.master, "SELECT count(*) FROM pyreplica.replica_log") == 2


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("BEGIN ISOLATION LEVEL REPEATABLE READ", "in a REPEATABLE READ transaction"),
        ("SELECT pyreplica.remove_table('public.t')", "public.t is not captured"),
    ],
)
def test_restate_refuses(statement: str, says: str, databases: Databases) -> None:
    copied(databases, ROWS)
    with connect(databases.master) as session:
        session.execute(statement)
        with pytest.raises(DatabaseError, match=says):
            restated(session.query, '{"id": "1"}')


def test_the_command_needs_a_replication_that_is_copied(
    databases: Databases, tmp_path: Path
) -> None:
    execute(databases.master, TABLES)
    path = config_file(tmp_path, databases)
    pyreplica(path, "install")
    refused(path, "repair", "--yes", says="the slave has not been copied yet", hint="copy shop")
