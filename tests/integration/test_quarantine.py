"""on_error: quarantine: changes that cannot be applied wait, and the replication goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.errors import Refused
from pyreplica.model import Step
from pyreplica.replication.conflicts import listed, retry, skip
from pyreplica.replication.report import report
from pyreplica.replication.wait import wait
from pyreplica.slave import Slave
from tests.conftest import Databases
from tests.support import (
    LIMIT,
    Running,
    assert_same,
    config_file,
    connect,
    copied,
    pyreplica,
    running,
    sql,
    stalling_daemon,
    value,
)

TABLES = """
    CREATE TABLE public.t (id integer PRIMARY KEY, n integer, v text);
    INSERT INTO public.t SELECT i, i, 'first' FROM generate_series(1, 9) i;
    CREATE TABLE public.other (id integer PRIMARY KEY)
"""
POLITE = "ALTER TABLE public.t ADD CONSTRAINT polite CHECK (v <> 'rude')"
IMPOLITE = "ALTER TABLE public.t DROP CONSTRAINT polite"


@contextmanager
def quarantining(
    databases: Databases, tables: str = TABLES, *damages: str, **options: Any
) -> Iterator[tuple[ReplicationConfig, Running]]:
    """A running replication whose slave was changed."""
    made = copied(databases, tables, on_error="quarantine", **options)
    with running(made) as daemon:
        daemon.until_asleep()
        sql(databases.slave, *damages)
        yield made, daemon


def waiting(made: ReplicationConfig) -> list[tuple[str, Any]]:
    """What waits: operation and key."""
    return [(one.op, one.key["id"]) for one in listed(made, settled_too=False)]


def rows(dsn: str) -> Any:
    """All rows of the table."""
    return value(dsn, "SELECT string_agg(t::text, ' ' ORDER BY id) FROM public.t t")


@pytest.mark.usefixtures("apply_path")
def test_what_the_slave_refuses_waits_and_the_rest_of_the_batch_is_applied(
    databases: Databases,
) -> None:
    with quarantining(databases, TABLES, POLITE) as (made, daemon):
        sql(
            databases.master,
            "BEGIN",
            "INSERT INTO public.t VALUES (11, 11, 'rude'), (12, 12, 'kind')",
            "UPDATE public.t SET v = CASE id WHEN 3 THEN 'rude' ELSE 'kind' END WHERE id < 5",
            "DELETE FROM public.t WHERE id = 9",
            "INSERT INTO public.other VALUES (1)",
            "COMMIT",
        )
        wait(made, LIMIT)
        assert waiting(made) == [("U", "3"), ("I", "11")]
        assert rows(databases.slave) == (
            "(1,1,kind) (2,2,kind) (3,3,first) (4,4,kind) (5,5,first) (6,6,first) (7,7,first) "
            "(8,8,first) (12,12,kind)"
        )
        assert value(databases.slave, "SELECT count(*) FROM public.other") == 1
        for one in listed(made, settled_too=False):
            assert "polite" in (one.error or "")
        said = daemon.said("cannot be applied and wait")
        assert len(said) == 2
        assert all(line.startswith("ERROR 1 row of public.t") for line in said)
        shown = report(made)
        assert shown.conflicts_waiting == 2
        sql(databases.slave, IMPOLITE)
        assert {outcome.resolution for outcome in retry(made)} == {"applied"}
        assert_same(made)
        assert waiting(made) == []
        assert report(made).conflicts_waiting == 0
        # and the fast way is taken again
        sql(databases.master, "UPDATE public.t SET v = 'rude'")
        assert_same(made)


@pytest.mark.usefixtures("apply_path")
def test_later_changes_of_a_row_wait_behind_the_first_and_are_applied_in_their_order(
    databases: Databases,
) -> None:
    with quarantining(databases, TABLES, POLITE) as (made, daemon):
        for statement in (
            "INSERT INTO public.t VALUES (11, 11, 'rude')",
            "UPDATE public.t SET v = 'rude' WHERE id = 3",
            "UPDATE public.t SET n = 12 WHERE id = 11",
            "UPDATE public.t SET n = 33 WHERE id = 3",
            "UPDATE public.t SET n = 13, v = 'kind' WHERE id IN (3, 11, 4)",
        ):
            sql(databases.master, statement)
            wait(made, LIMIT)
        assert waiting(made) == [
            ("I", "11"),
            ("U", "3"),
            ("U", "11"),
            ("U", "3"),
            *(("U", "3"), ("U", "11")),
        ] or waiting(made) == [
            ("I", "11"),
            ("U", "3"),
            ("U", "11"),
            ("U", "3"),
            *(("U", "11"), ("U", "3")),
        ]
        assert value(databases.slave, "SELECT v FROM public.t WHERE id = 4") == "kind"
        # all changes of the row taken together are not rude any more
        first = listed(made, settled_too=False)[0]
        (outcome,) = retry(made, [first.id])
        assert outcome.resolution == "applied"
        assert len(outcome.ids) == 3
        retry(made)
        assert_same(made)
        assert not daemon.failing


@pytest.mark.usefixtures("apply_path")
def test_what_tells_the_whole_row_comes_in_the_place_of_what_waits(databases: Databases) -> None:
    with quarantining(databases, TABLES, POLITE) as (made, _):
        sql(
            databases.master,
            "INSERT INTO public.t VALUES (11, 11, 'rude'), (12, 12, 'rude'), (13, 13, 'rude')",
        )
        wait(made, LIMIT)
        sql(
            databases.master,
            "DELETE FROM public.t WHERE id IN (11, 12)",
            "INSERT INTO public.t VALUES (12, 0, 'kind')",
            "UPDATE public.t SET v = 'kind' WHERE id = 13",
        )
        wait(made, LIMIT)
        assert waiting(made) == [("I", "13"), ("U", "13")]
        pyreplica_repair(made, databases)
        assert waiting(made) == []
        assert_same(made)


def pyreplica_repair(made: ReplicationConfig, databases: Databases) -> None:
    """Have the master log again what differs; the daemon applies it."""
    with connect(databases.master) as session:
        session.execute("SELECT pyreplica.restate('public.t', ARRAY['{\"id\": \"13\"}']::jsonb[])")
    wait(made, LIMIT)


@pytest.mark.usefixtures("apply_path")
def test_truncate_takes_away_what_waits(databases: Databases) -> None:
    with quarantining(databases, TABLES, POLITE) as (made, _):
        sql(databases.master, "INSERT INTO public.t VALUES (11, 11, 'rude')")
        wait(made, LIMIT)
        sql(databases.master, "TRUNCATE public.t")
        assert_same(made)
        assert [one.resolution for one in listed(made, settled_too=True)] == ["truncated"]


@pytest.mark.usefixtures("apply_path")
def test_a_new_column_is_filled_in_rows_that_wait(databases: Databases) -> None:
    with quarantining(databases, TABLES, POLITE, ddl="replicate") as (made, _):
        sql(databases.master, "INSERT INTO public.t VALUES (11, 11, 'rude')")
        wait(made, LIMIT)
        sql(databases.master, "ALTER TABLE public.t ADD COLUMN extra text DEFAULT 'filled'")
        wait(made, LIMIT)
        sql(databases.slave, IMPOLITE, "ALTER TABLE public.t ALTER extra SET DEFAULT 'mine'")
        retry(made)
        assert_same(made)


@pytest.mark.usefixtures("apply_path")
@pytest.mark.parametrize("conflict", ["insert_exists", "update_missing", "update_differs"])
def test_a_conflict_that_is_an_error_waits_until_the_row_is_repaired(
    databases: Databases, conflict: str
) -> None:
    damages = {
        "insert_exists": "INSERT INTO public.t VALUES (11, 0, 'mine')",
        "update_missing": "DELETE FROM public.t WHERE id = 3",
        "update_differs": "UPDATE public.t SET v = 'mine' WHERE id = 3",
    }
    repairs = {
        "insert_exists": "DELETE FROM public.t WHERE id = 11",
        "update_missing": "INSERT INTO public.t VALUES (3, 3, 'first')",
        "update_differs": "UPDATE public.t SET v = 'first' WHERE id = 3",
    }
    with quarantining(databases, TABLES, damages[conflict], conflicts={conflict: "error"}) as (
        made,
        _,
    ):
        sql(
            databases.master,
            "BEGIN",
            "INSERT INTO public.t VALUES (11, 11, 'new')",
            "UPDATE public.t SET v = 'changed' WHERE id IN (3, 4)",
            "COMMIT",
        )
        wait(made, LIMIT)
        (one,) = listed(made, settled_too=False)
        assert one.conflict == conflict
        assert value(databases.slave, "SELECT v FROM public.t WHERE id = 4") == "changed"
        (outcome,) = retry(made)
        assert outcome.resolution == "waiting"
        assert conflict in (outcome.problem or "")
        sql(databases.slave, repairs[conflict])
        (outcome,) = retry(made)
        assert outcome.resolution == "applied"
        assert_same(made)


@pytest.mark.usefixtures("apply_path")
def test_rows_that_take_values_of_one_that_waits_wait_as_well(databases: Databases) -> None:
    table = "CREATE TABLE public.t (id integer PRIMARY KEY, u integer UNIQUE{}, v text);"
    made = copied(
        databases,
        # what is deferrable is not checked in the daemon's session
        table.format(" DEFERRABLE")
        + "INSERT INTO public.t SELECT i, i, 'first' FROM generate_series(1, 9) i",
        slave=table.format("") + POLITE,
        on_error="quarantine",
    )
    with running(made):
        sql(
            databases.master,
            "BEGIN",
            # 1 cannot give its value to 2, nor 2 to 3; 5 and 6 exchange theirs
            "UPDATE public.t SET u = (ARRAY[11, 1, 2, 4, 6, 5, 7, 8, 9])[id], "
            "v = CASE id WHEN 1 THEN 'rude' ELSE 'kind' END",
            "INSERT INTO public.t VALUES (10, 3, 'kind')",
            "COMMIT",
        )
        wait(made, LIMIT)
        assert sorted(waiting(made)) == [("I", "10"), ("U", "1"), ("U", "2"), ("U", "3")]
        assert value(
            databases.slave, "SELECT string_agg(id || '=' || u, ' ' ORDER BY id) FROM public.t"
        ) == ("1=1 2=2 3=3 4=4 5=6 6=5 7=7 8=8 9=9")
        sql(databases.slave, IMPOLITE)
        retry(made)
        assert_same(made)


@pytest.mark.usefixtures("apply_path")
def test_a_value_that_the_slaves_key_cannot_hold_waits(databases: Databases) -> None:
    with quarantining(databases, TABLES, "ALTER TABLE public.t ALTER id TYPE smallint") as (
        made,
        daemon,
    ):
        sql(
            databases.master,
            "BEGIN",
            "INSERT INTO public.t VALUES (70000, 1, 'new'), (12, 1, 'new')",
            "COMMIT",
        )
        # the column is too narrow: a misfit of the table always stops
        daemon.until_said("which could not hold every value unchanged")
        assert waiting(made) == []
        sql(databases.slave, "ALTER TABLE public.t ALTER id TYPE integer")
        assert_same(made)


def test_ten_thousand_rows_wait_and_are_applied(databases: Databases) -> None:
    with quarantining(databases, TABLES, POLITE) as (made, daemon):
        sql(
            databases.master,
            "INSERT INTO public.t SELECT i, i, CASE WHEN i % 3 = 0 THEN 'rude' ELSE 'kind' END "
            "FROM generate_series(10, 30009) i",
        )
        wait(made, LIMIT)
        assert daemon.said("ERROR 10,000 rows of public.t cannot be applied and wait")
        assert value(databases.slave, "SELECT count(*) FROM public.t") == 9 + 20_000
        assert skip(made) == 10_000
        sql(databases.slave, IMPOLITE)
        sql(databases.master, "DELETE FROM public.t WHERE v = 'rude'")
        assert_same(made)


@pytest.mark.parametrize("step", [Step.PREPARED, Step.CONFIRMED, Step.COMMITTED])
def test_a_daemon_that_dies_writes_what_waits_down_once(
    databases: Databases, tmp_path: Path, step: Step
) -> None:
    made = copied(databases, TABLES, on_error="quarantine")
    sql(databases.slave, POLITE)
    path = config_file(tmp_path, databases, on_error="quarantine")
    sql(databases.master, "INSERT INTO public.t VALUES (11, 11, 'rude'), (12, 12, 'kind')")
    with stalling_daemon(path, step, 2) as daemon:
        daemon.until_said(f"stalled: shop {step.value} 2")
        daemon.kill()
    with running(made):
        wait(made, LIMIT)
        sql(databases.master, "UPDATE public.t SET n = 0 WHERE id IN (11, 12)")
        wait(made, LIMIT)
        assert waiting(made) == [("I", "11"), ("U", "11")]
        sql(databases.slave, IMPOLITE)
        retry(made)
        assert_same(made)


def test_a_batch_that_was_made_before_a_retry_is_made_again(databases: Databases) -> None:
    """What the daemon knew to wait when it made its batch does not wait any more."""
    made = copied(databases, TABLES, on_error="quarantine")
    sql(databases.slave, POLITE)
    retried: list[str] = []

    def between(step: Step, batch: int) -> None:
        if step is Step.FETCHED and batch == 3 and not retried:
            sql(databases.slave, IMPOLITE)
            retried.extend(outcome.resolution for outcome in retry(made))

    sql(databases.master, "INSERT INTO public.t VALUES (11, 11, 'rude')")
    with running(made, between) as daemon:
        daemon.until_asleep()
        assert waiting(made) == [("I", "11")]
        sql(databases.master, "UPDATE public.t SET n = 0 WHERE id = 11")
        assert_same(made)
        assert retried == ["applied"]
        assert waiting(made) == []


def test_a_batch_in_doubt_is_not_passed_by_a_retry(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyreplica.slave.tables.LONGEST_DOUBT", 1)
    made = copied(databases, TABLES, on_error="quarantine")
    sql(databases.slave, POLITE)
    path = config_file(tmp_path, databases, on_error="quarantine")
    sql(databases.master, "INSERT INTO public.t VALUES (11, 11, 'rude')")
    with running(made):
        wait(made, LIMIT)
    sql(databases.master, "UPDATE public.t SET n = 0 WHERE id = 11")
    sql(databases.slave, IMPOLITE)
    with stalling_daemon(path, Step.PREPARED, 3) as daemon:
        daemon.until_said("stalled: shop prepared 3")
        with pytest.raises(Refused, match="has not been decided for 1 s"):
            retry(made)
        assert waiting(made) == [("I", "11")]
    with running(made):
        wait(made, LIMIT)
        retry(made)
        assert_same(made)


def test_settled_conflicts_are_forgotten_after_a_while(databases: Databases) -> None:
    with quarantining(databases, TABLES, POLITE) as (made, daemon):
        sql(databases.master, "INSERT INTO public.t VALUES (11, 11, 'rude'), (12, 12, 'rude')")
        wait(made, LIMIT)
        first, second = listed(made, settled_too=False)
        skip(made, [first.id])
        sql(
            databases.slave,
            "UPDATE pyreplica.replica_conflict SET at = at - interval '8 days', "
            "settled_at = settled_at - interval '8 days'",
        )
    with running(made) as daemon:
        daemon.until_asleep()
        assert [one.id for one in listed(made, settled_too=True)] == [second.id]


def test_the_command_lists_retries_and_skips(databases: Databases, tmp_path: Path) -> None:
    path = config_file(tmp_path, databases, on_error="quarantine")
    with quarantining(databases, TABLES, POLITE) as (made, _):
        assert "no change waits" in pyreplica(path, "conflicts", "list", "shop").stdout
        sql(databases.master, "INSERT INTO public.t VALUES (11, 11, 'rude'), (12, 12, 'rude')")
        wait(made, LIMIT)
        listing = pyreplica(path, "conflicts", "list", "shop").stdout
        assert "public.t" in listing
        assert "polite" in listing
        found = json.loads(pyreplica(path, "conflicts", "list", "shop", "--json").stdout)
        assert [one["key"] for one in found] == [{"id": "11"}, {"id": "12"}]
        assert found[0]["row"] == {"n": "11", "v": "rude"}
        first, second = (str(one["id"]) for one in found)
        failed = pyreplica(path, "conflicts", "retry", "shop", first, code=1)
        assert "still waiting" in failed.stdout
        assert "1 row still cannot be changed" in failed.stderr
        assert "--all-waiting" in pyreplica(path, "conflicts", "skip", "shop", code=2).stderr
        assert "1 change given up" in pyreplica(path, "conflicts", "skip", "shop", second).stdout
        assert "no change of the number 12345 waits" in (
            pyreplica(path, "conflicts", "skip", "shop", "12345", code=1).stderr
        )
        sql(databases.slave, IMPOLITE)
        assert "applied" in pyreplica(path, "conflicts", "retry", "shop").stdout
        pyreplica(path, "compare", code=3)
        pyreplica(path, "repair", "--yes")
        pyreplica(path, "compare")
        assert "skipped" in pyreplica(path, "conflicts", "list", "shop", "--all").stdout
    with closing(Slave(made)) as slave:
        assert slave.conflicts.count().waiting == 0
