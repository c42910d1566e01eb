"""Finds the change that a batch fails on, so that the message can name it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from pyreplica.database import Connection, sql
from pyreplica.errors import ApplyError, DatabaseError
from pyreplica.model import Change
from pyreplica.slave import is_unique_violation
from pyreplica.slave.statements import Part, TableStatements

CHUNK = 1000
"""So many changes are tried at a time; only in a chunk that fails one after another."""

_VERBS = {"I": "insert", "U": "update", "D": "delete", "T": "truncate"}


def find_culprit(
    connection: Connection,
    changes: Iterable[Change],
    lookup: Callable[[int], TableStatements | None],
    compose: Callable[[Sequence[Change]], Sequence[Part]],
    sqlstate: str,
) -> ApplyError | None:
    """Redo a batch in chunks, each in a savepoint, inside a transaction that the caller rolls back.

    Args:
        connection: the slave's session.
        changes: the batch, in the order of the ids.
        lookup: gives the statements of a change's table; None for one that is left out.
        compose: gives the statements that apply some changes.
        sqlstate: how the batch failed. Changes that fail otherwise may be innocent: values of a
            unique key that change hands can only be applied together.

    Returns:
        The error that names the change; None when no change fails by itself.
    """
    suspect: ApplyError | None = None
    rest = (change for change in changes if lookup(change.table) is not None)
    for chunk in _chunks(rest):
        if _fails(connection, compose, chunk) is None:
            continue
        for change in chunk:
            error = _fails(connection, compose, [change])
            if error is None:
                continue
            blamed = _blaming(change, lookup(change.table), error)
            if error.sqlstate == sqlstate:
                return blamed
            suspect = suspect or blamed
    return suspect


def _chunks(changes: Iterator[Change]) -> Iterator[list[Change]]:
    while chunk := list(islice(changes, CHUNK)):
        yield chunk


def _fails(
    connection: Connection,
    compose: Callable[[Sequence[Change]], Sequence[Part]],
    changes: Sequence[Change],
) -> DatabaseError | None:
    """Apply some changes; when that fails, already in preparing them too, leave nothing of them."""
    connection.execute("SAVEPOINT pyreplica_chunk")
    try:
        statements = compose(changes)
        if statements:  # rows that came and went leave nothing to do
            connection.execute(sql.SQL("; ").join(statements))
    except DatabaseError as error:
        connection.execute("ROLLBACK TO SAVEPOINT pyreplica_chunk")
        return error
    connection.execute("RELEASE SAVEPOINT pyreplica_chunk")
    return None


def _blaming(
    change: Change, statements: TableStatements | None, error: DatabaseError
) -> ApplyError:
    table = str(statements.captured) if statements else str(change.table)
    what = f"cannot {_VERBS[change.op.upper()]} {table} {change.key}: {error.what}"
    if change.op == "I" and is_unique_violation(error):
        what = f"conflict insert_exists: {what}"
    return ApplyError(
        what,
        table=table,
        key=change.key,
        change_id=change.id,
        where=error.where,
        hint=error.hint
        or "Repair the row or the table on the slave; replication goes on by itself.",
        details=error.details,
    )
