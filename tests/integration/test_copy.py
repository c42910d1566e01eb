"""The initial copy: consistent with the log while writing goes on, and begun again if it broke."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.errors import DatabaseError, NotInstalled, PyReplicaError, Refused, Unreachable
from pyreplica.model import Step
from pyreplica.replication.copy import Copied, Copy
from pyreplica.replication.report import report
from pyreplica.replication.setup import install
from tests.conftest import Databases
from tests.integration.stalling_copy import Watching
from tests.support import (
    Silence,
    assert_same,
    blocked,
    config,
    config_file,
    connect,
    copied,
    copy,
    cursors,
    eventually,
    prepared,
    running,
    sql,
    stalling_copy,
    stalling_daemon,
    value,
)

TABLES = """
    CREATE TABLE public.customer (id integer PRIMARY KEY, name text NOT NULL UNIQUE);
    CREATE TABLE public.orders (
        id integer PRIMARY KEY, customer integer NOT NULL REFERENCES public.customer, total numeric
    );
    CREATE TABLE public.line (
        orders integer REFERENCES public.orders ON DELETE CASCADE, n integer, item text,
        PRIMARY KEY (orders, n)
    );
"""
ROWS = """
    INSERT INTO public.customer SELECT i, 'customer ' || i FROM generate_series(1, 100) i;
    INSERT INTO public.orders SELECT i, 1 + i % 100, i * 1.10 FROM generate_series(1, 500) i;
    INSERT INTO public.line SELECT 1 + i % 500, i, 'item ' || i FROM generate_series(1, 3000) i;
"""
REST = """
    CREATE FUNCTION public.mark() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
    CREATE TRIGGER mark AFTER INSERT ON public.line FOR EACH ROW EXECUTE FUNCTION public.mark();
