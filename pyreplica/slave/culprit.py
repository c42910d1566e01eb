"""Which errors are about a batch's contents, and the error that names the change at fault."""

from __future__ import annotations

from pyreplica.errors import ApplyError, DatabaseError
from pyreplica.model import Script
from pyreplica.slave import is_unique_violation
from pyreplica.slave.statements import TableStatements

CONFLICT = "PY002"
"""The SQLSTATE of a statement that met another number of rows than it should."""

_VERBS = {
    "I": "insert",
    "E": "insert",
    "R": "insert",
    "U": "update",
    "D": "delete",
    "T": "truncate",
    "F": "fill a new column of",
    "P": "delete a partition's rows of",
}

_DATA_ERRORS = frozenset(
    {"0A", "21", "22", "23", "25", "2B", "2F", "3F", "42", "44", "54", "P0", "XX"}
)
ROW_ERRORS = frozenset({"21", "22", "23", "44", "54", "P0"})
"""The classes of errors that are about the values of a row, and not about the table."""
NAMING_ERRORS = frozenset({"3F", "42"})
"""Those of names that are not there: of the table's own, or in a value (of type regclass, ...)."""


def is_data_error(error: DatabaseError) -> bool:
    """Whether the batch's contents are to blame rather than the state of the server."""
    return error.sqlstate[:2] in _DATA_ERRORS


def is_naming_error(error: DatabaseError) -> bool:
    """Whether a name is not there, be it one of the table's or one in a value."""
    return error.sqlstate[:2] in NAMING_ERRORS


def is_row_error(error: DatabaseError) -> bool:
    """Whether the values of a row are to blame."""
    return error.sqlstate[:2] in ROW_ERRORS


def verb(op: str) -> str:
    """What a change does, for messages."""
    return _VERBS[op.upper()]


def cannot(
    op: str,
    statements: TableStatements | None,
    key: str,
    error: DatabaseError,
    change_id: int | None = None,
) -> ApplyError:
    """The error that a change of rows, or of a table as a whole, cannot be applied.

    Args:
        op: as in the log, or the kind of a net change.
        key: empty when no single row is to blame.
    """
    table = str(statements.captured) if statements else ""
    what = f"{' '.join(filter(None, (f'cannot {verb(op)}', table, key)))}: {error.what}"
    if op in "Ier" and is_unique_violation(error):
        what = f"conflict insert_exists: {what}"
    return ApplyError(
        what,
        table=table,
        key=key,
        change_id=change_id,
        where=error.where,
        hint=error.hint
        or "Repair the row or the table on the slave; replication goes on by itself.",
        details=error.details,
    )


def cannot_run(script: Script, change_id: int, error: DatabaseError) -> ApplyError:
    """The error that a DDL statement of the master cannot be run."""
    return ApplyError(
        f"cannot run the DDL of the master, {script.line}: {error.what}",
        change_id=change_id,
        where=error.where,
        hint="Make it possible on the slave; replication goes on by itself. If the slave has "
        "what the statement makes, take that away again.",
        details=error.details,
    )


def unnamed(error: DatabaseError) -> ApplyError:
    """The error of a batch of which no single change is to blame."""
    return ApplyError(
        error.what,
        where=error.where,
        hint=error.hint or "See the server's log for the statement.",
        details=error.details,
    )
