"""on_error: quarantine: changes that a transform has failed on wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.config.pythonfile import PythonFile
from pyreplica.model import EventKind, Step
from pyreplica.replication.conflicts import listed, retry, skip
from pyreplica.replication.report import report
from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.integration.test_transforms import rows, written
from tests.support import (
    LIMIT,
    Running,
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
    CREATE TABLE public.t (id integer PRIMARY KEY, n integer, v text);
    CREATE TABLE public.mark (id integer PRIMARY KEY, v text)
"""
FIRST = ";INSERT INTO public.t SELECT i, i, 'first' FROM generate_series(1, 5) i"
CODE = """
def change(change):
    if change.table == "public.mark" or change.op == "truncate":
        return change
    if change.row.get("v") == {bad!r}:
        raise RuntimeError("no such value")
    if "n" in change.row:
        change.row["n"] *= 10
    if change.op == "insert":
        mark = Change("public.mark", "insert", change.key, {{"v": change.row["v"]}})
        return [change, mark]
    return change
"""
REFUSING = CODE.format(bad="rude")
LENIENT = CODE.format(bad=None).replace("== None", "is change")
"""The same function, which does not raise."""


@contextmanager
def quarantining(
    databases: Databases, folder: Path, tables: str = TABLES + FIRST, **options: Any
) -> Iterator[tuple[ReplicationConfig, Running]]:
    """A running replication through the transform that raises, copied."""
    path = written(folder, REFUSING)
    options = {"transform": str(path), "on_error": "quarantine", **options}
    made = copied(databases, tables, slave=TABLES, **options)
    with running(made) as started:
        started.until_asleep()
        yield made, started


def corrected(made: ReplicationConfig, folder: Path, code: str = LENIENT) -> ReplicationConfig:
    """The replication with another file."""
    return replace(made, transform=PythonFile(written(folder, code, "corrected.py"), ""))


def waiting(made: ReplicationConfig) -> list[tuple[str, str]]:
    """What waits: operation and key."""
    return [(one.op, one.key["id"]) for one in listed(made, settled_too=False)]


T = "SELECT id, n, v FROM public.t ORDER BY id"
MARK = "SELECT id, v FROM public.mark WHERE id > 5 ORDER BY id"
RUDE = (
    "BEGIN",
    "INSERT INTO public.t VALUES (11, 11, 'rude'), (12, 12, 'kind')",
    "UPDATE public.t SET v = CASE id WHEN 3 THEN 'rude' ELSE 'kind' END WHERE id < 4",
    "DELETE FROM public.t WHERE id = 5",
    "COMMIT",
)


@pytest.mark.usefixtures("apply_path")
def test_what_it_fails_on_waits_with_the_later_changes_of_the_row(
    databases: Databases, tmp_path: Path
) -> None:
    with quarantining(databases, tmp_path) as (made, started):
        sql(databases.master, *RUDE)
        wait(made, LIMIT)
        assert waiting(made) == [("I", "11"), ("U", "3")]
        assert rows(databases.slave, T) == [
            *((1, 10, "kind"), (2, 20, "kind"), (3, 30, "first")),
            *((4, 40, "first"), (12, 120, "kind")),
        ]
        assert rows(databases.slave, MARK) == [(12, "kind")]
        first = listed(made, settled_too=False)[0]
        assert (first.conflict, first.row) == (None, {"n": "11", "v": "rude"})
        assert first.error is not None
        assert first.error.startswith("the transform failed on insert of public.t")
        assert first.error.endswith("RuntimeError: no such value, line 8")
        assert started.said("ERROR 2 rows of public.t cannot be applied and wait, the first")
        assert started.told(EventKind.CONFLICT)
        assert report(made).conflicts_waiting == 2
        for statement in (
            "UPDATE public.t SET n = 13 WHERE id IN (3, 4, 11)",
            "DELETE FROM public.t WHERE id = 3",
            "INSERT INTO public.t VALUES (3, 33, 'again')",
        ):
            sql(databases.master, statement)
            wait(made, LIMIT)
        assert sorted(waiting(made), key=lambda one: int(one[1])) == [
            *(("U", "3"), ("U", "3"), ("D", "3"), ("I", "3")),
            *(("I", "11"), ("U", "11")),
        ]
        assert (3, 30, "first") in rows(databases.slave, T)
        assert (4, 130, "first") in rows(databases.slave, T)
        # as long as it raises
        assert {outcome.resolution for outcome in retry(made)} == {"waiting"}
        outcomes = retry(corrected(made, tmp_path))
        assert {outcome.resolution for outcome in outcomes} == {"applied"}, outcomes
        assert waiting(made) == []
        assert rows(databases.slave, T) == [
            *((1, 10, "kind"), (2, 20, "kind"), (3, 330, "again")),
            *((4, 130, "first"), (11, 130, "rude"), (12, 120, "kind")),
        ]
        assert rows(databases.slave, MARK) == [(11, "rude"), (12, "kind")]
        # and changes of the row go through again
        sql(databases.master, "UPDATE public.t SET n = 1 WHERE id IN (3, 11)")
        wait(made, LIMIT)
        assert value(databases.slave, "SELECT sum(n)::int FROM public.t WHERE id IN (3, 11)") == 20
        assert not started.failing


