"""Makes the slave's rows equal to the master's, beside the running daemon.

Nothing here writes to the slave. The master logs the rows that differ once more, as they stand
there, and the daemon applies them in their right place among all other changes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from tempfile import SpooledTemporaryFile
from typing import IO, Literal

from pyreplica.config import ReplicationConfig
from pyreplica.errors import DatabaseError, TimedOut
from pyreplica.master import Master
from pyreplica.model import CapturedTable, SlaveTable
from pyreplica.replication.compare import Difference, Progress, TableResult, compare
from pyreplica.replication.conflicts import BUSY
from pyreplica.slave import Slave

SHOWN = 10
"""So many keys of each kind are named."""
ROWS = 1_000
"""So many rows are logged in a transaction ..."""
ROWS_WITH_UNIQUE = 10_000
"""... and so many of a table with further unique keys: rows that have exchanged their values are
best applied together."""
PATIENCE = (0.05, 0.2, 1.0, 2.0, 2.0)
"""How long a lock is waited for on the master, seconds, one try after the other."""
MEMORY = 1 << 16
"""Bytes of a table's keys that are kept in memory; more go to a temporary file."""

RepairState = Literal["equal", "to repair", "repaired", "logged", "differs", "problem"]


@dataclass(slots=True)
class TableRepair:
    """What is to be done to a table of the slave, or was done.

    Args:
        rows: the number of keys that one side or both have.
        insert: rows that the slave lacks.
        update: rows that differ.
        delete: rows that only the slave has.
        differences: the first of each of these, at most ``SHOWN``.
        logged: rows that the master has logged once more.
        state: equal, to repair, repaired, logged (and no daemon runs), differs (still), problem.
        problem: why the table cannot be compared.
        hint: what can be done about that.
    """

    table: str
    rows: int
    insert: int = 0
    update: int = 0
    delete: int = 0
    differences: list[Difference] = field(default_factory=list)
    logged: int = 0
    state: RepairState = "equal"
    problem: str | None = None
    hint: str | None = None

    @property
    def differing(self) -> int:
        """How many rows are to be repaired."""
        return self.insert + self.update + self.delete


def repair(
    config: ReplicationConfig,
    *,
    apply: bool,
    timeout: float = 60.0,
    tables: Sequence[str] = (),
    progress: Progress | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> list[TableRepair]:
    """Repair tables of a replication.

    It may be broken off at any time, and run again.

    Args:
        apply: do it; otherwise only find out what there is to do.
        timeout: seconds to wait for the slave, each time that it is waited for.
        tables: which, as schema.table; all when empty.
        progress: is told how the comparison goes.
        say: is told what is done after that.

    Raises:
        ConfigError: there is no table of that name in the replication.
        TimedOut: the slave does not catch up, or a row or table of the master is not to be had.
    """
    with ExitStack() as stack:
        plans: dict[str, _Plan] = {}

        def watcher(table: CapturedTable, here: SlaveTable) -> Callable[[Difference], object]:
            plan = plans[str(table)] = _Plan(
                table,
                here,
                stack.enter_context(_temporary()),
                stack.enter_context(_temporary()),
            )
            return plan.add

        results = compare(
            config, timeout=timeout, tables=tables, progress=progress, watcher=watcher
        )
        repairs = {result.table: _planned(result, plans.get(result.table)) for result in results}
        damaged = [found for found in repairs.values() if found.state == "to repair"]
        if apply and damaged:
            with closing(Master(config)) as master:
                for one in damaged:
                    say(f"{one.table}: {one.differing:,} rows are logged once more on the master")
                    one.logged = plans[one.table].carry_out(master)
            _verify(config, repairs, damaged, timeout, say)
        return list(repairs.values())


def _planned(result: TableResult, plan: _Plan | None) -> TableRepair:
    found = TableRepair(result.table, result.rows, problem=result.problem, hint=result.hint)
    if result.problem is not None:
        found.state = "problem"
    elif result.differing and plan is not None:
        found.state = "to repair"
        found.insert = plan.count["missing"]
        found.update = plan.count["differs"]
        found.delete = plan.count["extra"]
        found.differences = plan.shown
    return found


def _verify(
    config: ReplicationConfig,
    repairs: dict[str, TableRepair],
    damaged: Sequence[TableRepair],
    timeout: float,
    say: Callable[[str], object],
) -> None:
    """Wait for the daemon, and compare what was repaired."""
    with closing(Slave(config)) as slave:
        running = slave.locked()
    if not running:
        for one in damaged:
            one.state = "logged"
        return
    say("waiting for the slave, and comparing again")
    for result in compare(config, timeout=timeout, tables=[one.table for one in damaged]):
        repairs[result.table].state = "repaired" if result.equal else "differs"


def _temporary() -> AbstractContextManager[IO[bytes]]:
    return SpooledTemporaryFile(MEMORY)


class _Plan:
    """The keys of one table that are to be repaired, however many there are."""

    def __init__(
        self, table: CapturedTable, here: SlaveTable, extra: IO[bytes], others: IO[bytes]
    ) -> None:
        self.count: Counter[str] = Counter()
        self.shown: list[Difference] = []
        self._table = table
        self._unique = here.other_unique
        self._extra = extra
        self._others = others

    def add(self, difference: Difference) -> None:
        """Take a difference."""
        self.count[difference.kind] += 1
        if self.count[difference.kind] <= SHOWN:
            self.shown.append(difference)
        keys = self._extra if difference.kind == "extra" else self._others
        keys.write(json.dumps(difference.key).encode() + b"\n")

    def carry_out(self, master: Master) -> int:
        """Have the master log the rows; gives their number.

        Those that are to go come first. A key that is equal to the index and differs to the eye
        (1.0 and 1.00) must be gone before the right one comes.
        """
        logged = 0
        size = ROWS_WITH_UNIQUE if self._unique else ROWS
        for keys in (self._extra, self._others):
            keys.seek(0)
            lines = (line.decode() for line in keys)
            while some := list(islice(lines, size)):
                logged += _log(master, self._table, some, tick=not self._unique)
        return logged


def _log(master: Master, table: CapturedTable, keys: Sequence[str], *, tick: bool) -> int:
    """Log rows of the master once more; those that somebody is writing just now, one by one."""
    logged = 0
    while keys:
        done, keys = _tried(master, table, keys, tick)
        logged += done
        if keys:
            done, _ = _tried(master, table, keys[:1], tick=False)
            logged += done
            keys = keys[1:]
    return logged


def _tried(
    master: Master, table: CapturedTable, keys: Sequence[str], tick: bool
) -> tuple[int, Sequence[str]]:
    """Master.restate() with more and more patience; a single key must not be left over."""
    for patience in PATIENCE:
        try:
            done, left = master.restate(table, keys, patience=patience, tick=tick)
        except DatabaseError as error:
            if error.sqlstate not in BUSY:
                raise
            continue
        if not left or len(keys) > 1:
            return done, left
    what = f"row {keys[0].strip()}" if len(keys) == 1 else f"{len(keys):,} rows"
    raise TimedOut(
        f"the master is busy: other transactions keep {what} of {table} or the table locked; "
        "nothing was changed for that",
        where=master.connection.where,
        hint="Run it again when they have ended; what was logged already stays logged.",
    )
