"""The columns of the matrix: what goes wrong.

Each fault is a context manager. It strikes at the beginning of its block, while the product stands
at a step; in the block the product goes on; at the end the product has met it, and it is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pyreplica.errors import PyReplicaError
from tests.faults.cell import PEER_TIMEOUT, Cell
from tests.faults.proxy import Mode
from tests.faults.steps import Step
from tests.support import connect, eventually, sql, value

Strike = Callable[[Cell], AbstractContextManager[None]]
SIDES = ("master", "slave")
_OURS = (
    "FROM pg_stat_activity WHERE datname = current_database() "
    "AND application_name LIKE 'pyreplica shop:%'"
)
_A_WHILE = 2.0 * PEER_TIMEOUT
"""Seconds that a network is slow or silent: who waits for an answer gives the connection up."""
_FILLER = "SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'filler%'"


@dataclass(frozen=True)
class Fault:
    """A column.

    Args:
        code: its name in a test's.
        heading: its name in the matrix, two characters.
        name: what it is.
        strike: does it.
        fits: says why it cannot strike at a step, or nothing.
        disk: the side whose database, or log, is on a small disk.
    """

    code: str
    heading: str
    name: str
    strike: Strike
    fits: Callable[[Step], str | None] = lambda step: None
    disk: str | None = None


# The daemon and the servers


@contextmanager
def _kill(cell: Cell) -> Iterator[None]:
    cell.victim.kill()
    yield


def _crash(*sides: str) -> Strike:
    @contextmanager
    def strike(cell: Cell) -> Iterator[None]:
        clusters = [cell.cluster(side) for side in sides]
        for cluster in clusters:
            cluster.stop("immediate")
        yield
        where = sides[0] if len(sides) == 1 else "(master|slave)"
        cell.until_noticed(f"shop: {where}: (connection lost|cannot connect)")
        for cluster in clusters:
            cluster.start()

    return strike


def _terminate(side: str) -> Strike:
    @contextmanager
    def strike(cell: Cell) -> Iterator[None]:
        dsn = cell.dsn(side)
        sql(dsn, f"SELECT pg_terminate_backend(pid) {_OURS}")
        yield
        cell.until_noticed(f"shop: {side}: connection lost")

    return strike


# The network


def _cut(side: str, mode: Mode) -> Strike:
    """Connections are ended, and new ones too for a while."""

    @contextmanager
    def strike(cell: Cell) -> Iterator[None]:
        proxy = cell.proxy(side)
        proxy.set(mode)
        yield
        cell.until_noticed(f"shop: {side}: (connection lost|cannot connect)")
        proxy.set(Mode.PASS)

    return strike


def _vanish(side: str) -> Strike:
    """Neither end hears of the other one again; new connections can be made at once."""

    @contextmanager
    def strike(cell: Cell) -> Iterator[None]:
        cell.proxy(side).set(Mode.VANISH)
        cell.proxy(side).set(Mode.PASS)
        yield
        cell.until_noticed(f"shop: {side}: connection lost")

    return strike


def _disturb(side: str, mode: Mode) -> Strike:
    """Bytes are late, or lost, for a while; a connection that has lost some is reset then."""

    @contextmanager
    def strike(cell: Cell) -> Iterator[None]:
        proxy = cell.proxy(side)
        proxy.set(mode)
        yield
        threading.Event().wait(_A_WHILE)
        if proxy.set(Mode.PASS):
            cell.until_noticed(f"shop: {side}: (connection lost|cannot connect)")

    return strike


# What a slave's server refuses


@contextmanager
def _cancel(cell: Cell) -> Iterator[None]:
    for side in SIDES:
        sql(cell.dsn(side), f"SELECT pg_cancel_backend(pid) {_OURS} AND state = 'active'")
    yield


def _limit(name: str, says: str) -> Strike:
    """A timeout that a user's trigger on the slave sets for the rest of the batch."""

    @contextmanager
    def strike(cell: Cell) -> Iterator[None]:
        slave = cell.databases.slave
        sql(slave, f"INSERT INTO public.limits VALUES ('{name}', '50ms')")
        sql(slave, f"SELECT pg_cancel_backend(pid) {_OURS} AND wait_event_type = 'Lock'")
        cell.until_noticed(says)
        yield
        sql(slave, "DELETE FROM public.limits")

    return strike


@contextmanager
def _deadlock(cell: Cell) -> Iterator[None]:
    """The batch has gate_0 and goes on to gate_2; somebody has gate_2 and waits for gate_0."""
    with connect(cell.databases.slave) as somebody:
        # the daemon comes last and somebody is patient: the daemon finds it and gives way
        somebody.execute("SET deadlock_timeout = '10min'")
        somebody.execute("BEGIN; SELECT FROM public.gate_2 FOR UPDATE")
        lock = "SELECT FROM public.gate_0 FOR UPDATE"
        waits = threading.Thread(target=somebody.execute, args=(lock,))
        waits.start()
        waiting = (
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() "
            f"AND wait_event_type = 'Lock' AND query = '{lock}'"
        )
        eventually(lambda: value(cell.databases.slave, waiting), "nobody waits for the batch")
        yield
        cell.until_noticed("deadlock detected")
        waits.join()


