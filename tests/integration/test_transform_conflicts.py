"""The function conflict() of a transform settles conflicts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.config.pythonfile import PythonFile
from pyreplica.errors import Refused
from pyreplica.model import EventKind, Step
from pyreplica.replication.compare import compare
from pyreplica.replication.conflicts import listed, retry
from pyreplica.replication.session import Session
from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.integration.test_transforms import rows, written
from tests.support import (
    LIMIT,
    assert_same,
    config_file,
    copied,
    daemon,
    pyreplica,
    running,
    sql,
    stalling_daemon,
    value,
)

TABLES = """
    CREATE TABLE public.t (id integer PRIMARY KEY, n numeric, v text);
    CREATE TABLE public.other (id integer PRIMARY KEY)
"""
ROWS = ";INSERT INTO public.t SELECT i, i, 'first' FROM generate_series(1, 9) i"
ALL = dict.fromkeys(
    ("insert_exists", "update_missing", "update_differs", "delete_missing"), "transform"
)
DAMAGES = {
    "insert_exists": "INSERT INTO public.t VALUES (11, 110, 'mine')",
    "update_missing": "DELETE FROM public.t WHERE id = 3",
    "update_differs": "UPDATE public.t SET n = 300, v = 'mine' WHERE id = 3",
    "delete_missing": "DELETE FROM public.t WHERE id = 5",
}
KEYS = {"insert_exists": 11, "update_missing": 3, "update_differs": 3, "delete_missing": 5}
WORK = (
    "BEGIN",
    "INSERT INTO public.t VALUES (10, 10, 'new'), (11, 11, 'new')",
    "UPDATE public.t SET v = 'changed' WHERE id < 5",
    "DELETE FROM public.t WHERE id IN (5, 6)",
    "INSERT INTO public.other VALUES (1)",
    "COMMIT",
)
T = "SELECT id, n::text, v FROM public.t ORDER BY id"


def settled(
    databases: Databases, folder: Path, code: str, tables: str = TABLES + ROWS, **options: Any
) -> ReplicationConfig:
    """A replication whose conflicts the transform settles, copied."""
    path = written(folder, code)
    return copied(databases, tables, **{"transform": str(path), "conflicts": ALL, **options})


def of_slave(databases: Databases, id_: int) -> tuple[Any, ...] | None:
    """The slave's row."""
    found = rows(databases.slave, f"SELECT n::text, v FROM public.t WHERE id = {id_}")
    return found[0] if found else None


MERGE = "dict(n=Decimal('77.70'), v='both')"
OUTCOMES = {
    ("insert_exists", "'apply'"): ("applied", ("11", "new")),
    ("insert_exists", "'skip'"): ("skipped", ("110", "mine")),
    ("insert_exists", MERGE): ("merged", ("77.70", "both")),
    ("insert_exists", "dict(v='both')"): ("merged", ("110", "both")),
    ("insert_exists", "dict()"): ("merged", ("110", "mine")),
    ("update_missing", "'apply'"): ("restated", ("3", "changed")),
    ("update_missing", "'skip'"): ("skipped", None),
    ("update_missing", MERGE): ("merged", ("77.70", "both")),
    ("update_missing", "conflict.row"): ("merged", (None, "changed")),
    ("update_differs", "'apply'"): ("applied", ("300", "changed")),
    ("update_differs", "'skip'"): ("skipped", ("300", "mine")),
    ("update_differs", MERGE): ("merged", ("77.70", "both")),
    ("update_differs", "dict(n=conflict.slave_row['n'] + 1)"): ("merged", ("301", "mine")),
    ("update_differs", "conflict.slave_row"): ("merged", ("300", "mine")),
    ("delete_missing", "'apply'"): ("applied", None),
    ("delete_missing", "'skip'"): ("skipped", None),
    ("delete_missing", MERGE): ("merged", ("77.70", "both")),
}


