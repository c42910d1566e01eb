"""The log is given back, and never before every slave has what is in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.master import Master
from pyreplica.replication.setup import install
from tests.conftest import Databases
from tests.support import (
    assert_same,
    config,
    connect,
    copied,
    copy,
    eventually,
    rotated,
    running,
    sql,
    value,
)

TABLE = "CREATE TABLE public.t (id integer PRIMARY KEY, n integer NOT NULL, v text)"
ROTATE = "SELECT pyreplica.rotate_log(0)"
LOGGED = "SELECT count(*) FROM pyreplica.replica_log"
SIZE = (
    "SELECT pg_relation_size('pyreplica.replica_log_0') + "
    "pg_relation_size('pyreplica.replica_log_1')"
)


@pytest.fixture
def lagging(databases: Databases) -> Iterator[ReplicationConfig]:
    """A second slave of the same master, in a database of its own, not copied yet."""
    name = databases.name[:50] + "_late"
    databases.slave_cluster.create_database(name)
    dsn = databases.slave_cluster.dsn(name)
    sql(dsn, TABLE)
    yield config(replace(databases, slave=dsn), "late")
    databases.slave_cluster.drop_database(name)


@contextmanager
def working(dsn: str, seed: int) -> Iterator[None]:
    """A session that inserts, updates and deletes in small transactions until the block ends."""
    end = threading.Event()

    def work() -> None:
        with connect(dsn) as session:
            number = 0
            while not end.is_set():
                number += 1
                session.execute(
                    "BEGIN; INSERT INTO public.t VALUES (%(new)s, 0, repeat('x', 200)); "
                    "UPDATE public.t SET n = n + 1 WHERE id = %(new)s - 10; "
                    "DELETE FROM public.t WHERE id = %(new)s - 50; COMMIT",
                    {"new": seed * 1_000_000 + number},
                )

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def rotations(dsn: str, count: int) -> list[str]:
    """Look after the log until it was truncated so often; what was done each time."""
    done: list[str] = []

    def enough() -> bool:
        answer = value(dsn, ROTATE)
        if answer is not None:
            done.append(str(answer))
        return done.count("truncated") >= count

    eventually(enough, "the log is not truncated", pause=0.001)
    return done


@pytest.mark.usefixtures("apply_path")
def test_a_log_that_rotates_again_and_again_under_load_loses_nothing(databases: Databases) -> None:
    made = copied(databases, TABLE)
    with running(made) as daemon:
        with working(databases.master, 1), working(databases.master, 2):
            done = rotations(databases.master, 10)
        assert_same(made)
        assert daemon.said("conflict") == []
    assert done.count("switched") >= 10
    changes = value(databases.slave, "SELECT changes FROM pyreplica.replica_cursor")
    assert changes == value(databases.master, "SELECT last_value FROM pyreplica.replica_log_id")


def test_the_log_is_kept_until_the_slowest_slave_has_it(
    databases: Databases, lagging: ReplicationConfig
) -> None:
    made = copied(databases, TABLE)
    install_and_copy(lagging)
    with running(made):
        with working(databases.master, 1), working(databases.master, 2):
            eventually(lambda: value(databases.master, LOGGED) > 10, "nobody writes")
            assert rotated(databases.master) == "switched"
            answers = {value(databases.master, ROTATE) for _ in range(200)}
        assert answers <= {"waiting", None}
        assert_same(made)
        with running(lagging) as late:
            with working(databases.master, 3):
                rotations(databases.master, 3)
            assert_same(lagging)
            assert_same(made)
            assert late.said("conflict") == []
    changes = "SELECT changes FROM pyreplica.replica_cursor"
    assert value(lagging.slave, changes) == value(databases.slave, changes)


def install_and_copy(lagging: ReplicationConfig) -> None:
    install(lagging)
    copy(lagging)


def test_the_log_is_kept_for_a_slave_that_is_being_copied_under_load(
    databases: Databases, lagging: ReplicationConfig
) -> None:
    rows = "; INSERT INTO public.t SELECT i, 0 FROM generate_series(-5000, 0) i"
    made = copied(databases, TABLE + rows)
    with running(made), working(databases.master, 1), working(databases.master, 2):
        end = threading.Event()

        def rotate() -> None:
            with connect(databases.master) as session:
                while not end.is_set():
                    session.one(ROTATE)

        thread = threading.Thread(target=rotate)
        thread.start()
        try:
            install_and_copy(lagging)
            with running(lagging) as late:
                late.until(lambda: len(late.batches()) > 5, "it does not run")
        finally:
            end.set()
            thread.join()
    with running(made), running(lagging) as late:
        assert_same(made)
        assert_same(lagging)
        assert late.said("conflict") == []


def test_a_transaction_that_is_open_across_a_rotation_is_kept_and_then_given_back(
    databases: Databases,
) -> None:
    made = copied(databases, TABLE)
    with running(made) as daemon, connect(databases.master) as open_:
        open_.execute("BEGIN; INSERT INTO public.t VALUES (1, 0)")
        assert rotated(databases.master) == "switched"
        sql(databases.master, "INSERT INTO public.t VALUES (2, 0)")
        assert_same(made)
        assert value(databases.master, ROTATE) in ("waiting", None)
        open_.execute("INSERT INTO public.t VALUES (3, 0); COMMIT")
        assert_same(made)
        sql(databases.master, "INSERT INTO public.t VALUES (4, 0)")
        assert_same(made)
        eventually(lambda: value(databases.master, ROTATE) == "truncated", "the log is kept")
        assert_same(made)
        assert daemon.said("conflict") == []
    assert value(databases.slave, "SELECT count(*) FROM public.t") == 4


def test_an_idle_daemon_gives_the_log_back(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Master.rotate, "__defaults__", (1,))
    made = copied(databases, TABLE)
    with running(made) as daemon:
        sql(databases.master, "INSERT INTO public.t SELECT i, 0 FROM generate_series(1, 2000) i")
        assert_same(made)
        daemon.until_asleep()
        assert value(databases.master, SIZE) == 0
        assert value(databases.master, "SELECT count(*) FROM pyreplica.replica_tick") == 0
        sql(databases.master, "UPDATE public.t SET n = 1")
        assert_same(made)


def test_an_idle_daemon_cannot_give_the_log_back_while_another_slave_lacks_it(
    databases: Databases, lagging: ReplicationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Master.rotate, "__defaults__", (1,))
    made = copied(databases, TABLE)
    install_and_copy(lagging)
    with running(made) as daemon:
        sql(databases.master, "INSERT INTO public.t SELECT i, 0 FROM generate_series(1, 2000) i")
        assert_same(made)
        daemon.until_asleep()
        assert value(databases.master, LOGGED) == 2000
        with running(lagging) as late:
            assert_same(lagging)
            late.until_asleep()
