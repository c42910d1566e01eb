"""Moves the rows of one table: what COPY reads on the master and writes on the slave."""

from __future__ import annotations

from collections.abc import Callable

from pyreplica.database import Connection, pump, sql
from pyreplica.database.masks import Masks, masked
from pyreplica.model import CapturedTable, TableMap

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
    there: TableMap | None = None,
) -> int:
    """Copy a table's rows, in a transaction of either side; gives how many there are.

    Args:
        partitioned: whether it is on the master.
        progress: called with the number of rows that have just gone through.
        there: what becomes of the table on the slave; None for the same.
    """
    there = there or TableMap(table.schema, table.name)
    source = _source(table, partitioned, there)
    name = sql.Identifier(there.schema, there.name)
    columns = sql.SQL(", ").join(
        sql.Identifier(c) for c in (*map(there.column, table.columns), *there.constants)
    )
    binary = _same_in_binary(
        master,
        _selected(table, there),
        slave,
        sql.SQL("SELECT {} FROM {}").format(columns, name),
    )
    form = sql.SQL(" (FORMAT binary)" if binary else "")
    return pump(
        master,
        sql.SQL("COPY {} TO STDOUT{}").format(source, form),
        slave,
        sql.SQL("COPY {} ({}) FROM STDIN{}").format(name, columns, form),
        progress,
        binary=binary,
    )


def _same_in_binary(
    master: Connection, there: sql.Composable, slave: Connection, here: sql.Composable
) -> bool:
    """Whether values of these queries' columns arrive unchanged in binary form.

    Both servers are asked in the transactions that copy, which keep the tables from being altered
    from here on. The type of a domain is that of its base, as it is in COPY.
    """
    types = master.types(there)
    return EXACT_IN_BINARY.issuperset(types) and types == slave.types(here)


def _selected(table: CapturedTable, there: TableMap) -> sql.Composable:
    """A query of the columns that are copied, for their types."""
    values: list[sql.Composable] = [
        sql.SQL("NULL::text") if c in there.masks else sql.Identifier(c) for c in table.columns
    ]
    values += [sql.SQL("{}::text").format(sql.Literal(text)) for text in there.constants.values()]
    return sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join(values), sql.Identifier(table.schema, table.name)
    )


def _source(table: CapturedTable, partitioned: bool, there: TableMap) -> sql.Composable:
    """What COPY reads: the table's own rows, all values as their types print them.

    The table itself where that will do, which is fastest. COPY refuses a partitioned one and a
    condition, and the output function of xml leaves the encoding out of the XML declaration, which
    the log keeps.
    """
    name = sql.Identifier(table.schema, table.name)
    names = [sql.Identifier(c) for c in table.columns]
    plain = not (there.masks or there.constants or any(is_xml(table, c) for c in table.columns))
    if plain and not partitioned and table.where is None:
        return sql.SQL("{} ({})").format(name, sql.SQL(", ").join(names))
    values = [
        shown(table, column, there.masks) if column in there.masks else _exact(table, column)
        for column in table.columns
    ]
    values += [sql.SQL("{}::text").format(sql.Literal(text)) for text in there.constants.values()]
    return sql.SQL("(SELECT {} FROM {}{} WHERE {})").format(
        sql.SQL(", ").join(values),
        sql.SQL("" if partitioned else "ONLY "),
        name,
        condition(table),
    )


def condition(table: CapturedTable) -> sql.Composable:
    """The condition for the rows of the master that the slave gets."""
    return sql.SQL("true" if table.where is None else f"({table.where})")


def is_xml(table: CapturedTable, column: str) -> bool:
    """Whether a column of the master is of type xml, or of a domain over it."""
    type_ = table.types[column]
    return type_ == "xml" or table.definitions.get(column) == f"{type_} is xml"


def _exact(table: CapturedTable, column: str) -> sql.Composable:
    name = sql.Identifier(column)
    if is_xml(table, column):
        return sql.SQL("XMLSERIALIZE(CONTENT {} AS text)").format(name)
    return name


def shown(table: CapturedTable, column: str, masks: Masks) -> sql.Composable:
    """The text of a column of the master, masked if it is, as when it comes from the log."""
    # a composite value of NULLs is none
    text = sql.SQL("CASE WHEN {0} IS DISTINCT FROM NULL THEN concat({0}) END")
    return masked(masks.get(column), text.format(_exact(table, column)))