def test_what_cannot_be_applied_of_what_it_gives_waits_too(
    databases: Databases, tmp_path: Path
) -> None:
    code = """
        def change(change):
            if change.key["id"] == 11:
                return [change, Change("public.nothing", "insert", {"id": 1})]
            return change
        """
    path = written(tmp_path, code)
    made = copied(databases, TABLES, slave=TABLES, transform=str(path), on_error="quarantine")
    with running(made) as started:
        sql(databases.master, *RUDE[:2], "COMMIT")
        wait(made, LIMIT)
        assert rows(databases.slave, T) == [(12, 12, "kind")]
        (one,) = listed(made, settled_too=False)
        assert one.key == {"id": "11"}
        assert "table public.nothing is not replicated" in (one.error or "")
        assert not started.failing


@pytest.mark.usefixtures("apply_path")
def test_what_is_given_up_is_passed_over(databases: Databases, tmp_path: Path) -> None:
    with quarantining(databases, tmp_path) as (made, started):
        sql(databases.master, *RUDE)
        wait(made, LIMIT)
        assert skip(made) == 2
        sql(databases.master, "UPDATE public.t SET n = 7 WHERE id = 3")
        wait(made, LIMIT)
        assert (3, 70, "first") in rows(databases.slave, T)
        assert waiting(made) == []
        assert not started.failing


@pytest.mark.usefixtures("apply_path")
def test_truncate_takes_away_what_waits_and_not_what_comes_after_it(
    databases: Databases, tmp_path: Path
) -> None:
    with quarantining(databases, tmp_path) as (made, started):
        sql(databases.master, *RUDE)
        wait(made, LIMIT)
        sql(
            databases.master,
            "BEGIN",
            "INSERT INTO public.t VALUES (20, 20, 'rude')",
            "TRUNCATE public.t",
            "INSERT INTO public.t VALUES (11, 11, 'kind'), (21, 21, 'rude'), (22, 22, 'kind')",
            "UPDATE public.t SET n = 2 WHERE id = 21",
            "COMMIT",
        )
        wait(made, LIMIT)
        assert waiting(made) == [("I", "21"), ("U", "21")]
        assert rows(databases.slave, T) == [(11, 110, "kind"), (22, 220, "kind")]
        retry(corrected(made, tmp_path))
        assert (21, 20, "rude") in rows(databases.slave, T)
        assert not started.failing


@pytest.mark.usefixtures("apply_path")
def test_truncate_that_it_fails_on_stops(databases: Databases, tmp_path: Path) -> None:
    code = """
        def change(change):
            if change.op == "truncate":
                raise RuntimeError("not this one")
            return change
        """
    path = written(tmp_path, code)
    made = copied(databases, TABLES + FIRST, transform=str(path), on_error="quarantine")
    with running(made) as started:
        sql(databases.master, "TRUNCATE public.t")
        started.until_said("the transform failed on truncate of public.t")
    assert value(databases.slave, "SELECT count(*) FROM public.t") == 5
    assert waiting(made) == []


