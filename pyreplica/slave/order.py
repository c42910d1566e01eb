"""In which order, and in which way, the changes of a batch are applied."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from pyreplica.database import sql
from pyreplica.model import BARRIERS, Change
from pyreplica.slave.fold import Net
from pyreplica.slave.statements import Part, TableStatements

_T = TypeVar("_T")


def in_pieces(changes: Iterable[Change]) -> Iterator[list[Change]]:
    """The changes between barriers, and each barrier by itself."""
    piece: list[Change] = []
    for change in changes:
        if change.op not in BARRIERS:
            piece.append(change)
            continue
        if piece:
            yield piece
        yield [change]
        piece = []
    if piece:
        yield piece


def in_waves(
    generations: Iterable[tuple[int, TableStatements, _T]],
) -> Iterator[list[tuple[int, TableStatements, _T]]]:
    """The generations of a batch's tables, by their first changes, in groups to be applied in turn.

    DDL begins a new generation of a table. Its changes belong after all those of the one before it,
    also where they are of the same rows; the tables among themselves have no such order.
    """
    wave: dict[str, tuple[int, TableStatements, _T]] = {}
    for one in generations:
        table = str(one[1].table)
        if table in wave:
            yield list(wave.values())
            wave = {}
        wave[table] = one
    yield list(wave.values())


class Ways(NamedTuple):
    """Which kinds of net changes of a table are applied in which way, (way, kind).

    Args:
        reinserts: the kinds that go through one statement.
        updates: the kinds that are updated, each by itself.
    """

    deletes: tuple[tuple[str, str], ...]
    reinserts: str
    updates: str
    inserts: tuple[tuple[str, str], ...]


def ways_of(statements: TableStatements, careful: bool, reinsert: bool = False) -> Ways:
    """How a table's net changes are applied.

    Args:
        careful: values of another unique key may change hands between updated rows. These all go
            through one statement then, whatever column changes with it.
        reinsert: they have to in any case.
    """
    reinsert |= careful and statements.table.other_unique
    # a row that is replaced keeps what only the slave has in it, if it is there
    own = statements.has_own
    return Ways(
        (("delete", "D"), ("delete", "d"), *(() if own else (("delete", "r"),))),
        ("Uu" if reinsert else "") + ("r" if own else ""),
        "" if reinsert else "Uu",
        (("insert", "I"), ("insert_missing" if own else "insert", "r")),
    )


def statement_for(
    statements: TableStatements,
    how: str,
    source: Part,
    columns: Sequence[str] | None,
    was: Part | None = None,
) -> Part:
    """The statement of a way to apply net changes.

    Args:
        columns: those that an UPDATE sets.
        was: a further condition for the rows that are updated.
    """
    if how == "delete":
        return statements.delete(source)
    if how == "insert":
        return statements.insert(source)
    if how == "insert_missing":
        return statements.insert_missing(source)
    if how == "reinsert":
        return statements.reinsert(source, was)
    return statements.update(source, columns, was)


def expecting(
    statements: TableStatements,
    how: str,
    source: Part,
    columns: Sequence[str] | None,
    was: Part | None,
    expected: Part,
) -> Part:
    """The same, to fail when it meets another number of rows than it should."""
    before: Part = sql.SQL("")
    if how == "reinsert":
        taken, statement = statements.reinsert_parts(source, was)
        before = sql.SQL("{}, ").format(taken)
    else:
        statement = statement_for(statements, how, source, columns, was)
    conflict = "delete_missing" if how == "delete" else "update_missing"
    return sql.SQL(
        "WITH {}done AS ({} RETURNING 1) SELECT pyreplica.expect(count(*), {}, {}, {}) FROM done"
    ).format(
        before, statement, expected, sql.Literal(conflict), sql.Literal(str(statements.captured))
    )


def by_columns(
    nets: Sequence[Net], kind: str
) -> dict[tuple[tuple[str, ...], tuple[str, ...]], list[Net]]:
    """Updates by the columns they change, and by those of which they tell what was there."""
    grouped: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Net]] = {}
    for net in nets:
        if net.kind == kind:
            columns = tuple(json.loads(net.row or "{}"))
            if columns:
                known = tuple(json.loads(net.old)) if net.old else ()
                grouped.setdefault((columns, known), []).append(net)
    return grouped