@pytest.mark.usefixtures("apply_path")
@pytest.mark.parametrize(("conflict", "returned"), OUTCOMES)
def test_what_the_function_returns_becomes_of_the_conflict(
    databases: Databases, tmp_path: Path, conflict: str, returned: str
) -> None:
    resolution, there = OUTCOMES[conflict, returned]
    made = settled(databases, tmp_path, f"def conflict(conflict): return {returned}\n")
    key = KEYS[conflict]
    with running(made) as started:
        started.until_asleep()
        sql(databases.slave, DAMAGES[conflict])
        sql(databases.master, *WORK)
        # the row that was asked for comes with a later batch
        started.until(
            lambda: started.batches() and of_slave(databases, key) == there, "it is not settled"
        )
        wait(made, LIMIT)
        (one,) = listed(made, settled_too=True)
        assert (one.conflict, one.key, one.resolution) == (conflict, {"id": str(key)}, resolution)
        told = resolution.replace("restated", "restating")
        line = (
            f'WARNING conflict {conflict} on public.t: 1 row, the first {{"id": "{key}"}}: {told}'
        )
        assert started.said(line)
        assert started.told(EventKind.CONFLICT)
        assert not started.failing
    others = f"SELECT id, n::text, v FROM public.t WHERE id <> {key} ORDER BY id"
    assert rows(databases.slave, others) == rows(databases.master, others)
    assert value(databases.slave, "SELECT count(*) FROM public.other") == 1


