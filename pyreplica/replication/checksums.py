"""Reads the rows of one table on one side as checksums, which are the same where the rows are.

The rows are put into buckets by a hash of their key's text, and each bucket has a sum of the hashes
of its rows' text. So one sequential scan is enough, in whatever order; types, collations, indexes
and partitions do not matter. Only buckets that differ are read again, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from pyreplica import sqlfiles
from pyreplica.database import Connection, sql
from pyreplica.model import CapturedTable, MaskKind, SlaveTable
from pyreplica.replication.rows import condition, shown
from pyreplica.slave.own import own

_SQL = sqlfiles.statements("compare.sql")
_REWRITTEN = sqlfiles.statements("master.sql")["rewritten"]

ROWS_A_BUCKET = 64
MOST_BUCKETS = 1 << 15
PIECES = 64
"""A table is read in so many pieces at most, so that it can be seen how far that has come ..."""
BLOCKS = 16384
"""... and a piece has at least so many blocks (of 8 kB)."""
ROWS_AT_ONCE = 100
"""So many whole rows are fetched at a time."""

# Sums of 64 bits: chance makes a change unseen once in 10^19.
_FAST = 'hashtextextended(({}) COLLATE "C", 0)'
_PORTABLE = "('x' || left(md5(convert_to({}, 'UTF8')), 16))::bit(64)::bigint"

Key = tuple[str, ...]
Values = dict[str, str | None]
"""The values of a row's columns as the types' output functions print them, as in the log."""


@dataclass(frozen=True, slots=True)
class Found:
    """A row that was found: the hash of its text, and where it is (table and ctid)."""

    row_hash: int
    place: tuple[int, str]


@dataclass(frozen=True, slots=True)
class Sum:
    """How many rows there are in a bucket, and the sum of their hashes."""

    rows: int = 0
    hashes: int = 0

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.rows + other.rows, self.hashes + other.hashes)


def hashing(left: Connection, right: Connection, *, same_encoding: bool) -> str:
    """The expression that hashes a text ``{}`` to a bigint, the same on both servers."""
    probe = _SQL["probe"]
    if same_encoding and left.one(probe) == right.one(probe):
        return _FAST
    return _PORTABLE


def buckets_for(rows: int) -> int:
    """How many buckets a table of about so many rows is divided into: a power of two."""
    wished = max(8, min(rows // ROWS_A_BUCKET, MOST_BUCKETS))
    return 1 << (wished - 1).bit_length()


@dataclass(frozen=True, slots=True)
class Place:
    """Where one side has a table, and what of it is compared.

    Args:
        columns: what is compared, by the master's names of the columns; its key among it.
        own: the condition for the rows ``t`` that are the replication's.
        partitioned: whether it is partitioned on this side.
    """

    schema: str
    name: str
    columns: Mapping[str, sql.Composable]
    own: sql.Composable
    partitioned: bool


def places(captured: CapturedTable, here: SlaveTable) -> tuple[Place, Place]:
    """A table on the master and on the slave.

    What is masked by nothing or by a constant is left out: only the slave says how it prints that.
    """
    masks = here.map.masks
    # the key comes first and once
    columns = [
        c
        for c in dict.fromkeys((*captured.key, *captured.columns))
        if c not in masks or masks[c].kind is MaskKind.HASH
    ]
    there = {
        c: shown(captured, c, masks) if c in masks else sql.Identifier("t", c) for c in columns
    }
    return (
        Place(captured.schema, captured.name, there, condition(captured), captured.partitioned),
        Place(
            here.schema,
            here.name,
            {c: sql.Identifier("t", here.logged[c].name) for c in columns},
            sql.SQL(" AND ").join([sql.SQL("true"), *own(here)]),
            here.partitioned,
        ),
    )


class TableReader:
    """One table on one side, read in the snapshot of the session's open transaction.

    Args:
        connection: the session.
        captured: the table.
        place: where it is on this side.
        hash_: the expression of :func:`hashing`.
        buckets: their number, as :func:`buckets_for` gives it.
    """

    def __init__(
        self,
        connection: Connection,
        captured: CapturedTable,
        place: Place,
        *,
        hash_: str,
        buckets: int,
    ) -> None:
        self.connection = connection
        self.read = 0
        self._captured = captured
        self._place = place
        name = sql.Identifier(place.schema, place.name)
        self._rows = sql.SQL("" if place.partitioned else "ONLY ") + name
        key = [place.columns[column] for column in captured.key]
        self._parts = {
            "own": place.own,
            "key_hash": sql.SQL(hash_).format(
                sql.SQL("concat({})" if len(key) == 1 else "ROW({})::text").format(
                    sql.SQL(", ").join(key)
                )
            ),
            "row_hash": sql.SQL(hash_).format(
                sql.SQL("ROW({})::text").format(sql.SQL(", ").join(place.columns.values()))
            ),
            # concat() prints with the type's output function, as the log does
            "key": sql.SQL(", ").join(sql.SQL("concat({})").format(column) for column in key),
            "mask": sql.Literal(buckets - 1),
            "rows": self._rows,
        }
        self._buckets = buckets

    def sums(self, progress: Callable[[], object]) -> dict[int, Sum]:
        """The sums of the buckets that are not empty.

        Args:
            progress: called when ``read``, the number of rows that were read, has grown.
        """
        sums: dict[int, Sum] = {}
        for part, blocks in self._pieces():
            statement = sql.SQL(_SQL["sums"]).format(part=part, blocks=blocks, **self._parts)
            for bucket, rows, hashes in self.connection.query(statement):
                sums[bucket] = sums.get(bucket, Sum()) + Sum(rows, int(hashes))
                self.read += rows
            progress()
        return sums

    def _pieces(self) -> Iterator[tuple[sql.Composable, sql.Composable]]:
        """The table in pieces: a relation, and the condition for a range of its blocks."""
        parts = self.connection.query(
            _SQL["parts"], {"schema": self._place.schema, "table": self._place.name}
        )
        step = max(BLOCKS, sum(blocks for _, _, blocks, _ in parts) // PIECES)
        for schema, name, blocks, ranged in parts:
            part = sql.Identifier(schema, name)
            if not ranged or blocks <= step:
                yield part, sql.SQL("true")
                continue
            for first in range(0, blocks, step):
                yield (
                    part,
                    sql.SQL("t.ctid >= {}::tid AND t.ctid < {}::tid").format(
                        sql.Literal(f"({first},0)"), sql.Literal(f"({first + step},0)")
                    ),
                )

    def rows(self, buckets: Sequence[int]) -> Iterator[tuple[int, dict[Key, Found]]]:
        """The rows of some buckets: a hash of the key, rising, and the rows whose keys have it."""
        bits = bytearray((self._buckets + 7) // 8)
        for bucket in buckets:
            bits[bucket // 8] |= 1 << bucket % 8
        statement = sql.SQL(_SQL["rows"]).format(buckets=sql.Literal(bytes(bits)), **self._parts)
        rows = self.connection.stream(statement)
        for key_hash, group in groupby(rows, key=lambda row: int(row[0])):
            yield (
                key_hash,
                {
                    tuple(key): Found(row_hash, (relation, place))
                    for _, row_hash, key, relation, place in group
                },
            )

    def values(self, places: Sequence[tuple[int, str]]) -> Iterator[tuple[tuple[int, str], Values]]:
        """The rows at some places, without their keys, in no order."""
        key = set(self._captured.key)
        columns = {name: c for name, c in self._place.columns.items() if name not in key}
        wanted = set(places)
        values = sql.SQL(", ").join(
            sql.SQL("CASE WHEN num_nulls({0}) = 0 THEN concat({0}) END").format(column)
            for column in columns.values()
        )
        for first in range(0, len(places), ROWS_AT_ONCE):
            some = places[first : first + ROWS_AT_ONCE]
            statement = sql.SQL(_SQL["values"]).format(
                values=values,
                rows=self._rows,
                places=sql.Literal([place for _, place in some]),
            )
            for relation, place, texts in self.connection.query(statement):
                if (relation, place) in wanted:
                    yield (relation, place), dict(zip(columns, texts, strict=True))

    def rewritten(self) -> bool:
        """Whether the table has a new file, in which the transaction's snapshot sees no row."""
        (rewritten,) = self.connection.one(
            _REWRITTEN, {"schema": self._place.schema, "table": self._place.name}
        )
        return bool(rewritten)
