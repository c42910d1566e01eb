"""`transform:` a module of the user's changes what goes to the slave."""

from __future__ import annotations

import re
import signal
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.config.pythonfile import PythonFile
from pyreplica.errors import ApplyError, Refused
from pyreplica.model import Step
from pyreplica.replication.addition import Addition
from pyreplica.replication.compare import compare
from pyreplica.replication.conflicts import listed
from pyreplica.replication.repair import repair
from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.support import (
    Silence,
    config_file,
    connect,
    connected,
    copied,
    daemon,
    pyreplica,
    running,
    sql,
    stalling_daemon,
    value,
)
from tests.typevalues import TYPES, VALUES, given

TABLES = """
    CREATE TABLE public.t (id integer PRIMARY KEY, n numeric, v text, doc jsonb);
    CREATE TABLE public.log (id integer PRIMARY KEY, what text)
"""
ROWS = ";INSERT INTO public.t SELECT i, i, 'v' || i, '{}' FROM generate_series(1, 9) i"
HEAD = "from pyreplica.transform import Batch, Change\nfrom decimal import Decimal\n"

CHANGING = """
def change(change):
    if change.table != "public.t":
        return change
    if change.op == "truncate":
        return [change, Change("public.log", "truncate")]
    if change.key["id"] % 3 == 0:
        return None
    if change.row.get("n") is not None:
        change.row["n"] = change.row["n"] * 2
    if change.op == "insert":
        change.row["doc"]["seen"] = True
        return [change, Change("public.log", "insert", {"id": change.key["id"]}, {"what": "new"})]
    if change.op == "delete":
        return [change, Change("public.log", "update", {"id": change.key["id"]}, {"what": "gone"})]
    return change
"""


def written(folder: Path, code: str, name: str = "shop.py") -> Path:
    """A transform in a file."""
    path = folder / name
    path.write_text(HEAD + dedent(code), encoding="utf-8")
    path.chmod(0o600)
    return path


def transformed(
    databases: Databases, folder: Path, code: str, rows: str = ROWS, **options: Any
) -> ReplicationConfig:
    """A replication through a transform, copied."""
    path = written(folder, code)
    return copied(databases, TABLES + rows, slave=TABLES, transform=str(path), **options)


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with connect(dsn) as session:
        return session.query(query)


T = "SELECT id, n::text, v, doc::text FROM public.t ORDER BY id"
LOG = "SELECT id, what FROM public.log ORDER BY id"


@pytest.mark.usefixtures("apply_path")
def test_what_the_transform_makes_of_each_change_is_applied(
    databases: Databases, tmp_path: Path
) -> None:
    made = transformed(databases, tmp_path, CHANGING)
    seen = '{"seen": true}'
    # the rows of the copy have been inserts to it
    assert rows(databases.slave, T) == [
        (i, str(2 * i), f"v{i}", seen) for i in range(1, 10) if i % 3
    ]
    assert rows(databases.slave, LOG) == [(i, "new") for i in range(1, 10) if i % 3]
    with running(made):
        sql(
            databases.master,
            "BEGIN",
            "INSERT INTO public.t VALUES (10, 1.50, 'ten', '{}'), (12, 1, 'x', '{}')",
            "UPDATE public.t SET n = 100 WHERE id IN (1, 3)",
            "UPDATE public.t SET v = NULL WHERE id = 2",
            "UPDATE public.t SET id = 40 WHERE id = 4",
            "DELETE FROM public.t WHERE id IN (5, 6)",
            "COMMIT",
        )
        wait(made, 30)
        assert rows(databases.slave, T) == [
            (1, "200", "v1", seen),
            (2, "4", None, seen),
            (7, "14", "v7", seen),
            (8, "16", "v8", seen),
            (10, "3.00", "ten", seen),
            (40, "8", "v4", seen),
        ]
        assert dict(rows(databases.slave, LOG)) == {
            **dict.fromkeys((1, 2, 7, 8, 10, 40), "new"),
            **dict.fromkeys((4, 5), "gone"),
        }
        assert listed(made, settled_too=True) == []
        sql(
            databases.master,
            "BEGIN",
            "TRUNCATE public.t",
            "INSERT INTO public.t VALUES (50, 1, 'x', '{}')",
            "COMMIT",
        )
        wait(made, 30)
    assert rows(databases.slave, T) == [(50, "2", "x", seen)]
    assert rows(databases.slave, LOG) == [(50, "new")]


READING = """
def change(change):
    for values in (change.key, change.row, change.old):
        for name in values:
            values[name], repr(values[name])
    return change
"""


