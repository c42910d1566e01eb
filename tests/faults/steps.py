"""The rows of the matrix: where the product stands when a fault strikes.

Each step is a context manager: it begins everything, returns when the product stands at the step,
and lets it go on at the end of its block. A program is held there in one of two ways. Either it
pauses where the product tells an observer of the step (pausing.py), or it waits for a server, for a
lock that the test holds or for a standby that there is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from tests.faults.cell import Cell
from tests.faults.features import filtered, forwarding, merged, transformed
from tests.faults.holds import blocked, commits_wait, holding, waits
from tests.faults.load import MANY_NEW_ROWS, THROUGH_THE_GATES
from tests.faults.programs import Program
from tests.support import connect, eventually, sql, value

DOORBELL = "LOCK TABLE pyreplica.replica_bell IN EXCLUSIVE MODE"
_SEGMENTS = """
    SELECT format('pyreplica.replica_log_%s', b)::regclass AS written,
        format('pyreplica.replica_log_%s', 1 - b)::regclass AS resting
    FROM (SELECT last_value & 1 AS b FROM pyreplica.doorbell) d
"""
_MAY_BE_RETIRED = f"""
    SELECT pg_relation_size(written) > 0 AND pg_relation_size(resting) = 0 FROM ({_SEGMENTS}) s
"""
_MAY_BE_TRUNCATED = f"""
    SELECT pg_relation_size(resting) > 0 AND NOT pyreplica.is_awaited(resting)
        AND NOT EXISTS (SELECT FROM pg_locks WHERE relation = resting AND pid <> pg_backend_pid())
    FROM ({_SEGMENTS}) s
"""
_IS_JOINING = "SELECT state FROM pyreplica.replica_copy WHERE table_name = 'extra'"
_IS_LOCKED = """
    SELECT count(*) = 0 FROM (
        SELECT FROM pyreplica.replica_copy WHERE table_name = 'extra' FOR UPDATE SKIP LOCKED) c
