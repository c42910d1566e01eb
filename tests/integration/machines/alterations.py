"""Random DDL on a table that is replicated, and what the table is after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from tests.integration.machines.kinds import BIGINT, INTEGER, TEXT, Kind
from tests.integration.machines.tables import Column, Table, choose

WIDER: dict[str, Kind] = {
    "smallint": INTEGER,
    "integer": BIGINT,
    "character varying(12)": replace(TEXT, type="character varying(40)"),
}


@dataclass(frozen=True)
class Alteration:
    """DDL for both sides.

    Attributes:
        after: the table as it is on the master afterwards.
        slave_first: the slave is altered first, and nothing needs to be quiet: changes from before
            fit its table as well. Otherwise it follows once it has caught up.
    """

    statement: str
    after: Table
    slave_first: bool = False


@st.composite
def alterations(draw: st.DrawFn, table: Table, fixed: Sequence[str], number: int) -> Alteration:
    """DDL on a table.

    Args:
        fixed: names of columns that something else depends on.
        number: tells a new name from others.
    """
    makers: list[Callable[[], Alteration]] = [
        lambda: _added(draw, table, number),
        lambda: _indexed(draw, table),
    ]
    free = [c for c in table.columns if c.name not in (*table.key, *fixed)]
    if free:
        column = choose(draw, free)
        makers += [lambda: _dropped(table, column), lambda: _renamed(table, column, number)]
    narrow = [c for c in table.columns if c.kind.type in WIDER]
    if narrow:
        widened = choose(draw, narrow)
        makers.append(lambda: _widened(table, widened))
    return choose(draw, makers)()


def _added(draw: st.DrawFn, table: Table, number: int) -> Alteration:
    kind = choose(draw, table.columns).kind
    column = Column(f'"added {number}"', kind, default=choose(draw, ("", *kind.values)))
    return Alteration(
        f"ALTER TABLE {table.name} ADD COLUMN {column.definition}",
        replace(table, columns=(*table.columns, column)),
        slave_first=True,
    )


def _dropped(table: Table, column: Column) -> Alteration:
    after = replace(table, columns=tuple(c for c in table.columns if c is not column))
    return Alteration(f"ALTER TABLE {table.name} DROP COLUMN {column.name}", after)


def _renamed(table: Table, column: Column, number: int) -> Alteration:
    name = f'"renamed {number}"'
    return Alteration(
        f"ALTER TABLE {table.name} RENAME COLUMN {column.name} TO {name}",
        _with(table, column, replace(column, name=name)),
    )


def _widened(table: Table, column: Column) -> Alteration:
    kind = WIDER[column.kind.type]
    return Alteration(
        f"ALTER TABLE {table.name} ALTER COLUMN {column.name} TYPE {kind.type}",
        _with(table, column, replace(column, kind=kind)),
        slave_first=True,
    )


def _indexed(draw: st.DrawFn, table: Table) -> Alteration:
    columns = [c for c in table.columns if c.kind.sorts and not c.kind.more]
    column = choose(draw, columns)
    return Alteration(f"CREATE UNIQUE INDEX ON {table.name} ({column.name})", table)


def _with(table: Table, column: Column, after: Column) -> Table:
    return replace(table, columns=tuple(after if c is column else c for c in table.columns))
