"""Conflicts: what the slave has is not what the master had. Each is settled by its policy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.replication.conflicts import listed
from tests.conftest import Databases
from tests.support import assert_same, connect, copied, running, sql, value

TABLES = """
    CREATE TABLE public.t (id integer PRIMARY KEY, n numeric, v text);
    INSERT INTO public.t SELECT i, i, 'first' FROM generate_series(1, 9) i;
    CREATE TABLE public.other (id integer PRIMARY KEY)
"""

DAMAGES = {
    "insert_exists": "INSERT INTO public.t VALUES (11, 0, 'mine')",
    "update_missing": "DELETE FROM public.t WHERE id = 3",
    "delete_missing": "DELETE FROM public.t WHERE id = 5",
    "update_differs": "UPDATE public.t SET v = 'mine' WHERE id = 3",
}
KEYS = {"insert_exists": 11, "update_missing": 3, "delete_missing": 5, "update_differs": 3}
WORK = (
    "BEGIN",
    "INSERT INTO public.t VALUES (10, 10, 'new'), (11, 11, 'new')",
    "UPDATE public.t SET v = 'changed' WHERE id < 5",
    "DELETE FROM public.t WHERE id IN (5, 6)",
    "INSERT INTO public.other VALUES (1)",
    "COMMIT",
)

SLAVES = {
    ("insert_exists", "apply"): "new",
    ("insert_exists", "warn"): "new",
    ("insert_exists", "skip"): "mine",
    ("update_missing", "apply"): "changed",
    ("update_missing", "warn"): None,
    ("update_missing", "skip"): None,
    ("delete_missing", "apply"): None,
    ("delete_missing", "warn"): None,
    ("delete_missing", "skip"): None,
    ("update_differs", "apply"): "changed",
    ("update_differs", "warn"): "changed",
    ("update_differs", "skip"): "mine",
}
"""What the slave's row has in the end."""
RESOLUTIONS = {
    ("insert_exists", "apply"): "applied",
    ("insert_exists", "warn"): "applied",
    ("insert_exists", "skip"): "skipped",
    ("update_missing", "apply"): "restated",
    ("update_missing", "warn"): "skipped",
    ("update_missing", "skip"): "skipped",
    ("delete_missing", "apply"): "applied",
    ("delete_missing", "warn"): "skipped",
    ("delete_missing", "skip"): "skipped",
    ("update_differs", "warn"): "applied",
    ("update_differs", "skip"): "skipped",
}


def found(made: ReplicationConfig) -> Sequence[tuple[str | None, Any, str]]:
    """What was written down: conflict, key, resolution."""
    return [(one.conflict, one.key["id"], one.resolution) for one in listed(made, settled_too=True)]


def of_slave(databases: Databases, id_: int) -> Any:
    """What the slave's row has."""
    return value(databases.slave, f"SELECT (SELECT v FROM public.t WHERE id = {id_})")


@pytest.mark.usefixtures("apply_path")
@pytest.mark.parametrize(("conflict", "policy"), SLAVES)
def test_a_conflict_is_settled_by_its_policy(
    databases: Databases, conflict: str, policy: str
) -> None:
    made = copied(databases, TABLES, conflicts={conflict: policy})
    key = KEYS[conflict]
    with running(made) as daemon:
        daemon.until_asleep()
        sql(databases.slave, DAMAGES[conflict])
        sql(databases.master, *WORK)
        if SLAVES[conflict, policy] == of_slave(databases, key):
            daemon.until(lambda: len(daemon.batches()) > 0, "no batch")
        else:
            daemon.until(
                lambda: of_slave(databases, key) == SLAVES[conflict, policy], "it is not settled"
            )
        daemon.until_asleep()
        assert value(databases.slave, "SELECT count(*) FROM public.other") == 1
        assert value(databases.slave, "SELECT string_agg(v, ',' ORDER BY id) FROM public.t") == (
            value(
                databases.master,
                f"SELECT string_agg(CASE id WHEN {key} THEN s.v ELSE t.v END, ',' ORDER BY id) "
                f"FROM (SELECT * FROM public.t UNION SELECT {key}, 0, '' "
                f"WHERE NOT EXISTS (SELECT FROM public.t WHERE id = {key})) t, "
                f"(SELECT {json_literal(SLAVES[conflict, policy])} AS v) s "
                f"WHERE id <> {key} OR s.v IS NOT NULL",
            )
        )
        said = [line for line in daemon.lines if f"conflict {conflict} on public.t" in line]
        if (conflict, policy) in RESOLUTIONS:
            resolution = RESOLUTIONS[conflict, policy]
            assert found(made) == [(conflict, str(key), resolution)]
            level = "WARNING" if policy == "warn" else "INFO"
            shown = "restating" if resolution == "restated" else resolution
            assert said == [
                f'{level} conflict {conflict} on public.t: 1 row, the first {{"id": "{key}"}}: '
                f"{shown}"
            ]
        else:
            assert list(found(made)) == []
            assert said == []
        assert not daemon.failing