"""
COUNT = "SELECT count(*) FROM public."


def interrupt() -> None:
    raise PyReplicaError("an interruption")


def installed(
    databases: Databases, on_master: str, on_slave: str, **options: Any
) -> ReplicationConfig:
    """Tables on both sides, captured but not copied."""
    sql(databases.master, on_master)
    if on_slave:
        sql(databases.slave, on_slave)
    made = config(databases, **options)
    install(made)
    return made


def watched(
    made: ReplicationConfig, point: str, act: Callable[[], object], **options: bool
) -> Copied:
    return Copy(made, Watching(point, act), **options).run()


def assert_replicates(made: ReplicationConfig, databases: Databases) -> None:
    """Equal after the copy, and after more work."""
    with running(made) as daemon_:
        assert_same(made)
        sql(
            databases.master,
            "UPDATE public.customer SET name = name || '!' WHERE id < 10",
            "DELETE FROM public.orders WHERE id < 5",
            "INSERT INTO public.customer VALUES (1000, 'last')",
        )
        assert_same(made)
        assert daemon_.said("conflict") == []


# While writing goes on


@pytest.mark.parametrize("schema", [False, True], ids=["own tables", "schema"])
@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_written_during_the_copy_is_replicated_once(
    databases: Databases, schema: bool, workers: int
) -> None:
    made = installed(databases, TABLES + ROWS, "" if schema else TABLES, copy_workers=workers)
    end = threading.Event()

    def write(number: int) -> None:
        with connect(databases.master) as session:
            i = 0
            while not end.is_set():
                i += 1
                session.execute(
                    "BEGIN; UPDATE public.orders SET total = total + 1 WHERE id = %(old)s; "
                    "INSERT INTO public.customer VALUES (%(new)s, 'new ' || %(new)s); "
                    "INSERT INTO public.orders VALUES (%(new)s, %(new)s, 0); "
                    "INSERT INTO public.line VALUES (%(new)s, 1, 'x'), (%(new)s, 2, 'y'); "
                    "DELETE FROM public.line WHERE orders = %(old)s; "
                    "UPDATE public.customer SET name = name || '.' WHERE id = 1 + %(i)s %% 100; "
                    "COMMIT",
                    {"old": number * 100 + i % 100, "new": number * 1_000_000 + i, "i": i},
                )

    writers = [threading.Thread(target=write, args=(n,)) for n in range(1, 4)]
    for writer in writers:
        writer.start()
    try:
        copy(made, schema=schema)
        with running(made) as daemon_:
            daemon_.until(daemon_.batches, "nothing is moved")
            end.set()
            for writer in writers:
                writer.join()
            assert_same(made)
            assert daemon_.said("conflict") == []
    finally:
        end.set()
    assert value(databases.slave, COUNT + "orders") > 500


def test_what_commits_between_the_snapshot_and_the_rows_is_copied_by_the_log_alone(
    databases: Databases,
) -> None:
    made = installed(databases, TABLES + ROWS, TABLES)
    with connect(databases.master) as open_:
        open_.execute("BEGIN; INSERT INTO public.customer VALUES (200, 'open, commits during')")

        def write() -> None:
            sql(
                databases.master,
                "DELETE FROM public.line WHERE orders < 100",
                "UPDATE public.customer SET id = id + 10000 WHERE id > 100",
                "INSERT INTO public.customer VALUES (300, 'during')",
                "TRUNCATE public.line",
                "INSERT INTO public.line VALUES (1, 1, 'after')",
            )
            open_.execute("COMMIT")

        done = watched(made, "begin", write)
    # PostgreSQL shows an old snapshot no rows of a table that was truncated since
    assert done.rows == 100 + 500
    assert_replicates(made, databases)


def test_a_table_that_is_rewritten_before_its_rows_were_read_is_not_taken_for_an_empty_one(
    databases: Databases,
) -> None:
    made = installed(databases, TABLES + ROWS, TABLES)
    alter = "ALTER TABLE public.line ALTER COLUMN n TYPE bigint"
    unlogged = f"SET pyreplica.log_rewrites = off; {alter}"
    with pytest.raises(PyReplicaError, match="ALTER TABLE has rewritten it") as caught:
        watched(made, "begin", lambda: sql(databases.master, unlogged))
    assert caught.value.line.startswith("shop: copying table public.line:")
    sql(databases.slave, alter)
    copy(made)
    assert_replicates(made, databases)


def test_a_table_whose_rows_were_logged_when_it_was_rewritten_is_copied_by_the_log_alone(
    databases: Databases,
) -> None:
    made = installed(databases, TABLES + ROWS, TABLES)
    alter = "ALTER TABLE public.line ALTER COLUMN n TYPE bigint"
    assert watched(made, "begin", lambda: sql(databases.master, alter)).rows == 100 + 500
    sql(databases.slave, alter)
    assert_replicates(made, databases)


def test_a_transaction_that_is_open_all_the_while_neither_blocks_the_copy_nor_is_lost(
    databases: Databases,
) -> None:
    made = installed(databases, TABLES + ROWS, TABLES)
    with connect(databases.master) as open_:
        open_.execute(
            "BEGIN; INSERT INTO public.customer VALUES (200, 'open'); "
            "UPDATE public.orders SET total = 0 WHERE id < 100; DELETE FROM public.line WHERE n < 9"
        )
        copy(made)
        with running(made) as daemon_:
            assert_same(made)
            daemon_.until(lambda: not daemon_.failing, "it fails")
            open_.execute("COMMIT")
            assert_same(made)
            assert daemon_.said("conflict") == []
    assert value(databases.slave, COUNT + "customer WHERE id = 200") == 1


def test_the_log_that_the_copy_needs_is_kept_while_it_runs(databases: Databases) -> None:
    """Also before any slave has confirmed anything, and however often the log is looked after."""
    made = installed(databases, TABLES + ROWS, TABLES)
    rotated: list[str | None] = []

    def rotate() -> None:
        sql(databases.master, "INSERT INTO public.customer VALUES (300, 'during')")
        rotated.extend(value(databases.master, "SELECT pyreplica.rotate_log(0)") for _ in range(3))

    watched(made, "begin", rotate)
    assert "truncated" not in rotated
    assert_replicates(made, databases)


# The slave's tables


def test_rows_that_are_in_the_way_are_refused_and_left_alone(databases: Databases) -> None:
    made = installed(databases, TABLES + ROWS, TABLES)
    sql(databases.slave, "INSERT INTO public.customer VALUES (1, 'mine')")
    with pytest.raises(Refused, match=r"table public\.customer on the slave has rows") as caught:
        copy(made)
    assert "--truncate" in caught.value.hint
    assert value(databases.slave, "SELECT name FROM public.customer") == "mine"
    assert value(databases.slave, "SELECT count(*) FROM pyreplica.replica_cursor") == 0
    assert value(databases.master, "SELECT count(*) FROM pyreplica.replica_slave") == 0


def test_rows_that_are_in_the_way_are_replaced_when_told_to(databases: Databases) -> None:
    made = installed(databases, TABLES + ROWS, TABLES + ROWS.replace("item", "my own"))
    copy(made, truncate=True)
    assert_replicates(made, databases)


def test_a_copied_slave_is_not_copied_again_unless_told_to(databases: Databases) -> None:
    made = copied(databases, TABLES + ROWS)
    with pytest.raises(Refused, match="copied already"):
        copy(made)
    with running(made):
        sql(databases.master, "DELETE FROM public.line WHERE n < 100")
        assert_same(made)
    before, _ = cursors(made)
    sql(databases.slave, "UPDATE public.line SET item = 'spoiled'")
    copy(made, truncate=True)
    assert cursors(made)[0].batch == before.batch + 1
    assert_replicates(made, databases)


def test_tables_that_others_refer_to_are_emptied_in_a_chain(databases: Databases) -> None:
    """The slave alone has a table that refers to a copied one, which refers to another."""
    made = installed(
        databases,
        TABLES + ROWS,
        TABLES + "CREATE TABLE public.own (orders integer REFERENCES public.orders);",
    )
    sql(databases.slave, "INSERT INTO public.customer VALUES (1, 'mine')")
    copy(made, truncate=True)
    assert_replicates(made, databases)
    sql(databases.master, "TRUNCATE public.customer, public.orders, public.line")
    with running(made):
        assert_same(made)


def test_foreign_keys_of_the_slave_hold_after_the_copy(databases: Databases) -> None:
    made = copied(databases, TABLES + ROWS, copy_workers=3)
    assert_same(made)
    with pytest.raises(DatabaseError, match="violates foreign key constraint"):
        sql(databases.slave, "INSERT INTO public.orders VALUES (10000, 10000)")


def test_the_slaves_own_triggers_do_not_fire_for_copied_rows(databases: Databases) -> None:
    trigger = """
        CREATE FUNCTION public.spoil() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN new.name := 'spoiled'; RETURN new; END $$;
        CREATE TRIGGER spoil BEFORE INSERT ON public.customer
            FOR EACH ROW EXECUTE FUNCTION public.spoil();
    """
    made = installed(databases, TABLES + ROWS, TABLES + trigger)
    copy(made)
    assert_same(made)


def test_a_table_of_the_slave_that_does_not_fit_is_refused_before_anything_is_touched(
    databases: Databases,
) -> None:
    made = installed(databases, TABLES + ROWS, TABLES)
    sql(
        databases.slave,
        "INSERT INTO public.customer VALUES (1, 'mine')",
        "ALTER TABLE public.orders DROP total",
    )
    with pytest.raises(Refused, match=r"public\.orders on the slave has no column total"):
        copy(made, truncate=True)
    assert value(databases.slave, COUNT + "customer") == 1


def test_a_copy_without_captured_tables_is_refused(databases: Databases) -> None:
    made = installed(databases, TABLES, TABLES, tables=["elsewhere.*"])
    with pytest.raises(Refused, match="nothing to copy"):
        copy(made)


def test_only_the_chosen_tables_are_copied(databases: Databases) -> None:
    made = installed(databases, TABLES + ROWS, TABLES, tables=["public.c*"])
    copy(made)
    assert value(databases.slave, COUNT + "customer") == 100
    assert value(databases.slave, COUNT + "orders") == 0


def test_partitioned_inheriting_and_empty_tables_are_copied_as_they_are(
    databases: Databases,
) -> None:
    tables = """
        CREATE TABLE public.p (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE public.p_1 PARTITION OF public.p FOR VALUES FROM (0) TO (10);
        CREATE TABLE public.p_2 PARTITION OF public.p FOR VALUES FROM (10) TO (100);
        CREATE TABLE public.bare (id integer PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE public.parent (id integer PRIMARY KEY, v text);
        CREATE TABLE public.child (PRIMARY KEY (id)) INHERITS (public.parent);
        CREATE TABLE public.g (
            id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n integer,
            twice integer GENERATED ALWAYS AS (n * 2) STORED
        );
    """
    rows = """
        INSERT INTO public.p SELECT i, 'p' FROM generate_series(1, 50) i;
        INSERT INTO public.parent SELECT i, 'parent' FROM generate_series(1, 50) i;
        INSERT INTO public.child SELECT i, 'child' FROM generate_series(40, 60) i;
        INSERT INTO public.g (n) SELECT i FROM generate_series(1, 50) i;
    """
    made = installed(databases, tables + rows, tables)
    assert copy(made).rows == 50 + 50 + 21 + 50
    assert_same(made)


# Broken off and begun again


def assert_not_copied(made: ReplicationConfig) -> None:
    """The state says so, and no daemon runs on half a copy."""
    assert report(made).state == "not copied"
    with running(made) as daemon_:
        daemon_.until(lambda: daemon_.error, "it runs")
    assert isinstance(daemon_.error, NotInstalled)


@pytest.mark.parametrize("point", ["begin", "rows", "done"])
def test_a_copy_that_broke_off_is_not_taken_for_a_slave_and_succeeds_later(
    databases: Databases, point: str
) -> None:
    made = installed(databases, TABLES + ROWS, TABLES, copy_workers=2)
    with pytest.raises(PyReplicaError, match="interruption"):
        watched(made, point, interrupt)
    assert_not_copied(made)
    sql(databases.master, "DELETE FROM public.line WHERE n < 100")
    copy(made)
    assert_replicates(made, databases)


@pytest.mark.parametrize("again", [True, False], ids=["again with it", "again without it"])
@pytest.mark.parametrize(
    "point",
    [
        "reading the master's schema",
        "making the tables on the slave",
        "rows",
        "making indexes of public.orders",
        "making foreign key orders_customer_fkey of public.orders",
        "making the rest of the schema on the slave",
    ],
)
def test_a_copy_of_the_schema_that_broke_off_succeeds_later(
    databases: Databases, point: str, again: bool
) -> None:
    made = installed(databases, TABLES + ROWS + REST, "")
    with pytest.raises(PyReplicaError, match="interruption"):
        watched(made, point, interrupt, schema=True)
    assert_not_copied(made)
    copy(made, schema=again or point == "reading the master's schema")
    assert_replicates(made, databases)


def test_a_copy_that_is_cancelled_says_so_and_succeeds_later(databases: Databases) -> None:
    made = installed(databases, TABLES + ROWS, TABLES)
    broken = Copy(made, Silence())
    errors: list[PyReplicaError] = []

    def run() -> None:
        with pytest.raises(PyReplicaError) as caught:
            broken.run()
        errors.append(caught.value)

    with connect(databases.slave) as somebody:
        somebody.execute("BEGIN; LOCK TABLE public.line IN SHARE MODE")
        thread = threading.Thread(target=run)
        thread.start()
        eventually(blocked(databases.slave), "the copy does not wait for the lock")
        broken.cancel()
        thread.join()
        somebody.execute("COMMIT")
    assert "copying table public.line" in errors[0].what
    assert_not_copied(made)
    copy(made)
    assert_replicates(made, databases)


def test_statistics_are_made_beside_the_copying_and_are_waited_for(databases: Databases) -> None:
    made = installed(databases, TABLES + ROWS, TABLES)
    broken = Copy(made, Silence(), workers=1)
    errors: list[PyReplicaError] = []

    def run() -> None:
        with pytest.raises(PyReplicaError) as caught:
            broken.run()
        errors.append(caught.value)

    ready = "SELECT count(*) FROM pyreplica.replica_copy WHERE state = 'ready'"
    with connect(databases.slave) as somebody:
        # lets rows in, but no ANALYZE; this table is the first to be copied
        somebody.execute("BEGIN; LOCK TABLE public.line IN SHARE UPDATE EXCLUSIVE MODE")
        thread = threading.Thread(target=run)
        thread.start()
        eventually(lambda: value(databases.slave, ready) == 3, "the others are not copied")
        eventually(blocked(databases.slave), "it does not wait for the lock")
        assert thread.is_alive()
        assert report(made).state == "copying"
        broken.cancel()
        thread.join()
        somebody.execute("COMMIT")
    assert "analysing table public.line: canceling statement" in errors[0].what
    assert_not_copied(made)
    copy(made, workers=1)
    known = "SELECT DISTINCT tablename::text FROM pg_stats WHERE schemaname = 'public' ORDER BY 1"
    with connect(databases.slave) as session:
        assert session.query(known) == [("customer",), ("line",), ("orders",)]
    assert_replicates(made, databases)


def test_a_table_whose_statistics_cannot_be_made_is_named(databases: Databases) -> None:
    index = """
        CREATE FUNCTION public.touchy(v text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
            IF current_query() LIKE 'ANALYZE%' THEN RAISE 'no statistics'; END IF;
            RETURN v;
        END $$;
        CREATE INDEX touchy ON public.customer (public.touchy(name));
    """
    made = installed(databases, TABLES + ROWS, TABLES + index, copy_workers=2)
    with pytest.raises(PyReplicaError, match="no statistics") as caught:
        copy(made)
    assert caught.value.line.startswith("shop: slave: analysing table public.customer:")
    assert_not_copied(made)
    sql(databases.slave, "DROP INDEX public.touchy")
    copy(made)
    assert_replicates(made, databases)


@pytest.mark.parametrize(
    ("schema", "point"),
    [
        (False, "begin"),
        (False, "rows"),
        (False, "done"),
        (True, "making the tables on the slave"),
        (True, "rows"),
        (True, "making indexes of public.orders"),
        (True, "making foreign key orders_customer_fkey of public.orders"),
        (True, "making the rest of the schema on the slave"),
    ],
)
def test_a_copy_that_is_killed_succeeds_later(
    databases: Databases, tmp_path: Path, schema: bool, point: str
) -> None:
    made = installed(databases, TABLES + ROWS + REST, "" if schema else TABLES)
    path = config_file(tmp_path, databases)
    with stalling_copy(path, point, schema=schema) as killed:
        killed.until_said(f"stalled: {point}")
        assert report(made).state == "copying"
        killed.kill()
    eventually(lambda: report(made).state == "not copied", "the killed one is still at work")
    assert_not_copied(made)
    copy(made, schema=schema)
    assert_replicates(made, databases)


def test_a_copy_that_is_killed_while_pg_restore_makes_the_tables_succeeds_later(
    databases: Databases, tmp_path: Path
) -> None:
    """pg_restore outlives it, and may make the tables yet."""
    made = installed(databases, TABLES + ROWS, "")
    sql(
        databases.slave,
        """
        CREATE FUNCTION public.gate() RETURNS event_trigger LANGUAGE plpgsql
            AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); END $$;
        CREATE EVENT TRIGGER gate ON ddl_command_end WHEN TAG IN ('CREATE TABLE')
            EXECUTE FUNCTION public.gate();
        """,
    )
    with connect(databases.slave) as somebody:
        somebody.execute("SELECT pg_advisory_lock(1)")
        with stalling_copy(config_file(tmp_path, databases), "begin", schema=True) as killed:
            waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            eventually(lambda: value(databases.slave, waits), "pg_restore is not at the gate")
            killed.kill()
        somebody.execute("SELECT pg_advisory_unlock(1)")
    exists = "SELECT to_regclass('public.line') IS NOT NULL"
    eventually(lambda: value(databases.slave, exists), "pg_restore did not finish")
    eventually(lambda: report(made).state == "not copied", "the killed one is still at work")
    copy(made, schema=True)
    assert_replicates(made, databases)


@pytest.mark.parametrize("schema", [False, True], ids=["own tables", "schema"])
def test_a_copy_that_fails_at_its_very_end_succeeds_later(
    databases: Databases, schema: bool
) -> None:
    made = installed(databases, TABLES + ROWS, "" if schema else TABLES)
    with connect(databases.master) as somebody:

        def hold() -> None:
            somebody.execute("BEGIN; SELECT FROM pyreplica.replica_slave FOR UPDATE")
            threading.Thread(target=terminate).start()

        def terminate() -> None:
            eventually(blocked(databases.master), "the copy does not finish")
            sql(
                databases.master,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )

        with pytest.raises(Unreachable, match="shop: master: connection lost"):
            watched(made, "begin", hold, schema=schema)
        somebody.execute("ROLLBACK")
    assert_not_copied(made)
    copy(made, schema=schema)
    assert_replicates(made, databases)


def test_a_batch_in_doubt_goes_when_the_slave_is_copied_anew(
    databases: Databases, tmp_path: Path
) -> None:
    made = copied(databases, TABLES + ROWS)
    with stalling_daemon(config_file(tmp_path, databases), Step.PREPARED, 2) as killed:
        sql(databases.master, "TRUNCATE public.line")
        killed.until_said("stalled")
        killed.kill()
    assert len(prepared(databases)) == 1
    eventually(lambda: report(made).state != "in step", "the killed one is still at work")
    copy(made, truncate=True)
    assert prepared(databases) == []
    assert_replicates(made, databases)


# With the schema


def test_the_copied_schema_has_all_of_the_masters_and_nothing_of_pyreplica(
    databases: Databases,
) -> None:
    made = installed(
        databases,
        """
        CREATE SCHEMA "Other Schema";
        CREATE TYPE public.mood AS ENUM ('sad', 'happy');
        CREATE DOMAIN public.short AS text CHECK (length(value) < 10);
        CREATE FUNCTION public.mark() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN new.s := upper(new.s); RETURN new; END $$;
        CREATE TABLE "Other Schema"."T" (
            id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m public.mood, s public.short,
            u integer UNIQUE CHECK (u > 0), g integer GENERATED ALWAYS AS (u * 2) STORED
        );
        CREATE TRIGGER mark BEFORE INSERT ON "Other Schema"."T"
            FOR EACH ROW EXECUTE FUNCTION public.mark();
        CREATE INDEX by_mood ON "Other Schema"."T" (m);
        CREATE VIEW public.v AS SELECT * FROM "Other Schema"."T";
        CREATE TABLE public.p (id integer PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE public.p_1 PARTITION OF public.p FOR VALUES FROM (0) TO (10);
        COMMENT ON TABLE public.p IS 'partitioned';
        INSERT INTO "Other Schema"."T" (m, s, u) VALUES ('happy', 'x', 1), (NULL, NULL, NULL);
        INSERT INTO public.p VALUES (1);
        """
        + TABLES
        + ROWS,
        "",
    )
    copy(made, schema=True)
    assert_replicates(made, databases)
    theirs = "SELECT count(*) FROM {} WHERE {}"
    for catalog, condition in (
        ("pg_trigger", "tgname LIKE 'pyreplica%'"),
        ("pg_event_trigger", "true"),
        ("pg_proc", "proname IN ('capture', 'capture_text', 'follow_ddl')"),
        ("pg_class", "relname LIKE 'replica_log%'"),
        ("pg_extension", "extname = 'plpython3u'"),
    ):
        assert value(databases.slave, theirs.format(catalog, condition)) == 0, catalog
    for catalog, condition in (
        ("pg_trigger", "tgname = 'mark'"),
        ("pg_indexes", "indexname = 'by_mood'"),
        ("pg_views", "viewname = 'v' AND schemaname = 'public'"),
        ("pg_description", "description = 'partitioned'"),
        ("pg_constraint", "contype = 'f' AND conrelid = 'public.orders'::regclass"),
    ):
        assert value(databases.slave, theirs.format(catalog, condition)) == 1, catalog


def test_the_users_own_plpython_functions_are_carried_over(databases: Databases) -> None:
    made = installed(
        databases,
        """
        CREATE EXTENSION plpython3u;
        CREATE FUNCTION public.twice(n integer) RETURNS integer LANGUAGE plpython3u
            AS $$ return n * 2 $$;
        """
        + TABLES
        + ROWS,
        "",
    )
    copy(made, schema=True)
    assert value(databases.slave, "SELECT public.twice(21)") == 42
    assert_replicates(made, databases)


def test_a_schema_that_the_slave_has_in_part_is_refused(databases: Databases) -> None:
    made = installed(databases, TABLES + ROWS, "CREATE TABLE public.orders (id integer)")
    with pytest.raises(Refused, match=r"--schema wants to make table public\.orders"):
        copy(made, schema=True)
    assert value(databases.slave, "SELECT to_regclass('public.line')") is None


def test_a_schema_that_cannot_be_restored_leaves_nothing_and_names_the_statement(
    databases: Databases,
) -> None:
    made = installed(databases, "CREATE TYPE public.mood AS ENUM ('sad');" + TABLES + ROWS, "")
    sql(databases.slave, "CREATE TYPE public.mood AS ENUM ('other')")
    with pytest.raises(PyReplicaError, match='type "mood" already exists') as caught:
        copy(made, schema=True)
    assert caught.value.hint
    assert value(databases.slave, "SELECT to_regclass('public.line')") is None
    sql(databases.slave, "DROP TYPE public.mood")
    copy(made, schema=True)
    assert_replicates(made, databases)