@pytest.mark.usefixtures("apply_path")
def test_values_that_are_only_looked_at_arrive_exactly(
    databases: Databases, tmp_path: Path
) -> None:
    most = max(map(len, VALUES.values()))
    columns = [f"c{number}" for number in range(len(VALUES))]
    table = ", ".join(f"{c} {t}" for c, t in zip(columns, VALUES, strict=True))
    table = f"CREATE TABLE public.all_types (id integer PRIMARY KEY, {table})"
    inserts = [
        f"INSERT INTO public.all_types VALUES ({turn}, "
        + ", ".join(_literal(values[turn % len(values)]) for values in VALUES.values())
        + ")"
        for turn in range(most)
    ]
    setup = ";".join((*TYPES, table))
    half = most // 2
    path = written(tmp_path, READING)
    made = copied(databases, ";".join((setup, *inserts[:half])), slave=setup, transform=str(path))
    with running(made):
        sql(databases.master, "BEGIN", *inserts[half:], "COMMIT")
        sql(databases.master, f"UPDATE public.all_types SET {columns[0]} = NULL WHERE id = 1")
        wait(made, 30)
    texts = ", ".join(f"CASE WHEN num_nulls({c}) = 0 THEN concat({c}) END" for c in columns)
    query = f"SELECT id, {texts} FROM public.all_types ORDER BY id"
    there = rows(databases.master, query)
    assert len(there) == most
    assert rows(databases.slave, query) == there


def _literal(one: Any) -> str:
    return "'" + given(one).replace("'", "''") + "'"


@pytest.mark.usefixtures("apply_path")
def test_a_hook_that_raises_stops_the_batch_and_is_named_with_row_and_line(
    databases: Databases, tmp_path: Path
) -> None:
    made = transformed(databases, tmp_path, "def change(change):\n    return change\n")
    path = written(
        tmp_path,
        """
        def change(change):
            if change.row.get("n") == Decimal("7.5"):
                raise RuntimeError("no such number")
            return change
        """,
        "raising.py",
    )
    raising = replace(made, transform=PythonFile(path, ""))
    with running(raising) as started:
        sql(
            databases.master,
            "BEGIN",
            "INSERT INTO public.t VALUES (10, 1)",
            "INSERT INTO public.t VALUES (11, 7.5)",
            "COMMIT",
        )
        line = started.until_said("the transform failed on insert of public.t")
        assert '{"id": "11"}: RuntimeError: no such number, line 6' in line
    assert value(databases.slave, "SELECT count(*) FROM public.t") == 9
    with running(made):
        wait(made, 30)
    assert value(databases.slave, "SELECT count(*) FROM public.t") == 11


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ('Change("public.nothing", "insert", {"id": 1})', "table public.nothing is not replicated"),
        ('Change("public.t", "upsert", {"id": 1})', "'upsert' is none of insert, update"),
        ('Change("public.t", "insert", {"idd": 1})', "the key of public.t is (id), and not (idd)"),
        ('Change("public.t", "update", {"id": 1}, {"w": 1})', "has no column w beside its key"),
        ('Change("public.t", "update", {"id": 1}, {"v": {1}})', "a set is no value of a column"),
        ('Change("public.t", "update", {"id": 1}, 7)', "a int is no mapping of columns to values"),
        ('"nothing"', "it has returned a str"),
        (
            '[change, Change("public.t", "delete", {"id": 10})]',
            "two changes of one row of public.t",
        ),
        ('[change, Change("public.t", "truncate")]', "or truncates that table besides"),
        ("1 / 0", "ZeroDivisionError: division by zero, line 4"),
    ],
)
def test_what_cannot_be_applied_is_refused_by_name(
    databases: Databases, tmp_path: Path, result: str, says: str
) -> None:
    code = f"def change(change):\n    return {result}\n"
    made = transformed(databases, tmp_path, "def change(change): return change", rows="")
    path = written(tmp_path, code, "wrong.py")
    with running(replace(made, transform=PythonFile(path, ""))) as started:
        sql(databases.master, "INSERT INTO public.t VALUES (10, 1)")
        line = started.until_said("the transform")
    assert says in line
    assert 'public.t {"id": "10"}' in line
    assert value(databases.slave, "SELECT count(*) FROM public.t") == 0


def test_a_copy_that_makes_the_tables_goes_through_it(databases: Databases, tmp_path: Path) -> None:
    sql(databases.master, TABLES + ROWS)
    path = config_file(tmp_path, databases, transform=str(written(tmp_path, CHANGING)))
    pyreplica(path, "install")
    pyreplica(path, "copy", "--schema")
    wanted = [(i, "new") for i in range(1, 10) if i % 3]
    assert rows(databases.slave, LOG) == wanted
    assert rows(databases.slave, "SELECT id, 'new' FROM public.t ORDER BY id") == wanted


