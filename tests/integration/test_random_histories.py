"""Random transactions, interleaved on several sessions, while the daemon comes and goes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from pyreplica.config import ReplicationConfig
from pyreplica.database import Connection
from pyreplica.errors import DatabaseError
from tests.conftest import Databases
from tests.support import assert_same, connect, copied, running

TABLES = """
CREATE TABLE public.a (id integer PRIMARY KEY, u integer UNIQUE, v text, n numeric);
CREATE TABLE public.b (x text, y integer, v float8, PRIMARY KEY (y, x));
CREATE TABLE public.c (
    id integer PRIMARY KEY, up integer REFERENCES public.c ON UPDATE CASCADE ON DELETE SET NULL
);
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.a SET v = v || '+' WHERE id = new.id AND length(v) < 3;
    RETURN NULL;
END
$$;
"""
TRIGGER = (
    "CREATE TRIGGER touch AFTER INSERT ON public.a FOR EACH ROW EXECUTE FUNCTION public.touch()"
)

SESSIONS = st.integers(0, 2)
KEYS = st.integers(1, 6)
STATEMENTS: tuple[str, ...] = (
    "INSERT INTO public.a VALUES ({k}, {l}, 'a', 1.0) ON CONFLICT DO NOTHING",
    "INSERT INTO public.a VALUES ({k}, {l}, 'b') ON CONFLICT (id) DO UPDATE SET v = 'c'",
    "UPDATE public.a SET u = NULL, n = n + 0.10 WHERE id IN ({k}, {l})",
    "UPDATE public.a SET u = {k} WHERE id = {l}",
    "UPDATE public.a SET id = id + 10 WHERE id = {k}",
    "UPDATE public.a SET id = id - 10 WHERE id > 10",
    "DELETE FROM public.a WHERE id = {k}",
    "WITH d AS (DELETE FROM public.a WHERE id = {k} RETURNING *) "
    "INSERT INTO public.a SELECT id, u, 'moved' FROM d",
    "INSERT INTO public.b VALUES ('x', {k}, 0), ('y', {k}, '-0') ON CONFLICT DO NOTHING",
    "UPDATE public.b SET v = -v WHERE y = {k}",
    "UPDATE public.b SET x = x || 'x' WHERE y = {k} AND length(x) < 4",
    "DELETE FROM public.b WHERE y = {k}",
    "INSERT INTO public.c VALUES ({k}, (SELECT max(id) FROM public.c)) ON CONFLICT DO NOTHING",
    "UPDATE public.c SET id = id + 10 WHERE id = {k}",
    "UPDATE public.c SET id = id - 10 WHERE id > 10",
    "DELETE FROM public.c WHERE id = {k}",
    "TRUNCATE public.b",
    "DO $$ BEGIN INSERT INTO public.b VALUES ('do', {k}, 1); "
    "UPDATE public.b SET v = 2 WHERE y = {k}; DELETE FROM public.b WHERE y = {l}; "
    "EXCEPTION WHEN unique_violation THEN NULL; END $$",
)


class Histories(RuleBasedStateMachine):
    """One history: what the sessions do, and when the daemon is there."""

    made: ReplicationConfig
    databases: Databases

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.sessions = [self.stack.enter_context(connect(self.databases.master)) for _ in range(3)]
        self.sessions[0].execute("TRUNCATE public.a, public.b, public.c")
        for session in self.sessions:
            session.execute("SET lock_timeout = '20ms'")
        self.daemon: ExitStack | None = None

    @rule(number=SESSIONS, level=st.sampled_from(("READ COMMITTED", "REPEATABLE READ")))
    def begin(self, number: int, level: str) -> None:
        """Begin anew; an open transaction is committed first."""
        self._do(number, "COMMIT")
        self._do(number, f"BEGIN ISOLATION LEVEL {level}")

    @rule(number=SESSIONS, statement=st.sampled_from(STATEMENTS), k=KEYS, l=KEYS)
    def change(self, number: int, statement: str, k: int, l: int) -> None:  # noqa: E741
        """One statement."""
        self._do(number, statement.format(k=k, l=l))

    @rule(number=SESSIONS)
    def commit(self, number: int) -> None:
        """Commit; without a transaction that does nothing."""
        self._do(number, "COMMIT")

    @rule(number=SESSIONS)
    def roll_back(self, number: int) -> None:
        """Roll back all."""
        self._do(number, "ROLLBACK")

    @rule(number=SESSIONS, statement=st.sampled_from(STATEMENTS), k=KEYS, l=KEYS)
    def change_and_take_back(self, number: int, statement: str, k: int, l: int) -> None:  # noqa: E741
        """A statement that is rolled back to a savepoint."""
        self._do(number, "BEGIN; SAVEPOINT s")
        self._do(number, statement.format(k=k, l=l))
        self._do(number, "ROLLBACK TO SAVEPOINT s")

    @rule()
    def start_or_stop_the_daemon(self) -> None:
        """The daemon comes or goes."""
        if self.daemon is None:
            self.daemon = ExitStack()
            self.daemon.enter_context(running(self.made))
        else:
            self.daemon.close()
            self.daemon = None

    def teardown(self) -> None:
        """Commit what is open, let the slave catch up, compare."""
        try:
            for number in range(3):
                self._do(number, "COMMIT")
            if self.daemon is None:
                self.start_or_stop_the_daemon()
            self.compare()
        finally:
            if self.daemon is not None:
                self.daemon.close()
            self.stack.close()

    def compare(self) -> None:
        """The slave has what it is to have."""
        assert_same(self.made)

    def _do(self, number: int, statement: str) -> None:
        session: Connection = self.sessions[number]
        try:
            session.execute(statement)
        except DatabaseError:
            # another session has the row, or a snapshot is too old: as an application would
            session.rollback()


@pytest.fixture(params=["plain", "with a trigger"])
def trigger(request: pytest.FixtureRequest) -> str:
    """SQL that is run on the master once the tables are captured."""
    return TRIGGER if request.param == "with a trigger" else "SELECT 1"


@pytest.mark.usefixtures("apply_path")
def test_after_any_history_the_slave_equals_the_master(databases: Databases, trigger: str) -> None:
    made = copied(databases, TABLES)
    with connect(databases.master) as session:
        session.execute(trigger)
    attributes: dict[str, Any] = {"made": made, "databases": databases}
    machine: Callable[[], RuleBasedStateMachine] = type("OfThisTest", (Histories,), attributes)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
