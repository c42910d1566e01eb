"""Writers on the master, and a reader of the slave that never must see part of a transaction."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType

from pyreplica.database import Connection
from pyreplica.errors import PyReplicaError
from tests.support import connect

TABLES = """
    CREATE TABLE public.item (id bigserial PRIMARY KEY, v text, n integer NOT NULL DEFAULT 0);
    CREATE TABLE public.pair (a integer, b integer, v text, PRIMARY KEY (a, b));
    CREATE TABLE public.scratch (id integer PRIMARY KEY, v text);
    CREATE TABLE public.debit (id integer PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE public.credit (id integer PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE public.gate_0 (id integer PRIMARY KEY, n bigint NOT NULL);
    CREATE TABLE public.gate_1 (id integer PRIMARY KEY, n bigint NOT NULL);
    CREATE TABLE public.gate_2 (id integer PRIMARY KEY, n bigint NOT NULL);
    CREATE TABLE public.history (id bigserial PRIMARY KEY, v text);
    CREATE TABLE public.extra (id integer PRIMARY KEY, v text);
"""
"""What is replicated; `extra` from when it is added."""
MOVING = "CREATE TABLE public.moving (id integer PRIMARY KEY, n bigint NOT NULL)"
MOVING_ON_SLAVE = f"""{MOVING} PARTITION BY RANGE (id);
    CREATE TABLE public.moving_low PARTITION OF public.moving FOR VALUES FROM (0) TO (1000);
    CREATE TABLE public.moving_high PARTITION OF public.moving FOR VALUES FROM (1000) TO (9999);
"""
"""A table whose rows somebody on the slave can move between partitions."""
ROWS = """
    INSERT INTO public.item (v) SELECT repeat('x', 100) FROM generate_series(1, 300);
    INSERT INTO public.pair SELECT i, i, 'first' FROM generate_series(1, 50) i;
    INSERT INTO public.debit SELECT i, 0 FROM generate_series(1, 5) i;
    INSERT INTO public.credit SELECT i, 0 FROM generate_series(1, 5) i;
    INSERT INTO public.gate_0 VALUES (1, 0);
    INSERT INTO public.gate_1 VALUES (1, 0);
    INSERT INTO public.gate_2 VALUES (1, 0);
    INSERT INTO public.moving SELECT i, 0 FROM generate_series(1, 5) i;
    INSERT INTO public.extra SELECT i, repeat('y', 100) FROM generate_series(1, 300) i;
"""
THROUGH_THE_GATES = """
    BEGIN;
    UPDATE public.gate_0 SET n = n + 1;
    UPDATE public.gate_1 SET n = n + 1;
    UPDATE public.gate_2 SET n = n + 1;
    UPDATE public.moving SET n = n + 1 WHERE id = 1;
    COMMIT
"""
"""A transaction of the master; in this order the slave locks the rows."""
MANY_NEW_ROWS = """
    INSERT INTO public.history (v) SELECT repeat('h', 200) FROM generate_series(1, 10000)
"""
"""Of a table that has nothing but new rows; more than the connections hold on their way."""
LIMITS = """
    CREATE TABLE public.limits (name text, setting text);
    CREATE FUNCTION public.limit_what_follows() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM set_config(name, setting, true) FROM public.limits;
        RETURN NULL;
    END $$;
    CREATE TRIGGER limits BEFORE UPDATE ON public.gate_0
        EXECUTE FUNCTION public.limit_what_follows();
    ALTER TABLE public.gate_0 ENABLE ALWAYS TRIGGER limits;
"""
"""On the slave: a user's trigger that sets timeouts for the rest of the batch. The daemon overrides
those of the database and of its role; a trigger that is always fired is left to set them."""
SUMS = """
    SELECT (SELECT coalesce(sum(balance), 0) FROM public.debit),
        (SELECT coalesce(sum(balance), 0) FROM public.credit)
"""
"""Every transaction leaves both sums equal."""

_PAUSE = 0.1
"""Seconds between two transactions of a writer: the daemon is to sleep now and then."""


class Worker(threading.Thread):
    """Does something over and over with a session of its own, whatever happens to the server."""

    def __init__(self, name: str, dsn: str, work: Callable[[Connection], None], pause: float):
        super().__init__(name=name)
        self._dsn = dsn
        self._work = work
        self._pause = pause
        self._end = threading.Event()
        self.awake = threading.Event()
        self.awake.set()
        self.errors: list[str] = []
        self.done = 0
        self.defect: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._end.is_set():
                try:
                    with connect(self._dsn) as session:
                        while not self._end.is_set():
                            self.awake.wait()
                            self._work(session)
                            self.done += 1
                            self._end.wait(self._pause)
                except PyReplicaError as error:
                    self.errors.append(error.line)
                    self._end.wait(self._pause)
        except BaseException as defect:
            self.defect = defect

    def end(self) -> None:
        """Stop it."""
        self._end.set()
        self.awake.set()
        self.join()
        assert self.defect is None, self.defect


class Load:
    """The writers, for the time of a block.

    Args:
        dsn: the master.
        seed: of what they choose by chance.
    """

    def __init__(self, dsn: str, seed: int) -> None:
        self._random = random.Random(seed)
        self.workers = [
            Worker("oltp", dsn, self._small, _PAUSE),
            Worker("bulk", dsn, self._bulk, _PAUSE * 8),
            Worker("long", dsn, self._long, _PAUSE),
        ]
        self._end_long = threading.Event()

    @property
    def errors(self) -> str:
        """What servers told the writers."""
        return "\n".join(line for worker in self.workers for line in worker.errors)

    @property
    def done(self) -> int:
        """The transactions so far."""
        return sum(worker.done for worker in self.workers)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """No further transaction begins in the block: the daemon will find nothing to do."""
        for worker in self.workers:
            worker.awake.clear()
        try:
            yield
        finally:
            for worker in self.workers:
                worker.awake.set()

    def _small(self, session: Connection) -> None:
        """A few changes of each kind, a part of which is taken back."""
        chance = self._random
        kind = chance.randrange(8)
        one, amount = chance.randrange(1, 6), chance.randrange(1, 100)
        session.execute(
            "BEGIN; INSERT INTO public.item (v) VALUES (repeat('i', 50)), ('two'); "
            f"UPDATE public.debit SET balance = balance + {amount} WHERE id = {one}; "
            f"UPDATE public.item SET n = n + 1 WHERE id % 97 = {amount % 97}; "
            "SAVEPOINT a; DELETE FROM public.pair; ROLLBACK TO a; "
            f"UPDATE public.credit SET balance = balance + {amount} WHERE id = {6 - one}"
        )
        if kind == 0:
            session.execute(f"DELETE FROM public.item WHERE id % 31 = {amount % 31}")
        elif kind < 3:  # keys change hands
            session.execute("UPDATE public.pair SET a = b, b = a + 1, v = 'key'")
        elif kind == 3:
            session.execute(f"UPDATE public.extra SET v = 'new' WHERE id % 50 = {amount % 50}")
        session.execute("ROLLBACK" if kind == 7 else "COMMIT")

    def _bulk(self, session: Connection) -> None:
        """A table is emptied and filled again, and some rows are added that make a large batch."""
        session.execute(
            "BEGIN; TRUNCATE public.scratch; "
            "INSERT INTO public.scratch SELECT i, repeat('s', 50) FROM generate_series(1, 400) i; "
            "INSERT INTO public.item (v) SELECT repeat('b', 100) FROM generate_series(1, 700); "
            "DELETE FROM public.item WHERE id < (SELECT max(id) FROM public.item) - 1500; "
            "COMMIT"
        )

    def _long(self, session: Connection) -> None:
        """A transaction that is open while many others commit: its first ids are low ones."""
        session.execute("BEGIN; INSERT INTO public.item (v) VALUES ('long, begun')")
        self._end_long.wait(0.4)
        session.execute("INSERT INTO public.item (v) VALUES ('long, done'); COMMIT")

    def __enter__(self) -> Load:
        for worker in self.workers:
            worker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Stop them."""
        self._end_long.set()
        with ExitStack() as stack:
            for worker in self.workers:
                if worker.ident is not None:
                    stack.callback(worker.end)


class Reader:
    """Reads the slave for the time of a block; sums that differ are part of a transaction."""

    def __init__(self, dsn: str) -> None:
        self.torn: list[tuple[int, int]] = []
        self._worker = Worker("reader", dsn, self._read, _PAUSE)

    def _read(self, session: Connection) -> None:
        debit, credit = session.one(SUMS)
        if debit != credit:
            self.torn.append((int(debit), int(credit)))

    def __enter__(self) -> Reader:
        self._worker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._worker.end()
