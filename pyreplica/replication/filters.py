"""Filters: what the configuration wants, what the master has, and when the one becomes the other.

A filter says which rows the slave has. So it can change only while the slave has none of the table,
and is set between the moment that the table is noted as one to be copied and the copy itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from pyreplica.config import ReplicationConfig
from pyreplica.errors import DatabaseError, Refused
from pyreplica.master import Master
from pyreplica.model import CapturedTable, TableCopy, TableFilter


def as_configured(config: ReplicationConfig, table: CapturedTable) -> CapturedTable:
    """A table with the columns that the configuration lets through.

    Args:
        table: with all of its columns.
    """
    return table.projected(config.filter_of(table.schema, table.name).columns)


def set_filters(
    config: ReplicationConfig, master: Master, tables: Iterable[CapturedTable]
) -> list[str]:
    """Have the master filter tables as the configuration says; they are to be copied after that.

    Returns:
        A line for each that was filtered in another way, for people.

    Raises:
        Refused: PostgreSQL cannot use a condition, or there are no such columns.
    """
    recorded = master.filters.recorded()
    lines = []
    for table in tables:
        wanted = config.filter_of(table.schema, table.name)
        if not wanted.same(recorded.get(table.relid, TableFilter())):
            lines.append(set_filter(config, master, table.schema, table.name))
    return lines


def set_filter(config: ReplicationConfig, master: Master, schema: str, name: str) -> str:
    """The same for one table, whatever the master has."""
    try:
        return master.filters.set(schema, name, config.filter_of(schema, name))
    except DatabaseError as error:
        # not to be tried again: it is the configuration that has to be changed
        raise Refused(error.what, where=config.name, hint=error.hint) from error


def changed(
    config: ReplicationConfig, table: CapturedTable | TableCopy, recorded: TableFilter | None
) -> tuple[str, str] | None:
    """What is wrong with the filter of a table that the slave has a copy of, with the cure.

    Args:
        recorded: what it was copied with; None for all of it.
    """
    wanted = config.filter_of(table.schema, table.name)
    known = recorded or TableFilter()
    if wanted.same(known):
        return None
    return (
        f"the filter of table {table} in the configuration ({wanted}) is not the one that the "
        f"slave was copied with ({known})",
        f"Change it back; or have the table copied anew: `pyreplica remove-table {config.name} "
        f"{table}`, start the daemon again, then `pyreplica add-table --truncate {config.name} "
        f"{table}`.",
    )
