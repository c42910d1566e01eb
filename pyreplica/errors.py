"""The errors of PyReplica: one root class, and one subclass for each thing callers tell apart.

Every failure says what failed, where, and what to do about it, in one line; then the details. The
command line prints :attr:`PyReplicaError.line` and the hint and exits with
:attr:`PyReplicaError.exit_code`; the daemon looks at :attr:`PyReplicaError.retry` to decide between
waiting and stopping.
"""

from __future__ import annotations

from typing import ClassVar


class PyReplicaError(Exception):
    """The root of every error that PyReplica raises on purpose.

    Args:
        what: what failed, as a phrase that reads well after "where: ".
        where: the place: a replication, a database, a file with its line.
        hint: what the reader can do about it.
        details: further lines, for instance a server's DETAIL or the tail of a log.
        retry: whether trying again can help without anybody doing something.
    """

    exit_code: ClassVar[int] = 1
    """The exit status of a command that ends with this error."""

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        hint: str = "",
        details: str = "",
        retry: bool = False,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint
        self.details = details
        self.retry = retry

    @property
    def line(self) -> str:
        """The error in one line, "where: what", or only what when the place is not known."""
        return ": ".join(folded for text in (self.where, self.what) if (folded := _fold(text)))

    def __str__(self) -> str:
        return self.line


class ConfigError(PyReplicaError):
    """The configuration or the command's arguments cannot be used as they are written."""

    exit_code = 2


class Unreachable(PyReplicaError):
    """A server cannot be reached, or the connection to it was lost. Trying again can help."""

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        hint: str = "",
        details: str = "",
        retry: bool = True,
    ) -> None:
        super().__init__(what, where=where, hint=hint, details=details, retry=retry)


class DatabaseError(PyReplicaError):
    """A server answered a statement with an error.

    Args:
        sqlstate: the five characters of PostgreSQL's error code (the manual's appendix "PostgreSQL
            Error Codes"), empty when there is none. The other arguments are those of
            :class:`PyReplicaError`.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        hint: str = "",
        details: str = "",
        retry: bool = False,
        sqlstate: str = "",
    ) -> None:
        super().__init__(what, where=where, hint=hint, details=details, retry=retry)
        self.sqlstate = sqlstate


class NotInstalled(PyReplicaError):
    """PyReplica's SQL is not in that database, or is there in another version."""


class Refused(PyReplicaError):
    """PyReplica will not do it because it could lose or overwrite data.

    A slave that has diverged, an unsafe request, rows in a slave that should be empty. It stays
    refused until somebody changes something, so it is never retried by itself.
    """


class AtWork(Refused):
    """Somebody else is at work for the replication; it can be done when they have ended.

    Args:
        who: the other one, as far as it is known: its process and host. The other arguments are
            those of :class:`PyReplicaError`.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        hint: str = "",
        details: str = "",
        retry: bool = True,
        who: str = "",
    ) -> None:
        super().__init__(what, where=where, hint=hint, details=details, retry=retry)
        self.who = who


class Dropped(Refused):
    """The master keeps no log for the slave any more: it needs a new copy."""


class ApplyError(PyReplicaError):
    """A change could not be applied on the slave.

    Retried by default: a lock, a full disk or a conflicting row on the slave may be gone next time,
    and nothing is lost by asking again.

    Args:
        table: the table on the slave, schema and name, empty when not known.
        key: the row's key as people read it, empty when not known.
        change_id: the id of the change in the master's log, None when not known. The other
            arguments are those of :class:`PyReplicaError`.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        hint: str = "",
        details: str = "",
        retry: bool = True,
        table: str = "",
        key: str = "",
        change_id: int | None = None,
    ) -> None:
        super().__init__(what, where=where, hint=hint, details=details, retry=retry)
        self.table = table
        self.key = key
        self.change_id = change_id


class Differs(PyReplicaError):
    """The compared databases are not equal."""

    exit_code = 3


class TimedOut(PyReplicaError):
    """Something that was waited for did not happen in the time given."""

    exit_code = 4


def _fold(text: str) -> str:
    """Put a text on one line; spaces inside its lines stay, they may belong to a key's value."""
    return " ".join(line.strip() for line in text.splitlines() if line.strip())
