"""The mixed load on the master: what a busy application and its administrator do, all at once."""

from __future__ import annotations

import itertools
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from pyreplica.database import Connection
from pyreplica.errors import PyReplicaError
from tests.faults.load import Load, Worker
from tests.support import LIMIT

TABLES = """
    CREATE TABLE public.item (id bigserial PRIMARY KEY, v text, n integer NOT NULL DEFAULT 0);
    CREATE TABLE public.pair (a integer, b integer, v text, PRIMARY KEY (a, b));
    CREATE TABLE public.debit (id integer PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE public.credit (id integer PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE public.bulk (id integer PRIMARY KEY, v text, n integer NOT NULL DEFAULT 0);
    CREATE TABLE public.scratch (id integer PRIMARY KEY, v text);
    CREATE TABLE public.large (id integer PRIMARY KEY, v text, b bytea, n integer DEFAULT 0);
    CREATE TABLE public.altered (id integer PRIMARY KEY, v text, n integer NOT NULL DEFAULT 0);
    CREATE TABLE public.ticket (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, number bigint);
    CREATE SEQUENCE public.number CACHE 5 OWNED BY public.ticket.number;
    CREATE TABLE public.heartbeat (id integer PRIMARY KEY, at timestamptz NOT NULL);
    CREATE TABLE public.mark (id integer PRIMARY KEY);
"""
ROWS = """
    INSERT INTO public.item (v) SELECT repeat('x', 100) FROM generate_series(1, 2000);
    INSERT INTO public.pair SELECT i, i, 'first' FROM generate_series(1, 50) i;
    INSERT INTO public.debit SELECT i, 0 FROM generate_series(1, 20) i;
    INSERT INTO public.credit SELECT i, 0 FROM generate_series(1, 20) i;
    INSERT INTO public.bulk (id, v) SELECT i, repeat('b', 100) FROM generate_series(1, 20000) i;
    INSERT INTO public.altered (id, v) SELECT i, 'first' FROM generate_series(1, 500) i;
    INSERT INTO public.heartbeat VALUES (1, clock_timestamp());
"""
TABLE_NAMES = re.findall(r"TABLE public\.(\w+)", TABLES)

BULK_ROWS = 10_000
"""What one statement of the bulk load writes."""
SESSIONS = 4
"""Of the small transactions."""

_LARGE = 20
"""Rows of large values; each is written over and over."""
_VALUE = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, {}))"
_COLUMNS = """
    SELECT attname FROM pg_catalog.pg_attribute
    WHERE attrelid = 'public.altered'::regclass AND attname ~ '^c[0-9]' AND NOT attisdropped
    ORDER BY attnum
"""


