"""compare: every difference is found, and nothing that is only on its way is taken for one."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.errors import ConfigError
from pyreplica.model import CapturedTable, SlaveTable
from pyreplica.replication import checksums, compare
from pyreplica.replication.compare import Difference, TableResult
from tests.conftest import Databases
from tests.integration.cli_support import TABLES, execute, refused, rows
from tests.integration.damage import SHAPES, damage, expected, make
from tests.support import (
    LIMIT,
    blocked,
    config_file,
    connect,
    copied,
    eventually,
    pyreplica,
    running,
    set_up,
    sql,
)


def found(result: TableResult) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """The differences as a set."""
    return {(one.kind, frozenset(one.key.items())) for one in result.differences}


@pytest.mark.parametrize("hash_", ["fast", "portable"])
def test_every_kind_of_difference_in_every_kind_of_table_is_found(
    hash_: str, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hash_ == "portable":
        monkeypatch.setattr(checksums, "_FAST", checksums._PORTABLE)
    made = make(databases)
    assert all(result.equal for result in compare.compare(made))
    damage(databases)
    results = {result.table: result for result in compare.compare(made)}
    assert len(results) == len(SHAPES) + 1
    assert results["public.child"].equal
    for shape in SHAPES:
        result = results[shape.plain]
        assert found(result) == expected(databases, shape), shape.name
        assert result.differing == len(result.differences)
        assert result.rows == 6


def test_rows_that_have_exchanged_their_values_name_them(databases: Databases) -> None:
    made = make(databases)
    damage(databases)
    (result,) = compare.compare(made, tables=["public.uuids"])
    values = [(d.master, d.slave) for d in result.differences if d.kind == "differs"]
    assert ({"v": "three"}, {"v": "four"}) in values
    assert ({"v": "four"}, {"v": "three"}) in values


def test_null_is_not_an_empty_text(databases: Databases) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.t (id int PRIMARY KEY, a text, b text); "
        "INSERT INTO public.t VALUES (1, NULL, ''), (2, 'x', NULL), (3, NULL, 'x')",
    )
    sql(databases.slave, "UPDATE public.t SET a = b, b = a WHERE id < 3")
    (result,) = compare.compare(made)
    assert [d.slave for d in result.differences] == [
        {"a": "", "b": None},
        {"a": None, "b": "x"},
    ]


def test_of_many_differences_a_thousand_are_named_and_all_are_counted_and_handed_out(
    databases: Databases,
) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.t (id int PRIMARY KEY, v text); "
        "INSERT INTO public.t SELECT i, i FROM generate_series(1, 5000) i",
    )
    sql(databases.slave, "DELETE FROM public.t WHERE id <= 1500")
    sql(databases.slave, "UPDATE public.t SET v = '' WHERE id > 3500")
    handed: list[Difference] = []
    (result,) = compare.compare(made, watcher=lambda table, here: handed.append)
    assert (result.rows, result.differing, len(result.differences)) == (5000, 3000, compare.KEPT)
    assert {int(d.key["id"]) for d in handed} == {*range(1, 1501), *range(3501, 5001)}
    numbers = [int(d.key["id"]) for d in result.differences]
    assert numbers == sorted(numbers)


@pytest.fixture
def behind(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> ReplicationConfig:
    """A slave that is behind, and a comparison that does not wait for it."""
    monkeypatch.setattr(compare, "wait", lambda config, timeout: None)
    return copied(
        databases,
        "CREATE TABLE public.t (id int PRIMARY KEY, a text, b text); "
        "INSERT INTO public.t SELECT i, 'a', 'b' FROM generate_series(1, 20) i",
    )


ON_THE_WAY = [
    "INSERT INTO public.t VALUES (21, 'new', NULL), (22, '', 'new')",
    "UPDATE public.t SET a = 'c' WHERE id <= 4",
    "UPDATE public.t SET b = NULL WHERE id IN (3, 4, 5, 21)",
    "DELETE FROM public.t WHERE id IN (4, 6, 22)",
    "UPDATE public.t SET id = id + 100 WHERE id IN (7, 8)",
    "DELETE FROM public.t WHERE id = 9",
    "INSERT INTO public.t VALUES (9, 'again', 'again')",
]


def test_what_is_on_its_way_is_no_difference(
    behind: ReplicationConfig, databases: Databases
) -> None:
    sql(databases.master, *ON_THE_WAY)
    (result,) = compare.compare(behind)
    assert result.equal, result
    assert result.rows == 19 + 4  # those that are to go are counted, too


def test_a_difference_is_found_in_a_row_that_is_on_its_way(
    behind: ReplicationConfig, databases: Databases
) -> None:
    sql(databases.master, *ON_THE_WAY)
    sql(
        databases.slave,
        "UPDATE public.t SET b = 'damaged' WHERE id IN (1, 3)",  # b of 3 is set by what comes
        "DELETE FROM public.t WHERE id = 2",
        "UPDATE public.t SET a = 'damaged' WHERE id IN (4, 7)",  # both are to go
    )
    (result,) = compare.compare(behind)
    assert [(d.kind, d.key["id"]) for d in result.differences] == [
        ("differs", "1"),
        ("missing", "2"),
    ]
    assert result.differences[0].slave == {"b": "damaged"}


def test_what_comes_after_a_truncate_on_its_way_is_no_difference(
    behind: ReplicationConfig, databases: Databases
) -> None:
    sql(
        databases.master,
        "UPDATE public.t SET a = 'before' WHERE id = 1",
        "TRUNCATE public.t",
        "INSERT INTO public.t VALUES (1, 'after', NULL), (30, 'after', NULL)",
        "UPDATE public.t SET b = 'b' WHERE id = 30",
    )
    sql(databases.slave, "UPDATE public.t SET a = 'damaged, and to go'")
    (result,) = compare.compare(behind)
    assert result.equal, result


def once(act: Callable[[], object]) -> Callable[[CapturedTable, SlaveTable], Callable[..., object]]:
    """Do something in the middle of the first look at a table: the snapshots are taken."""
    acts = iter([act])

    def watcher(table: CapturedTable, here: SlaveTable) -> Callable[[Difference], object]:
        for one in acts:
            one()
        return lambda difference: None

    return watcher


@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE public.t",
        "ALTER TABLE public.t ALTER COLUMN a TYPE varchar(9)",
        "ALTER TABLE public.t ALTER COLUMN id TYPE bigint",
    ],
)
def test_a_table_that_is_rewritten_meanwhile_is_compared_again(
    statement: str, databases: Databases
) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.t (id int PRIMARY KEY, a text); "
        "INSERT INTO public.t SELECT i, 'a' FROM generate_series(1, 20) i",
    )

    def act() -> None:
        for dsn in (databases.slave, databases.master):
            if not statement.startswith("TRUNCATE") or dsn == databases.master:
                sql(dsn, statement)

    with running(made):
        (result,) = compare.compare(made, watcher=once(act))
    assert result.equal, result


def test_nobody_waits_for_a_comparison_of_another_table(databases: Databases) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.a (id int PRIMARY KEY); CREATE TABLE public.b (id int PRIMARY KEY)",
    )
    seen: list[str] = []

    def watcher(table: CapturedTable, here: SlaveTable) -> Callable[[Difference], object]:
        seen.append(str(table))
        with connect(databases.master) as session:
            for name in seen[:-1]:
                session.execute(f"SET lock_timeout = 1; LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE")
        return lambda difference: None

    compare.compare(made, watcher=watcher)
    assert seen == ["public.a", "public.b"]


def test_under_constant_writing_only_real_differences_are_named(databases: Databases) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.t (id int PRIMARY KEY, hot int, cold text); "
        "INSERT INTO public.t SELECT i, 0, 'cold' FROM generate_series(1, 50) i",
    )
    sql(databases.slave, "UPDATE public.t SET cold = 'damaged' WHERE id IN (7, 40)")
    ended = threading.Event()

    def write(offset: int) -> None:
        with connect(databases.master) as session:
            for n in itertools.count(offset):
                if ended.is_set():
                    return
                session.execute(f"UPDATE public.t SET hot = hot + 1 WHERE id = {n % 50 + 1}")
                session.execute(f"DELETE FROM public.t WHERE id = {1000 + n % 7}")
                session.execute(
                    f"INSERT INTO public.t VALUES ({1000 + n % 7}, {n}, 'new') "
                    "ON CONFLICT (id) DO UPDATE SET hot = excluded.hot"
                )

    threads = [threading.Thread(target=write, args=(n,)) for n in range(2)]
    with running(made):
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                (result,) = compare.compare(made)
                assert [d.key["id"] for d in result.differences] == ["7", "40"], result
                assert all(d.slave == {"cold": "damaged"} for d in result.differences)
        finally:
            ended.set()
            for thread in threads:
                thread.join()


def test_what_the_log_is_needed_for_is_not_truncated_meanwhile(databases: Databases) -> None:
    made = copied(databases, "CREATE TABLE public.t (id int PRIMARY KEY)")
    done: list[object] = []

    def rotate() -> None:
        with connect(databases.master) as session:
            done.extend(session.one("SELECT pyreplica.rotate_log(0)")[0] for _ in range(3))

    with running(made) as replication:
        sql(databases.master, "INSERT INTO public.t SELECT generate_series(1, 10)")
        replication.until(replication.batches, "it has not moved the rows")
        compare.compare(made, watcher=once(rotate))
    assert "truncated" not in done


# The command


@pytest.fixture
def shop(databases: Databases, tmp_path: Path) -> Path:
    """Two tables that are copied, and one of them damaged."""
    execute(databases.master, TABLES, "CREATE TABLE other (id int PRIMARY KEY)")
    path = config_file(tmp_path, databases)
    set_up(path)
    execute(databases.slave, "DELETE FROM item WHERE id = 2")
    return path


def test_tables_can_be_chosen(shop: Path) -> None:
    shown = pyreplica(shop, "compare", "--table", "public.other", "--json").stdout
    assert [one["table"] for one in json.loads(shown)["shop"]["tables"]] == ["public.other"]
    both = ("--table", "public.other", "--table", "public.item")
    shown = pyreplica(shop, "compare", "shop", *both, "--json", code=3).stdout
    found = json.loads(shown)["shop"]["tables"]
    assert [one["table"] for one in found] == ["public.item", "public.other"]


@pytest.mark.parametrize("command", ["compare", "repair"])
def test_a_table_that_is_not_there_is_an_error_that_names_those_that_are(
    command: str, shop: Path
) -> None:
    refused(
        shop,
        command,
        "--table",
        "item",
        code=ConfigError.exit_code,
        says="shop: there is no table item in this replication",
        hint="It has public.item, public.other.",
    )


def test_a_signal_ends_it_while_a_server_is_at_work(shop: Path, databases: Databases) -> None:
    with connect(databases.slave) as session:
        session.execute("BEGIN; LOCK TABLE public.item IN ACCESS EXCLUSIVE MODE")
        command = [sys.executable, "-m", "pyreplica", "--config", str(shop), "compare"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            eventually(blocked(databases.slave), "it does not read the table")
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, errors
    assert errors.decode().splitlines()[-1] == "pyreplica: interrupted"


def test_a_table_of_several_pieces_is_read_piece_by_piece(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "BLOCKS", 2)
    made = copied(
        databases,
        "CREATE TABLE public.t (id int PRIMARY KEY, v text); "
        "INSERT INTO public.t SELECT i, repeat('x', 500) FROM generate_series(1, 500) i",
    )
    told: list[int] = []

    class Watching(compare.Unwatched):
        def rows(self, table: str, rows: int) -> None:
            told.append(rows)

    sql(databases.slave, "UPDATE public.t SET v = v || 'y' WHERE id = 333")
    (result,) = compare.compare(made, progress=Watching())
    assert [d.key["id"] for d in result.differences] == ["333"]
    assert sum(told) == 500
    (version,) = rows(databases.master, "SELECT current_setting('server_version_num')::int")[0]
    assert len([n for n in told if n]) > 5 or version < 140000


def test_tables_that_are_not_in_step_are_named_and_removed_ones_are_passed_over(
    databases: Databases,
) -> None:
    names = ("ready", "removed", "copying", "joining")
    made = copied(
        databases, "; ".join(f"CREATE TABLE public.{name} (id int PRIMARY KEY)" for name in names)
    )
    with connect(databases.slave) as session:
        for name in names:
            session.execute(
                "UPDATE pyreplica.replica_copy SET state = %s WHERE table_name = %s", (name, name)
            )
    problems = {result.table: result.problem for result in compare.compare(made)}
    assert problems == {
        "public.copying": "it is still being added",
        "public.joining": "it is still being added",
        "public.ready": None,
    }