def json_literal(text: str | None) -> str:
    """The value as SQL."""
    return "NULL::text" if text is None else f"'{text}'::text"


@pytest.mark.usefixtures("apply_path")
@pytest.mark.parametrize("conflict", DAMAGES)
def test_a_conflict_that_is_an_error_stops_the_batch_and_is_named(
    databases: Databases, conflict: str
) -> None:
    made = copied(databases, TABLES, conflicts={conflict: "error"})
    with running(made) as daemon:
        daemon.until_asleep()
        sql(databases.slave, DAMAGES[conflict])
        sql(databases.master, *WORK)
        line = daemon.until_said(f"conflict {conflict}: cannot ")
        assert f'public.t {{"id": "{KEYS[conflict]}"}}' in line
        assert line.startswith("ERROR shop: slave: ")
        assert value(databases.slave, "SELECT count(*) FROM public.other") == 0
        assert found(made) == []
        sql(
            databases.slave,
            # in one transaction: the daemon tries again all the time
            "DELETE FROM public.t WHERE id IN (3, 5, 11); "
            "INSERT INTO public.t VALUES (3, 3, 'first'), (5, 5, 'first')",
        )
        assert_same(made)
        assert found(made) == []


@pytest.mark.usefixtures("apply_path")
def test_values_that_are_equal_and_not_the_same_differ(databases: Databases) -> None:
    made = copied(databases, TABLES)
    with running(made) as daemon:
        daemon.until_asleep()
        sql(databases.slave, "UPDATE public.t SET n = 3.00 WHERE id = 3")
        sql(databases.master, "UPDATE public.t SET n = n + 1 WHERE id IN (3, 4)")
        assert_same(made)
        assert found(made) == [("update_differs", "3", "applied")]
        (conflict,) = listed(made, settled_too=True)
        assert conflict.old == {"n": "3"}
        assert conflict.row == {"n": "4"}
        assert conflict.slave_row == {"id": "3", "n": "3.00", "v": "first"}
        assert daemon.said("WARNING conflict update_differs on public.t: 1 row")


@pytest.mark.usefixtures("apply_path")
def test_what_an_update_does_not_change_is_not_compared(databases: Databases) -> None:
    made = copied(databases, TABLES)
    with running(made) as daemon:
        daemon.until_asleep()
        sql(databases.slave, "UPDATE public.t SET v = 'mine' WHERE id = 3")
        sql(databases.master, "UPDATE public.t SET n = n + 1")
        daemon.until(daemon.batches, "no batch")
        daemon.until_asleep()
        assert found(made) == []
        assert of_slave(databases, 3) == "mine"


def test_a_key_of_several_conflicts_in_a_batch_is_judged_once(databases: Databases) -> None:
    made = copied(databases, TABLES)
    with running(made) as daemon:
        daemon.until_asleep()
        sql(databases.slave, "UPDATE public.t SET v = 'mine' WHERE id = 3")
        sql(
            databases.master,
            "BEGIN",
            "UPDATE public.t SET v = 'second' WHERE id = 3",
            "UPDATE public.t SET v = 'third', n = 33 WHERE id = 3",
            "COMMIT",
        )
        assert_same(made)
        (conflict,) = listed(made, settled_too=True)
        assert conflict.old == {"v": "first", "n": "3"}
        assert conflict.row == {"v": "third", "n": "33"}


@pytest.mark.usefixtures("apply_path")
def test_an_insert_that_meets_another_unique_value_is_an_error_whatever_the_policy(
    databases: Databases,
) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.t (id integer PRIMARY KEY, u integer UNIQUE)",
        conflicts={"insert_exists": "apply"},
    )
    with running(made) as daemon:
        daemon.until_asleep()
        sql(databases.slave, "INSERT INTO public.t VALUES (7, 1)")
        sql(databases.master, "INSERT INTO public.t VALUES (1, 1), (2, 2)")
        line = daemon.until_said('conflict insert_exists: cannot insert public.t {"id": "1"}')
        assert "t_u_key" in line
        sql(databases.slave, "DELETE FROM public.t")
        assert_same(made)


