"""Which tables are merged with those of other databases that are written as well, and how."""

from __future__ import annotations

from dataclasses import dataclass

from pyreplica.config.yamltree import Spot, suggest

WAYS = ("row", "columns")


@dataclass(frozen=True, slots=True)
class Merge:
    """How one table is merged.

    Args:
        schema, table: its name, without quotes.
        way: "row", the later change of a row counts; "columns", that of each column.
        counters: columns of which what all databases add is added up.
    """

    schema: str
    table: str
    way: str
    counters: tuple[str, ...] = ()


def merges(spot: Spot) -> tuple[Merge, ...]:
    """Check a mapping of tables to ways of merging them."""
    found = []
    for name, entry in spot.entries("a mapping of tables to row, columns or counters").items():
        schema, _, table = name.partition(".")
        if not schema or not table:
            entry.fail(f"{name!r} is no name of a table", "Write schema.table, without quotes.")
        found.append(_merge(schema, table, entry))
    return tuple(found)


def _merge(schema: str, table: str, entry: Spot) -> Merge:
    expected = "row, columns, or a mapping such as {counters: [stock]}"
    if entry.is_a("str"):
        way = entry.text(expected)
        if way not in WAYS:
            entry.refuse(expected)
        return Merge(schema, table, way)
    settings = entry.entries(expected)
    for key, value in settings.items():
        if key != "counters":
            value.fail("unknown key", suggest(key, ["counters"]))
    if "counters" not in settings:
        entry.refuse(expected)
    items = settings["counters"].items("a list of columns, such as [stock]")
    columns = tuple(item.text("a column's name, without quotes") for item in items)
    if not columns:
        settings["counters"].refuse("at least one column", "without counters write: columns")
    return Merge(schema, table, "columns", columns)
