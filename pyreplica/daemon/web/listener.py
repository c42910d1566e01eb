"""Keeps what there is to be shown, and the server that shows it, as the configuration says."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pyreplica.config import Config
from pyreplica.config.http import HttpConfig
from pyreplica.model import Event, Status

if TYPE_CHECKING:
    from pyreplica.daemon.web.board import Board
    from pyreplica.daemon.web.server import Server


class Web:
    """A listener that serves the page while `http:` is in the configuration.

    Args:
        http: where; None for nowhere, until a reload says something else.
    """

    def __init__(self, http: HttpConfig | None) -> None:
        self._http = http
        self._latest: dict[str, Status] = {}
        self._board: Board | None = None
        self._server: Server | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin."""
        if self._http is not None:
            self._open(self._http)

    def status(self, status: Status) -> None:
        """Take note."""
        with self._lock:
            self._latest[status.replication] = status
            board = self._board
        if board is not None:
            board.status(status)

    def event(self, event: Event) -> None:
        """Take note, if anybody can see it."""
        if self._board is not None:
            self._board.event(event)

    def reload(self, config: Config) -> None:
        """Forget what is gone; move, begin or end, if the configuration says so."""
        with self._lock:
            for name in self._latest.keys() - config.replications.keys():
                del self._latest[name]
        if self._board is not None:
            self._board.keep(config.replications)
        if config.http != self._http:
            self._close()
            self._http = config.http
            if config.http is not None:
                self._open(config.http)
            else:
                self._board = None

    def stop(self) -> None:
        """End."""
        self._close()

    def _open(self, http: HttpConfig) -> None:
        # several MB that a daemon without a page does not have to carry
        from pyreplica.daemon.web.board import Board  # noqa: PLC0415
        from pyreplica.daemon.web.server import Server  # noqa: PLC0415

        if self._board is None:
            board = Board()
            with self._lock:
                for status in self._latest.values():
                    board.status(status)
                self._board = board
        self._server = Server(http, self._board)
        self._server.start()

    def _close(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None
