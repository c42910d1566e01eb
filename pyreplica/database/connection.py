"""Connections: their settings, their errors, COPY, waiting.

Every session pins the settings that the text form of values depends on, so that a value read on
one side is the same value written on the other. Sessions are in autocommit mode; transactions are
the statements BEGIN and COMMIT of whoever needs them.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Protocol

import psycopg2
import psycopg2.extensions
from psycopg2 import errorcodes, sql

from pyreplica.database import left
from pyreplica.database.peer import END, Session
from pyreplica.database.settings import (
    ENCODING,
    REPLICA,
    SETTINGS,
    WHO,
    connected,
    server_settings,
    tcp_settings,
    to_the_same,
)
from pyreplica.database.watchdog import Watch
from pyreplica.errors import DatabaseError, PyReplicaError, Unreachable

Query = str | sql.Composable
Row = tuple[Any, ...]

LONGEST_CANCEL = 2.0
"""Seconds that cancelling may take before the caller goes on without knowing."""


class Waitable(Protocol):
    """Something select() can wait for."""

    def fileno(self) -> int: ...


class Connection:
    """A session with one database.

    Args:
        dsn: libpq connection string.
        where: how messages name this side, for instance "shop: master".
        connect_timeout: seconds.
        peer_timeout: seconds without a sign of life after which the server is given up.
        replica: whether triggers and foreign keys stay silent (session_replication_role).

    Raises:
        Unreachable: the server cannot be reached or does not let us in.
        DatabaseError: a setting was refused.
    """

    def __init__(
        self,
        dsn: str,
        *,
        where: str,
        connect_timeout: float = 10.0,
        peer_timeout: float = 60.0,
        replica: bool = False,
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
            **tcp_settings(peer_timeout),
            "connect_timeout": str(max(2, round(connect_timeout))),
            "application_name": f"pyreplica {where}"[:63],
        }
        parameters = {**defaults, **given, **ENCODING}
        try:
            self._connection = connected(parameters)
        except psycopg2.OperationalError as error:
            raise Unreachable(
                "cannot connect: " + " ".join(str(error).split()),
                where=where,
                hint="Start the server, or correct host, port, database and user in the "
                "connection string.",
            ) from None
        self._connection.autocommit = True
        self._heard: set[str] = set()
        self._who: dict[str, Any] | None = None
        self._cancelling: threading.Thread | None = None
        try:
            self._session = Session(to_the_same(parameters, self._connection))
            self._watch = Watch(where, self._connection.fileno(), peer_timeout, self._session)
        except (psycopg2.Error, OSError) as error:
            self._connection.close()
            raise Unreachable(f"connection lost: {error}", where=where) from error
        self._hurried = "tcp_user_timeout" not in given
        try:
            pid, start = self.one(
                SETTINGS + (REPLICA if replica else "") + WHO, server_settings(peer_timeout)
            )
            self._session.known(pid, start)
            self._who = {"pid": pid, "start": start}
            for lost in left.ended_by_next(where):
                with suppress(DatabaseError):
                    self.execute(END, lost)
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

    def types(self, query: sql.Composable) -> list[int]:
        """The oids of the types of a query's columns, of a domain its base; it reads no row.

        Its tables are locked as for reading until the transaction ends.
        """
        with self._errors(), self._connection.cursor() as cursor:
            cursor.execute(sql.SQL("{} LIMIT 0").format(query))
            return [column.type_code for column in cursor.description or ()]

    def text(self, statement: sql.Composable) -> str:
        """A statement as it is sent, to be given to a function as a value."""
        return str(statement.as_string(self._connection))

    def stream(
        self, query: Query, params: Mapping[str, Any] | None = None, size: int = 5000
    ) -> Iterator[Row]:
        """The rows of a query one after another, through a cursor; inside a transaction only."""
        self.execute(
            sql.SQL("DECLARE pyreplica_stream NO SCROLL CURSOR FOR {}").format(
                sql.SQL(query) if isinstance(query, str) else query
            ),
            params,
        )
        while rows := self.query(f"FETCH {size} FROM pyreplica_stream"):
            yield from rows
        self.execute("CLOSE pyreplica_stream")

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
        with suppress(PyReplicaError):
            self.execute("ROLLBACK")

    def copy_out(self, query: Query, write: Callable[[bytes], object]) -> None:
        """COPY ... TO STDOUT; ``write`` is given the data row by row."""
        with self._errors(), self._connection.cursor() as cursor:
            cursor.copy_expert(query, _Writer(write))

    def copy_in(self, query: Query, read: Callable[[int], bytes]) -> int:
        """COPY ... FROM STDIN out of ``read(size)``; gives the number of rows."""

        def read_meanwhile(size: int) -> bytes:
            with self.not_waiting():
                return read(size)

        reader: Any = _Reader(read_meanwhile)  # read() is all that the driver calls
        with self._errors(), self._unhurried(), self._connection.cursor() as cursor:
            cursor.copy_expert(query, reader, size=1 << 16)
            return int(cursor.rowcount)

    @contextmanager
    def _unhurried(self) -> Iterator[None]:
        """Let the server not read for a while: it may wait for a lock, with our data under way.

        The kernel takes a full window for a peer that vanished; whether it has is asked instead.
        """
        before = self._watch.user_timeout(0) if self._hurried else None
        try:
            yield
        finally:
            if before is not None:
                self._watch.user_timeout(before)

    @contextmanager
    def not_waiting(self) -> Iterator[None]:
        """In the middle of a COPY, wait for something else than this server."""
        waited = self._watch.pause()
        try:
            yield
        finally:
            if waited:  # what is left in a buffer comes when the server has long finished
                self._watch.resume()

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

        A session that was not heard of for a whole peer_timeout is asked whether it lives, and has
        as long to answer as ever.

        Args:
            others: further things that end the wait when they can be read; a ``Connection`` among
                them is looked at, so that its loss is noticed, and its notifications end the wait.

        Returns:
            Whether a notification came to this one.

        Raises:
            Unreachable: one of the connections was lost.
        """
        connections = [self, *(one for one in others if isinstance(one, Connection))]
        now = time.monotonic()
        deadline = now + timeout
        # they also come with the answer to a statement: nothing is left to be read then
        while not any(one._connection.notifies for one in connections):
            silent = min(connections, key=lambda one: one._to_be_asked(deadline))
            asked = silent._to_be_asked(deadline)
            if asked <= now:
                silent.execute("SELECT")
            else:
                pause = min(deadline, asked) - now
                ready, _, _ = select.select([self, *others], [], [], max(0.0, pause))
                for thing in ready:
                    if isinstance(thing, Connection):
                        thing.look()
                if ready:
                    break
            now = time.monotonic()
            if now >= deadline:
                break
        came = bool(self._connection.notifies)
        self._take_notifications()
        return came

    def _to_be_asked(self, deadline: float) -> float:
        """When a session that nobody talks to is asked whether it lives, by the monotonic clock.

        Whoever waits will talk to it at the deadline. If that is about then, it is proof enough.
        """
        due = self._watch.last + self._watch.limit
        latest = due + self._watch.limit / 8
        return latest if deadline <= latest else due

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
        """Stop what the session is executing; for another thread.

        A server that hangs is not waited for: libpq has no limit here either.
        """
        if self._cancelling is None or not self._cancelling.is_alive():
            self._cancelling = threading.Thread(
                target=self._cancel, name=f"cancel {self.where}", daemon=True
            )
            self._cancelling.start()
        self._cancelling.join(LONGEST_CANCEL)

    def _cancel(self) -> None:
        with suppress(psycopg2.Error):
            self._connection.cancel()

    def close(self) -> None:
        """End the session; an open transaction is rolled back by the server.

        Where the server may not hear of it, because another connection to it fell silent, it is
        told through a new one; that takes LONGEST_CANCEL at most.
        """
        if self._who is not None and left.may_not_hear(self.where, self._watch.last):
            self._session.end(LONGEST_CANCEL)
        with self._watch:
            self._connection.close()
        self._watch.close()

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
            with self._watch:
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
        if lost and libpq and self._who is not None:
            left.lost(self.where, self._who)
            self._who = None
        if self._watch.lost:
            left.fell_silent(self.where)
            return Unreachable(
                "connection lost: " + self._watch.lost,
                where=self.where,
                hint="Look after that server and the network in between; how long to wait is "
                "peer_timeout in the configuration.",
            )
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


class _Writer:
    def __init__(self, write: Callable[[bytes], object]) -> None:
        self.write = write


class _Reader:
    def __init__(self, read: Callable[[int], bytes]) -> None:
        self.read = read
