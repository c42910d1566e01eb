"""After an outage of whatever length the slave catches up, in whole transactions."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.demo.cluster import Cluster, StopMode
from pyreplica.errors import TimedOut, Unreachable
from pyreplica.model import State
from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.support import (
    assert_same,
    blocked,
    config_file,
    connect,
    copied,
    cursors,
    daemon,
    eventually,
    running,
    sql,
    value,
)

TABLE = "CREATE TABLE public.t (id integer PRIMARY KEY, v text)"

# Every transaction moves money from one table to the other and writes it down: at every moment that
# exists on the master the sums are zero, and the entries add up to the balance of b.
ACCOUNTS = """
    CREATE TABLE public.a (id integer PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE public.b (id integer PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE public.entry (id bigint PRIMARY KEY, amount bigint NOT NULL);
"""
WRITER = """
    INSERT INTO public.a SELECT i, 0 FROM generate_series(1, 20) i;
    INSERT INTO public.b SELECT i, 0 FROM generate_series(1, 20) i;
    CREATE PROCEDURE public.work(seed integer, transactions integer) LANGUAGE plpgsql AS $$
    DECLARE
        amount_ bigint;
    BEGIN
        FOR i IN 1..transactions LOOP
            amount_ := 1 + (i * 7 + seed) % 100;
            UPDATE public.a SET balance = balance - amount_ WHERE id = 1 + (i + seed) % 20;
            UPDATE public.b SET balance = balance + amount_ WHERE id = 1 + (i * 3 + seed) % 20;
            INSERT INTO public.entry VALUES (seed::bigint * 1000000 + i, amount_);
            IF i % 50 = 0 THEN
                ROLLBACK;
            ELSE
                COMMIT;
            END IF;
        END LOOP;
    END $$;
"""
INVARIANT = """
    SELECT (SELECT sum(balance) FROM public.a), (SELECT sum(balance) FROM public.b),
        (SELECT coalesce(sum(amount), 0) FROM public.entry), (SELECT count(*) FROM public.entry)
"""


class Observer(threading.Thread):
    """Reads the slave over and over, each time in one snapshot, until it is told to end."""

    def __init__(self, dsn: str) -> None:
        super().__init__(name="observer")
        self._dsn = dsn
        self._end = threading.Event()
        self.seen: list[tuple[int, int, int, int]] = []

    def run(self) -> None:
        with connect(self._dsn) as session:
            while not self._end.is_set():
                a, b, entries, count = session.one(INVARIANT)
                self.seen.append((int(a), int(b), int(entries), int(count)))

    def assert_whole_transactions(self) -> None:
        assert all(a + b == 0 and b == entries for a, b, entries, _ in self.seen)

    def __enter__(self) -> Observer:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self.join()


@contextmanager
def writers(dsn: str, transactions: int, count: int = 2) -> Iterator[None]:
    """Sessions that write at the same time, each so many transactions and on to the block's end."""
    end = threading.Event()
    seeds = itertools.count(1)

    def write() -> None:
        with connect(dsn) as session:
            session.execute(f"CALL public.work({next(seeds)}, {transactions})")
            while not end.is_set():
                session.execute(f"CALL public.work({next(seeds)}, 100)")

    threads = [threading.Thread(target=write) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()


@pytest.mark.usefixtures("apply_path")
def test_a_backlog_is_caught_up_in_several_batches_of_whole_transactions(
    databases: Databases,
) -> None:
    made = copied(databases, ACCOUNTS + WRITER, slave=ACCOUNTS, batch_rows=1000)
    with writers(databases.master, 2000):
        pass
    changes = int(value(databases.master, "SELECT count(*) FROM pyreplica.replica_log"))
    assert changes > 10_000
    with Observer(databases.slave) as observer, running(made) as daemon_:
        assert_same(made)
    observer.assert_whole_transactions()
    assert len(daemon_.batches()) > 1
    assert len(set(observer.seen)) > 2
    assert value(databases.slave, "SELECT changes FROM pyreplica.replica_cursor") == changes
    assert daemon_.said("conflict") == []


@pytest.mark.usefixtures("apply_path")
def test_a_slave_that_is_followed_live_shows_whole_transactions_only(databases: Databases) -> None:
    made = copied(databases, ACCOUNTS + WRITER, slave=ACCOUNTS)
    with Observer(databases.slave) as observer, running(made) as daemon_:
        with writers(databases.master, 500, count=3):
            pass
        assert_same(made)
    observer.assert_whole_transactions()
    assert len(set(observer.seen)) > 3
    assert daemon_.said("conflict") == []


def moved(made: ReplicationConfig, batches: int) -> Callable[[], bool]:
    """Whether so many batches more than now are on the slave."""
    until = cursors(made)[1].batch + batches
    return lambda: cursors(made)[1].batch >= until


def test_a_daemon_killed_again_and_again_under_load_loses_and_repeats_nothing(
    databases: Databases, tmp_path: Path
) -> None:
    made = copied(databases, ACCOUNTS + WRITER, slave=ACCOUNTS, batch_rows=500)
    path = config_file(tmp_path, databases, batch_rows=500, retry_first="10ms")
    with Observer(databases.slave) as observer, writers(databases.master, 2000):
        for _ in range(5):
            with daemon(path) as killed:
                eventually(moved(made, 2), "no batches are moved")
                killed.kill()
    with daemon(path) as last:
        assert_same(made)
    observer.assert_whole_transactions()
    changes = value(databases.master, "SELECT count(*) FROM pyreplica.replica_log")
    assert value(databases.slave, "SELECT changes FROM pyreplica.replica_cursor") == changes
    assert "conflict" not in last.log


def test_a_backlog_without_ticks_is_one_batch(databases: Databases) -> None:
    made = copied(databases, TABLE, batch_rows=100)
    for number in range(10):
        sql(
            databases.master,
            f"INSERT INTO public.t SELECT {number} * 300 + i, 'x' FROM generate_series(1, 300) i",
        )
    # with how many rows a session leaves its first tick behind depends on its process's number
    sql(databases.master, "DELETE FROM pyreplica.replica_tick")
    with running(made) as daemon_:
        assert_same(made)
    assert len(daemon_.batches()) == 1


OUTAGES: dict[str, Callable[[Databases], list[Cluster]]] = {
    "slave": lambda databases: [databases.slave_cluster],
    "master": lambda databases: [databases.master_cluster],
    "both": lambda databases: [databases.master_cluster, databases.slave_cluster],
}


@pytest.mark.parametrize("mode", ["fast", "immediate"])
@pytest.mark.parametrize("which", OUTAGES)
def test_a_sleeping_daemon_outlives_the_outage_of_a_server(
    databases: Databases, which: str, mode: StopMode
) -> None:
    made = copied(databases, TABLE)
    stopped = OUTAGES[which](databases)
    with running(made) as daemon_:
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'before')")
        assert_same(made)
        daemon_.until_asleep()
        for cluster in stopped:
            cluster.stop(mode)
        daemon_.until(lambda: daemon_.failing, "the loss was not noticed")
        daemon_.until_said("cannot connect")
        if which == "slave":
            sql(databases.master, "INSERT INTO public.t VALUES (2, 'meanwhile')")
        for cluster in stopped:
            cluster.start()
        sql(databases.master, "INSERT INTO public.t VALUES (3, 'after')")
        assert_same(made)
        daemon_.until_asleep()
        assert daemon_.statuses[-1].state is State.WAITING
        assert daemon_.statuses[-1].error is None


@pytest.mark.parametrize("mode", ["fast", "immediate"])
@pytest.mark.parametrize("which", OUTAGES)
def test_a_busy_daemon_outlives_the_outage_of_a_server(
    databases: Databases, which: str, mode: StopMode
) -> None:
    made = copied(databases, ACCOUNTS + WRITER, slave=ACCOUNTS, batch_rows=500)
    with writers(databases.master, 1000):
        pass
    stopped = OUTAGES[which](databases)
    once = threading.Event()

    def outage(batch: int) -> None:
        if batch == 3 and not once.is_set():
            once.set()
            for cluster in stopped:
                cluster.stop(mode)
            for cluster in stopped:
                cluster.start()

    with running(made, lambda step, batch: outage(batch)) as daemon_:
        daemon_.until(lambda: len(daemon_.said("connected, at batch")) > 1, "no second connection")
        assert_same(made)
    assert daemon_.said("connection lost")
    assert daemon_.said("conflict") == []


def test_a_daemon_that_starts_before_the_servers_connects_when_they_are_there(
    databases: Databases,
) -> None:
    made = copied(databases, TABLE)
    databases.master_cluster.stop()
    databases.slave_cluster.stop()
    with running(made) as daemon_:
        daemon_.until_said("shop: master: cannot connect")
        databases.master_cluster.start()
        daemon_.until_said("shop: slave: cannot connect")
        databases.slave_cluster.start()
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        assert_same(made)


@pytest.mark.parametrize("side", ["master", "slave"])
def test_a_session_that_is_terminated_while_the_daemon_sleeps_is_made_anew(
    databases: Databases, side: str
) -> None:
    made = copied(databases, TABLE)
    with running(made) as daemon_:
        daemon_.until_asleep()
        sql(
            databases.master if side == "master" else databases.slave,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() "
            f"AND application_name LIKE 'pyreplica shop: {side}%'",
        )
        daemon_.until_said(f"shop: {side}: connection lost")
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        assert_same(made)


@pytest.mark.usefixtures("apply_path")
def test_a_statement_that_is_cancelled_is_tried_again(databases: Databases) -> None:
    made = copied(databases, TABLE)
    with running(made) as daemon_, connect(databases.slave) as somebody:
        somebody.execute("BEGIN; LOCK TABLE public.t IN SHARE MODE")
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        eventually(blocked(databases.slave), "the batch does not wait for the lock")
        somebody.execute(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        daemon_.until_said("canceling statement due to user request")
        somebody.execute("COMMIT")
        assert_same(made)


@pytest.mark.usefixtures("apply_path")
def test_a_deadlock_on_the_slave_is_tried_again(databases: Databases) -> None:
    tables = "".join(f"CREATE TABLE public.{t} (id integer PRIMARY KEY);" for t in "abc")
    made = copied(databases, tables)
    sql(databases.slave, f"ALTER DATABASE \"{databases.name}\" SET deadlock_timeout = '20ms'")
    with (
        running(made) as daemon_,
        connect(databases.slave) as gate,
        connect(databases.slave) as somebody,
    ):
        sql(databases.master, *(f"INSERT INTO public.{t} VALUES (0)" for t in "abc"))
        assert_same(made)
        # the daemon comes last and somebody is patient: the daemon finds the deadlock and gives way
        somebody.execute("SET deadlock_timeout = '10min'")
        gate.execute("BEGIN; LOCK TABLE public.b IN SHARE MODE")
        somebody.execute("BEGIN; LOCK TABLE public.c IN SHARE MODE")
        sql(
            databases.master,
            "BEGIN; INSERT INTO public.a VALUES (1); INSERT INTO public.b VALUES (1);"
            "INSERT INTO public.c VALUES (1); COMMIT",
        )
        eventually(blocked(databases.slave), "the batch does not wait at the gate")
        lock = "LOCK TABLE public.a IN SHARE MODE; COMMIT"
        waits = threading.Thread(target=somebody.execute, args=(lock,))
        waits.start()
        waiting = "SELECT count(*) > 1 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"
        eventually(lambda: value(databases.slave, waiting), "nobody waits for the batch")
        gate.execute("COMMIT")
        daemon_.until_said("deadlock detected")
        waits.join()
        assert_same(made)


def test_waiting_has_a_limit_and_says_how_far_the_slave_is(databases: Databases) -> None:
    made = copied(databases, TABLE)
    sql(databases.master, "INSERT INTO public.t VALUES (1, 'x'), (2, 'x')")
    with pytest.raises(TimedOut, match="2 changes behind") as caught:
        wait(made, 0.05)
    assert "pyreplica run shop" in caught.value.hint


def test_waiting_while_a_server_is_away_says_so(databases: Databases) -> None:
    made = copied(databases, TABLE)
    databases.slave_cluster.stop()
    with pytest.raises(Unreachable, match="shop: slave: cannot connect"):
        wait(made, 1)


def test_one_slave_that_is_away_does_not_stop_another_one(
    databases: Databases, tmp_path: Path
) -> None:
    """Both replications run in one daemon; the slave of one refuses every batch."""
    made = copied(databases, TABLE)
    path = config_file(tmp_path, databases, retry_first="10ms")
    text = path.read_text()
    path.write_text(
        text + f"  lost:\n    master: {databases.master}\n    slave: host=/nowhere dbname=lost\n"
    )
    with daemon(path) as started:
        started.until_said("lost: slave: cannot connect")
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'x')")
        assert_same(made)


def test_a_connection_over_tcp_gives_a_silent_peer_up_after_a_minute(databases: Databases) -> None:
    with (
        connect(databases.master_cluster.dsn(databases.name, tcp=True)) as session,
        socket.socket(fileno=os.dup(session.fileno())) as peer,
    ):
        assert peer.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


@pytest.mark.usefixtures("apply_path")
def test_settings_of_the_databases_do_not_matter(databases: Databases) -> None:
    made = copied(databases, "CREATE TABLE public.t (id integer PRIMARY KEY, v text[], at date)")
    settings = {
        "array_nulls": "off",
        "DateStyle": "SQL, DMY",
        "default_transaction_isolation": "serializable",
        "default_transaction_read_only": "on",
        "idle_in_transaction_session_timeout": "50ms",
        "idle_session_timeout": "50ms",
        "lock_timeout": "1ms",
        "search_path": "nowhere",
        "standard_conforming_strings": "off",
        "statement_timeout": "500ms",
        "synchronous_commit": "off",
    }
    for dsn in (databases.master, databases.slave):
        sql(
            dsn,
            *(f"ALTER DATABASE \"{databases.name}\" SET {s} = '{v}'" for s, v in settings.items()),
        )
    with running(made) as daemon_:
        daemon_.until_asleep()
        sql(
            databases.master,
            r"""
            INSERT INTO public.t VALUES (1, '{NULL,"NULL","\\",''}', '2026-02-01'),
                (2, '{"\\''"}', NULL)
            """,
        )
        assert_same(made)
        daemon_.until_asleep()
        assert [line for line in daemon_.lines if not line.startswith(("INFO", "DEBUG"))] == []
        assert len(daemon_.said("connected")) == 1
