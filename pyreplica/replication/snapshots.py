"""A pair of snapshots, of the slave and of the master, and the log of what is between the two."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

from pyreplica.errors import TimedOut
from pyreplica.master import Master
from pyreplica.master.log import Log
from pyreplica.model import CapturedTable, Change, Cursor, SlaveTable, Snapshot
from pyreplica.replication.checksums import (
    Found,
    Key,
    TableReader,
    Values,
    buckets_for,
    places,
)
from pyreplica.replication.wait import cursor_of
from pyreplica.slave import Slave

REPEATABLE = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# the sums of all buckets fit in; a plan that is compiled does not pay for a piece of a table
_SETTINGS = "SET LOCAL work_mem = '64MB'; SET LOCAL jit = off"

LOOK = 0.005

_WHOLE_NUMBERS = frozenset({"smallint", "integer", "bigint"})

_T = TypeVar("_T")


@contextmanager
def snapshots(
    master: Master, slave: Slave, keeper: Master, timeout: float
) -> Iterator[tuple[Snapshot, Snapshot]]:
    """Transactions on both sides; gives what the slave equals, and what the master's one sees.

    Args:
        keeper: another session with the master, which keeps the log meanwhile.

    Raises:
        TimedOut: the slave does not commit what is confirmed.
    """
    with keeper.connection.transaction():
        keeper.log.keep()
        confirmed = keeper.record.confirmed()
        assert confirmed is not None
        with (
            _reading(slave, confirmed.cursor, timeout) as cursor,
            master.connection.transaction(REPEATABLE),
        ):
            master.connection.execute(_SETTINGS)
            yield cursor.position.snapshot, master.log.position().snapshot


@contextmanager
def _reading(slave: Slave, confirmed: Cursor, timeout: float) -> Iterator[Cursor]:
    """A transaction that sees a batch, or a later one: it may be confirmed and not committed."""
    deadline = time.monotonic() + timeout
    while True:
        with slave.connection.transaction(REPEATABLE):
            slave.connection.execute(_SETTINGS)
            cursor = cursor_of(slave)
            if cursor.batch >= confirmed.batch:
                yield cursor
                return
        if time.monotonic() >= deadline:
            raise TimedOut(
                f"the slave has not committed batch {confirmed.batch} after {timeout:g} s",
                where=slave.replication,
                hint=f"Look at `pyreplica status {slave.replication}`.",
            )
        time.sleep(LOOK)


@dataclass(frozen=True, slots=True)
class Pair:
    """The rows of a key on master and slave, which are not the same."""

    key: Key
    left: Found | None
    right: Found | None


class Sides:
    """One table on both sides, each asked in a thread of its own."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        master: Master,
        slave: Slave,
        table: CapturedTable,
        here: SlaveTable,
        hash_: str,
        size: int,
    ) -> None:
        buckets = buckets_for(size)
        self.table = table
        there, at = places(table, here)
        self.compared = frozenset(there.columns)
        self.key_order = [here.logged[name].type in _WHOLE_NUMBERS for name in table.key]
        self._pool = pool
        self._readers = (
            TableReader(master.connection, table, there, hash_=hash_, buckets=buckets),
            TableReader(slave.connection, table, at, hash_=hash_, buckets=buckets),
        )

    def both(self, ask: Callable[[TableReader], _T]) -> tuple[_T, _T]:
        """What master and slave answer to the same question, asked at the same time."""
        futures = [self._pool.submit(ask, reader) for reader in self._readers]
        try:
            done, _ = wait_for(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            left, right = futures
            return left.result(), right.result()
        except BaseException:
            # again and again: it may be just between two statements
            while wait_for(futures, timeout=LOOK).not_done:
                for reader in self._readers:
                    reader.connection.cancel()
            raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let go of the table at the end, so that nobody waits for the other tables to be read."""
        for reader in self._readers:
            reader.connection.execute("SAVEPOINT pyreplica_table")
        yield
        for reader in self._readers:
            reader.connection.execute(
                "ROLLBACK TO SAVEPOINT pyreplica_table; RELEASE SAVEPOINT pyreplica_table"
            )

    def read(self) -> int:
        """How many rows both sides have read."""
        return min(reader.read for reader in self._readers)

    def unequal(self, buckets: Sequence[int]) -> Iterator[Pair]:
        """The rows of these buckets that are not the same."""
        left, right = self.both(lambda reader: _begun(reader.rows(buckets)))
        return _merged(left, right)

    def values(
        self, pairs: Sequence[Pair]
    ) -> tuple[dict[tuple[int, str], Values], dict[tuple[int, str], Values]]:
        """The rows of these keys on either side, by where they are."""
        if not pairs:
            return {}, {}
        left, right = self._readers
        return (
            dict(left.values([pair.left.place for pair in pairs if pair.left])),
            dict(right.values([pair.right.place for pair in pairs if pair.right])),
        )


_Rows = Iterator[tuple[int, dict[Key, Found]]]


def _begun(rows: _Rows) -> _Rows:
    """The same rows, of which the first was waited for."""
    first = next(rows, None)
    return iter(()) if first is None else chain([first], rows)


def _merged(left: _Rows, right: _Rows) -> Iterator[Pair]:
    """The rows that differ; those of both sides come in the order of their keys' hashes."""
    a, b = next(left, None), next(right, None)
    while a is not None or b is not None:
        lefts: dict[Key, Found] = {}
        rights: dict[Key, Found] = {}
        now = min(one[0] for one in (a, b) if one is not None)
        if a is not None and a[0] == now:
            lefts, a = a[1], next(left, None)
        if b is not None and b[0] == now:
            rights, b = b[1], next(right, None)
        for key in {**lefts, **rights}:
            there, here = lefts.get(key), rights.get(key)
            if there is None or here is None or there.row_hash != here.row_hash:
                yield Pair(key, there, here)


class Way:
    """What is on its way to the slave: the log of one table between the two snapshots."""

    def __init__(self, log: Log, behind: Snapshot, until: Snapshot, table: CapturedTable) -> None:
        self._log = log
        self._behind = behind
        self._until = until
        self._table = table
        self._anything: bool | None = None

    def changes(self, keys: Iterable[Key]) -> list[Change]:
        """What was logged of these keys, or of the table as a whole."""
        if self._anything is None:
            self._anything = self._log.misses(self._behind, self._until)
        if not self._anything:
            return []
        wanted = [json.dumps(dict(zip(self._table.key, key, strict=True))) for key in keys]
        return self._log.changes_of(self._behind, self._until, self._table, wanted)


def replayed(
    row: Values | None, changes: Iterable[Change], columns: Container[str]
) -> Values | None:
    """What a row becomes by changes of the log, as far as these columns go."""
    for change in changes:
        if change.op in "Dd" or (change.op == "v" and change.row is None):
            row = None
        elif change.op in "Iiv":
            row = json.loads(change.row or "{}")
        elif row is not None:
            row = {**row, **json.loads(change.row or "{}")}
    return None if row is None else {name: v for name, v in row.items() if name in columns}
