"""Finds the change that a batch fails on, so that the message can name it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from pyreplica.database import Connection
from pyreplica.errors import ApplyError, DatabaseError
from pyreplica.model import BARRIERS, Change, Script
from pyreplica.slave import is_unique_violation
from pyreplica.slave.statements import TableStatements

CHUNK = 1000
"""So many changes are tried at a time; only in a chunk that fails one after another."""

_VERBS = {
    "I": "insert",
    "U": "update",
    "D": "delete",
    "T": "truncate",
    "F": "fill a new column of",
    "P": "delete a partition's rows of",
}


def find_culprit(
    connection: Connection,
    changes: Iterable[Change],
    lookup: Callable[[int], TableStatements | None],
    attempt: Callable[[Sequence[Change]], None],
    sqlstate: str,
) -> ApplyError | None:
    """Redo a batch in chunks, each in a savepoint, inside a transaction that the caller rolls back.

    Args:
        connection: the slave's session.
        changes: the batch, in the order of the ids.
        lookup: gives the statements of a change's table; None for one that is left out.
        attempt: applies some changes: rows, or one barrier by itself.
        sqlstate: how the batch failed. Changes that fail otherwise may be innocent: values of a
            unique key that change hands can only be applied together.

    Returns:
        The error that names the change; None when no change fails by itself.
    """
    suspect: ApplyError | None = None
    for chunk in _chunks(changes, lookup):
        if _fails(connection, attempt, chunk) is None:
            continue
        for change in chunk:
            error = _fails(connection, attempt, [change])
            if error is None:
                continue
            table = None if change.op == "S" else lookup(change.table)
            blamed = _blaming(change, table, error)
            if error.sqlstate == sqlstate:
                return blamed
            suspect = suspect or blamed
    return suspect


def _chunks(
    changes: Iterable[Change], lookup: Callable[[int], TableStatements | None]
) -> Iterator[list[Change]]:
    """The changes in chunks, barriers by themselves. No table is looked up ahead of a barrier."""
    chunk: list[Change] = []
    for change in changes:
        barrier = change.op in BARRIERS
        if chunk and (barrier or len(chunk) == CHUNK):
            yield chunk
            chunk = []
        if barrier:
            yield [change]
        elif lookup(change.table) is not None:
            chunk.append(change)
    if chunk:
        yield chunk


def _fails(
    connection: Connection,
    attempt: Callable[[Sequence[Change]], None],
    changes: Sequence[Change],
) -> DatabaseError | None:
    """Apply some changes; when that fails, already in preparing them too, leave nothing of them."""
    connection.execute("SAVEPOINT pyreplica_chunk")
    try:
        attempt(changes)
    except DatabaseError as error:
        connection.execute("ROLLBACK TO SAVEPOINT pyreplica_chunk")
        return error
    connection.execute("RELEASE SAVEPOINT pyreplica_chunk")
    return None


def _blaming(
    change: Change, statements: TableStatements | None, error: DatabaseError
) -> ApplyError:
    if change.op == "S":
        script = Script.parse(change.row or "")
        return ApplyError(
            f"cannot run the DDL of the master, {script.line}: {error.what}",
            change_id=change.id,
            where=error.where,
            hint="Make it possible on the slave; replication goes on by itself. If the slave has "
            "what the statement makes, take that away again.",
            details=error.details,
        )
    table = str(statements.captured) if statements else str(change.table)
    what = f"cannot {_VERBS[change.op.upper()]} {table} {change.key or ''}".rstrip()
    what = f"{what}: {error.what}"
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