def test_a_copy_takes_inserts_only(databases: Databases, tmp_path: Path) -> None:
    code = 'def change(change): return Change("public.t", "delete", change.key)'
    with pytest.raises(ApplyError, match="something else than inserts"):
        transformed(databases, tmp_path, code)


def test_a_table_that_is_added_goes_through_it_too(databases: Databases, tmp_path: Path) -> None:
    code = """
        def change(change):
            if "v" in change.row:
                change.row["v"] = "seen " + change.row["v"]
            return change
        """
    made = transformed(databases, tmp_path, code)
    for dsn in (databases.master, databases.slave):
        sql(dsn, "CREATE TABLE public.late (id integer PRIMARY KEY, v text)")
    sql(databases.master, "INSERT INTO public.late VALUES (1, 'one')")
    with connected(made):
        Addition(made, ["public.late"], Silence()).run()
        sql(databases.master, "INSERT INTO public.late VALUES (2, 'two')")
        wait(made, 30)
    query = "SELECT v FROM public.late ORDER BY id"
    assert rows(databases.slave, query) == [("seen one",), ("seen two",)]


def test_masks_come_before_it(databases: Databases, tmp_path: Path) -> None:
    code = """
        def change(change):
            assert "hidden" not in repr(change), change
            return change
        """
    made = transformed(
        databases,
        tmp_path,
        code,
        rows=";INSERT INTO public.t VALUES (1, 1, 'hidden', NULL)",
        map={"masks": {"public.t": {"v": "hash"}}, "secret": "0123456789abcdef"},
    )
    with running(made):
        sql(databases.master, "UPDATE public.t SET v = 'hidden again'")
        sql(
            databases.master,
            "INSERT INTO public.t SELECT i, i, 'hidden' FROM generate_series(2, 1500) i",
        )
        wait(made, 30)
    assert value(databases.slave, "SELECT count(*) FROM public.t WHERE length(v) = 64") == 1500


