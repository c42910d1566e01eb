"""Moves the rows of one table: what COPY reads on the master and writes on the slave."""

from __future__ import annotations

from collections.abc import Callable

from pyreplica.database import Connection, pump, sql
from pyreplica.model import CapturedTable

# Oids of pg_type.dat, the same in every server.
EXACT_IN_BINARY = frozenset(
    {
        16,  # boolean
        17,  # bytea
        20,  # bigint
        21,  # smallint
        23,  # integer
        25,  # text
        114,  # json
        700,  # real
        701,  # double precision
        1042,  # character
        1043,  # character varying
        1082,  # date
        1114,  # timestamp
        1184,  # timestamp with time zone
        1700,  # numeric
        2950,  # uuid
        3802,  # jsonb
    }
)
"""Types whose binary form says exactly what their text says, in every release since 10: numbers of
a fixed size, digits with their scale, or the text itself. Others have oids in theirs, or print what
depends on settings, or are users' own."""


def move(
    master: Connection,
    slave: Connection,
    table: CapturedTable,
    partitioned: bool,
    progress: Callable[[int], object],
) -> int:
    """Copy a table's rows, in a transaction of either side; gives how many there are.

    Args:
        partitioned: whether it is on the master.
        progress: called with the number of rows that have just gone through.
    """
    name = sql.Identifier(table.schema, table.name)
    columns = sql.SQL(", ").join(sql.Identifier(c) for c in table.columns)
    binary = _same_in_binary(master, slave, sql.SQL("SELECT {} FROM {}").format(columns, name))
    form = sql.SQL(" (FORMAT binary)" if binary else "")
    return pump(
        master,
        sql.SQL("COPY {} TO STDOUT{}").format(_source(table, partitioned), form),
        slave,
        sql.SQL("COPY {} ({}) FROM STDIN{}").format(name, columns, form),
        progress,
        binary=binary,
    )


def _same_in_binary(master: Connection, slave: Connection, query: sql.Composable) -> bool:
    """Whether values of these columns arrive unchanged in binary form.

    Both servers are asked in the transactions that copy, which keep the tables from being altered
    from here on. The type of a domain is that of its base, as it is in COPY.
    """
    types = master.types(query)
    return EXACT_IN_BINARY.issuperset(types) and types == slave.types(query)


def _source(table: CapturedTable, partitioned: bool) -> sql.Composable:
    """What COPY reads: the table's own rows, all values as their types print them.

    The table itself where that will do, which is fastest. COPY refuses a partitioned one and a
    condition, and the output function of xml leaves the encoding out of the XML declaration, which
    the log keeps.
    """
    name = sql.Identifier(table.schema, table.name)
    names = [sql.Identifier(c) for c in table.columns]
    is_xml = [
        type_ == "xml" or table.definitions.get(c) == f"{type_} is xml"
        for c, type_ in ((c, table.types[c]) for c in table.columns)
    ]
    if not partitioned and not any(is_xml) and table.where is None:
        return sql.SQL("{} ({})").format(name, sql.SQL(", ").join(names))
    values = [
        sql.SQL("XMLSERIALIZE(CONTENT {} AS text)").format(c) if xml else c
        for c, xml in zip(names, is_xml, strict=True)
    ]
    return sql.SQL("(SELECT {} FROM {}{} WHERE {})").format(
        sql.SQL(", ").join(values),
        sql.SQL("" if partitioned else "ONLY "),
        name,
        condition(table),
    )


def condition(table: CapturedTable) -> sql.Composable:
    """The condition for the rows of the master that the slave gets."""
    return sql.SQL("true" if table.where is None else f"({table.where})")