"""

At = Callable[[Cell], AbstractContextManager[None]]


@dataclass(frozen=True)
class Step:
    """A row.

    Args:
        name: its heading.
        at: brings a cell there.
        executing: the side that is executing a statement of the product then, if any.
        gates: a batch stands before the slave's row gate_1.
        batches: a daemon moves batches afterwards, and says what it meets.
        prepares: batches are prepared.
    """

    name: str
    at: At
    executing: str | None = None
    gates: bool = False
    batches: bool = True
    prepares: bool = True


# How a program is held


def _paused(step: str) -> At:
    """The daemon pauses after a step of a batch."""

    @contextmanager
    def at(cell: Cell) -> Iterator[None]:
        cell.begin()
        cell.daemon.pause(step)
        yield
        cell.daemon.go()

    return at


# Batches


@contextmanager
def _applying(cell: Cell, *arguments: str, commit: str = "two-phase") -> Iterator[None]:
    cell.options(commit=commit)
    cell.begin(*arguments)
    slave = cell.databases.slave
    with holding(slave, "SELECT FROM public.gate_1 FOR UPDATE"):
        sql(cell.databases.master, THROUGH_THE_GATES)
        eventually(blocked(slave), "the batch does not wait at the gate")
        yield


@contextmanager
def _staging(cell: Cell) -> Iterator[None]:
    cell.begin("--staged")
    slave = cell.databases.slave
    stage = value(slave, "SELECT format('pyreplica.stage_%s', id) FROM pyreplica.replica_cursor")
    with holding(slave, f"LOCK TABLE {stage} IN SHARE MODE"):
        eventually(blocked(slave), "the batch does not wait for the staging table")
        yield


@contextmanager
def _inserting(cell: Cell) -> Iterator[None]:
    cell.begin()
    slave = cell.databases.slave
    with holding(slave, "LOCK TABLE public.history IN SHARE MODE"):
        sql(cell.databases.master, MANY_NEW_ROWS)
        eventually(blocked(slave), "the batch does not wait for the table")
        yield


@contextmanager
def _confirming(cell: Cell) -> Iterator[None]:
    cell.begin()
    master = cell.databases.master
    with holding(master, "SELECT FROM pyreplica.replica_slave FOR UPDATE"):
        eventually(blocked(master), "the confirmation does not wait for the record")
        yield


@contextmanager
def _committing(cell: Cell) -> Iterator[None]:
    cell.begin()
    cell.daemon.pause("confirmed")
    with commits_wait(cell, cell.databases.slave_cluster):
        cell.daemon.go()
        eventually(
            waits(cell.databases.slave, "SyncRep", "COMMIT PREPARED"), "the commit does not wait"
        )
        yield


def _one_phase(step: str) -> At:
    @contextmanager
    def at(cell: Cell) -> Iterator[None]:
        cell.options(commit="one-phase")
        with _paused(step)(cell):
            yield

    return at


def _with(feature: Callable[[Cell], None], at: At) -> At:
    """The same with a feature at work."""

    @contextmanager
    def with_it(cell: Cell) -> Iterator[None]:
        feature(cell)
        with at(cell):
            yield

    return with_it


# Recovery


def _leave_a_batch_in_doubt(cell: Cell) -> None:
    cell.begin()
    cell.daemon.pause("prepared")
    cell.daemon.kill()


@contextmanager
def _recovering(cell: Cell) -> Iterator[None]:
    _leave_a_batch_in_doubt(cell)
    master = cell.databases.master
    with holding(master, "LOCK TABLE pyreplica.replica_slave IN ACCESS EXCLUSIVE MODE"):
        cell.daemon = cell.program("run")
        eventually(blocked(master), "the daemon does not wait for the record")
        yield


@contextmanager
def _recovered(cell: Cell) -> Iterator[None]:
    _leave_a_batch_in_doubt(cell)
    cell.daemon = cell.program("run", "--pause", "recovered")
    cell.daemon.until_said("paused: recovered")
    yield
    cell.daemon.go()


# Copies


def _finished(cell: Cell, command: Program, *again: str) -> None:
    """A copy has ended; if it has failed it is simply run again."""
    if command.end() != 0:
        assert cell.program(*again).end() == 0, cell.logs()


def _copying(point: str) -> At:
    @contextmanager
    def at(cell: Cell) -> Iterator[None]:
        cell.stack.enter_context(cell.load)
        cell.command = cell.program("copy", "--pause", point)
        cell.command.until_said("paused: ")
        yield
        cell.command.go()
        command = cell.command

        def finish() -> None:
            _finished(cell, command, "copy")
            cell.copied()
            cell.daemon = cell.program("run")

        cell.later.append(finish)

    return at


@contextmanager
def _indexing(cell: Cell) -> Iterator[None]:
    slave = cell.databases.slave
    sql(slave, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    cell.stack.enter_context(cell.load)
    command = cell.program("copy", "--schema", "--pause", "making indexes of public.item")
    cell.command = command
    command.until_said("paused: ")
    with holding(slave, "LOCK TABLE public.item IN ROW EXCLUSIVE MODE"):
        command.go()
        eventually(blocked(slave), "making the key does not wait for the table")
        yield

    def finish() -> None:
        _finished(cell, command, "copy", "--schema")
        cell.copied()
        cell.daemon = cell.program("run")

    cell.later.append(finish)


@contextmanager
def _adding(cell: Cell) -> Iterator[None]:
    cell.begin()
    cell.add_extra()
    command = cell.program("add", "--table", "public.extra", "--pause", "rows")
    cell.command = command
    command.until_said("paused: ")
    yield
    command.go()
    cell.later.append(lambda: _finish_adding(cell, command))


@contextmanager
def _joining(cell: Cell) -> Iterator[None]:
    cell.begin()
    cell.add_extra()
    cell.daemon.pause("committed")
    command = cell.program("add", "--table", "public.extra")  # the daemon is what stands here
    slave = cell.databases.slave
    eventually(
        lambda: command.running and _has_joining_table(slave), f"it is not copied: {cell.logs()}"
    )
    while True:
        since = cell.daemon.mark()
        cell.daemon.arm("prepared")
        cell.daemon.go()
        cell.daemon.until_said("paused: prepared", since)
        if value(slave, _IS_LOCKED):  # by the batch that brings the table in
            break
    yield
    cell.daemon.go()
    cell.later.append(lambda: _finish_adding(cell, command))


def _has_joining_table(slave: str) -> bool:
    with connect(slave) as session:
        return session.query(_IS_JOINING) == [("joining",)]


def _finish_adding(cell: Cell, command: Program) -> None:
    if not cell.daemon.running:
        cell.daemon = cell.program("run")
    _finished(cell, command, "add", "--table", "public.extra")


# The log, the doorbell, the end


def _pause_when(cell: Cell, query: str) -> None:
    """Pause after a batch when something is true; with --rotating, the log is seen to next."""
    cell.daemon.pause("committed")
    while not value(cell.databases.master, query):
        since = cell.daemon.mark()
        cell.daemon.arm("committed")
        cell.daemon.go()
        cell.daemon.until_said("paused: committed", since)


def _rotating(when: str) -> At:
    """The log is looked after, and the commit of that does not return."""

    @contextmanager
    def at(cell: Cell) -> Iterator[None]:
        cell.begin("--rotating", counted=True)
        _pause_when(cell, when)
        with commits_wait(cell, cell.databases.master_cluster):
            cell.daemon.go()
            eventually(
                waits(cell.databases.master, "SyncRep", "rotate_log"), "the rotation does not wait"
            )
            yield

    return at


@contextmanager
def _ringing(cell: Cell) -> Iterator[None]:
    cell.begin()
    cell.daemon.pause("committed")
    master = cell.databases.master
    with holding(master, DOORBELL):
        with cell.load.resting():
            cell.daemon.go()
            eventually(waits(master, "relation", "set_doorbell"), "it does not set its bit")
        yield


@contextmanager
def _asleep(cell: Cell) -> Iterator[None]:
    cell.begin()
    with cell.load.resting():
        cell.daemon.pause("waiting")
    yield
    cell.daemon.go()


@contextmanager
def _ending(cell: Cell) -> Iterator[None]:
    cell.begin()
    cell.daemon.pause("committed")
    master = cell.databases.master
    with holding(master, DOORBELL):
        cell.daemon.terminate()
        cell.daemon.go()
        eventually(waits(master, "relation", "set_doorbell"), "it does not clear its bit")
        yield
    ending = cell.daemon

    def ended() -> None:
        assert ending.end() in (0, -9), cell.logs()

    cell.later.append(ended)


STEPS = (
    Step("fetched", _paused("fetched")),
    Step("staging", _staging, executing="slave"),
    Step("applying", _applying, executing="slave", gates=True),
    Step(
        "applying, staged",
        lambda cell: _applying(cell, "--staged"),
        executing="slave",
        gates=True,
    ),
    Step("copying new rows", _inserting, executing="slave"),
    Step("prepared", _paused("prepared")),
    Step("confirming", _confirming, executing="master"),
    Step("confirmed", _paused("confirmed")),
    Step("committing", _committing, executing="slave"),
    Step("committed", _paused("committed")),
    Step(
        "one-phase: applying",
        lambda cell: _applying(cell, commit="one-phase"),
        executing="slave",
        gates=True,
        prepares=False,
    ),
    Step("one-phase: on the slave", _one_phase("prepared"), prepares=False),
    Step("one-phase: confirmed", _one_phase("confirmed"), prepares=False),
    Step("recovery: asking", _recovering, executing="master"),
    Step("recovery: decided", _recovered),
    Step("copy: in a table", _copying("rows"), batches=False),
    Step("copy: after a table", _copying("done"), batches=False),
    Step("add-table: copying", _adding),
    Step("add-table: joining", _joining),
    Step("copy: making indexes", _indexing, executing="slave", batches=False),
    Step("merged tables", _with(merged, _applying), executing="slave", gates=True),
    Step("filtered", _with(filtered, _paused("fetched"))),
    Step("transform", _with(transformed, _staging), executing="slave"),
    Step("forwarding", _with(forwarding, _applying), executing="slave", gates=True),
    Step("log: switching", _rotating(_MAY_BE_RETIRED), executing="master"),
    Step("log: truncating", _rotating(_MAY_BE_TRUNCATED), executing="master"),
    Step("doorbell: setting", _ringing, executing="master"),
    Step("doorbell: asleep", _asleep),
    Step("shutdown", _ending, executing="master", batches=False),
)
"""All of them, in the matrix's order."""
