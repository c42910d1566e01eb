"""A server that hangs without an error is noticed, wherever it is waited for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.database import Connection, pump
from pyreplica.demo.cluster import Cluster
from pyreplica.errors import Unreachable
from pyreplica.model import State, Step
from pyreplica.replication.compare import compare
from pyreplica.replication.repair import repair
from pyreplica.replication.report import report
from pyreplica.replication.script import execute
from tests.conftest import Databases
from tests.faults.proxy import Mode, Proxy
from tests.support import (
    LIMIT,
    assert_same,
    blocked,
    connect,
    copied,
    copy,
    eventually,
    prepared,
    running,
    sql,
    value,
)

PEER_TIMEOUT = 1.0
NOTICED = 20.0
"""Seconds; on an idle machine it takes 7 at most, and without a limit for ever."""

TABLE = "CREATE TABLE public.t (id integer PRIMARY KEY, v text)"


@pytest.fixture
def master_proxy(databases: Databases) -> Iterator[Proxy]:
    """A network between the test and the master."""
    with Proxy(databases.master_cluster.port) as proxy:
        yield proxy


@pytest.fixture
def slave_proxy(databases: Databases) -> Iterator[Proxy]:
    """A network between the test and the slave."""
    with Proxy(databases.slave_cluster.port) as proxy:
        yield proxy


def through(proxy: Proxy, databases: Databases) -> str:
    """The database of the test behind a proxy."""
    return f"host=127.0.0.1 port={proxy.port} dbname={databases.name} user=postgres"


def watched(dsn: str) -> Connection:
    """A session that is given up soon."""
    return Connection(dsn, where="test", peer_timeout=PEER_TIMEOUT)


def noticed(act: Callable[[], object]) -> None:
    """It fails, and in time."""
    begun = time.monotonic()
    with pytest.raises(Unreachable, match="no answer for 1 s"):
        act()
    assert PEER_TIMEOUT / 2 < time.monotonic() - begun < NOTICED


@contextmanager
def stopped(cluster: Cluster) -> Iterator[None]:
    """All processes of a server stand still; its kernel goes on to answer for it."""
    with connect(cluster.dsn("postgres")) as session:
        postmaster = int(
            session.one("SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")[0]
        )
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children")
    os.kill(postmaster, signal.SIGSTOP)
    pids = [postmaster, *map(int, children.read_text(encoding="ascii").split())]
    try:
        for pid in pids[1:]:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


# Wherever an answer is waited for


def _query(session: Connection, freeze: Callable[[], None]) -> None:
    freeze()
    session.query("SELECT 1")


def _stream(session: Connection, freeze: Callable[[], None]) -> None:
    with session.transaction():
        for number, _ in enumerate(session.stream("SELECT generate_series(1, 100)", size=10)):
            if number == 10:
                freeze()


def _copy_out(session: Connection, freeze: Callable[[], None]) -> None:
    rows = 0

    def write(row: bytes) -> None:
        nonlocal rows
        rows += 1
        if rows == 10:
            freeze()

    query = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 100000)) TO STDOUT"
    session.copy_out(query, write)


def _copy_in(session: Connection, freeze: Callable[[], None]) -> None:
    chunks = 0

    def read(size: int) -> bytes:
        nonlocal chunks
        chunks += 1
        if chunks == 10:
            freeze()
        return b"x" * (size - 1) + b"\n" if chunks < 500 else b""

    session.copy_in("COPY public.lines FROM STDIN", read)


def _end_of_copy_in(session: Connection, freeze: Callable[[], None]) -> None:
    def read(size: int) -> bytes:
        freeze()
        return b""

    session.copy_in("COPY public.lines FROM STDIN", read)


def _sleep(session: Connection, freeze: Callable[[], None]) -> None:
    freeze()
    session.wait(LIMIT)


def _sleep_on_another(session: Connection, freeze: Callable[[], None]) -> None:
    with watched(session.query("SELECT current_setting('pyreplica.other')")[0][0]) as other:
        freeze()
        other.wait(LIMIT, session)


def _commit_prepared(session: Connection, freeze: Callable[[], None]) -> None:
    session.execute("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'test hung'")
    freeze()
    session.execute("COMMIT PREPARED 'test hung'")


PLACES = [
    _query,
    _stream,
    _copy_out,
    _copy_in,
    _end_of_copy_in,
    _sleep,
    _sleep_on_another,
    _commit_prepared,
]


@pytest.mark.parametrize("mode", [Mode.FREEZE, Mode.MUTE, Mode.VANISH], ids=lambda m: m.value)
def test_a_network_that_goes_silent_is_noticed_wherever_an_answer_is_waited_for(
    databases: Databases, mode: Mode
) -> None:
    _everywhere(databases, lambda proxy: proxy.set(mode))


def _everywhere(databases: Databases, freeze: Callable[[Proxy], object]) -> None:
    """All places at once, each behind a network of its own."""
    sql(databases.slave, "CREATE UNLOGGED TABLE public.lines (line text)")
    with ExitStack() as stack, ThreadPoolExecutor(len(PLACES)) as pool:

        def one(place: Callable[[Connection, Callable[[], None]], None]) -> None:
            proxy = stack.enter_context(Proxy(databases.slave_cluster.port))
            with watched(through(proxy, databases)) as session:
                session.query(
                    "SELECT set_config('pyreplica.other', %(dsn)s, false)",
                    {"dsn": databases.slave},
                )
                noticed(lambda: place(session, lambda: (freeze(proxy), None)[1]))

        for done in [pool.submit(one, place) for place in PLACES]:
            done.result()
    for gid in prepared(databases):
        sql(databases.slave, f"ROLLBACK PREPARED '{gid}'")


def test_a_server_that_stands_still_is_noticed(databases: Databases) -> None:
    dsn = databases.slave_cluster.dsn(databases.name, tcp=True)
    with watched(dsn) as session, watched(dsn) as other:
        session.execute("BEGIN")
        with stopped(databases.slave_cluster):
            noticed(lambda: session.query("SELECT 1"))
            noticed(lambda: other.wait(LIMIT))
            with pytest.raises(Unreachable, match="cannot connect"):
                Connection(dsn, where="test", connect_timeout=2)
            begun = time.monotonic()
            other.cancel()
            session.rollback()
            session.close()
            assert time.monotonic() - begun < NOTICED


def test_a_session_whose_network_is_gone_is_ended_on_the_server(
    databases: Databases, slave_proxy: Proxy
) -> None:
    """Its locks would keep everybody out, until the server misses its client: that takes hours."""
    sql(databases.slave, f'ALTER DATABASE "{databases.name}" SET tcp_keepalives_idle = 7200')
    with watched(through(slave_proxy, databases)) as session:
        session.execute("SELECT pg_advisory_lock(1)")
        slave_proxy.set(Mode.VANISH)
        noticed(lambda: session.query("SELECT 1"))
    eventually(
        lambda: value(databases.slave, "SELECT pg_try_advisory_lock(1)"), "the lock is still held"
    )


def test_the_server_misses_its_client_as_soon_unless_it_was_told_when(databases: Databases) -> None:
    dsn = databases.slave_cluster.dsn(databases.name, tcp=True)
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "client_connection_check_interval")
    query = f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}"
    with Connection(dsn, where="test", peer_timeout=30) as session:
        assert session.one(query) == ("15", "5", "15s")
    sql(databases.slave, f'ALTER DATABASE "{databases.name}" SET tcp_keepalives_idle = 7200')
    with Connection(dsn, where="test", peer_timeout=30) as session:
        assert session.one(query) == ("7200", "5", "15s")


# What takes long is let be


def test_a_long_statement_is_not_cut_off(databases: Databases) -> None:
    dsn = databases.slave_cluster.dsn(databases.name, tcp=True)
    with watched(dsn) as session:
        session.execute("SELECT pg_sleep(3)")
    with watched(databases.slave) as session:
        session.execute("SELECT pg_sleep(3)")


def test_a_copy_that_the_server_does_not_read_is_not_cut_off(databases: Databases) -> None:
    """With data under way that the server does not take: the kernel would give it up for that."""
    sql(
        databases.slave,
        "CREATE TABLE public.lines (line text)",
        "CREATE FUNCTION public.tarry() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN PERFORM pg_sleep(3); RETURN new; END'",
        "CREATE TRIGGER tarry BEFORE INSERT ON public.lines FOR EACH ROW "
        "WHEN (new.line = 'wait') EXECUTE FUNCTION public.tarry()",
    )
    chunks = iter([b"wait\n", *[b"x" * 1023 + b"\n"] * 20_000])
    with watched(databases.slave_cluster.dsn(databases.name, tcp=True)) as session:
        rows = session.copy_in("COPY public.lines FROM STDIN", lambda size: next(chunks, b""))
    assert rows == 20_001


def test_a_copy_whose_other_side_takes_its_time_is_not_cut_off(databases: Databases) -> None:
    sql(databases.slave, "CREATE TABLE public.lines (line text)")
    with (
        watched(databases.master_cluster.dsn(databases.name, tcp=True)) as source,
        watched(databases.slave_cluster.dsn(databases.name, tcp=True)) as target,
        connect(databases.slave) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("BEGIN; LOCK TABLE public.lines")
        pumping = pool.submit(
            pump,
            source,
            "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 50000)) TO STDOUT",
            target,
            "COPY public.lines FROM STDIN",
        )
        eventually(blocked(databases.slave), "it does not wait")
        other.execute("SELECT pg_sleep(3)")
        assert not pumping.done()
        other.execute("COMMIT")
        assert pumping.result(LIMIT) == 50_000


def test_a_server_that_lets_nobody_in_to_ask_is_let_be(databases: Databases) -> None:
    with (
        connect(databases.slave_cluster.dsn()) as other,
        watched(databases.slave_cluster.dsn(databases.name, tcp=True)) as session,
    ):
        other.execute(f'ALTER DATABASE "{databases.name}" ALLOW_CONNECTIONS false')
        session.execute("SELECT pg_sleep(3)")
        other.execute(f'ALTER DATABASE "{databases.name}" ALLOW_CONNECTIONS true')


# The whole product


def test_the_daemon_goes_on_after_a_master_that_went_silent_in_its_sleep(
    databases: Databases, master_proxy: Proxy
) -> None:
    made = copied(databases, TABLE, slave=TABLE, peer_timeout="1s")
    with running(replace(made, master=through(master_proxy, databases))) as replication:
        replication.until_asleep()
        master_proxy.set(Mode.VANISH)
        sql(databases.master, "INSERT INTO public.t VALUES (1, 'after')")
        assert_same(made)
        assert replication.said("no answer for 1 s")


def test_the_daemon_goes_on_after_a_slave_that_went_silent_before_committing(
    databases: Databases, slave_proxy: Proxy
) -> None:
    def hook(step: Step, batch: int) -> None:
        if (step, batch) == (Step.CONFIRMED, 2):
            slave_proxy.set(Mode.VANISH)

    made = copied(databases, TABLE, slave=TABLE, peer_timeout="1s")
    with running(replace(made, slave=through(slave_proxy, databases)), hook) as replication:
        for number in range(3):
            sql(databases.master, f"INSERT INTO public.t VALUES ({number}, 'row')")
            assert_same(made)
        assert replication.said("no answer for 1 s")
        assert (Step.RECOVERED, 2) in replication.steps
    assert prepared(databases) == []


COMMANDS: dict[str, Callable[[ReplicationConfig], object]] = {
    "copy": lambda made: copy(made, truncate=True),
    "compare": lambda made: compare(made, timeout=LIMIT),
    "repair": lambda made: repair(made, apply=False, timeout=LIMIT),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_when_the_slave_goes_silent(
    databases: Databases, slave_proxy: Proxy, command: str
) -> None:
    made = copied(databases, TABLE, peer_timeout="1s")
    made = replace(made, slave=through(slave_proxy, databases))
    with running(made) as replication, connect(databases.slave) as other:
        replication.until_asleep()
        if command == "copy":
            replication.replication.stop()
            replication.until(lambda: replication.statuses[-1].state is State.STOPPED, "it runs")
        other.execute("BEGIN; LOCK TABLE public.t")
        with ThreadPoolExecutor(1) as pool:
            doing = pool.submit(COMMANDS[command], made)
            eventually(blocked(databases.slave), "it does not wait for the lock")
            slave_proxy.set(Mode.VANISH)
            other.execute("COMMIT")
            begun = time.monotonic()
            with pytest.raises(Unreachable, match="no answer for 1 s"):
                doing.result(LIMIT)
            assert time.monotonic() - begun < NOTICED


def test_status_tells_of_a_server_that_stands_still(databases: Databases) -> None:
    made = copied(databases, TABLE, peer_timeout="1s")
    with stopped(databases.master_cluster):
        begun = time.monotonic()
        assert report(made).state == "unreachable"
        assert time.monotonic() - begun < NOTICED


def test_a_script_ends_when_the_master_stands_still(databases: Databases, tmp_path: Path) -> None:
    """psql, and likewise pg_dump and pg_restore, would wait for ever."""
    made = copied(databases, TABLE, peer_timeout="1s")
    script = tmp_path / "script.sql"
    script.write_text("LOCK TABLE public.t; ALTER TABLE public.t ADD c integer;", encoding="utf-8")
    with connect(databases.master) as other, ThreadPoolExecutor(1) as pool:
        other.execute("BEGIN; LOCK TABLE public.t")
        doing = pool.submit(execute, [made], script, everybody=False)
        eventually(
            lambda: value(
                databases.master,
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND application_name = 'psql' AND wait_event_type = 'Lock'",
            ),
            "psql does not wait for the lock",
        )
        other.execute("SELECT pg_sleep(3)")
        assert not doing.done()
        with (
            stopped(databases.master_cluster),
            pytest.raises(Unreachable, match="psql: no answer for 1 s"),
        ):
            doing.result(LIMIT)
