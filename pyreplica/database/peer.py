"""Asks a server about one of its sessions, over a short connection that never waits for long."""

from __future__ import annotations

import re
import select
import time
from contextlib import closing, suppress
from typing import Any

import psycopg2
from psycopg2 import extensions

from pyreplica.database.watchdog import Answer

_ASK = """
SELECT state, wait_event_type, wait_event FROM pg_catalog.pg_stat_activity
WHERE pid = %(pid)s AND backend_start = %(start)s::pg_catalog.timestamptz
"""
END = """
SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
WHERE pid = %(pid)s AND backend_start = %(start)s::pg_catalog.timestamptz
"""
# What libpq makes of a message of the server's, in any language; its own have one blank.
_FROM_SERVER = re.compile(r"\w:  \w")


class Session:
    """A session of a server, to be asked about from outside.

    Args:
        parameters: how to connect to the server.
    """

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._parameters = parameters
        self._values: dict[str, Any] | None = None

    def known(self, pid: int, start: str) -> None:
        """Take who the session is: its process, and when it began, since numbers come again."""
        self._values = {"pid": pid, "start": start}

    def ask(self, limit: float, counted: bool) -> Answer:
        """Find out what the session is doing.

        Args:
            limit: seconds.
            counted: whether bytes would have been seen to come, if any had. Else a session that
                writes may do so for long, to a slow network.
        """
        if self._values is None:
            return Answer(False, "the session has just been made")
        try:
            rows = self._answer(_ASK, limit)
        except (psycopg2.Error, OSError) as error:
            if _FROM_SERVER.search(str(error)):
                return Answer(True, "the server lives, but lets nobody in to ask what it is doing")
            return Answer(False, "the server does not answer a new connection either")
        if not rows:
            return Answer(False, "the server has no such session any more")
        state, kind, event = rows[0]
        if (
            state.startswith("idle")
            or event == "ClientRead"
            or (counted and event == "ClientWrite")
        ):
            return Answer(False, "the server's session waits for this side", left=True)
        return Answer(True, "the server is at work" + (f", in {kind} {event}" if kind else ""))

    def end(self, limit: float) -> None:
        """End the session, if that can be done within so many seconds."""
        with suppress(psycopg2.Error, OSError):
            self._answer(END, limit)

    def _answer(self, query: str, limit: float) -> list[tuple[Any, ...]]:
        deadline = time.monotonic() + limit
        with closing(psycopg2.connect(**self._parameters, async_=True)) as connection:
            _settle(connection, deadline)
            with connection.cursor() as cursor:
                cursor.execute(query, self._values)
                _settle(connection, deadline)
                return [tuple(row) for row in cursor.fetchall()]


def lives(dsn: str, limit: float) -> bool:
    """Whether a server answers within so many seconds, if only to let nobody in."""
    try:
        with closing(psycopg2.connect(dsn, async_=True)) as connection:
            _settle(connection, time.monotonic() + limit)
    except (psycopg2.Error, OSError) as error:
        return _FROM_SERVER.search(str(error)) is not None
    return True


def _settle(connection: extensions.connection, deadline: float) -> None:
    """Wait until an asynchronous connection has done what it was told."""
    while (state := connection.poll()) != extensions.POLL_OK:
        waiting = select.poll()
        waiting.register(
            connection.fileno(),
            select.POLLOUT if state == extensions.POLL_WRITE else select.POLLIN,
        )
        if not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