@pytest.mark.usefixtures("apply_path")
def test_it_is_given_both_rows_and_the_old_one_as_objects(
    databases: Databases, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    code = f"""
        def conflict(conflict):
            with open({str(told)!r}, "a") as file:
                given = (conflict.key, conflict.row, conflict.old, conflict.slave_row)
                print(conflict.conflict, conflict.table, *given, file=file)
            return "skip"
        """
    made = settled(databases, tmp_path, code)
    with running(made) as started:
        started.until_asleep()
        sql(
            databases.slave,
            "UPDATE public.t SET n = 300.0, v = NULL WHERE id = 3",
            "INSERT INTO public.t VALUES (11, NULL, 'mine')",
            "DELETE FROM public.t WHERE id IN (4, 5)",
        )
        sql(
            databases.master,
            "BEGIN",
            "UPDATE public.t SET v = 'second', n = 30 WHERE id = 3",
            "UPDATE public.t SET v = 'third' WHERE id = 3",
            "UPDATE public.t SET v = 'second' WHERE id = 4",
            "INSERT INTO public.t VALUES (11, 1.50, 'new')",
            "DELETE FROM public.t WHERE id = 5",
            "COMMIT",
        )
        wait(made, LIMIT)
    assert sorted(told.read_text().splitlines()) == [
        "delete_missing public.t {'id': 5} {} {} None",
        "insert_exists public.t {'id': 11} {'n': Decimal('1.50'), 'v': 'new'} {} "
        "{'n': None, 'v': 'mine'}",
        "update_differs public.t {'id': 3} {'n': Decimal('30'), 'v': 'third'} "
        "{'n': Decimal('3'), 'v': 'first'} {'n': Decimal('300.0'), 'v': None}",
        "update_missing public.t {'id': 4} {'v': 'second'} {'v': 'first'} None",
    ]


def test_the_row_is_locked_until_the_batch_is_committed(
    databases: Databases, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    code = f"""
        import psycopg2

        def conflict(conflict):
            session = psycopg2.connect({databases.slave!r}, options="-c lock_timeout=100ms")
            try:
                session.cursor().execute("UPDATE public.t SET n = 0 WHERE id = 3")
            except psycopg2.errors.LockNotAvailable:
                with open({str(told)!r}, "a") as file:
                    file.write("locked")
            finally:
                session.close()
            return {{"n": conflict.slave_row["n"] + 1}}
        """
    made = settled(databases, tmp_path, code)
    with running(made) as started:
        started.until_asleep()
        sql(databases.slave, DAMAGES["update_differs"])
        sql(databases.master, "UPDATE public.t SET v = 'changed' WHERE id = 3")
        wait(made, LIMIT)
    assert told.read_text() == "locked"
    assert of_slave(databases, 3) == ("301", "mine")


@pytest.mark.parametrize("step", [Step.FETCHED, Step.PREPARED, Step.CONFIRMED])
@pytest.mark.parametrize("size", [5, 2500])
def test_what_dies_in_the_middle_is_settled_exactly_once(
    databases: Databases, tmp_path: Path, step: Step, size: int
) -> None:
    some = f";INSERT INTO public.t SELECT i, i, 'first' FROM generate_series(1, {size}) i"
    code = "def conflict(conflict): return {'n': conflict.slave_row['n'] + 1}\n"
    settled(databases, tmp_path, code, TABLES + some)
    sql(databases.slave, "UPDATE public.t SET v = 'mine'")
    path = config_file(tmp_path, databases, transform=str(tmp_path / "shop.py"), conflicts={**ALL})
    with stalling_daemon(path, step, 2) as stalling:
        sql(databases.master, "UPDATE public.t SET v = 'changed'")
        stalling.until_said("stalled")
        stalling.kill()
    with daemon(path):
        pyreplica(path, "wait")
    query = "SELECT count(*), sum(n - id)::int, min(v) FROM public.t"
    assert rows(databases.slave, query) == [(size, size, "mine")]
    query = "SELECT conflict, resolution, count(*) FROM pyreplica.replica_conflict GROUP BY 1, 2"
    assert rows(databases.slave, query) == [("update_differs", "merged", size)]


NONSENSE = {
    "1 / 0": "the transform failed on it: ZeroDivisionError: division by zero, line 4",
    "'aply'": "returned 'aply', which is none of apply, skip and error",
    "'error'": "the slave's row is not what the master's was",
    "None": "a NoneType is no mapping of columns to values",
    "dict(w=1)": "table public.t has no column w beside its key",
    "dict(id=3)": "table public.t has no column id beside its key",
    "dict(n={1})": "a set is no value of a column",
    "dict(v='a' + chr(0))": "a str has a character that is none",
    "dict(v=chr(0xD800))": "a str has a character that is none",
    "dict(n='seven')": 'invalid input syntax for type numeric: "seven"',
}


@pytest.mark.usefixtures("apply_path")
@pytest.mark.parametrize("returned", NONSENSE)
def test_a_function_that_raises_or_gives_nonsense_stops_the_batch_and_is_named(
    databases: Databases, tmp_path: Path, returned: str
) -> None:
    made = settled(databases, tmp_path, "def conflict(conflict): return 'skip'\n")
    path = written(tmp_path, f"def conflict(conflict):\n    return {returned}\n", "wrong.py")
    sql(databases.slave, DAMAGES["update_differs"])
    with running(replace(made, transform=PythonFile(path, ""))) as started:
        sql(databases.master, *WORK)
        line = started.until_said('cannot update public.t {"id": "3"}: ')
        assert NONSENSE[returned] in line
    assert value(databases.slave, "SELECT count(*) FROM public.other") == 0
    assert listed(made, settled_too=True) == []
    with running(made):
        wait(made, LIMIT)
    assert value(databases.slave, "SELECT count(*) FROM public.other") == 1
    assert of_slave(databases, 3) == ("300", "mine")


@pytest.mark.usefixtures("apply_path")
def test_in_quarantine_it_waits_and_is_asked_again_by_retry(
    databases: Databases, tmp_path: Path
) -> None:
    code = """
        def conflict(conflict):
            if conflict.key["id"] == 3:
                raise RuntimeError("not yet")
            return "skip"
        """
    made = settled(databases, tmp_path, code, on_error="quarantine")
    with running(made) as started:
        started.until_asleep()
        sql(
            databases.slave,
            DAMAGES["update_differs"],
            "UPDATE public.t SET v = 'mine' WHERE id = 4",
            "DELETE FROM public.t WHERE id = 7",
        )
        sql(databases.master, "UPDATE public.t SET v = 'changed' WHERE id < 6")
        wait(made, LIMIT)
        sql(databases.master, "UPDATE public.t SET n = 30 WHERE id = 3")
        wait(made, LIMIT)
        assert of_slave(databases, 3) == ("300", "mine")
        assert of_slave(databases, 5) == ("5", "changed")
        first, second = listed(made, settled_too=False)
        assert (first.conflict, first.key, first.row) == (
            *("update_differs", {"id": "3"}),
            {"v": "changed"},
        )
        assert first.slave_row == {"id": "3", "n": "300", "v": "mine"}
        assert first.error == "the transform failed on it: RuntimeError: not yet, line 6"
        assert second.error == "an earlier change of the row waits"
        (outcome,) = retry(made)
        assert outcome.resolution == "waiting"
        assert "RuntimeError: not yet, line 6" in (outcome.problem or "")
        code = "def conflict(conflict): return {**conflict.slave_row, 'n': conflict.row['n']}\n"
        corrected = written(tmp_path, code, "corrected.py")
        (outcome,) = retry(replace(made, transform=PythonFile(corrected, "")))
        assert outcome.resolution == "merged"
        assert len(outcome.ids) == 2
        assert of_slave(databases, 3) == ("30", "mine")
        assert listed(made, settled_too=False) == []
        assert not started.failing


RETRIED = {
    ("insert_exists", "'apply'"): ("applied", ("11", "new")),
    ("insert_exists", "dict(v='both')"): ("merged", ("110", "both")),
    ("update_missing", "'skip'"): ("skipped", None),
    ("update_missing", MERGE): ("merged", ("77.70", "both")),
    ("update_differs", "'apply'"): ("applied", ("300", "changed")),
    ("delete_missing", "'apply'"): ("applied", None),
    ("delete_missing", MERGE): ("merged", ("77.70", "both")),
}


@pytest.mark.parametrize(("conflict", "returned"), RETRIED)
def test_what_waits_is_settled_by_it_too(
    databases: Databases, tmp_path: Path, conflict: str, returned: str
) -> None:
    made = settled(
        databases, tmp_path, "def conflict(conflict): return 'error'\n", on_error="quarantine"
    )
    sql(databases.slave, DAMAGES[conflict])
    with running(made):
        sql(databases.master, *WORK)
        wait(made, LIMIT)
    answering = written(tmp_path, f"def conflict(conflict): return {returned}\n", "answering.py")
    (outcome,) = retry(replace(made, transform=PythonFile(answering, "")))
    assert (outcome.resolution, of_slave(databases, KEYS[conflict])) == RETRIED[conflict, returned]


@pytest.mark.usefixtures("apply_path")
def test_a_row_of_its_own_that_the_slave_refuses_waits_as_what_has_come(
    databases: Databases, tmp_path: Path
) -> None:
    code = "def conflict(conflict): return {'v': 'rude'}\n"
    made = settled(databases, tmp_path, code, on_error="quarantine")
    with running(made) as started:
        started.until_asleep()
        sql(
            databases.slave,
            DAMAGES["insert_exists"],
            DAMAGES["update_differs"],
            DAMAGES["delete_missing"],
            "ALTER TABLE public.t ADD CONSTRAINT polite CHECK (v <> 'rude')",
        )
        sql(databases.master, *WORK)
        wait(made, LIMIT)
        waiting = {one.key["id"]: one for one in listed(made, settled_too=False)}
        assert {key: (one.op, one.row) for key, one in waiting.items()} == {
            "3": ("U", {"v": "changed"}),
            "5": ("D", None),
            "11": ("I", {"n": "11", "v": "new"}),
        }
        assert all("polite" in (one.error or "") for one in waiting.values())
        sql(databases.slave, "ALTER TABLE public.t DROP CONSTRAINT polite")
        assert {outcome.resolution for outcome in retry(made)} == {"merged"}
        assert value(databases.slave, "SELECT count(*) FROM public.t WHERE v = 'rude'") == 3
        assert not started.failing


def test_columns_have_the_masters_names_and_those_of_the_slave_alone_stay(
    databases: Databases, tmp_path: Path
) -> None:
    code = """
        def conflict(conflict):
            assert conflict.table == "public.t", conflict
            assert set(conflict.slave_row) == {"n", "v"}, conflict
            assert conflict.slave_row["v"] is None, conflict
            conflict.slave_row["n"] += 1
            return conflict.slave_row
        """
    slave = (
        "CREATE SCHEMA shop; CREATE TABLE shop.u (id integer PRIMARY KEY, amount numeric, v text, "
        "n text DEFAULT 'own'); CREATE TABLE public.other (id integer PRIMARY KEY)"
    )
    naming = {
        "tables": {"public.t": "shop.u"},
        "columns": {"public.t": {"n": "amount"}},
        "masks": {"public.t": {"v": "null"}},
    }
    path = written(tmp_path, code)
    made = copied(
        databases,
        TABLES + ROWS,
        slave=slave,
        transform=str(path),
        conflicts={**ALL},
        map=naming,
    )
    with running(made) as started:
        started.until_asleep()
        sql(databases.slave, "UPDATE shop.u SET amount = 30, n = 'mine' WHERE id = 3")
        sql(databases.master, "UPDATE public.t SET n = 0 WHERE id = 3")
        wait(made, LIMIT)
        assert not started.failing
    query = "SELECT amount::text, v, n FROM shop.u WHERE id = 3"
    assert rows(databases.slave, query) == [("31", None, "mine")]


# Beside the function change()


def test_without_the_function_change_nothing_is_changed_and_compare_goes_on(
    databases: Databases, tmp_path: Path
) -> None:
    made = settled(databases, tmp_path, "def conflict(conflict): return 'apply'\n")
    with running(made) as started:
        sql(databases.master, *WORK)
        sql(databases.master, "INSERT INTO public.t SELECT i FROM generate_series(20, 4000) i")
        assert_same(made)
        started.until_asleep()
        sql(databases.slave, DAMAGES["update_differs"])
        assert [one.equal for one in compare(made)] == [True, False]
    assert listed(made, settled_too=True) == []


CHANGING = """
def change(change):
    if change.row.get("v") == "secret":
        change.row["v"] = "none of yours"
    return change

def conflict(conflict):
    return {"v": f"{conflict.conflict} of {conflict.old.get('v')}"}
"""


@pytest.mark.usefixtures("apply_path")
def test_of_what_the_function_change_has_let_be_conflicts_are_settled(
    databases: Databases, tmp_path: Path
) -> None:
    made = settled(databases, tmp_path, CHANGING, TABLES, slave=TABLES)
    sql(databases.master, "INSERT INTO public.t SELECT i, i, 'a' FROM generate_series(1, 5) i")
    with running(made) as started:
        wait(made, LIMIT)
        started.until_asleep()
        sql(databases.slave, "UPDATE public.t SET v = 'mine' WHERE id IN (1, 2)")
        sql(databases.slave, "DELETE FROM public.t WHERE id = 3")
        sql(
            databases.master,
            "BEGIN",
            "UPDATE public.t SET v = 'b' WHERE id IN (1, 3, 4)",
            "UPDATE public.t SET v = 'secret' WHERE id IN (2, 5)",
            "COMMIT",
        )
        wait(made, LIMIT)
    assert rows(databases.slave, "SELECT id, v FROM public.t ORDER BY id") == [
        (1, "update_differs of a"),
        (2, "none of yours"),
        (3, "update_missing of a"),
        (4, "b"),
        (5, "none of yours"),
    ]


def test_the_example_of_the_docs_adds_up_what_both_have_sold(
    databases: Databases, tmp_path: Path
) -> None:
    text = Path("docs/transforms.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n([^`]*def conflict.*?)```", text, re.DOTALL)
    item = "CREATE TABLE public.item (id integer PRIMARY KEY, stock integer, v text)"
    items = f"{item}; INSERT INTO public.item VALUES (1, 10, 'a'), (2, 10, 'a')"
    made = settled(databases, tmp_path, code, items)
    with running(made) as started:
        started.until_asleep()
        sql(databases.slave, "UPDATE public.item SET stock = 7")
        sql(
            databases.master,
            "UPDATE public.item SET stock = 8 WHERE id = 1",
            "UPDATE public.item SET stock = 8, v = 'b' WHERE id = 2",
        )
        wait(made, LIMIT)
    query = "SELECT id, stock, v FROM public.item ORDER BY id"
    assert rows(databases.slave, query) == [(1, 5, "a"), (2, 7, "a")]


# What is refused


def test_a_transform_that_settles_no_conflicts_is_refused_where_it_is_to(
    databases: Databases, tmp_path: Path
) -> None:
    made = settled(databases, tmp_path, "def conflict(conflict): return 'skip'\n")
    path = config_file(tmp_path, databases, transform=str(tmp_path / "shop.py"), conflicts={**ALL})
    assert "shop.py has conflict" in pyreplica(path, "check").stdout
    written(tmp_path, "def change(change): return change\n")
    with pytest.raises(
        Refused, match=r"has no function conflict\(\), which is to settle insert_exi"
    ):
        Session(made, lambda step, batch: None)
    said = pyreplica(path, "check", code=1).stdout
    assert "transform: problem: the transform" in said
    assert "has no function conflict(), which is to settle insert_exists" in said


def test_the_list_shows_what_was_merged(databases: Databases, tmp_path: Path) -> None:
    made = settled(databases, tmp_path, "def conflict(conflict): return {'v': 'both'}\n")
    path = config_file(tmp_path, databases, transform=str(tmp_path / "shop.py"), conflicts={**ALL})
    sql(databases.slave, DAMAGES["update_differs"])
    with running(made):
        sql(databases.master, *WORK)
        wait(made, LIMIT)
    (shown,) = json.loads(pyreplica(path, "conflicts", "list", "shop", "--all", "--json").stdout)
    assert (shown["conflict"], shown["resolution"]) == ("update_differs", "merged")
