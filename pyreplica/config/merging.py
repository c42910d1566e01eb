"""Which tables are merged with those of other databases that are written as well, and how."""

from __future__ import annotations

from dataclasses import dataclass

from pyreplica.config.pythonfile import PythonFile, python_file
from pyreplica.config.yamltree import Spot, suggest

WAYS = (
    "error",
    "apply_remote",
    "keep_local",
    "last_update_wins",
    "first_update_wins",
    "columns",
)
"""Those that need nothing else to be said."""
_SAID = ("counters", "priority", "function")
_EXPECTED = (
    f"{', '.join(WAYS)}, {{counters: [stock]}}, {{priority: [paris, tokyo]}} or "
    "{function: /etc/pyreplica/merge.py}"
)


@dataclass(frozen=True, slots=True)
class Merge:
    """How one table is merged.

    Args:
        schema, table: its name, without quotes.
        way: one of ``WAYS``, "priority" or "function"; pyreplica.set_merge() says what they do.
        counters: columns of which what all databases add is added up; way: columns.
        priority: the names of nodes, of which the first counts; way: priority.
        function: a file with a function that decides; way: function.
    """

    schema: str
    table: str
    way: str
    counters: tuple[str, ...] = ()
    priority: tuple[str, ...] = ()
    function: PythonFile | None = None


def merges(spot: Spot) -> tuple[Merge, ...]:
    """Check a mapping of tables to ways of merging them."""
    found = []
    for name, entry in spot.entries("a mapping of tables to ways of merging them").items():
        schema, _, table = name.partition(".")
        if not schema or not table:
            entry.fail(f"{name!r} is no name of a table", "Write schema.table, without quotes.")
        found.append(_merge(schema, table, entry))
    return tuple(found)


def _merge(schema: str, table: str, entry: Spot) -> Merge:
    if entry.is_a("str"):
        way = entry.text(_EXPECTED)
        if way not in WAYS:
            entry.refuse(_EXPECTED)
        return Merge(schema, table, way)
    settings = entry.entries(_EXPECTED)
    for key, value in settings.items():
        if key not in _SAID:
            value.fail("unknown key", suggest(key, _SAID))
    if len(settings) != 1:
        entry.refuse(_EXPECTED)
    ((way, value),) = settings.items()
    if way == "function":
        file = python_file(value, "the absolute path of a file, such as /etc/pyreplica/merge.py")
        return Merge(schema, table, way, function=file)
    if way == "priority":
        return Merge(schema, table, way, priority=_nodes(value))
    items = value.items("a list of columns, such as [stock]")
    columns = tuple(item.text("a column's name, without quotes") for item in items)
    if not columns:
        value.refuse("at least one column", "without counters write: columns")
    return Merge(schema, table, "columns", columns)


def _nodes(spot: Spot) -> tuple[str, ...]:
    nodes: list[str] = []
    for item in spot.items("a list of nodes, such as [paris, tokyo]"):
        node = item.text("the name of a node; see pyreplica.set_node()")
        if not node or node in nodes:
            item.fail(f"the node {node!r} is listed twice" if node else "a node has a name")
        nodes.append(node)
    if not nodes:
        spot.refuse("at least one node")
    return tuple(nodes)