@contextmanager
def _serialization(cell: Cell) -> Iterator[None]:
    """A row that the batch waits for is moved between partitions, and back."""
    with connect(cell.databases.slave) as somebody:
        somebody.execute(
            "BEGIN; UPDATE public.moving SET id = 1001 WHERE id = 1; "
            "UPDATE public.moving SET id = 1 WHERE id = 1001"
        )
        yield
        waits = (
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND "
            f"{somebody.one('SELECT pg_backend_pid()')[0]} = ANY (pg_blocking_pids(pid))"
        )
        eventually(lambda: value(cell.databases.slave, waits), "the batch does not wait")
        somebody.execute("COMMIT")
        cell.until_noticed("moved to another partition")


@contextmanager
def _no_slots(cell: Cell) -> Iterator[None]:
    """Others have prepared as many transactions as the slave takes."""
    dsn = cell.databases.slave_cluster.dsn()
    numbers = iter(range(1000))

    def fill() -> None:
        with suppress(PyReplicaError), connect(dsn) as session:
            session.execute("SET synchronous_commit = local")  # commits may be held up by the step
            while True:
                session.execute(
                    f"BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'filler {next(numbers)}'"
                )

    fill()
    try:
        yield
        # what the daemon has prepared before gives its place back, once
        cell.until_noticed("maximum number of prepared transactions", meanwhile=fill)
    finally:
        with connect(dsn) as session:
            for (gid,) in session.query(_FILLER):
                session.execute(f"ROLLBACK PREPARED '{gid}'")


@contextmanager
def _read_only(cell: Cell) -> Iterator[None]:
    """The slave's server comes back as a standby."""
    cluster = cell.databases.slave_cluster
    signal = Path(value(cluster.dsn(), "SHOW data_directory")) / "standby.signal"
    cluster.stop("immediate")
    signal.touch()
    cluster.start()
    try:
        yield
        cell.until_noticed("read-only transaction|hot standby|during recovery")
    finally:
        cluster.stop()
        signal.unlink()
        cluster.start()


# Disks


def _disk_full(side: str) -> Strike:
    @contextmanager
    def strike(cell: Cell) -> Iterator[None]:
        assert cell.disk is not None
        filler = cell.disk / "filler"

        def fill() -> None:
            with suppress(OSError), filler.open("ab", buffering=0) as file:
                while True:
                    file.write(b"\0" * 4096)

        fill()
        yield
        if side == "master":
            full = "No space left on device"

            def noticed() -> bool:
                fill()
                return full in cell.load.errors

            eventually(noticed, "the writers do not notice")
        else:
            cell.until_noticed("No space left on device", meanwhile=fill)
        filler.unlink()

    return strike


# Where they fit


def _executing(step: Step) -> str | None:
    return None if step.executing else "no statement is being executed then"


def _at_the_gates(step: Step) -> str | None:
    return None if step.gates else "it strikes a statement that applies changes"


def _preparing(step: Step) -> str | None:
    if not step.prepares:
        return "nothing is prepared in one phase"
    return None if step.batches else "nothing is prepared by a copy, nor when the daemon stops"


FAULTS = (
    Fault("kill", "k9", "kill -9 of the daemon, or of the copy", _kill),
    Fault("M", "M", "the master stops immediately", _crash("master")),
    Fault("S", "S", "the slave stops immediately", _crash("slave")),
    Fault("MS", "MS", "both stop immediately", _crash("master", "slave")),
    *(
        Fault(f"{code}-{side[0]}", f"{letter}{side[0].upper()}", f"{what}, {side}", strike(side))
        for code, letter, what, strike in (
            ("end", "t", "pg_terminate_backend of the sessions", _terminate),
            ("drop", "d", "TCP: closed", lambda side: _cut(side, Mode.DROP)),
            ("rst", "r", "TCP: reset", lambda side: _cut(side, Mode.RESET)),
            ("frz", "f", "TCP: frozen", lambda side: _disturb(side, Mode.FREEZE)),
            ("deaf", "q", "TCP: requests are lost", lambda side: _disturb(side, Mode.DEAF)),
            ("mute", "a", "TCP: answers are lost", lambda side: _disturb(side, Mode.MUTE)),
            ("slow", "s", "TCP: delayed", lambda side: _disturb(side, Mode.DELAY)),
            ("gone", "v", "TCP: vanished without a word", _vanish),
        )
        for side in SIDES
    ),
    Fault("canc", "ca", "pg_cancel_backend of what is executed", _cancel, _executing),
    Fault(
        "stmt",
        "st",
        "statement_timeout on the slave",
        _limit("statement_timeout", "statement timeout"),
        _at_the_gates,
    ),
    Fault(
        "lock",
        "lt",
        "lock_timeout on the slave",
        _limit("lock_timeout", "lock timeout"),
        _at_the_gates,
    ),
    Fault("dead", "dl", "deadlock on the slave", _deadlock, _at_the_gates),
    Fault("ser", "se", "serialization failure on the slave", _serialization, _at_the_gates),
    Fault("slot", "sl", "out of prepared transactions on the slave", _no_slots, _preparing),
    Fault("ro", "ro", "the slave is a standby, read-only", _read_only),
    Fault("dkM", "DM", "disk full for the master's log", _disk_full("master"), disk="master"),
    Fault("dkS", "DS", "disk full for the slave", _disk_full("slave"), disk="slave"),
)
"""All of them, in the matrix's order."""