@pytest.mark.usefixtures("apply_path")
def test_values_change_hands_among_rows_in_conflict(databases: Databases) -> None:
    table = "CREATE TABLE public.t (id integer PRIMARY KEY, u integer UNIQUE{}, v text);"
    made = copied(
        databases,
        # what is deferrable is not checked in the daemon's session
        table.format(" DEFERRABLE")
        + "INSERT INTO public.t SELECT i, i, 'first' FROM generate_series(1, 6) i",
        slave=table.format(""),
        conflicts={"insert_exists": "apply"},
    )
    with running(made) as daemon:
        daemon.until_asleep()
        sql(
            databases.slave,
            "UPDATE public.t SET v = 'mine' WHERE id = 2",
            "DELETE FROM public.t WHERE id = 6",
            "INSERT INTO public.t VALUES (7, 77, 'mine')",
        )
        sql(
            databases.master,
            "BEGIN",
            "UPDATE public.t SET u = 5 - u, v = 'swapped' WHERE id < 5",
            "DELETE FROM public.t WHERE id = 6",
            "INSERT INTO public.t VALUES (7, 6, 'new')",
            "COMMIT",
        )
        assert_same(made)
        assert sorted(found(made), key=str) == [
            ("delete_missing", "6", "skipped"),
            ("insert_exists", "7", "applied"),
            ("update_differs", "2", "applied"),
        ]


def test_ten_thousand_conflicts_are_settled_by_sets(databases: Databases) -> None:
    rows = 10_000
    made = copied(
        databases,
        "CREATE TABLE public.t (id integer PRIMARY KEY, n integer, v text);"
        f"INSERT INTO public.t SELECT i, i, 'first' FROM generate_series(1, {3 * rows}) i",
        conflicts={"insert_exists": "apply"},
    )
    with running(made) as daemon:
        daemon.until_asleep()
        with connect(databases.slave) as session:
            session.execute(f"DELETE FROM public.t WHERE id <= {rows}")
            session.execute(f"UPDATE public.t SET v = 'mine' WHERE id > {2 * rows}")
            session.execute(
                "INSERT INTO public.t "
                f"SELECT i, 0, 'mine' FROM generate_series({3 * rows} + 1, {4 * rows}) i"
            )
        sql(
            databases.master,
            "BEGIN",
            f"DELETE FROM public.t WHERE id <= {rows}",
            f"UPDATE public.t SET v = 'changed' WHERE id > {2 * rows}",
            "INSERT INTO public.t "
            f"SELECT i, i, 'new' FROM generate_series({3 * rows} + 1, {4 * rows}) i",
            "COMMIT",
        )
        assert_same(made)
        assert len(daemon.said("10,000 rows")) == 3
    with connect(databases.slave) as session:
        met = session.query(
            "SELECT conflict, resolution, count(*)::integer "
            "FROM pyreplica.replica_conflict GROUP BY 1, 2 ORDER BY 1"
        )
    assert met == [
        ("delete_missing", "skipped", rows),
        ("insert_exists", "applied", rows),
        ("update_differs", "applied", rows),
    ]


def test_rows_that_updates_miss_are_logged_again_by_the_master(databases: Databases) -> None:
    made = copied(databases, TABLES, conflicts={"update_missing": "apply"})
    with running(made) as daemon:
        daemon.until_asleep()
        sql(databases.slave, "DELETE FROM public.t")
        sql(databases.master, "UPDATE public.t SET v = 'changed' WHERE id < 5")
        daemon.until(
            lambda: value(databases.slave, "SELECT count(*) FROM public.t") == 4, "not there"
        )
        assert {resolution for _, _, resolution in found(made)} == {"restated"}
        sql(databases.master, "UPDATE public.t SET n = 0 WHERE id = 9")
        daemon.until(
            lambda: value(databases.slave, "SELECT count(*) FROM public.t") == 5, "not there"
        )
        assert json.loads(
            value(databases.slave, "SELECT to_jsonb(t)::text FROM public.t WHERE id = 9")
        ) == {"id": 9, "n": 0, "v": "first"}
