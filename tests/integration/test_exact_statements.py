"""Statements of every kind, from the master's writers to the slave's rows.

What one session does is in the folder scenarios, see test_replication_traps.py; here are several
sessions at a time, their isolation levels and settings, and statements prepared before DDL.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg2
import pytest

from pyreplica.config import ReplicationConfig
from tests.conftest import Databases
from tests.integration.capture.oracle import Session
from tests.support import Running, assert_same, connect, copied, running, sql

pytestmark = pytest.mark.usefixtures("apply_path")

TABLE = """
CREATE TABLE public.t (id integer PRIMARY KEY, u integer UNIQUE, n integer DEFAULT 0, v text);
INSERT INTO public.t SELECT i, i * 10, 0, 'row' FROM generate_series(1, 10) i
"""
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")


@pytest.fixture
def made(databases: Databases) -> ReplicationConfig:
    """A replication of the table t with ten rows."""
    return copied(databases, TABLE)


@pytest.fixture
def two(databases: Databases) -> Iterator[tuple[Session, Session]]:
    """Two sessions on the master."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(Session(databases.master)) for _ in range(2))
        for session in (first, second):
            # what waits for itself is to fail, not to hang
            session.run("SET search_path = public", "SET lock_timeout = '20s'")
        yield first, second


def assert_exact(made: ReplicationConfig, daemon: Running) -> None:
    """The slave equals the master, and no conflict was met on the way."""
    assert_same(made)
    assert daemon.said("conflict") == []


def rows(databases: Databases, columns: str = "id, u, n, v") -> list[tuple[object, ...]]:
    """The slave's rows."""
    with connect(databases.slave) as slave:
        return slave.query(f"SELECT {columns} FROM public.t ORDER BY 1")


# Several sessions


@pytest.mark.parametrize("live", [True, False], ids=["live", "backlog"])
def test_a_writer_that_waited_for_a_row_goes_on_with_its_newest_version(
    databases: Databases, made: ReplicationConfig, two: tuple[Session, Session], live: bool
) -> None:
    """EvalPlanQual: in READ COMMITTED the row is looked at anew, and may not fit any more."""
    first, second = two
    waits = (
        "UPDATE t SET n = n + 1 WHERE id = 1",
        "UPDATE t SET v = v || '!' WHERE v = 'row' AND id IN (1, 2)",  # 2 does not fit any more
        "DELETE FROM t WHERE n < 5 AND id IN (2, 3)",
        "UPDATE t SET u = u + 1 FROM (VALUES (4), (5)) o (id) WHERE o.id = t.id",
        "INSERT INTO t VALUES (1, 999, 9, 'x') ON CONFLICT (id) DO UPDATE SET n = t.n + 100",
        "INSERT INTO t VALUES (20, 60, 9, 'x') ON CONFLICT DO NOTHING",
        "MERGE INTO t USING (VALUES (7), (8)) o (id) ON t.id = o.id "
        "WHEN MATCHED AND t.v = 'row' THEN UPDATE SET v = 'merged' WHEN MATCHED THEN DELETE",
    )
    with ExitStack() as stack:
        daemon = stack.enter_context(running(made)) if live else None
        for statement in waits:
            first.run(
                "BEGIN",
                "UPDATE t SET n = n + 10 WHERE id IN (1, 3)",
                "UPDATE t SET v = 'changed', n = 7 WHERE id = 2",
                "UPDATE t SET id = -id WHERE id IN (4, 5)",
                "UPDATE t SET v = 'taken' WHERE id IN (6, 7)",
                "DELETE FROM t WHERE id = 8",
                "INSERT INTO t VALUES (8, 80, 0, 'row') ON CONFLICT DO NOTHING",
                "UPDATE t SET id = 20 WHERE id = 10",
            )
            waiting = second.start(statement)
            try:
                second.wait_for_lock()
            finally:
                first.run("COMMIT")
            waiting.result()
            # as before, for the next one
            first.run(
                "UPDATE t SET n = 0, v = 'row', id = CASE id WHEN 20 THEN 10 ELSE abs(id) END"
            )
        if daemon is None:
            daemon = stack.enter_context(running(made))
        assert_exact(made, daemon)


@pytest.mark.parametrize("level", LEVELS)
def test_transactions_that_overlap_at_each_isolation_level(
    databases: Databases, made: ReplicationConfig, two: tuple[Session, Session], level: str
) -> None:
    first, second = two
    begin = f"BEGIN ISOLATION LEVEL {level}"
    with running(made) as daemon:
        first.run(begin, "SELECT * FROM t", "UPDATE t SET v = 'first' WHERE id = 1")
        second.run(begin, "SELECT * FROM t", "UPDATE t SET v = 'second' WHERE id = 2")
        second.run("DELETE FROM t WHERE id = 3", "INSERT INTO t VALUES (30, 31, 3, 'second')")
        first.run("UPDATE t SET id = 40, u = 41 WHERE id = 4")
        first.run("SAVEPOINT a", "DELETE FROM t WHERE id BETWEEN 5 AND 10", "ROLLBACK TO a")
        second.run("COMMIT")
        if level == "READ COMMITTED":
            first.run("UPDATE t SET n = n + 1 WHERE id IN (2, 30)")
        else:
            with pytest.raises(psycopg2.errors.SerializationFailure):
                first.run("UPDATE t SET n = n + 1 WHERE id IN (2, 3, 30)")
            first.run("ROLLBACK", begin, "UPDATE t SET n = n + 1 WHERE id IN (2, 30)")
            first.run("UPDATE t SET v = 'first' WHERE id = 1")
        first.run("COMMIT")
        assert_exact(made, daemon)
    by_id = {row[0]: row for row in rows(databases)}
    assert by_id[1][3] == "first"
    assert by_id[2][2:] == (1, "second")
    assert by_id[30] == (30, 31, 4, "second")