class MixedLoad(Load):
    """The writers, for the time of a block.

    Args:
        dsn: the master.
        config: the configuration for `pyreplica execute`.
        folder: for its scripts.
        seed: of what the writers choose by chance.
        long: how many seconds a long transaction stays open.
        every: multiplies the pauses of all but the small transactions.
    """

    def __init__(
        self, dsn: str, config: Path, folder: Path, *, seed: int, long: float, every: float
    ) -> None:
        super().__init__(dsn, seed)
        self._config = config
        self._folder = folder
        self._long_seconds = long
        self._seed = seed
        small = [("small", self._oltp, 0.05)] * SESSIONS
        others = [
            ("bulk", self._many, 4 * every),
            ("empty", self._empty, 5 * every),
            ("large", self._values, 3 * every),
            ("ticket", self._ticket, 0.2),
            ("long", self._open, every),
            ("ddl", self._alter, 8 * every),
            ("heartbeat", self._beat, 0.2),
        ]
        makers: list[tuple[str, Callable[[Connection, random.Random], None], float]]
        makers = [*small, *others]
        self.workers = [
            Worker(name, dsn, self._chancy(work, number), pause)
            for number, (name, work, pause) in enumerate(makers)
        ]
        self._scripts = itertools.count(1)
        self._lulls = threading.Thread(target=self._lull, args=(12 * every, 2 * every))

    def _chancy(
        self, work: Callable[[Connection, random.Random], None], number: int
    ) -> Callable[[Connection], None]:
        chance = random.Random(f"{self._seed} {number}")
        return lambda session: work(session, chance)

    def __enter__(self) -> MixedLoad:
        super().__enter__()
        self._lulls.start()
        return self

    def end(self) -> None:
        """Stop all of it."""
        super().end()
        if self._lulls.ident is not None:
            self._lulls.join()

    def by_kind(self) -> dict[str, int]:
        """The transactions so far of each kind."""
        done: dict[str, int] = {}
        for worker in self.workers:
            done[worker.name] = done.get(worker.name, 0) + worker.done
        return done

    def _lull(self, every: float, lasting: float) -> None:
        """Now and then nobody begins anything: the daemon is to fall asleep."""
        while not self._end_long.wait(every):
            with self.resting():
                self._end_long.wait(lasting)

    # The kinds

    def _oltp(self, session: Connection, chance: random.Random) -> None:
        """A few changes of each kind, a part of which is taken back."""
        kind = chance.randrange(10)
        one, amount = chance.randrange(1, 21), chance.randrange(1, 1000)
        session.execute(
            "BEGIN; INSERT INTO public.item (v) VALUES (repeat('i', 50)), ('two'); "
            f"UPDATE public.debit SET balance = balance + {amount} WHERE id = {one}; "
            "SAVEPOINT a; INSERT INTO public.item (v) VALUES ('not kept'); "
            "UPDATE public.pair SET v = 'not kept'; ROLLBACK TO a; "
            f"UPDATE public.credit SET balance = balance + {amount} WHERE id = {one}; "
            f"UPDATE public.item SET n = n + 1 WHERE id = currval('public.item_id_seq') - {amount}"
        )
        if kind < 3:
            session.execute(
                "DELETE FROM public.item WHERE id IN (SELECT id FROM public.item "
                "WHERE id < currval('public.item_id_seq') - 3000 "
                "ORDER BY id LIMIT 20 FOR UPDATE SKIP LOCKED)"
            )
        elif kind == 3:  # keys change hands
            session.execute("UPDATE public.pair SET a = b, b = a + 1, v = 'key'")
        elif kind < 6:
            session.execute(f"UPDATE public.altered SET n = n + 1 WHERE id % 100 = {amount % 100}")
        elif kind == 6:
            session.execute(
                f"DELETE FROM public.altered WHERE id = {amount}; INSERT INTO public.altered "
                f"(id, v) VALUES ({amount}, 'again') ON CONFLICT (id) DO UPDATE SET v = 'stood'"
            )
        session.execute("ROLLBACK" if kind == 9 else "COMMIT")

    def _many(self, session: Connection, chance: random.Random) -> None:
        """Statements of some 10,000 rows: inserted, updated, deleted, given other keys."""
        kind = chance.randrange(5)
        if kind == 0:
            session.execute(
                "INSERT INTO public.bulk (id, v) SELECT m + i, repeat('n', 50 + i % 100) "
                "FROM (SELECT coalesce(max(id), 0) AS m FROM public.bulk) b, "
                f"generate_series(1, {BULK_ROWS}) i"
            )
        elif kind == 1:
            session.execute(
                "DELETE FROM public.bulk WHERE id <= "
                f"(SELECT max(id) FROM public.bulk) - 2 * {BULK_ROWS}"
            )
        elif kind == 2:  # each of these keys becomes another one
            session.execute(
                f"UPDATE public.bulk SET id = id + {BULK_ROWS} WHERE id > "
                f"(SELECT max(id) - {BULK_ROWS} FROM public.bulk)"
            )
        else:
            session.execute(
                "UPDATE public.bulk SET n = n + 1 WHERE id > "
                f"(SELECT max(id) - {BULK_ROWS} FROM public.bulk)"
            )

    def _empty(self, session: Connection, chance: random.Random) -> None:
        """A table is emptied and filled again in one transaction."""
        rows = chance.randrange(10, 1500)
        session.execute(
            "BEGIN; TRUNCATE public.scratch; INSERT INTO public.scratch "
            f"SELECT i, repeat('s', 50) FROM generate_series(1, {rows}) i; COMMIT"
        )

    def _values(self, session: Connection, chance: random.Random) -> None:
        """Values of up to 2 MB, and updates that leave them alone."""
        one, size = chance.randrange(_LARGE), chance.randrange(100, 60_000)
        session.execute(
            f"INSERT INTO public.large (id, v, b) VALUES ({one}, {_VALUE.format(size)}, "
            f"convert_to({_VALUE.format(size // 4)}, 'UTF8')) "
            "ON CONFLICT (id) DO UPDATE SET v = excluded.v, b = excluded.b"
        )
        session.execute("UPDATE public.large SET n = n + 1")

    def _ticket(self, session: Connection, chance: random.Random) -> None:
        """Numbers from sequences, some of which no row gets."""
        session.execute(
            "SELECT nextval('public.number'); INSERT INTO public.ticket (number) "
            f"SELECT nextval('public.number') FROM generate_series(1, {chance.randrange(1, 4)}); "
            "DELETE FROM public.ticket WHERE id < currval('public.ticket_id_seq') - 1000"
        )

    def _open(self, session: Connection, chance: random.Random) -> None:
        """A transaction that is open while many others commit: its first ids are low ones."""
        session.execute("BEGIN; INSERT INTO public.item (v) VALUES ('long, begun')")
        self._end_long.wait(self._long_seconds)
        session.execute("INSERT INTO public.item (v) VALUES ('long, done')")
        session.execute("ROLLBACK" if chance.randrange(5) == 0 else "COMMIT")

    def _beat(self, session: Connection, chance: random.Random) -> None:
        """What the lag is measured with."""
        session.execute("UPDATE public.heartbeat SET at = clock_timestamp()")

    def _alter(self, session: Connection, chance: random.Random) -> None:
        """A DDL script. What there is to alter is looked up: nobody knows whether the last one
        was committed when the master crashed in it."""
        columns = [name for (name,) in session.query(_COLUMNS)]
        number = next(self._scripts)
        if len(columns) > 3:
            lines = [f"ALTER TABLE public.altered DROP COLUMN {columns[0]};"]
        elif columns and chance.randrange(3) == 0:
            lines = [f"ALTER TABLE public.altered RENAME {columns[-1]} TO c{number};"]
        else:
            lines = [
                f"ALTER TABLE public.altered ADD COLUMN c{number} integer DEFAULT {number};",
                f"UPDATE public.altered SET c{number} = n WHERE id % 7 = 0;",
                "CREATE INDEX IF NOT EXISTS altered_n ON public.altered (n);",
            ]
        script = self._folder / "script.sql"
        script.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pyreplica", "--config", str(self._config)]
        done = subprocess.run(
            [*command, "execute", "--timeout", "0", str(script)],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        if done.returncode != 0:
            raise PyReplicaError(f"execute: {' '.join(done.stderr.split())}")
