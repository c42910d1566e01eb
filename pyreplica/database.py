"""The one module that talks to the driver: connections, their settings, their errors, COPY.

Every session pins the settings that the text form of values depends on, so that a value read on
one side is the same value written on the other. Sessions are in autocommit mode; transactions are
the statements BEGIN and COMMIT of whoever needs them.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Protocol

import psycopg2
import psycopg2.extensions
from psycopg2 import errorcodes, sql

from pyreplica.errors import DatabaseError, PyReplicaError, Unreachable

__all__ = ["Connection", "Row", "errorcodes", "pump", "sql", "without_password"]

Query = str | sql.Composable
Row = tuple[Any, ...]

# statement_timeout first: until then the database's own, however short, is in force
_SETTINGS = """
SET statement_timeout = 0;
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = postgres;
SET TimeZone = 'UTC';
SET extra_float_digits = 1;
SET bytea_output = hex;
SET lc_monetary = 'C';
SET xmlbinary = base64;
SET xmloption = content;
SET array_nulls = on;
SET quote_all_identifiers = off;
SET search_path = pg_catalog, pg_temp;
SET row_security = off;
SET standard_conforming_strings = on;
SET client_min_messages = warning;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET default_transaction_isolation = 'read committed';
SET default_transaction_read_only = off;
SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off';
SELECT set_config(name, '0', false) FROM pg_settings
    WHERE name IN ('idle_session_timeout', 'transaction_timeout')
