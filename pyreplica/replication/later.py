"""What is made of copied tables after their rows, in pieces that several workers can take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyreplica.model import CapturedTable
from pyreplica.replication.schema import ATTACHMENT, MadeLater


@dataclass(frozen=True, slots=True)
class Piece:
    """What one worker makes in one transaction.

    Attributes:
        what: for people.
        tables: the oids on the master of the tables that it locks.
        shared: other indexes of the same table can be made meanwhile.
        statements: make it.
    """

    what: str
    tables: frozenset[int]
    shared: bool
    statements: tuple[str, ...]


class Later:
    """All that is made after the rows of some tables.

    Attributes:
        families: of each table its oid, and those of its partitions that something is made of.
        last: foreign keys, which need the rows and keys of two tables.
    """

    def __init__(self, tables: Iterable[CapturedTable], parts: Sequence[MadeLater]) -> None:
        named = {table.relid: table for table in tables}
        families = {relid: {relid} for relid in named}
        own: defaultdict[int, list[MadeLater]] = defaultdict(list)
        for one in parts:
            families[one.part.root].add(one.part.relid)
            if one.part.referenced is None:
                own[one.part.root].append(one)
        self.families: Mapping[int, frozenset[int]] = {r: frozenset(f) for r, f in families.items()}
        self._pieces = {
            relid: _pieces(f"indexes of {named[relid]}", self.families[relid], parts)
            for relid, parts in own.items()
        }
        self.last = [
            Piece(
                str(one.part),
                self.families[one.part.root] | self.families[one.part.referenced],
                False,
                (one.sql,),
            )
            for one in parts
            if one.part.referenced is not None
        ]

    def pieces(self, table: CapturedTable) -> Sequence[Piece]:
        """What is made of a table once its rows are there, in this order."""
        return self._pieces.get(table.relid, ())


def _pieces(what: str, family: frozenset[int], parts: Sequence[MadeLater]) -> list[Piece]:
    """The partitioned tables' first, which copies nothing; then what takes long, of each partition.

    A key locks its table against everything else. Of the other indexes several can be made of one
    table at a time.
    """
    above: list[str] = []
    attached: list[str] = []
    keys: defaultdict[int, list[str]] = defaultdict(list)
    indexes: list[Piece] = []
    for one in parts:
        if one.part.kind == ATTACHMENT:
            attached.append(one.sql)
        elif one.part.partitioned:
            above.append(one.sql)
        elif one.part.kind == "index":
            indexes.append(Piece(what, frozenset({one.part.relid}), True, (one.sql,)))
        else:
            keys[one.part.relid].append(one.sql)
    return [
        *([Piece(what, family, False, tuple(above))] if above else []),
        *(Piece(what, frozenset({relid}), False, tuple(made)) for relid, made in keys.items()),
        *indexes,
        *([Piece(what, family, False, tuple(attached))] if attached else []),
    ]
