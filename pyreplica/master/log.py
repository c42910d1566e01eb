"""The master's log, as a session reads it: what was committed between two snapshots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pyreplica import sqlfiles
from pyreplica.database import Connection, sql
from pyreplica.master.masking import Masking
from pyreplica.master.sequences import sequences_of
from pyreplica.model import (
    CapturedTable,
    Change,
    Cursor,
    Map,
    MasterSequence,
    Position,
    Snapshot,
)
from pyreplica.side import literals

_SQL = sqlfiles.statements("master.sql")
_LARGE = sqlfiles.statements("log.sql")

FETCH_ROWS = 1_000
"""A batch of fewer changes is fetched in one round trip and folded in Python."""
FETCH_BYTES = 4 << 20
"""A batch with longer rows than this in all, in bytes of text, goes through the staging table."""

STREAMED_ROWS = 500
"""So many changes are in this process's memory at a time where they go through a transform."""

_ROWS = """(
    SELECT * FROM pyreplica.replica_log
    WHERE (slaves IS NULL OR slaves & {mask} <> 0) AND (origin IS NULL
        OR origin <> ALL ((SELECT pyreplica.skipped('{replication}'))::integer[]))
)"""

LONGEST_FOLDED = 2_000
"""The master does not fold updates whose row, or what it has replaced, has more bytes."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was found after a cursor.

    Args:
        position: the moment it was read at.
        changes: in the order of their ids; None when there are too many for one answer.
        values: what the sequences that were asked for have handed out last, in their order; None
            for one that has handed out nothing, or cannot be read now.
        sequences: where all sequences stand; None when that was not asked for.
    """

    position: Position
    changes: tuple[Change, ...] | None
    values: Sequence[int | None]
    sequences: list[MasterSequence] | None


@dataclass(frozen=True, slots=True)
class Apart:
    """Generations of tables that are to be read from a snapshot of their own on."""

    generations: tuple[int, ...]
    after: Snapshot