def test_a_batch_has_its_hooks_before_and_after_it(databases: Databases, tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = f"""
        def tell(text):
            with open({str(told)!r}, "a") as file:
                file.write(text + "\\n")

        def before_batch(batch):
            tell(f"before {{batch.replication}} {{batch.number}}")

        def after_batch(batch):
            tell(f"after {{batch.replication}} {{batch.number}}")
        """
    made = transformed(databases, tmp_path, code)
    # its two tables are copied beside each other
    copied = told.read_text().splitlines()
    assert sorted(copied) == ["after shop None"] * 2 + ["before shop None"] * 2
    assert (copied[0], copied[-1]) == ("before shop None", "after shop None")
    told.unlink()
    with running(made) as started:
        sql(databases.master, "INSERT INTO public.t VALUES (10, 1)")
        started.until(started.batches, "no batch")
        sql(databases.master, "INSERT INTO public.t SELECT i FROM generate_series(11, 2000) i")
        wait(made, 30)
        started.until_asleep()
        committed = started.batches()
    lines = told.read_text().splitlines()
    numbers = [int(line.rpartition(" ")[2]) for line in lines[::2]]
    assert lines == [f"{when} shop {n}" for n in numbers for when in ("before", "after")]
    # it may have moved on without any change as well, to have the log emptied
    assert len(numbers) >= 2
    assert {*numbers} <= {*committed}
    assert value(databases.slave, "SELECT count(*) FROM public.t") == 2000


@pytest.mark.parametrize("step", [Step.FETCHED, Step.PREPARED, Step.CONFIRMED])
@pytest.mark.parametrize("size", [5, 2000])
def test_what_dies_in_the_middle_is_applied_exactly_once(
    databases: Databases, tmp_path: Path, step: Step, size: int
) -> None:
    code = """
        def change(change):
            change.row["n"] = change.row["n"] + 1
            return [change, Change("public.log", "insert", change.key, {"what": "x"})]
        """
    transformed(databases, tmp_path, code, rows="")
    path = config_file(tmp_path, databases, transform=str(tmp_path / "shop.py"))
    with stalling_daemon(path, step, 2) as stalling:
        sql(databases.master, f"INSERT INTO public.t SELECT i, i FROM generate_series(1, {size}) i")
        stalling.until_said("stalled")
        stalling.kill()
    with daemon(path):
        pyreplica(path, "wait")
    wanted = "SELECT count(*), sum(n - id)::int FROM public.t"
    assert rows(databases.slave, wanted) == [(size, size)]
    assert value(databases.slave, "SELECT count(*) FROM public.log") == size


LARGE = 200_000


def test_a_large_batch_does_not_take_more_memory(databases: Databases, tmp_path: Path) -> None:
    code = "def change(change):\n    change.row['v']\n    return change\n"
    transformed(databases, tmp_path, code, rows="")
    path = config_file(tmp_path, databases, transform=str(tmp_path / "shop.py"))
    with daemon(path, fresh=True) as started:
        sql(
            databases.master,
            "INSERT INTO public.t SELECT i, i, repeat('x', 500) "
            f"FROM generate_series(1, {LARGE}) i",
        )
        pyreplica(path, "wait", "--timeout", "150s", timeout=200)
        status = Path(f"/proc/{started.process.pid}/status").read_text()
    assert value(databases.slave, "SELECT count(*) FROM public.t") == LARGE
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak is not None
    assert int(peak[1]) < 150 * 1024


def test_a_file_that_is_changed_is_loaded_anew_by_a_reload(
    databases: Databases, tmp_path: Path
) -> None:
    code = "def change(change):\n    change.row['v'] = '{}'\n    return change\n"
    transformed(databases, tmp_path, code.format("before"), rows="")
    path = config_file(tmp_path, databases, transform=str(tmp_path / "shop.py"))
    with daemon(path) as started:
        sql(databases.master, "INSERT INTO public.t VALUES (1)")
        pyreplica(path, "wait")
        written(tmp_path, code.format("after"))
        started.process.send_signal(signal.SIGHUP)
        started.until_said("changed: shop")
        sql(databases.master, "INSERT INTO public.t VALUES (2)")
        pyreplica(path, "wait")
    query = "SELECT v FROM public.t ORDER BY id"
    assert rows(databases.slave, query) == [("before",), ("after",)]


# What is refused


def test_compare_and_repair_are_refused(databases: Databases, tmp_path: Path) -> None:
    made = transformed(databases, tmp_path, "def change(change): return change")
    with pytest.raises(Refused, match="goes through a transform"):
        compare(made)
    with pytest.raises(Refused, match="goes through a transform"):
        repair(made, apply=False)


@pytest.mark.parametrize(
    ("code", "mode", "says"),
    [
        ("def change(change): return change", 0o600, "shop.py has change"),
        ("x = 1", 0o600, "has none of the functions before_batch, change, conflict, after_batch"),
        ("change = 7", 0o600, "change of the transform"),
        ("def change(:", 0o600, "SyntaxError"),
        ("import nothing_of_that_name", 0o600, "ModuleNotFoundError"),
        ("def change(change): return change", 0o622, "others than the daemon's account and root"),
    ],
)
def test_check_says_what_it_has_found(
    databases: Databases, tmp_path: Path, code: str, mode: int, says: str
) -> None:
    transform = written(tmp_path, code)
    transform.chmod(mode)
    sql(databases.master, TABLES)
    path = config_file(tmp_path, databases, transform=str(transform))
    pyreplica(path, "install")
    done = pyreplica(path, "check", code=None)
    assert says in done.stdout
    assert (": transform: ok:" in done.stdout) == (says == "shop.py has change")


def test_the_sample_does_what_it_says(databases: Databases, tmp_path: Path) -> None:
    sample = Path(__file__).parents[2] / "pyreplica" / "contrib" / "transform.py"
    tables = """
        CREATE TABLE public.session (id integer PRIMARY KEY);
        CREATE TABLE public.customer (id integer PRIMARY KEY, phone text, name text);
        CREATE TABLE public.orders (id integer PRIMARY KEY, total numeric);
        CREATE TABLE public.order_mark (id integer PRIMARY KEY, total numeric)
    """
    path = written(tmp_path, sample.read_text(encoding="utf-8").partition('"""\n')[2])
    path.write_text(sample.read_text(encoding="utf-8"), encoding="utf-8")
    settling = {"conflicts": {"insert_exists": "transform"}}
    made = copied(databases, tables, slave=tables, transform=str(path), **settling)
    with running(made):
        sql(
            databases.master,
            "INSERT INTO public.session VALUES (1)",
            "INSERT INTO public.customer VALUES (1, '+49 123 456', 'x'), (2, NULL, 'y')",
            "UPDATE public.customer SET name = 'z'",
            "INSERT INTO public.orders VALUES (1, 9.50)",
        )
        wait(made, 30)
        sql(databases.slave, "INSERT INTO public.customer VALUES (3, '12345', 'mine')")
        sql(databases.master, "INSERT INTO public.customer VALUES (3, '+49 123 789', 'x')")
        wait(made, 30)
    assert rows(databases.slave, "SELECT phone, name FROM public.customer ORDER BY id") == [
        ("...456", "z"),
        (None, "z"),
        ("...789", "mine"),
    ]
    assert value(databases.slave, "SELECT count(*) FROM public.session") == 0
    assert value(databases.slave, "SELECT total::text FROM public.order_mark") == "9.50"
