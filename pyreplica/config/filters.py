"""The section ``filters``: which rows and columns of tables the slave gets."""

from __future__ import annotations

import textwrap

from pyreplica.config.sections import settings
from pyreplica.config.yamltree import Spot, one_of
from pyreplica.model import TableFilter

Filters = tuple[tuple[str, str, TableFilter], ...]
"""Schema, table and filter of each table that has one."""


def filters(spot: Spot) -> Filters:
    """Check a mapping of tables to their filters."""
    found = []
    expected = "a mapping of schema.table to where or python, and columns"
    for name, entry in spot.entries(expected).items():
        schema, _, table = name.partition(".")
        if not schema or not table:
            entry.fail("expected the name of a table, schema.table, before the colon")
        if '"' in name:
            entry.fail("names are written without quotes, in the case PostgreSQL stores")
        given = settings(
            entry,
            {
                "where": _where,
                "python": _python,
                "on_error": one_of({"stop": "stop", "pass": "pass"}),
                "columns": _columns,
            },
        )
        if "where" in given and "python" in given:
            entry.fail("a table has one condition: where, or python")
        if "on_error" in given and "python" not in given:
            entry.fail("on_error is for a condition in Python, and there is none")
        if not given:
            entry.refuse("where or python, columns or both")
        found.append((schema, table, TableFilter(**given)))
    return tuple(found)


def _where(spot: Spot) -> str:
    expected = "a condition in SQL, such as \"region = 'eu'\""
    text = spot.expand(spot.text(expected)).strip()
    if not text:
        spot.refuse(expected)
    return text


def _python(spot: Spot) -> str:
    """A condition as the master keeps it: without what it is indented by as a whole."""
    expected = 'a condition in Python, such as \'new["region"] == "eu"\''
    text = textwrap.dedent(spot.expand(spot.text(expected))).strip()
    if not text:
        spot.refuse(expected)
    return text


def _columns(spot: Spot) -> tuple[str, ...]:
    expected = "a list of columns, such as [id, name]"
    names: list[str] = []
    for item in spot.items(expected):
        name = item.expand(item.text("the name of a column"))
        if not name or name in names:
            item.refuse("the name of another column")
        names.append(name)
    if not names:
        spot.refuse(expected, "without this key the slave gets all columns")
    return tuple(names)