class Log:
    """Reads the log of one replication, through a session with the master.

    It is what its slave gets: rows that are for others are not seen here (``pyreplica.log_of()``).

    Args:
        connection: the session.
        replication: whose slave it is.
        projected: it does not get all columns of all tables.
        masking: what is masked leaves it masked.
    """

    def __init__(
        self,
        connection: Connection,
        replication: str,
        *,
        projected: bool = False,
        masking: Masking | None = None,
    ) -> None:
        self._connection = connection
        self._replication = replication
        self._projected = projected
        self._bound: dict[str, str] = {}
        self._masking = Masking(connection, Map()) if masking is None else masking
        self._prepared = False

    @property
    def _sql(self) -> Mapping[str, str]:
        """The statements, with the part of the log that is the slave's."""
        if self._bound:
            return self._bound
        if self._projected:
            # the configuration takes no names that would have to be quoted
            part = f"pyreplica.log_of('{self._replication}')"
            mask: int | None = 0
        else:
            values = {"replication": self._replication}
            mask = next((row[0] for row in self._connection.query(_SQL["mask"], values)), None)
            # a number and not a parameter, nor a function: each would have to be planned
            part = _ROWS.format(mask=mask or 0, replication=self._replication)
        bound = {name: text.replace("{log}", part) for name, text in {**_SQL, **_LARGE}.items()}
        if mask is not None:
            self._bound = bound
        return bound

    def position(self) -> Position:
        """This moment; inside a REPEATABLE READ transaction, that of its snapshot."""
        snapshot, log_id, at = self._connection.one(self._sql["position"])
        return Position(Snapshot.parse(snapshot), log_id, at)

    def fetch(self, after: Snapshot, sequences: Sequence[int] = (), look: bool = False) -> Fetched:
        """Everything that was committed after a snapshot, in one round trip.

        Args:
            sequences: the oids of the sequences whose values are wanted as well.
            look: all sequences are wanted, with all there is to know of them.
        """
        if not self._prepared:
            self._connection.execute(self._sql["prepare_fetch"])
            self._prepared = True
        rows = self._connection.query(
            self._sql["fetch"],
            {
                **self._after(after),
                "rows": FETCH_ROWS,
                "bytes": FETCH_BYTES,
                # as text: an ARRAY[...] of many takes the server's parser longer
                "sequences": f"{{{','.join(map(str, sequences))}}}",
                "look": look,
            },
        )
        snapshot, log_id, at, many, values, found = rows[0][:6]
        changes: tuple[Change, ...] | None = ()
        if many is not None:
            changes = None if many else tuple(sorted(Change(*row[6:]) for row in rows))
        if changes:
            changes = self._masking.changes(changes)
        return Fetched(
            Position(Snapshot.parse(snapshot), log_id, at),
            changes,
            values or (),
            sequences_of(found) if look else None,
        )

    def cut(self, cursor: Cursor, now: Position, rows: int) -> Position:
        """Where a batch of about so many rows may end: a snapshot of the past, or now."""
        snapshot = cursor.position.snapshot
        found = self._connection.query(
            self._sql["cut"],
            {
                "xmin": str(snapshot.xmin),
                "xmax": str(snapshot.xmax),
                "running": len(snapshot.running),
                "log_id": cursor.position.log_id + rows,
            },
        )
        if not found or now.log_id <= cursor.position.log_id + rows:
            return now
        tick = Position(Snapshot.parse(found[0][0]), found[0][1], now.at)
        return tick if tick.snapshot.order < now.snapshot.order else now

    def contents(self, after: Snapshot, until: Snapshot) -> dict[int, dict[str, tuple[int, int]]]:
        """What there is between two snapshots, by generation, in the order of their first changes.

        Returns:
            How many changes of which operation there are, and the id of the last of these.
        """
        found: dict[int, dict[str, tuple[int, int]]] = {}
        values = self._between(after, until)
        for generation, op, count, last in self._connection.query(self._sql["contents"], values):
            found.setdefault(generation, {})[op] = (count, last)
        return found

    def changes(
        self,
        after: Snapshot,
        until: Snapshot,
        apart: Sequence[Apart] = (),
        without: Iterable[int] = (),
    ) -> sql.Composable:
        """The COPY that reads all changes between two snapshots.

        Args:
            apart: tables whose changes begin after other snapshots.
            without: generations that are read in another way.
        """
        query = self._changes(after, until, apart, without)
        return sql.SQL("COPY ({}) TO STDOUT").format(query)

    def stream(
        self, after: Snapshot, until: Snapshot, apart: Sequence[Apart] = ()
    ) -> Iterator[Change]:
        """The same changes in the order of their ids, one after another; inside a transaction."""
        query = sql.SQL(
            "SELECT id, tab, op::text, key, row::text, old::text FROM ({}) "
            "l(id, tab, op, key, row, old) ORDER BY id"
        ).format(self._changes(after, until, apart, ()))
        for row in self._connection.stream(query, size=STREAMED_ROWS):
            yield Change(*row)

    def _changes(
        self, after: Snapshot, until: Snapshot, apart: Sequence[Apart], without: Iterable[int]
    ) -> sql.Composable:
        others = [generation for one in apart for generation in one.generations]
        others += without
        parts = [(after, others, False)]
        parts += [(one.after, list(one.generations), True) for one in apart]
        queries = [
            literals(
                self._sql["changes"],
                {**self._between(begin, until), "generations": tabs, "these": these},
            )
            for begin, tabs, these in parts
        ]
        return self._masking.over(sql.SQL(" UNION ALL ").join(queries))

    def inserted(
        self, after: Snapshot, until: Snapshot, generation: int, columns: sql.Composable
    ) -> sql.Composable:
        """The COPY that reads rows which were inserted between two snapshots.

        Args:
            columns: values out of ``c.key`` and ``c.row``.
        """
        values = {**self._of(generation, after, until), "columns": columns}
        return _copy(self._sql["inserted"], values)

    def deleted(
        self, after: Snapshot, until: Snapshot, generation: int, key: Sequence[sql.Composable]
    ) -> sql.Composable:
        """The COPY that reads the keys of rows which were deleted between two snapshots.

        Args:
            key: its values out of ``c.key``.

        Returns:
            What gives the generation, D, and the key's values.
        """
        values = {**self._of(generation, after, until), "key": sql.SQL(", ").join(key)}
        return _copy(self._sql["deleted"], values)

    def columns_set(self, after: Snapshot, until: Snapshot, generation: int) -> list[str]:
        """The columns that one of the updates of a generation sets."""
        values = self._of(generation, after, until)
        return list(self._connection.one(literals(self._sql["columns_set"], values))[0])

    def updated(
        self,
        after: Snapshot,
        until: Snapshot,
        generation: int,
        key: Sequence[sql.Composable],
        columns: Sequence[str],
    ) -> sql.Composable:
        """The COPY that reads the net changes of updates between two snapshots.

        Args:
            key: its values out of ``c.key``.
            columns: those that all of them are to set.

        Returns:
            What gives the generation, U, the key's values, the row and what was there before; in
            the place of U there is ``?`` where an update of the key sets other columns, or is long.
        """
        names = [sql.Identifier(f"k{number}") for number in range(1, len(key) + 1)]
        parts = [
            sql.SQL('{} COLLATE "C" AS {}').format(one, name)
            for one, name in zip(key, names, strict=True)
        ]
        values = {
            **self._of(generation, after, until),
            "key": sql.SQL(", ").join(parts),
            "names": sql.SQL(", ").join(names),
            "columns": list(columns),
            "longest": LONGEST_FOLDED,
            "more": json.dumps({str(number): None for number in range(len(columns) + 1)}),
        }
        return _copy(self._sql["updated"], values)

    def generations(self, relids: Iterable[int]) -> list[int]:
        """All generations of tables, by which the log names them."""
        rows = self._connection.query(self._sql["generations"], {"relids": list(relids)})
        return [generation for (generation,) in rows]

    def pending(self, after: Snapshot) -> tuple[int, datetime | None]:
        """How many changes there are after a snapshot, and when the oldest was made."""
        count, since = self._connection.one(self._sql["pending"], self._after(after))
        return count, since

    def misses(self, after: Snapshot, until: Snapshot) -> bool:
        """Whether anything visible at ``until`` is not in ``after``."""
        values = self._between(after, until)
        return bool(self._connection.one(self._sql["missing"], values)[0])

    def keep(self) -> None:
        """Keep what is in the log from being truncated, until this transaction ends."""
        self._connection.execute(self._sql["keep_log"])

    def changes_of(
        self, after: Snapshot, until: Snapshot, table: CapturedTable, keys: Sequence[str]
    ) -> list[Change]:
        """What was logged between two snapshots of some keys of a table, or of it as a whole.

        Args:
            keys: the text of jsonb objects, as in the log.
        """
        values = {**self._between(after, until), "relid": table.relid, "keys": list(keys)}
        found = [Change(*row) for row in self._connection.query(self._sql["changes_of"], values)]
        return list(self._masking.changes(tuple(found)))

    def truncated(self, after: Snapshot, table: CapturedTable) -> bool:
        """Whether a table was truncated after a snapshot."""
        values = {**self._after(after), "schema": table.schema, "table": table.name}
        return bool(self._connection.one(self._sql["truncated"], values)[0])

    # The values that the statements have in common

    def _after(self, snapshot: Snapshot) -> dict[str, object]:
        return {
            "replication": self._replication,
            "running": [str(x) for x in snapshot.running],
            "xmax": str(snapshot.xmax),
        }

    def _between(self, after: Snapshot, until: Snapshot) -> dict[str, object]:
        # what one has written that still runs is not even looked at, it may be much
        ended = [str(x) for x in after.running if until.sees(x)]
        return {**self._after(after), "running": ended, "until": str(until)}

    def _of(self, generation: int, after: Snapshot, until: Snapshot) -> dict[str, object]:
        return {**self._between(after, until), "generation": generation}


def _copy(query: str, values: dict[str, object]) -> sql.Composable:
    return sql.SQL("COPY ({}) TO STDOUT").format(literals(query, values))