def test_of_two_serializable_transactions_that_depend_on_one_another_one_reaches_the_slave(
    databases: Databases, made: ReplicationConfig, two: tuple[Session, Session]
) -> None:
    first, second = two
    with running(made) as daemon:
        for session in two:
            session.run("BEGIN ISOLATION LEVEL SERIALIZABLE")
        first.run("INSERT INTO t SELECT 100, sum(u), 0, 'first' FROM t WHERE id < 100")
        second.run("INSERT INTO t SELECT 50, 1 + sum(u), 0, 'second' FROM t")
        second.run("COMMIT")
        with pytest.raises(psycopg2.errors.SerializationFailure):
            first.run("UPDATE t SET n = 1 WHERE id < 50", "COMMIT")
        first.run("ROLLBACK")
        assert_exact(made, daemon)
    assert {row[0] for row in rows(databases)} == {*range(1, 11), 50}


def test_values_that_sessions_hand_to_one_another_in_one_batch(
    databases: Databases, made: ReplicationConfig, two: tuple[Session, Session]
) -> None:
    first, second = two
    second.run("BEGIN", "UPDATE t SET u = NULL WHERE id = 1")
    waiting = first.start("UPDATE t SET u = 10, v = 'took it' WHERE id = 2")
    first.wait_for_lock()
    second.run("COMMIT")
    waiting.result()
    second.run("UPDATE t SET u = 20 WHERE id = 3", "UPDATE t SET u = 30 WHERE id = 1")
    first.run("BEGIN", "DELETE FROM t WHERE id = 4", "INSERT INTO t VALUES (11, 40, 1, 'x')")
    waiting = second.start("INSERT INTO t VALUES (4, 110, 1, 'again')")
    second.wait_for_lock()
    first.run("COMMIT")
    waiting.result()
    first.run("UPDATE t SET id = 0 WHERE id = 5")
    second.run("UPDATE t SET id = 5 WHERE id = 6")
    first.run("UPDATE t SET id = 6, v = 'swapped' WHERE id = 0")
    with running(made) as daemon:
        assert_exact(made, daemon)


def test_sessions_that_write_the_same_rows_all_at_once(
    databases: Databases, made: ReplicationConfig
) -> None:
    """Deadlocks, serialization failures and unique values that are taken roll back, as they may."""
    work = (
        "UPDATE t SET n = n + 1 WHERE id = 1 + {0} % 10",
        "UPDATE t SET u = u + 1 WHERE id IN (1 + {0} % 10, 1 + {0} * 7 % 10)",
        "DELETE FROM t WHERE id = 1 + {0} * 3 % 10",
        "INSERT INTO t VALUES (1 + {0} % 10, {0}, 0, 'new') ON CONFLICT (id) DO UPDATE SET v = 'c'",
        "UPDATE t SET id = 1 + (id + {0}) % 10 WHERE id = 1 + {0} * 9 % 10",
        "SAVEPOINT s; UPDATE t SET v = 'lost'; ROLLBACK TO s",
    )
    failures = (
        psycopg2.errors.UniqueViolation,
        psycopg2.errors.DeadlockDetected,
        psycopg2.errors.SerializationFailure,
    )

    def write(seed: int) -> None:
        with Session(databases.master) as session:
            session.run("SET search_path = public", "SET deadlock_timeout = '20ms'")
            for number in range(60):
                chosen = [work[(seed + number * k) % len(work)] for k in (1, 5)]
                begin = f"BEGIN ISOLATION LEVEL {LEVELS[(seed + number) % 3]}"
                try:
                    session.run(begin, *(one.format(seed * 31 + number) for one in chosen))
                    session.run("COMMIT" if number % 7 else "ROLLBACK")
                except failures:
                    session.run("ROLLBACK")

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    with running(made) as daemon:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert_exact(made, daemon)


# Sessions and their settings


