"""The rows of a table that are a replication's own: those with its constants, where it has any."""

from __future__ import annotations

from collections.abc import Sequence

from pyreplica.database import sql
from pyreplica.model import SlaveColumn, SlaveTable


def constant(column: SlaveColumn, text: str) -> sql.Composable:
    """The value that a column of constants has, read as the type's input function reads it."""
    before, after = column.input
    return sql.SQL("{}{}::text{}").format(sql.SQL(before), sql.Literal(text), sql.SQL(after))


def own(table: SlaveTable) -> Sequence[sql.Composable]:
    """The conditions that a row ``t`` of the table is the replication's own.

    By the key's own equality where the column is part of it, so that its index is of use. Types of
    other columns need not have one.
    """
    conditions = []
    for name, text in table.map.constants.items():
        column = table.columns[name]
        form = "t.{0} {1} {2}" if column.equal else "record_image_eq(ROW(t.{0}), ROW({2}))"
        conditions.append(
            sql.SQL(form).format(
                sql.Identifier(name), sql.SQL(column.equal or "="), constant(column, text)
            )
        )
    return conditions


def own_rows(table: SlaveTable) -> sql.Composable:
    """The table's own rows ``t``, as a FROM item and its condition."""
    only = sql.SQL("" if table.partitioned else "ONLY ")
    return sql.SQL("{}{} t WHERE {}").format(
        only, sql.Identifier(table.schema, table.name), sql.SQL(" AND ").join(own(table))
    )


def emptying(tables: Sequence[SlaveTable]) -> list[sql.Composable]:
    """The statements that empty tables: all in one TRUNCATE, because of their foreign keys.

    TRUNCATE is refused for a table that one outside refers to, whether or not that has rows; such
    a table is emptied with DELETE. Of a table with inheritance children only itself is emptied, and
    of one in which several masters are gathered only what is this one's.
    """
    shared = [table for table in tables if table.map.constants]
    truncated = [table for table in tables if not table.map.constants]
    deleted: list[SlaveTable] = []
    while True:
        # one that is not truncated is outside in its turn
        names = {str(table) for table in truncated}
        outside = [table for table in truncated if not names.issuperset(table.referenced_by)]
        if not outside:
            break
        deleted += outside
        truncated = [table for table in truncated if table not in outside]
    statements: list[sql.Composable] = [
        sql.SQL("DELETE FROM {}").format(own_rows(table)) for table in shared
    ]
    statements += [sql.SQL("DELETE FROM {}").format(_all_rows(table)) for table in deleted]
    if truncated:
        names_ = sql.SQL(", ").join(_all_rows(table) for table in truncated)
        statements.append(sql.SQL("TRUNCATE {}").format(names_))
    return statements


def _all_rows(table: SlaveTable) -> sql.Composable:
    only = sql.SQL("" if table.partitioned else "ONLY ")
    return only + sql.Identifier(table.schema, table.name)