"""

# A peer that vanished without a word is noticed by the kernel; values in the user's string win.
_DEFAULTS = {
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
# Not the user's to choose: COPY goes from one side to the other as bytes.
_ENCODING = {"client_encoding": "UTF8"}


class Waitable(Protocol):
    """Something select() can wait for."""

    def fileno(self) -> int: ...


class Connection:
    """A session with one database.

    Args:
        dsn: libpq connection string.
        where: how messages name this side, for instance "shop: master".
        connect_timeout: seconds.
        replica: whether triggers and foreign keys stay silent (session_replication_role).

    Raises:
        Unreachable: the server cannot be reached or does not let us in.
        DatabaseError: a setting was refused.
    """

    def __init__(
        self, dsn: str, *, where: str, connect_timeout: float = 10.0, replica: bool = False
    ) -> None:
        self.where = where
        try:
            given = psycopg2.extensions.parse_dsn(dsn)
        except psycopg2.ProgrammingError:
            # the driver's message quotes the string, which may hold a password
            raise PyReplicaError(
                "the connection string cannot be read",
                where=where,
                hint="Write it as libpq wants it: host=... dbname=... user=...",
            ) from None
        defaults = {
            **_DEFAULTS,
            "connect_timeout": str(max(2, round(connect_timeout))),
            "application_name": f"pyreplica {where}"[:63],
        }
        try:
            self._connection = _connected({**defaults, **given, **_ENCODING})
        except psycopg2.OperationalError as error:
            raise Unreachable(
                "cannot connect: " + " ".join(str(error).split()),
                where=where,
                hint="Start the server, or correct host, port, database and user in the "
                "connection string.",
            ) from None
        self._connection.autocommit = True
        self._heard: set[str] = set()
        settings = _SETTINGS
        if replica:
            settings += "; SET session_replication_role = replica"
        try:
            self.execute(settings)
        except DatabaseError as error:
            self.close()
            if replica and error.sqlstate == errorcodes.INSUFFICIENT_PRIVILEGE:
                error.hint = (
                    "The slave's role must be superuser, or be allowed to with "
                    "GRANT SET ON PARAMETER session_replication_role TO ... (PostgreSQL 15)."
                )
            raise
        except BaseException:
            self.close()
            raise

    # Statements

    def query(
        self, query: Query, params: Mapping[str, Any] | Sequence[Any] | None = None
    ) -> list[Row]:
        """Execute one statement (or several in one message) and give the last one's rows."""
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(query, params)
            return cursor.fetchall() if cursor.description else []

    def execute(self, query: Query, params: Mapping[str, Any] | Sequence[Any] | None = None) -> int:
        """Execute statements and give the number of rows of the last one."""
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(query, params)
            return int(cursor.rowcount)

    def one(self, query: Query, params: Mapping[str, Any] | Sequence[Any] | None = None) -> Row:
        """Execute a statement that gives exactly one row."""
        (row,) = self.query(query, params)
        return row

    def stream(
        self, query: Query, params: Mapping[str, Any] | None = None, size: int = 5000
    ) -> Iterator[Row]:
        """The rows of a query one after another, through a cursor; inside a transaction only."""
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(
                sql.SQL("DECLARE pyreplica_stream NO SCROLL CURSOR FOR {}").format(
                    sql.SQL(query) if isinstance(query, str) else query
                ),
                params,
            )
            while True:
                cursor.execute(f"FETCH {size} FROM pyreplica_stream")
                rows = cursor.fetchall()
                if not rows:
                    break
                yield from rows
            cursor.execute("CLOSE pyreplica_stream")

    @contextmanager
    def transaction(self, begin: str = "BEGIN") -> Iterator[None]:
        """COMMIT at the end, ROLLBACK after an exception."""
        self.execute(begin)
        try:
            yield
        except BaseException:
            self.rollback()
            raise
        self.execute("COMMIT")

    def rollback(self) -> None:
        """End an open transaction, if there is one and the connection still lives."""
        status = self._connection.get_transaction_status()
        if status == psycopg2.extensions.TRANSACTION_STATUS_IDLE:
            return  # the server would warn
        with suppress(psycopg2.Error), self._connection.cursor() as cursor:
            cursor.execute("ROLLBACK")

    def copy_out(self, query: Query, write: Callable[[bytes], object]) -> None:
        """COPY ... TO STDOUT; ``write`` is given the data row by row."""
        with self._errors(), self._connection.cursor() as cursor:
            cursor.copy_expert(query, _Writer(write))

    def copy_in(self, query: Query, read: Callable[[int], bytes]) -> int:
        """COPY ... FROM STDIN out of ``read(size)``; gives the number of rows."""
        reader: Any = _Reader(read)  # read() is all that the driver calls
        with self._errors(), self._connection.cursor() as cursor:
            cursor.copy_expert(query, reader, size=1 << 16)
            return int(cursor.rowcount)

    def notices(self) -> list[str]:
        """The warnings the server has sent since the last call."""
        taken = [notice.strip() for notice in self._connection.notices]
        self._connection.notices.clear()
        return taken

    # Waiting

    def fileno(self) -> int:
        """The socket, for select()."""
        return int(self._connection.fileno())

    def wait(self, timeout: float, *others: Waitable) -> bool:
        """Wait for a NOTIFY, at most ``timeout`` seconds.

        Args:
            others: further things that end the wait when they can be read; a ``Connection`` among
                them is looked at, so that its loss is noticed.

        Returns:
            Whether a notification came.

        Raises:
            Unreachable: one of the connections was lost.
        """
        if not self._connection.notifies:
            ready, _, _ = select.select([self, *others], [], [], max(0.0, timeout))
            for thing in ready:
                if isinstance(thing, Connection):
                    thing.look()
        came = bool(self._connection.notifies)
        self._take_notifications()
        return came

    def heard(self) -> set[str]:
        """The payloads of the notifications since the last call, also of those that ended a wait.

        They come with the answer to any statement, and end the next wait unless taken before it.
        """
        self._take_notifications()
        heard, self._heard = self._heard, set()
        return heard

    def _take_notifications(self) -> None:
        self._heard.update(str(one.payload) for one in self._connection.notifies)
        self._connection.notifies.clear()

    def look(self) -> None:
        """Take in what the server has sent unasked."""
        with self._errors():
            self._connection.poll()

    def cancel(self) -> None:
        """Stop what the session is executing; for another thread."""
        with suppress(psycopg2.Error):
            self._connection.cancel()

    def close(self) -> None:
        """End the session; an open transaction is rolled back by the server."""
        self._connection.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg2.Error as error:
            raise self._translated(error) from error

    def _translated(self, error: psycopg2.Error) -> PyReplicaError:
        # libpq's own errors have no SQLSTATE: not the server has answered
        libpq = error.pgcode is None and type(error) in (
            psycopg2.DatabaseError,
            psycopg2.OperationalError,
        )
        lost = (
            libpq
            or self._connection.closed
            or (
                (error.pgcode or "")[:2] in ("08", "57")
                and (error.pgcode != errorcodes.QUERY_CANCELED)
            )
        )
        message = error.diag.message_primary or str(error).strip() or type(error).__name__
        if lost:
            return Unreachable("connection lost: " + message, where=self.where)
        details = [
            f"{label}: {text}"
            for label, text in (
                ("DETAIL", error.diag.message_detail),
                ("CONTEXT", error.diag.context),
            )
            if text
        ]
        return DatabaseError(
            message,
            where=self.where,
            hint=error.diag.message_hint or "",
            details="\n".join(details),
            sqlstate=error.pgcode or "",
            # 57 here is what somebody has cancelled
            retry=(error.pgcode or "")[:2] in ("40", "53", "55", "57", "58"),
        )


