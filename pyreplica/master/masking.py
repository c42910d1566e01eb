"""What of the master's values is masked before any of it goes to a slave.

The configuration names tables and columns as they are called. They go by their identity here, the
table's oid and the column's number: a column that is renamed stays masked, under whatever name the
log has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pyreplica import sqlfiles
from pyreplica.database import Connection, sql
from pyreplica.database.masks import (
    Masks,
    masked_object,
    masked_old,
    masked_old_text,
    masked_text,
)
from pyreplica.errors import Refused
from pyreplica.model import CapturedTable, Change, Map, Mask

_SQL = sqlfiles.statements("master.sql")

_NOT_ROWS = frozenset("PST")
"""Changes that have no values of columns in them: a partition's bounds, DDL, TRUNCATE."""


@dataclass(frozen=True, slots=True)
class _Generation:
    """A generation of a captured table: its columns, with their numbers."""

    id: int
    relid: int
    schema: str
    name: str
    columns: Mapping[str, int]
    key: tuple[str, ...]


class Masking:
    """The masks of one replication, through a session with its master.

    Args:
        map: the replication's mapping.
    """

    def __init__(self, connection: Connection, map: Map) -> None:
        self._connection = connection
        self._map = map
        self._by_generation: dict[int, Masks] = {}
        self._keys: dict[int, tuple[str, ...]] = {}

    def __bool__(self) -> bool:
        return bool(self._map.masks)

    def load(self) -> None:
        """Look at what is captured now.

        Raises:
            Refused: a mask is of a table or column that there is not, and never was.
        """
        if not self:
            return
        generations = [
            _Generation(id_, relid, schema, name, columns or {}, tuple(key))
            for id_, relid, schema, name, columns, key in self._connection.query(
                _SQL["numbered_columns"]
            )
        ]
        numbers: dict[int, dict[int, Mask]] = {}
        missing = {(one, column) for one, masks in self._map.masks.items() for column in masks}
        for generation in generations:
            one = (generation.schema, generation.name)
            for column, mask in self._map.masks.get(one, {}).items():
                if column in generation.columns:
                    numbers.setdefault(generation.relid, {})[generation.columns[column]] = mask
                    missing.discard((one, column))
        self._refuse(missing)
        self._by_generation = {}
        self._keys = {}
        for generation in generations:
            masked = numbers.get(generation.relid, {})
            self._by_generation[generation.id] = {
                column: masked[number]
                for column, number in generation.columns.items()
                if number in masked
            }
            self._keys[generation.id] = generation.key

    def _refuse(self, missing: Iterable[tuple[tuple[str, str], str]]) -> None:
        for (schema, name), column in sorted(missing):
            raise Refused(
                f"`masks:` of the configuration names column {column} of table {schema}.{name}, "
                "which is not captured on the master under that name",
                where=self._connection.where,
                hint="Correct the name, or have the table captured first: `pyreplica install`. "
                "Nothing is sent to the slave until then.",
            )

    def of(self, captured: CapturedTable) -> Masks:
        """What is masked of a table, by the names of its columns in that generation."""
        if not self:
            return {}
        if captured.id == 0:
            # not captured yet
            return self._map.masks.get((captured.schema, captured.name), {})
        return self._of(captured.id)

    def _of(self, generation: int) -> Masks:
        if generation not in self._by_generation:
            self.load()
        return self._by_generation.get(generation, {})

    # Small batches

    def changes(self, changes: tuple[Change, ...]) -> tuple[Change, ...]:
        """The same changes, masked."""
        if not self:
            return changes
        return tuple(self._change(change) for change in changes)

    def _change(self, change: Change) -> Change:
        if change.op in _NOT_ROWS or not (masks := self._of(change.table)):
            return change
        return change._replace(
            key=masked_text(masks, change.key) if change.key else change.key,
            row=None if change.row is None else masked_text(masks, change.row),
            old=None if change.old is None else masked_old_text(masks, change.old),
        )

    # Large ones

    def over(self, query: sql.Composable) -> sql.Composable:
        """The same query of (id, tab, op, key, row, old), masked; key is text, '' for none."""
        self.load()
        masked = {id_: masks for id_, masks in self._by_generation.items() if masks}
        if not masked:
            return query
        rows: list[sql.Composable] = []
        olds: list[sql.Composable] = []
        keys: list[sql.Composable] = []
        for id_, masks in masked.items():
            when = sql.SQL("WHEN {} THEN {}")
            tab = sql.Literal(id_)
            rows.append(when.format(tab, masked_object(masks, sql.SQL("c.row"))))
            olds.append(when.format(tab, masked_old(masks, sql.SQL("c.old"))))
            if not masks.keys().isdisjoint(self._keys[id_]):
                key = masked_object(masks, sql.SQL("nullif(c.key, '')::jsonb"))
                keys.append(when.format(tab, sql.SQL("coalesce({}::text, '')").format(key)))
        return sql.SQL(
            "SELECT c.id, c.tab, c.op, {}, {}, {} FROM ({}) c(id, tab, op, key, row, old)"
        ).format(_case(keys, "key"), _case(rows, "row"), _case(olds, "old"), query)


def _case(cases: list[sql.Composable], column: str) -> sql.Composable:
    whole = sql.SQL("c.{}").format(sql.SQL(column))
    if not cases:
        return whole
    none = sql.Literal("".join(sorted(_NOT_ROWS)))
    return sql.SQL(
        "CASE WHEN strpos({none}, c.op::text) > 0 THEN {whole} ELSE CASE c.tab {cases} ELSE "
        "{whole} END END"
    ).format(none=none, whole=whole, cases=sql.SQL(" ").join(cases))
