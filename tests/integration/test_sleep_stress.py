"""Random writers against daemons that fall asleep all the time: nobody oversleeps.

A few seconds; PYREPLICA_DOORBELL=600 has it go on for ten minutes.
"""

from __future__ import annotations

import io
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.database import Connection, Row, errorcodes
from pyreplica.errors import DatabaseError
from pyreplica.replication import loop
from pyreplica.replication.setup import install
from tests.conftest import Databases
from tests.support import assert_same, config, connect, copied, copy, eventually, running, sql

SECONDS = float(os.environ.get("PYREPLICA_DOORBELL", "4"))
KEEPALIVE = 30.0
"""Seconds. What is seen half as late was not rung for."""
WRITERS = 4
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")

TABLE = "CREATE TABLE public.t (id bigint PRIMARY KEY, n bigint NOT NULL)"
STATE = "SELECT count(*), coalesce(sum(n), 0)::bigint FROM public.t"


class Writer:
    """A session that writes, each time in another way.

    Args:
        number: whose rows are its own, so that nobody waits for it.
    """

    def __init__(self, session: Connection, number: int) -> None:
        self._session = session
        self._random = random.Random(number)
        self._next = number * 1_000_000_000
        self._first = self._next

    def round(self, together: threading.Barrier) -> None:
        """A transaction, some of which write nothing or roll back."""
        chance = self._random
        together.wait()
        time.sleep(chance.choice((0, chance.uniform(0, 0.01))))
        try:
            self._session.execute(f"BEGIN ISOLATION LEVEL {chance.choice(LEVELS)}")
            if chance.random() < 0.5:
                self._session.query("SELECT count(*) FROM public.t")  # its snapshot is old
            for _ in range(chance.choice((1, 1, 1, 2, 3))):
                self._pause()
                self._write()
            self._pause()
            self._session.execute(chance.choice(("COMMIT", "COMMIT", "COMMIT", "ROLLBACK")))
        except DatabaseError as error:
            self._session.rollback()
            if error.sqlstate != errorcodes.SERIALIZATION_FAILURE:
                raise

    def _pause(self) -> None:
        if self._random.random() < 0.3:
            time.sleep(self._random.choice((0.0, 0.002, 0.02)))

    def _write(self) -> None:
        how = self._random.choice(("insert", "copy", "update", "undo", "release"))
        self._next += 1
        insert = f"INSERT INTO public.t VALUES ({self._next}, 1)"
        match how:
            case "insert":
                self._session.execute(insert)
            case "copy":
                data = io.BytesIO(f"{self._next}\t1\n".encode())
                self._session.copy_in("COPY public.t FROM STDIN", data.read)
            case "update":
                self._session.execute(
                    f"UPDATE public.t SET n = n + 1 WHERE id = {self._first}; {insert}"
                )
            case "undo":
                self._session.execute(f"SAVEPOINT s; {insert}; ROLLBACK TO SAVEPOINT s")
                if self._random.random() < 0.5:
                    self._session.execute(insert)
            case "release":
                self._session.execute(f"SAVEPOINT s; {insert}; RELEASE SAVEPOINT s")


@pytest.fixture
def second(databases: Databases) -> Iterator[ReplicationConfig]:
    """A second slave of the same master, in a database of its own, not copied yet."""
    name = f"{databases.name[:50]}_2"
    databases.slave_cluster.create_database(name)
    dsn = databases.slave_cluster.dsn(name)
    sql(dsn, TABLE)
    yield config(replace(databases, slave=dsn), "second", keepalive=f"{KEEPALIVE:g}s")
    databases.slave_cluster.drop_database(name)


def same(slave: Connection, expected: list[Row]) -> bool:
    return slave.query(STATE) == expected


def test_no_daemon_oversleeps_whatever_the_writers_do(
    databases: Databases, second: ReplicationConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # each batch has the bit cleared, and the daemon fall asleep anew, among writers of all kinds
    monkeypatch.setattr(loop, "BUSY_AFTER", 1)
    first = copied(databases, TABLE, keepalive=f"{KEEPALIVE:g}s")
    install(second)
    copy(second)
    chance = random.Random(0)
    rounds = 0
    with ExitStack() as stack:
        master = stack.enter_context(connect(databases.master))
        slaves = [stack.enter_context(connect(made.slave)) for made in (first, second)]
        writers = [
            Writer(stack.enter_context(connect(databases.master)), number)
            for number in range(WRITERS)
        ]
        threads = stack.enter_context(ThreadPoolExecutor(WRITERS))
        daemons = [stack.enter_context(running(made)) for made in (first, second)]
        for daemon in daemons:
            daemon.until_asleep()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            rounds += 1
            at_work = chance.sample(writers, chance.randint(1, WRITERS))
            together = threading.Barrier(len(at_work))
            done = [threads.submit(writer.round, together) for writer in at_work]
            if chance.random() < 0.2:
                master.query("SELECT pyreplica.rotate_log(0)")
            for one in done:
                one.result()
            expected = master.query(STATE)
            for slave in slaves:
                has = partial(same, slave, expected)
                eventually(has, f"round {rounds} is on the slave", KEEPALIVE / 2, 0.001)
            time.sleep(chance.choice((0, chance.uniform(0, 0.02))))
        assert [daemon.failing for daemon in daemons] == [False, False]
    assert rounds > 10
    for made in (first, second):
        with running(made):
            assert_same(made)