def _connected(parameters: dict[str, Any]) -> psycopg2.extensions.connection:
    connection: psycopg2.extensions.connection = psycopg2.connect(**parameters)
    setting = "standard_conforming_strings"
    if connection.info.parameter_status(setting) != "off":
        return connection
    # the driver quotes as the session began, so that the SET below would have values misquoted;
    # not always given as an option, because poolers refuse those
    connection.close()
    options = f"{parameters.get('options', '')} -c {setting}=on"
    connection = psycopg2.connect(**{**parameters, "options": options})
    return connection


class _Writer:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write


class _Reader:
    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read


def pump(
    source: Connection,
    copy_to: Query,
    target: Connection,
    copy_from: Query,
    progress: Callable[[int], object] = lambda rows: None,
) -> int:
    """COPY from one database straight into another, in constant memory.

    The source is read by a thread of its own into a pipe. When either side fails the other one is
    failed too: a source that broke off must never look like the end of the data.

    Args:
        progress: called with the number of rows that have just gone through.

    Returns:
        The number of rows written.

    Raises:
        PyReplicaError: what the side that failed first said.
    """
    failures: list[BaseException] = []
    read_end, write_end = os.pipe()
    pipe = os.fdopen(read_end, "rb", buffering=0)

    def read_source() -> None:
        try:
            with os.fdopen(write_end, "wb", buffering=1 << 16) as buffer:
                try:
                    source.copy_out(copy_to, buffer.write)
                except BaseException as error:
                    failures.append(error)
        except OSError as error:
            # the target has failed and closed the pipe
            failures.append(error)

    def read(size: int) -> bytes:
        chunk = pipe.read(size)
        if not chunk:
            thread.join()
            if failures:
                raise failures[0]
        progress(chunk.count(b"\n"))
        return chunk

    thread = threading.Thread(target=read_source, name=f"copy from {source.where}", daemon=True)
    thread.start()
    try:
        return target.copy_in(copy_from, read)
    except PyReplicaError:
        if failures and isinstance(failures[0], PyReplicaError):
            raise failures[0] from None
        raise
    finally:
        pipe.close()
        if thread.is_alive():
            source.cancel()
            thread.join()


def without_password(dsn: str) -> tuple[str, str | None]:
    """A connection string without its password, and the password."""
    given = psycopg2.extensions.parse_dsn(dsn)
    password = given.pop("password", None)
    return psycopg2.extensions.make_dsn(**given), password
