"""What the master's tables are called on the slave, and which values are not to be seen there."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

Name = tuple[str, str]
"""A table: its schema and its name."""


class MaskKind(enum.Enum):
    """What a slave gets in the place of a column's values."""

    NULL = "null"
    """Nothing."""
    HASH = "hash"
    """HMAC-SHA-256 of the value's text, in hexadecimal digits: the same for the same value."""
    CONSTANT = "constant"
    """The same text for all."""


@dataclass(frozen=True, slots=True)
class Mask:
    """How a column is masked; ``text`` is the constant, or the secret that hashes are made with."""

    kind: MaskKind
    text: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class TableMap:
    """What becomes of one table of the master.

    Args:
        schema, name: what it is called on the slave.
        columns: what those columns are called there that are called otherwise.
        constants: values of further columns of the slave's table, by their names there.
        masks: what is masked, by the master's names of the columns.
    """

    schema: str
    name: str
    columns: Mapping[str, str] = field(default_factory=dict, hash=False)
    constants: Mapping[str, str] = field(default_factory=dict, hash=False)
    masks: Mapping[str, Mask] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    def column(self, name: str) -> str:
        """What a column of the master is called on the slave."""
        return self.columns.get(name, name)

    def logged(self, name: str) -> str | None:
        """What a column of the slave is called on the master, if it may be one of the master's."""
        for theirs, ours in self.columns.items():
            if ours == name:
                return theirs
        return None if name in self.columns or name in self.constants else name


@dataclass(frozen=True, slots=True)
class Map:
    """The mapping of a replication. Tables and columns are called as on the master.

    Args:
        schemas: what schemas are called on the slave.
        tables: what tables are called there; a table's own entry goes before its schema's.
        columns: what columns are called there, by table.
        constants: values of further columns of the slave's tables, by table.
        masks: by table and column.
    """

    schemas: Mapping[str, str] = field(default_factory=dict, hash=False)
    tables: Mapping[Name, Name] = field(default_factory=dict, hash=False)
    columns: Mapping[Name, Mapping[str, str]] = field(default_factory=dict, hash=False)
    constants: Mapping[Name, Mapping[str, str]] = field(default_factory=dict, hash=False)
    masks: Mapping[Name, Mapping[str, Mask]] = field(default_factory=dict, hash=False)

    def __bool__(self) -> bool:
        return any((self.schemas, self.tables, self.columns, self.constants, self.masks))

    def table(self, schema: str, name: str) -> TableMap:
        """What becomes of a table of the master."""
        one = (schema, name)
        there = self.tables.get(one, (self.schemas.get(schema, schema), name))
        return TableMap(
            *there,
            self.columns.get(one, {}),
            self.constants.get(one, {}),
            self.masks.get(one, {}),
        )

    @property
    def named(self) -> set[Name]:
        """The tables that are named here."""
        return {*self.tables, *self.columns, *self.constants, *self.masks}

    def mixed(self, tables: Iterable[Name]) -> Iterator[tuple[Name, Name]]:
        """The pairs of tables that would be one on the slave, with nothing to tell rows apart."""
        found: dict[tuple[str, str], list[Name]] = {}
        for one in tables:
            there = self.table(*one)
            others = found.setdefault((there.schema, there.name), [])
            yield from ((other, one) for other in others if not self.told_apart(one, other))
            others.append(one)

    def told_apart(self, one: Name, other: Name) -> bool:
        """Whether the rows of two tables can be told apart in one table of the slave."""
        ours, theirs = self.constants.get(one, {}), self.constants.get(other, {})
        return any(theirs.get(column, text) != text for column, text in ours.items())
