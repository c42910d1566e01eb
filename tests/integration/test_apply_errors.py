"""A batch that cannot be applied stops the replication with one line, and nothing of it shows."""

from __future__ import annotations

import pytest

from pyreplica.replication import telling
from pyreplica.replication.report import report
from pyreplica.replication.setup import install
from tests.conftest import Databases
from tests.support import assert_same, copied, running, sql, value

TABLES = """
CREATE TABLE public.t (id integer PRIMARY KEY, v text, u integer UNIQUE);
CREATE TABLE public.other (id integer PRIMARY KEY)
"""

pytestmark = pytest.mark.usefixtures("apply_path")


def test_a_refused_value_is_named_and_the_batch_goes_on_after_the_repair(
    databases: Databases,
) -> None:
    made = copied(databases, TABLES)
    sql(databases.slave, "ALTER TABLE public.t ADD CONSTRAINT polite CHECK (v <> 'rude')")
    with running(made) as daemon:
        daemon.until_asleep()
        sql(
            databases.master,
            "BEGIN; INSERT INTO public.other SELECT generate_series(1, 5); "
            "INSERT INTO public.t SELECT g, CASE g WHEN 77 THEN 'rude' ELSE 'kind' END "
            "FROM generate_series(1, 3000) g; COMMIT",
        )
        line = daemon.until_said('cannot insert public.t {"id": "77"}')
        assert "polite" in line
        assert value(databases.slave, "SELECT count(*) FROM public.other") == 0
        assert value(databases.slave, "SELECT count(*) FROM pg_prepared_xacts") == 0
        sql(databases.slave, "ALTER TABLE public.t DROP CONSTRAINT polite")
        assert_same(made)
        assert not daemon.failing


def test_a_row_that_is_there_already_is_the_conflict_insert_exists(databases: Databases) -> None:
    made = copied(databases, TABLES)
    sql(databases.slave, "INSERT INTO public.t VALUES (5, 'mine')")
    with running(made) as daemon:
        daemon.until_asleep()
        sql(databases.master, "INSERT INTO public.t SELECT g, 'x' FROM generate_series(1, 9) g")
        daemon.until_said('conflict insert_exists: cannot insert public.t {"id": "5"}')
        assert value(databases.slave, "SELECT string_agg(v, ',') FROM public.t") == "mine"
        sql(databases.slave, "DELETE FROM public.t")
        assert_same(made)


def test_a_missing_column_is_named_and_nothing_is_lost(databases: Databases) -> None:
    made = copied(databases, TABLES)
    with running(made) as daemon:
        daemon.until_asleep()
        sql(
            databases.master,
            "ALTER TABLE public.t ADD COLUMN extra date",
            "INSERT INTO public.t VALUES (1, 'x', 1, '2026-01-01')",
        )
        daemon.until_said("table public.t on the slave has no column extra")
        sql(databases.slave, "ALTER TABLE public.t ADD COLUMN extra date")
        assert_same(made)


def test_a_missing_table_is_named_and_nothing_is_lost(databases: Databases) -> None:
    made = copied(databases, TABLES)
    sql(databases.slave, "ALTER TABLE public.t RENAME TO gone")
    with running(made) as daemon:
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        daemon.until_said("the slave has no table public.t")
        sql(databases.slave, "ALTER TABLE public.gone RENAME TO t")
        assert_same(made)


def test_a_table_renamed_on_the_master_waits_for_the_slaves_and_nothing_is_lost(
    databases: Databases,
) -> None:
    made = copied(databases, TABLES)
    sql(
        databases.master,
        "INSERT INTO public.t VALUES (1, 'before'), (2, 'before')",
        "ALTER TABLE public.t RENAME TO renamed",
        "UPDATE public.renamed SET v = 'after' WHERE id = 2",
        "INSERT INTO public.renamed VALUES (3, 'after')",
    )
    with running(made) as daemon:
        daemon.until_said("the slave has no table public.renamed")
        assert value(databases.slave, "SELECT count(*) FROM public.t") == 0
        sql(databases.slave, "ALTER TABLE public.t RENAME TO renamed")
        assert_same(made)
        assert value(databases.slave, "SELECT count(*) FROM public.renamed") == 3


def test_a_table_that_was_never_copied_is_told_in_the_status(databases: Databases) -> None:
    made = copied(databases, TABLES)
    sql(databases.master, "CREATE TABLE public.late (id integer PRIMARY KEY)")
    install(made)
    with running(made) as daemon:
        daemon.until_asleep()
        sql(databases.master, "INSERT INTO public.late VALUES (1)")
        daemon.until_said("table public.late is captured on the master but was never copied")
        shown = report(made)
        assert shown.state == "incomplete"
        assert "public.late" in (shown.error or "")


def test_rows_that_are_missing_on_the_slave_are_warned_of(databases: Databases) -> None:
    made = copied(databases, TABLES)
    sql(databases.master, "INSERT INTO public.t SELECT g, 'x' FROM generate_series(1, 9) g")
    with running(made) as daemon:
        daemon.until_asleep()
        sql(databases.slave, "DELETE FROM public.t WHERE id IN (2, 3, 5)")
        sql(
            databases.master,
            "UPDATE public.t SET v = 'y' WHERE id < 5",
            "DELETE FROM public.t WHERE id >= 5",
        )
        daemon.until_said('conflict update_missing on public.t: 2 rows, the first {"id": "2"}')
        daemon.until_said('conflict delete_missing on public.t: 1 row, the first {"id": "5"}')
        daemon.until_asleep()
        assert value(
            databases.slave, "SELECT string_agg(id || v, ',' ORDER BY id) FROM public.t"
        ) == ("1y,4y")


def test_a_failure_that_lasts_is_an_error_now_and_then_only(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = copied(databases, TABLES)
    sql(databases.slave, "ALTER TABLE public.t ADD CHECK (id <> 1)")

    def told() -> tuple[int, int]:
        lines = daemon.said('cannot insert public.t {"id": "1"}')
        return sum(line.startswith("ERROR") for line in lines), len(lines)

    with running(made) as daemon:
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        daemon.until(lambda: told()[1] >= 3, "it is not tried again")
        assert told()[0] == 1
        monkeypatch.setattr(telling, "ALERT_EVERY", 0.0)
        daemon.until(lambda: told()[0] >= 2, "it is not told again")


def test_a_failure_is_written_down_for_status(databases: Databases) -> None:
    made = copied(databases, TABLES)
    sql(databases.slave, "ALTER TABLE public.t ADD CHECK (id <> 1)")
    query = "SELECT last_error FROM pyreplica.replica_status WHERE state = 'failed'"
    with running(made) as daemon:
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        daemon.until(lambda: daemon.failing, "it does not fail")
        daemon.until_said("next try")
        assert 'cannot insert public.t {"id": "1"}' in value(databases.slave, query)
        assert value(databases.slave, "SELECT count(*) FROM public.t") == 0
