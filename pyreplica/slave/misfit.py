"""Whether a table of the slave can take the rows of the master's."""

from __future__ import annotations

import re

from pyreplica.model import CapturedTable, MaskKind, SlaveTable, TableMap

GONE = "???"
"""What PostgreSQL calls a type that has been dropped since: only rows of the past have it."""

HASHED = "character varying(64)"
"""The type that a hash fits into."""

Problem = tuple[str, str]
"""What is wrong, and the cure."""


def misfit(
    captured: CapturedTable, table: SlaveTable | None, called: TableMap | None = None
) -> Problem | None:
    """Why the slave's table cannot take the master's rows, with the cure; None when it can.

    Args:
        called: what the slave's table is to be called, for where there is none.
    """
    if table is None:
        return (
            f"the slave has no table {called or captured}",
            "Create it on the slave, or leave it out of `tables:`.",
        )
    if table.unlogged:
        return (
            f"table {table} on the slave is unlogged, a crash would empty it unnoticed",
            f"Change it on the slave: ALTER TABLE {table} SET LOGGED",
        )
    problem = _not_mapped(captured, table)
    if problem is not None:
        return problem
    here = table.logged
    missing = [table.map.column(c) for c in (*captured.key, *captured.columns) if c not in here]
    missing += [c for c in table.map.constants if c not in table.columns]
    if missing:
        return (
            f"table {table} on the slave has no column {missing[0]}",
            f"Add it on the slave: ALTER TABLE {table} ADD COLUMN {missing[0]} ...",
        )
    generated = [c for c in captured.columns if here[c].generated]
    if generated:
        return (
            f"column {here[generated[0]].name} of table {table} is generated on the slave only",
            "Make it a plain column on the slave, or generated on the master as well.",
        )
    logged = {*captured.key, *captured.columns}
    plain = [
        c.name
        for c in table.columns.values()
        if c.logged in captured.types and c.logged not in logged and not c.generated
    ]
    if plain:
        return (
            f"column {plain[0]} of table {table} is generated on the master only",
            "Its values are not sent. Make it generated on the slave as well, or drop it there.",
        )
    problem = _types_differ(captured, table)
    if problem is not None:
        return problem
    if not table.has_key:
        key = ", ".join([*table.map.constants, *(here[c].name for c in captured.key)])
        return (
            f"table {table} on the slave has no unique key on ({key})",
            f"Add it on the slave: ALTER TABLE {table} ADD PRIMARY KEY ({key})",
        )
    extra = [
        c.name
        for c in table.columns.values()
        if c.required
        and not c.generated
        and c.logged not in logged
        and c.name not in table.map.constants
    ]
    if extra:
        return (
            f"column {extra[0]} of table {table} is on the slave only, NOT NULL and has no default",
            f"Give it a default: ALTER TABLE {table} ALTER COLUMN {extra[0]} SET DEFAULT ...",
        )
    return None


def unknown_column(captured: CapturedTable, there: TableMap) -> Problem | None:
    """A column that is named in the configuration's `map:`, and that the table does not have.

    It is no misfit: in the log there may be changes of a time when the table did not have it.
    """
    known = {*captured.key, *captured.columns}
    for what, names in (("columns", there.columns), ("masks", there.masks)):
        for unknown in sorted({*names} - known):
            return (
                f"`map:` names column {unknown} of table {captured} in `{what}:`, which the "
                "master's table does not have",
                f"Correct the name in the configuration; it has {', '.join(captured.columns)}.",
            )
    return None


def _not_mapped(captured: CapturedTable, table: SlaveTable) -> Problem | None:
    """What in the configuration's `map:` cannot be of this table."""
    known = {*captured.key, *captured.columns}
    for name in table.map.constants:
        if table.map.logged(name) in known or name in known - {*table.map.columns}:
            return (
                f"`map:` has a constant for column {name} of table {table}, and the master's table "
                "has a column of that name",
                "Map the master's column to another name, or give the constant another column.",
            )
        if name in table.columns and table.columns[name].generated:
            return (
                f"`map:` has a constant for column {name} of table {table}, which is generated",
                "Make it a plain column on the slave.",
            )
    for name in captured.key:
        mask = table.map.masks.get(name)
        if mask is None:
            continue
        if mask.kind is not MaskKind.HASH:
            return (
                f"column {name} of table {captured} is part of its key, and masked so that all "
                "rows would have the same",
                "Mask it by a hash: equal values stay equal, and different ones different.",
            )
        if captured.partitioned:
            return (
                f"column {name} of the partitioned table {captured} is part of its key and masked; "
                "then a dropped partition's rows could not be told on the slave",
                "Leave that column as it is.",
            )
    return None


def _types_differ(captured: CapturedTable, table: SlaveTable) -> Problem | None:
    """The first column whose type on the slave does not hold the master's values."""
    here = table.logged
    for name in dict.fromkeys((*captured.key, *captured.columns)):
        theirs, ours = captured.types[name], here[name].full_type
        called = here[name].name
        mask = table.map.masks.get(name)
        if mask is not None:
            if mask.kind is MaskKind.HASH and not _keeps(HASHED, ours, here[name].type):
                return (
                    f"column {called} of table {table} is {ours}, and cannot take the hash of the "
                    "master's value",
                    f"Change it on the slave: ALTER TABLE {table} ALTER COLUMN {called} TYPE text",
                )
            if mask.kind is MaskKind.NULL and here[name].required:
                return (
                    f"column {called} of table {table} is NOT NULL, and masked by null",
                    f"Change it on the slave: ALTER TABLE {table} ALTER COLUMN {called} DROP NOT "
                    "NULL; or mask it by a constant.",
                )
            continue
        if theirs == ours and theirs != GONE:
            made_of = captured.definitions.get(name), here[name].definition
            if made_of[0] != made_of[1]:
                return (
                    f"column {called} of table {table} is {theirs} on both sides, but that is not "
                    f"the same type: on the master {made_of[0]}; on the slave {made_of[1]}",
                    "Make the type on the slave like the master's.",
                )
        elif not _keeps(theirs, ours, here[name].type):
            return (
                f"column {called} of table {table} is {theirs} on the master and {ours} on the "
                "slave, which could not hold every value unchanged",
                f"Change it on the slave: ALTER TABLE {table} ALTER COLUMN {called} TYPE {theirs}",
            )
    return None


_WIDER = {
    "smallint": {"integer", "bigint", "numeric"},
    "integer": {"bigint", "numeric"},
    "bigint": {"numeric"},
    "character varying": {"text"},
    "text": {"character varying"},
}
"""Types without a length that hold every value of another one, and print it the same."""


def _keeps(theirs: str, ours: str, ours_without_length: str) -> bool:
    """Whether a column of the slave keeps every value of the master's column as it is."""
    if theirs in (ours, GONE):
        return True
    # a name that needs quotes may have parentheses of its own, and no length
    base = theirs if '"' in theirs else re.sub(r"\([\d,]+\)", "", theirs)
    if ours != ours_without_length:
        # with a length of its own: at most a longer varchar does
        varchar = r"character varying\((\d+)\)"
        shorter, longer = re.fullmatch(varchar, theirs), re.fullmatch(varchar, ours)
        return shorter is not None and longer is not None and int(shorter[1]) <= int(longer[1])
    return base == ours or ours in _WIDER.get(base, ())
