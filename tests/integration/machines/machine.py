"""The state machine: random transactions on three sessions, and a daemon that comes and goes.

What it has done is kept as a script, which is printed when an example fails.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2
import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from pyreplica.config import ReplicationConfig
from pyreplica.master import log
from pyreplica.model import Step
from pyreplica.replication.compare import compare
from pyreplica.replication.session import Session as Replicating
from pyreplica.slave import inserts
from tests.integration.capture.oracle import Session
from tests.integration.machines.alterations import Alteration, alterations
from tests.integration.machines.pair import (
    WRITERS,
    Pair,
    Rows,
    has_failed,
    in_transaction,
    is_expected,
    settings_of,
)
from tests.integration.machines.schemas import Schema, named, schemas
from tests.integration.machines.statements import filling, statements
from tests.integration.machines.tables import Table

NUMBERS = st.sampled_from(range(len(WRITERS)))
LEVELS = st.sampled_from(("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"))
FETCHED = st.sampled_from((1000, 1, 3))
"""So many changes go through the staging table."""
DEATHS = st.sampled_from(
    (Step.FETCHED, Step.PREPARED, Step.CONFIRMED, Step.COMMITTED, Step.RECOVERED)
)
NEWEST_TICK = (
    "SELECT snapshot::text FROM pyreplica.replica_tick "
    "ORDER BY xmax_ DESC, xmin_ DESC, running LIMIT 1"
)
MOST_ALTERATIONS = 3
"""Each takes as long as many statements."""
MOST_BATCHES = 200
"""More than any history of a machine can be cut into."""


class Died(Exception):
    """The daemon is gone, in the middle of a batch."""


class Conflicts(logging.Handler):
    """The warnings of a replication: what is applied must meet what it expects."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line that tells of a conflict."""
        if "conflict" in record.getMessage():
            self.lines.append(record.getMessage())


class Daemon:
    """What the loop does, one step at a time; it can be lost after any step of a batch."""

    def __init__(self, pair: Pair, made: ReplicationConfig) -> None:
        self._pair = pair
        self._config = made
        self._session: Replicating | None = None
        self._dies_after: Step | None = None
        self.conflicts = Conflicts()
        logging.getLogger(f"pyreplica.{made.name}").addHandler(self.conflicts)

    @property
    def session(self) -> Replicating:
        """Both connections; made anew after they were lost."""
        if self._session is None:
            self._pair.until_alone()
            self._session = Replicating(self._config, self._observe)
        return self._session

    def step(self, fetched: int) -> bool:
        """Move a batch, if there is anything to move."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(log, "FETCH_ROWS", fetched)
            patch.setattr(inserts, "FEWEST_ROWS", fetched)
            moved, _ = self.session.step()
        return bool(moved)

    def die(self, fetched: int, after: Step) -> bool:
        """Lose both connections after a step of the next batch; whether it came to that."""
        self._dies_after = after
        try:
            self.step(fetched)
        except Died:
            self.close()
            return True
        finally:
            self._dies_after = None
        return False

    def close(self) -> None:
        """Lose both connections."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def end(self) -> None:
        """The example is over."""
        self.close()
        logging.getLogger(f"pyreplica.{self._config.name}").removeHandler(self.conflicts)

    def _observe(self, step: Step, batch: int) -> None:
        if step is self._dies_after:
            raise Died