def test_messages_of_several_statements_are_one_transaction_or_as_many_as_they_say(
    databases: Databases, made: ReplicationConfig, two: tuple[Session, Session]
) -> None:
    session, _ = two
    with running(made) as daemon:
        session.run("UPDATE t SET v = 'a' WHERE id = 1; DELETE FROM t WHERE id = 2; SELECT 1")
        with pytest.raises(psycopg2.errors.DivisionByZero):
            session.run("UPDATE t SET v = 'never'; DELETE FROM t; SELECT 1 / 0")
        with pytest.raises(psycopg2.errors.DivisionByZero):
            session.run(
                "BEGIN; UPDATE t SET v = 'kept' WHERE id = 3; COMMIT; UPDATE t SET v = 'never'; "
                "SELECT 1 / 0"
            )
        session.run(
            "INSERT INTO t VALUES (11, 1); BEGIN; UPDATE t SET n = 1 WHERE id = 11; ROLLBACK; "
            "UPDATE t SET n = 2 WHERE id = 10"
        )
        session.run("BEGIN; TRUNCATE t; INSERT INTO t VALUES (1, 1, 1, 'last'); COMMIT AND CHAIN")
        session.run("UPDATE t SET v = 'chained'; COMMIT")
        assert_exact(made, daemon)
    assert rows(databases) == [(1, 1, 1, "chained")]


@pytest.mark.parametrize("role", ["origin", "local"])
def test_sessions_that_are_origin_or_local_are_captured(
    databases: Databases, made: ReplicationConfig, two: tuple[Session, Session], role: str
) -> None:
    session, _ = two
    with running(made) as daemon:
        session.run(
            f"SET session_replication_role = {role}",
            "UPDATE t SET v = 'x' WHERE id < 3",
            "UPDATE t SET id = id + 100 WHERE id > 8",
            "DELETE FROM t WHERE id = 4",
            "INSERT INTO t VALUES (11, 11)",
        )
        assert_exact(made, daemon)
    assert len(rows(databases)) == 10


def test_settings_of_the_writer_change_nothing(
    databases: Databases, made: ReplicationConfig, two: tuple[Session, Session]
) -> None:
    """Planner, locks, parallelism, JIT, plan cache, read-only defaults, timeouts."""
    session, _ = two
    settings = (
        *(f"enable_{way} = off" for way in ("hashjoin", "mergejoin", "nestloop", "seqscan")),
        "enable_indexscan = off",
        "plan_cache_mode = force_generic_plan",
        "plan_cache_mode = force_custom_plan",
        "jit_above_cost = 0",
        "parallel_setup_cost = 0",
        "default_transaction_isolation = 'serializable'",
        "synchronous_commit = off",
        "lock_timeout = '1s'",
        "work_mem = '64kB'",
        "row_security = off",
        "check_function_bodies = off",
        "transform_null_equals = on",
        "default_transaction_deferrable = on",
    )
    with running(made) as daemon:
        for setting in settings:
            session.run(
                f"SET {setting}",
                "UPDATE t SET n = n + 1, v = NULL WHERE id < 4",
                "DO $$BEGIN UPDATE t SET v = 'x'; UPDATE t SET u = u + 1 WHERE id = 10; END$$",
                "UPDATE t SET id = -id WHERE abs(id) = 9",
                f"RESET {setting.split()[0]}",
            )
        assert_exact(made, daemon)


# Statements that were prepared before DDL


def test_statements_and_functions_prepared_before_a_schema_change_write_what_is_after_it(
    databases: Databases, made: ReplicationConfig, two: tuple[Session, Session]
) -> None:
    _, other = two
    sql(
        databases.master,
        "CREATE FUNCTION public.change(i integer) RETURNS void LANGUAGE plpgsql AS $$BEGIN "
        "UPDATE public.t SET n = n + 1 WHERE id = i; "
        "INSERT INTO public.t (id, v) VALUES (i + 100, 'made') "
        "ON CONFLICT (id) DO UPDATE SET v = 'again'; END$$",
    )
    prepare = (
        "PREPARE ins (integer) AS INSERT INTO t (id, v) VALUES ($1, 'prepared')",
        "PREPARE upd (integer) AS UPDATE t SET v = v || '!' WHERE id = $1",
        "PREPARE del (integer) AS DELETE FROM t WHERE id = $1",
    )
    for one in two:
        one.run(*prepare)
    changes = (
        "ALTER TABLE public.t ADD added integer DEFAULT 7",
        "ALTER TABLE public.t DROP u",
        "ALTER TABLE public.t ADD late timestamptz DEFAULT '2024-01-01', ALTER n TYPE bigint",
        "ALTER TABLE public.t ADD key2 integer NOT NULL DEFAULT 1",
        "ALTER TABLE public.t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (key2, id), ADD UNIQUE (id)",
        "ALTER TABLE public.t RENAME v TO w; ALTER TABLE public.t ADD v text DEFAULT 'new'",
    )
    with running(made) as daemon:
        for number, change in enumerate(("SELECT 1", *changes)):
            assert_same(made)  # nothing is on its way that the slave could not take any more
            sql(databases.slave, change)
            sql(databases.master, change)
            for one in two:
                key = 1000 * (number + 1) + (one is other)
                one.run(f"EXECUTE ins ({key})", f"EXECUTE upd ({key})", "EXECUTE upd (1)")
                one.run(f"SELECT change({key})", f"EXECUTE del ({key + 100})")
            assert_exact(made, daemon)
