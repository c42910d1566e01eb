"""The sleep protocol: an idle daemon is silent, and no commit is missed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from pyreplica.demo.cluster import Cluster
from pyreplica.model import Step
from tests.conftest import Databases
from tests.support import (
    Running,
    assert_same,
    blocked,
    connect,
    copied,
    eventually,
    running,
    sql,
    value,
)

TABLE = "CREATE TABLE public.t (id integer PRIMARY KEY, v text)"
QUIET = 3.0
"""Seconds for which an idle daemon is watched."""


@contextmanager
def statements(databases: Databases) -> Iterator[list[list[str]]]:
    """Gives the statements that each server executed in the block for these databases."""
    clusters = (databases.master_cluster, databases.slave_cluster)
    marks = [len(cluster.log_path.read_text(errors="replace")) for cluster in clusters]
    found: list[list[str]] = []
    yield found
    for cluster, mark in zip(clusters, marks, strict=True):
        found.append(_logged(cluster, mark, databases.name))


def _logged(cluster: Cluster, mark: int, database: str) -> list[str]:
    lines = cluster.log_path.read_text(errors="replace")[mark:].splitlines()
    return [line for line in lines if f"db={database} " in line and "statement: " in line]


def log_all(databases: Databases) -> None:
    """Have both servers log every statement of sessions that begin from now on."""
    for dsn in (databases.master, databases.slave):
        sql(dsn, f"ALTER DATABASE \"{databases.name}\" SET log_statement = 'all'")


def committed_after(daemon: Running, count: int) -> None:
    """Wait until so many batches are committed; far less long than the keepalive, a minute."""
    daemon.until(lambda: len(daemon.batches()) >= count, "it did not wake", 10)


def test_an_idle_daemon_executes_no_statement(databases: Databases) -> None:
    made = copied(databases, TABLE)
    log_all(databases)
    with running(made) as daemon:
        daemon.until_asleep()
        with statements(databases) as executed:
            time.sleep(QUIET)
        assert executed == [[], []]


def test_an_idle_daemon_looks_once_after_each_keepalive(databases: Databases) -> None:
    made = copied(databases, TABLE, keepalive="1s")
    log_all(databases)
    with running(made) as daemon:
        daemon.until_asleep()
        with statements(databases) as executed:
            time.sleep(QUIET)
        # on the master also after the log, and how much of it is kept; on the slave after conflicts
        looked = [line for line in executed[0] if "pyreplica_fetch" in line]
        assert len(looked) in (2, 3)
        assert len(executed[0]) <= 3 * (len(looked) + 1)
        assert len(executed[1]) <= len(looked) + 1
        assert all("WITH trimmed AS" in line for line in executed[1])


def test_a_commit_wakes_the_daemon(databases: Databases) -> None:
    made = copied(databases, TABLE)
    with running(made) as daemon:
        for number in range(5):
            daemon.until_asleep()
            sql(databases.master, f"INSERT INTO public.t VALUES ({number}, 'x')")
            committed_after(daemon, number + 1)
        assert_same(made)


def test_a_writer_with_an_older_snapshot_rings_all_the_same(databases: Databases) -> None:
    made = copied(databases, TABLE)
    with connect(databases.master) as writer:
        writer.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        writer.query("SELECT 1 FROM public.t")  # its snapshot is from before the daemon sleeps
        with running(made) as daemon:
            daemon.until_asleep()
            writer.execute("INSERT INTO public.t VALUES (1, 'x')")
            writer.execute("COMMIT")
            daemon.until(daemon.batches, "it did not wake", 10)
            assert_same(made)


def test_a_transaction_that_was_open_when_the_daemon_fell_asleep_is_not_missed(
    databases: Databases,
) -> None:
    made = copied(databases, TABLE)
    with connect(databases.master) as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO public.t VALUES (1, 'silent')")  # nobody has to be woken yet
        with running(made) as daemon:
            eventually(
                lambda: (
                    int(value(databases.master, "SELECT last_value FROM pyreplica.doorbell")) > 1
                ),
                "the daemon asks to be woken",
            )
            writer.execute("COMMIT")
            daemon.until(daemon.batches, "the commit was missed", 10)
            daemon.until_asleep()
            assert_same(made)


@pytest.mark.parametrize("why", ["bits taken away", "a full queue", "a writer that does not ring"])
def test_a_lost_notify_costs_at_most_the_keepalive(databases: Databases, why: str) -> None:
    made = copied(databases, TABLE, keepalive="1s")
    with ExitStack() as stack:
        if why == "a full queue":
            stack.enter_context(full_queue(databases))
        daemon = stack.enter_context(running(made))
        daemon.until_asleep()
        with connect(databases.master) as writer:
            if why == "bits taken away":
                writer.execute("SELECT setval('pyreplica.doorbell', 0)")
            elif why == "a writer that does not ring":
                writer.execute("SET pyreplica.notify = off")
            writer.execute("INSERT INTO public.t VALUES (1, 'x')")
        daemon.until(daemon.batches, "the safety look did not find it", 10)
        assert_same(made)


@contextmanager
def full_queue(databases: Databases) -> Iterator[None]:
    """As if 80 kB filled the server's queue of notifications to the half, and a listener is stuck.

    The real half takes 4 GB.
    """
    ring = "pg_get_functiondef('pyreplica.ring'::regproc)"
    text = str(value(databases.master, f"SELECT {ring}"))
    assert text.count("< 0.5") == 1
    sql(databases.master, text.replace("< 0.5", "< 0.00001"))
    with connect(databases.master) as stuck:
        # notifications are taken only between transactions
        stuck.execute("LISTEN other")
        stuck.execute("BEGIN; SELECT 1")
        sql(
            databases.master,
            "SELECT pg_notify('other', repeat('x', 7000) || g) FROM generate_series(1, 20) g",
        )
        yield


def test_a_commit_while_the_connection_is_replaced_is_found_at_once(databases: Databases) -> None:
    made = copied(databases, TABLE)
    with running(made) as daemon, connect(databases.master) as writer:
        for number in range(1, 6):
            daemon.until_asleep()
            # nobody listens when it rings, and the bit of the one who is gone is still set
            writer.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                "WHERE datname = current_database() "
                "AND application_name LIKE 'pyreplica shop: master%'"
            )
            writer.execute(f"INSERT INTO public.t VALUES ({number}, 'x')")
            committed_after(daemon, number)
        assert_same(made)
        assert len(daemon.said("connection lost")) == 5


def test_under_sustained_load_nobody_rings_and_afterwards_they_do(databases: Databases) -> None:
    made = copied(databases, TABLE)
    bits = "SELECT last_value > 1 FROM pyreplica.doorbell"
    seen: list[bool] = []
    with running(made) as daemon, connect(databases.master) as writer:
        daemon.until_asleep()
        assert value(databases.master, bits)
        number = 0
        while not (seen and not all(seen)):
            writer.execute(f"INSERT INTO public.t VALUES ({number}, 'x')")
            seen.append(bool(writer.one(bits)[0]))
            number += 1
            assert number < 50_000, "the doorbell was never switched off"
        daemon.until_asleep()
        assert value(databases.master, bits)
        assert_same(made)


def test_a_daemon_that_is_stopped_while_it_waits_ends_at_once(databases: Databases) -> None:
    made = copied(databases, TABLE)
    with running(made) as daemon:
        daemon.until_asleep()
        began = time.monotonic()
        daemon.end()
        assert time.monotonic() - began < 5
    assert daemon.error is None


def test_a_batch_that_is_blocked_is_abandoned_when_told_to(databases: Databases) -> None:
    made = copied(databases, TABLE)
    with running(made) as daemon, connect(databases.slave) as holder:
        daemon.until_asleep()
        holder.execute("BEGIN; LOCK TABLE public.t")
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        eventually(blocked(databases.slave), "the batch waits for the lock")
        daemon.replication.stop()
        daemon.replication.cancel()
        daemon.end()
        holder.execute("ROLLBACK")
    assert daemon.error is None
    assert (Step.PREPARED, 2) not in daemon.steps
    with running(made):
        assert_same(made)


def test_a_daemon_that_has_stopped_is_not_rung_for_any_more(databases: Databases) -> None:
    made = copied(databases, TABLE)
    with running(made) as daemon:
        daemon.until_asleep()
    assert value(databases.master, "SELECT last_value < 2 FROM pyreplica.doorbell")
