"""Copies a table's rows through a transform: each is an insert to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from pyreplica.config import ReplicationConfig
from pyreplica.database import sql
from pyreplica.errors import ApplyError
from pyreplica.master import Master
from pyreplica.model import CapturedTable, Change
from pyreplica.replication.rows import condition, shown
from pyreplica.replication.transforming import Transforming
from pyreplica.slave import Slave
from pyreplica.slave.statements import TableStatements
from pyreplica.transform.module import Hooks

ROWS = 1_000
"""So many rows are written at a time."""


def move(
    config: ReplicationConfig,
    hooks: Hooks,
    master: Master,
    slave: Slave,
    table: CapturedTable,
    partitioned: bool,
    progress: Callable[[int], object],
) -> int:
    """Copy a table's rows, in a transaction of either side; gives how many there are.

    Args:
        partitioned: whether it is on the master.
        progress: called with the number of rows that have just gone through.
    """
    chosen = {t.relid for t in master.tables() if config.includes(t.schema, t.name)}
    transforming = Transforming(config, hooks, master, lambda: chosen)
    tables: dict[int, TableStatements] = {}
    transforming.begin(None)
    copied = 0

    def counted() -> Iterator[Change]:
        nonlocal copied
        for change in _rows(master, table, partitioned):
            copied += 1
            yield change

    made = transforming.changes(counted())
    told = 0
    while some := list(islice(made, ROWS)):
        _write(transforming, master, slave, tables, some)
        progress(copied - told)
        told = copied
    progress(copied - told)
    return copied


def begun(config: ReplicationConfig, hooks: Hooks, master: Master) -> None:
    """The copy of a table begins that does not go through the transform."""
    Transforming(config, hooks, master, frozenset).begin(None)


def committed(config: ReplicationConfig, hooks: Hooks, master: Master) -> None:
    """The rows of a table are committed."""
    Transforming(config, hooks, master, frozenset).end(None)


def _rows(master: Master, table: CapturedTable, partitioned: bool) -> Iterator[Change]:
    """The rows as the log would have them."""
    others = [c for c in table.columns if c not in table.key]
    query = sql.SQL("SELECT {}::text, {}::text FROM {}{} WHERE {}").format(
        _object(master, table, table.key),
        _object(master, table, others),
        sql.SQL("" if partitioned else "ONLY "),
        sql.Identifier(table.schema, table.name),
        condition(table),
    )
    for key, row in master.connection.stream(query, size=ROWS):
        yield Change(0, table.id, "I", key, row)


def _object(
    master: Master, table: CapturedTable, columns: tuple[str, ...] | list[str]
) -> sql.Composable:
    masks = master.masking.of(table)
    return sql.SQL("jsonb_object(ARRAY[{}]::text[], ARRAY[{}]::text[])").format(
        sql.SQL(", ").join(map(sql.Literal, columns)),
        sql.SQL(", ").join(shown(table, column, masks) for column in columns),
    )


def _write(
    transforming: Transforming,
    master: Master,
    slave: Slave,
    tables: dict[int, TableStatements],
    changes: list[Change],
) -> None:
    by_table: dict[int, list[Change]] = {}
    for change in changes:
        if change.op not in "Ii":
            raise ApplyError(
                f"the transform has made something else than inserts of a row of the copy, "
                f"for {transforming.table(change.table)} {change.key}",
                where=slave.connection.where,
                hint="There is nothing yet that could be updated or deleted.",
            )
        by_table.setdefault(change.table, []).append(change)
    for id_, some in by_table.items():
        if id_ not in tables:
            captured = transforming.table(id_)
            here = slave.describe(captured, master.masking.of(captured))
            if here is None:
                raise ApplyError(f"the slave has no table {slave.place(captured)}")
            # with `copy --schema` its key is made when the rows are there
            tables[id_] = TableStatements(captured, replace(here, has_key=True))
        source = sql.SQL(
            "(SELECT * FROM unnest({}::jsonb[], {}::jsonb[]) u(key, row) OFFSET 0)"
        ).format(sql.Literal([c.key for c in some]), sql.Literal([c.row for c in some]))
        slave.connection.execute(tables[id_].insert(source))