@pytest.mark.usefixtures("apply_path")
def test_a_column_that_is_added_behind_it_in_the_batch_is_in_it(
    databases: Databases, tmp_path: Path
) -> None:
    with quarantining(databases, tmp_path) as (made, started):
        sql(databases.slave, "ALTER TABLE public.t ADD COLUMN more integer")
        sql(
            databases.master,
            "BEGIN",
            "INSERT INTO public.t VALUES (11, 11, 'rude'), (12, 12, 'kind')",
            "ALTER TABLE public.t ADD COLUMN more integer DEFAULT 7",
            "INSERT INTO public.t VALUES (13, 13, 'rude', 8), (14, 14, 'kind', 9)",
            "COMMIT",
        )
        wait(made, LIMIT)
        assert waiting(made) == [("I", "11"), ("I", "13")]
        retry(corrected(made, tmp_path))
        query = "SELECT id, more FROM public.t ORDER BY id DESC LIMIT 5"
        assert rows(databases.slave, query) == [(14, 9), (13, 8), (12, 7), (11, 7), (5, 7)]
        assert not started.failing


@pytest.mark.usefixtures("apply_path")
@pytest.mark.parametrize("left", ["none", "conflict"])
def test_where_the_function_is_gone_it_waits_like_what_the_slave_has_refused(
    databases: Databases, tmp_path: Path, left: str
) -> None:
    with quarantining(databases, tmp_path) as (made, _):
        sql(databases.master, *RUDE)
        wait(made, LIMIT)
    without = replace(made, transform=None)
    if left == "conflict":
        without = corrected(made, tmp_path, "def conflict(conflict): return 'skip'\n")
    with running(without) as started:
        sql(databases.master, "UPDATE public.t SET n = 7 WHERE id IN (1, 3, 11)")
        wait(made, LIMIT)
        assert sorted(waiting(made)) == [("I", "11"), ("U", "11"), ("U", "3"), ("U", "3")]
        assert (1, 7, "kind") in rows(databases.slave, T)
        assert {outcome.resolution for outcome in retry(without)} == {"applied"}
        assert (11, 7, "rude") in rows(databases.slave, T)
        assert (3, 7, "rude") in rows(databases.slave, T)
        assert not started.failing


def test_a_change_that_becomes_one_of_a_row_that_waits_has_to_wait_for_that(
    databases: Databases, tmp_path: Path
) -> None:
    with quarantining(databases, tmp_path) as (made, _):
        sql(
            databases.slave,
            "ALTER TABLE public.mark ADD CONSTRAINT polite CHECK (v <> 'rude')",
        )
        sql(databases.master, "INSERT INTO public.t VALUES (11, 11, 'rude')")
        sql(databases.master, "INSERT INTO public.mark VALUES (11, 'rude')")
        wait(made, LIMIT)
        lenient = corrected(made, tmp_path)
        outcomes = {outcome.table: outcome for outcome in retry(lenient)}
        assert {outcome.resolution for outcome in outcomes.values()} == {"waiting"}
        problem = outcomes["public.t"].problem or ""
        assert problem.startswith('changes of public.mark {"id": "11"} wait as well')
        assert value(databases.slave, "SELECT count(*) FROM public.t WHERE id = 11") == 0
        sql(databases.slave, "ALTER TABLE public.mark DROP CONSTRAINT polite")
        retry(lenient)
        assert {outcome.resolution for outcome in retry(lenient)} == {"applied"}
        assert waiting(made) == []
        assert rows(databases.slave, MARK) == [(11, "rude")]
        assert (11, 110, "rude") in rows(databases.slave, T)


@pytest.mark.parametrize("step", [Step.FETCHED, Step.PREPARED, Step.CONFIRMED])
@pytest.mark.parametrize("size", [5, 2000])
def test_what_dies_in_the_middle_waits_exactly_once(
    databases: Databases, tmp_path: Path, step: Step, size: int
) -> None:
    made = copied(
        databases,
        TABLES,
        slave=TABLES,
        transform=str(written(tmp_path, REFUSING)),
        on_error="quarantine",
    )
    path = config_file(
        tmp_path, databases, transform=str(tmp_path / "shop.py"), on_error="quarantine"
    )
    with stalling_daemon(path, step, 2) as stalling:
        sql(
            databases.master,
            "INSERT INTO public.t SELECT i, i, CASE WHEN i % 2 = 0 THEN 'rude' ELSE 'kind' END "
            f"FROM generate_series(1, {size}) i",
        )
        stalling.until_said("stalled")
        stalling.kill()
    with daemon(path):
        pyreplica(path, "wait")
        assert len(waiting(made)) == size // 2
        retry(corrected(made, tmp_path))
    query = "SELECT count(*), count(DISTINCT id), bool_and(n = 10 * id) FROM public.t"
    assert rows(databases.slave, query) == [(size, size, True)]
    assert value(databases.slave, "SELECT count(*) FROM public.mark") == size