class Machine(RuleBasedStateMachine):
    """One example: a schema, what the sessions do, and what becomes of it on the slave."""

    pair: Pair

    def __init__(self) -> None:
        super().__init__()
        self.script = io.StringIO()
        self.tables: list[Table] = []
        self.savepoints: list[list[str]] = [[] for _ in WRITERS]
        self.daemon: Daemon | None = None
        self.states: dict[str, Rows] = {}
        self.failed = False
        self.altered = 0

    # The sessions

    @initialize(
        schema=schemas(),
        data=st.data(),
        commit=st.sampled_from(("two-phase", "two-phase", "one-phase")),
        batch_rows=st.sampled_from((1, 4, 50_000)),
        capture=st.sampled_from(("plpython3u", "plpgsql")),
    )
    def begin_with_some_rows(
        self, schema: Schema, data: st.DataObject, commit: str, batch_rows: int, capture: str
    ) -> None:
        """Make the tables, fill them a little, copy them."""
        self.pair.empty()
        self.programs = schema.programs
        self.tables = list(schema.tables)
        both = (*schema.tables, *schema.on_slave)
        self.related = {t.parent for t in self.tables} | {t.name for t in self.tables if t.parent}
        self.partitioned = {table.name for table in both if table.partitions.by}
        self._write_down("on the master", *schema.master)
        self._write_down("on the slave", *schema.slave)
        self.pair.make(schema.master, schema.slave)
        for statement in [s for table in self.tables for s in filling(table)]:
            self._do(0, statement)
        for statement in data.draw(st.lists(self._statements(), max_size=3)):
            self._do(0, statement)
        self._write_down(f"capture: {capture}; copy, commit: {commit}, batch_rows: {batch_rows}")
        self.made = self.pair.replicate(
            self.tables, commit=commit, batch_rows=batch_rows, capture=capture
        )
        self.daemon = Daemon(self.pair, self.made)
        self._assert_same()

    @rule(number=NUMBERS, level=LEVELS)
    def begin(self, number: int, level: str) -> None:
        """Begin a transaction."""
        if not in_transaction(self.pair.writers[number]):
            self._do(number, f"BEGIN ISOLATION LEVEL {level}")

    @rule(number=NUMBERS, data=st.data())
    def write(self, number: int, data: st.DataObject) -> None:
        """A statement or two."""
        for statement in data.draw(st.lists(self._statements(), min_size=1, max_size=2)):
            self._do(number, statement)

    @rule(number=NUMBERS, data=st.data())
    def write_in_one_message(self, number: int, data: st.DataObject) -> None:
        """Statements that are sent together; the server sees one message of the client."""
        several = data.draw(st.lists(self._statements(), min_size=2, max_size=4))
        together = [statement for statement in several if not statement.startswith("COPY")]
        self._do(number, "; ".join(together or ["SELECT"]))

    @rule(number=NUMBERS, data=st.data())
    def write_a_transaction(self, number: int, data: st.DataObject) -> None:
        """A transaction of its own, after the end of the open one."""
        self._do(number, "COMMIT")
        self._do(number, "BEGIN")
        for statement in data.draw(st.lists(self._statements(), min_size=1, max_size=4)):
            self._do(number, statement)
        self._do(number, "COMMIT")

    @rule(number=NUMBERS, data=st.data())
    def write_something_else(self, number: int, data: st.DataObject) -> None:
        """One more rule that writes, because that is what is mostly done."""
        self._do(number, data.draw(self._statements()))

    @rule(number=NUMBERS, what=st.sampled_from(("SAVEPOINT", "ROLLBACK TO", "RELEASE")))
    def use_a_savepoint(self, number: int, what: str) -> None:
        """SAVEPOINT in a transaction, or what can be done with the last one."""
        names = self.savepoints[number]
        if what == "SAVEPOINT":
            if in_transaction(self.pair.writers[number]):
                self._do(number, f"SAVEPOINT s{len(names)}")
                names.append(f"s{len(names)}")
        elif names:
            self._do(number, f"{what} {names[-1]}")
            if what == "RELEASE":
                names.pop()

    @rule(number=NUMBERS, how=st.sampled_from(("COMMIT", "COMMIT", "ROLLBACK")))
    def end(self, number: int, how: str) -> None:
        """End a transaction."""
        self._do(number, how)

    @rule(number=NUMBERS)
    def leave_a_tick(self, number: int) -> None:
        """Leave a snapshot behind, at which a backlog may be cut: as who has logged much does."""
        writer = self.pair.writers[number]
        if has_failed(writer):
            return
        done = self._do(number, "SELECT pyreplica.tick()")
        if done and writer.value("SHOW transaction_isolation") == "read committed":
            # its snapshot is of this moment: what a slave has to show that is brought to it
            snapshot = writer.value(NEWEST_TICK)
            rows = self.pair.rows_of_master()
            if rows is not None:
                self.states[snapshot] = rows

    # The daemon

    @rule(fetched=FETCHED, times=st.sampled_from((1, 1, 2, 100)))
    def replicate(self, fetched: int, times: int) -> None:
        """Some batches."""
        for _ in range(times):
            if not self._step(fetched):
                break

    @rule(fetched=FETCHED, after=DEATHS)
    def lose_the_daemon(self, fetched: int, after: Step) -> None:
        """It dies in the middle of a batch."""
        assert self.daemon is not None
        self._write_down(f"the daemon dies after {after.value}; {fetched} are too many to fold")
        with self._watched():
            self.daemon.die(fetched, after)

    @rule(what=st.sampled_from(("rotate", "sleep", "wake", "restart", "pool")), number=NUMBERS)
    def keep_house(self, what: str, number: int) -> None:
        """What changes no row."""
        assert self.daemon is not None
        self._write_down(f"{what} {number}")
        with self._watched():
            session = self.daemon.session
            if what == "rotate":
                session.master.rotate(0)
            elif what in ("sleep", "wake"):
                session.master.set_doorbell(session.bit, what == "sleep")
            elif what == "restart":
                self.daemon.close()
            else:
                self._change_hands(number)

    def _change_hands(self, number: int) -> None:
        """What poolers do before they give a connection to somebody else."""
        for statement in ("ROLLBACK", "DISCARD ALL", *settings_of(number)):
            self._do(number, statement)

    # The tables

    @rule(data=st.data())
    def alter_a_table(self, data: st.DataObject) -> None:
        """DDL on both sides."""
        free = [n for n, table in enumerate(self.tables) if table.name not in self.related]
        if not free or self.altered == MOST_ALTERATIONS:
            return
        number = data.draw(st.sampled_from(free))
        table = self.tables[number]
        fixed = [c.name for c in table.columns if named(self.programs, c)]
        fixed += [
            c.name for c in table.columns if any(c.name in o.generated for o in table.columns)
        ]
        self.altered += 1
        altered = data.draw(alterations(table, fixed, self.altered))
        if altered.statement.startswith("CREATE") and table.name in self.partitioned:
            return  # a unique index would have to have the columns of the partitions
        if altered.slave_first:
            done = self._alter(self.pair.slave, altered) and self._alter(self.pair.master, altered)
        else:
            self._end_transactions()
            self._catch_up()
            done = self._alter(self.pair.master, altered)
            assert not done or self._alter(self.pair.slave, altered)
        if done:
            self.tables[number] = altered.after
        self.pair.look(self.tables)
        self.states.clear()
        assert self.daemon is not None
        self.daemon.close()  # it has described the slave's tables

    def _alter(self, side: Session, altered: Alteration) -> bool:
        """Alter a table; whether its rows and what is locked allowed that."""
        where = "master" if side is self.pair.master else "slave"
        self._write_down(f"on the {where}", altered.statement)
        try:
            side.run("SET lock_timeout = '30ms'", altered.statement)
        except psycopg2.Error as error:
            self._write_down(f"failed: {error}")
            if not is_expected(error) and error.pgcode not in ("2BP01", "42P16"):
                raise
            return False
        finally:
            side.run("RESET lock_timeout")
        return True

    # The end

    def teardown(self) -> None:
        """End what is open, let the slave catch up, compare."""
        try:
            if self.daemon is not None and not self.failed:
                self._end_transactions()
                self._catch_up()
                self._assert_same()
                assert all(result.equal for result in compare(self.made))
        finally:
            for number in range(len(WRITERS)):
                self.pair.writers[number].run("ROLLBACK")
            if self.daemon is not None:
                self.daemon.end()
            note("\n" + self.script.getvalue())

    # Parts

    def _statements(self) -> st.SearchStrategy[str]:
        return statements(tuple(self.tables), self.pair.version)

    def _do(self, number: int, statement: str) -> bool:
        """Execute a statement; when it fails, answer False and roll back as applications do."""
        done = True
        writer = self.pair.writers[number]
        self._write_down(f"session {number}", statement)
        try:
            if statement.startswith("COPY"):
                head, _, data = statement.partition("\n")
                writer.copy_in(head, io.StringIO(data))
            else:
                writer.run(statement)
        except psycopg2.Error as error:
            done = False
            self._write_down(f"failed: {error}")
            if not is_expected(error):
                self.failed = True
                raise
            if self.savepoints[number] and in_transaction(writer):
                self._write_down(f"session {number}", f"ROLLBACK TO {self.savepoints[number][-1]}")
                writer.run(f"ROLLBACK TO {self.savepoints[number][-1]}")
            else:
                writer.run("ROLLBACK")
        if not in_transaction(writer):
            self.savepoints[number].clear()
        return done

    def _end_transactions(self) -> None:
        for number in range(len(WRITERS)):
            self._do(number, "COMMIT")

    def _catch_up(self) -> None:
        for _ in range(MOST_BATCHES):
            if not self._step(1000):
                return
        raise AssertionError(f"the slave has not caught up in {MOST_BATCHES} batches")

    def _step(self, fetched: int) -> bool:
        """One batch, and whether there was one; then the slave has to be what its cursor says."""
        assert self.daemon is not None
        with self._watched():
            moved = self.daemon.step(fetched)
            cursor = self.daemon.session.cursor
            self._write_down(f"batch {cursor.batch} ({fetched} are too many to fold)")
            state = self.states.get(str(cursor.position.snapshot))
            if state is not None:
                self._assert_equal(state)
            elif not moved:
                self._assert_same()
        return moved

    def _assert_same(self) -> None:
        """The slave has caught up: it has what everybody sees on the master."""
        rows = self.pair.rows_of_master()
        if rows is not None:
            self._assert_equal(rows)

    def _assert_equal(self, expected: Rows) -> None:
        assert self.pair.rows(self.pair.slave) == expected

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Look for conflicts; and remember a failure, so that the end does not look for another."""
        assert self.daemon is not None
        self.failed = True
        yield
        assert self.daemon.conflicts.lines == []
        self.failed = False

    def _write_down(self, what: str, *statements_: str) -> None:
        self.script.write("".join(f"-- {line}\n" for line in what.splitlines()))
        for statement in statements_:
            self.script.write(f"{statement};\n")
