"""A small HTTP server for a few readers: bounded in connections, time and size, and read-only.

One thread accepts, and ends connections that take too long; each connection has a thread of its
own, and one request. An idle server waits in select() and costs nothing.
"""

from __future__ import annotations

import ipaddress
import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from pyreplica.config.http import HttpConfig
from pyreplica.daemon.web.board import Board
from pyreplica.daemon.web.documents import health, healthy, status_json
from pyreplica.daemon.web.metrics import Metrics
from pyreplica.daemon.web.page import page
from pyreplica.replication.wakeup import Wakeup

MOST_CONNECTIONS = 32
"""At the same time; more are turned away."""
LONGEST_SILENCE = 5.0
"""Seconds without a byte, either way."""
LONGEST_REQUEST = 15.0
"""Seconds for a whole request and its answer."""
LONGEST_HEADER = 16 << 10
"""Bytes of a request; nothing that is asked here has a body."""
TRY_AGAIN = 30.0
"""Seconds after which a port that was taken is tried again."""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FILES = {
    "/page.css": "text/css; charset=utf-8",
    "/page.js": "text/javascript; charset=utf-8",
    "/icon.svg": "image/svg+xml",
}

_OTHER_NAME = "The page is not known by this name; it can be added: http: names: [...]"

_log = logging.getLogger("pyreplica")

Answer = tuple[int, str, bytes]
"""Status, content type, content."""


class Server:
    """Serves what a board has.

    Args:
        config: where.
        board: what.
    """

    def __init__(self, config: HttpConfig, board: Board) -> None:
        self._config = config
        self._board = board
        self._metrics = Metrics(board.view)
        self._files = {path: _file(path[1:]) for path in _FILES}
        self._stop = Wakeup()
        self._listening: socket.socket | None = None
        self._connections: dict[socket.socket, float] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def start(self) -> None:
        """Begin. A port that is taken is an error in the log, and is tried again and again."""
        self._listening = self._bind(logging.ERROR)
        self._thread.start()

    def stop(self) -> None:
        """End, and whatever is being answered."""
        self._stop.set()
        self._thread.join()
        self._stop.close()

    def answer(self, path: str, accept: str) -> Answer:
        """What there is at a path.

        Args:
            accept: the forms that the reader knows, as its header has them.
        """
        if path in self._files:
            return 200, _FILES[path], self._files[path]
        if path == "/":
            return 200, "text/html; charset=utf-8", page(self._board.view())
        if path == "/status.json":
            return 200, "application/json", status_json(self._board.view())
        if path == "/healthz":
            view = self._board.view()
            return 200 if healthy(view) else 503, "text/plain; charset=utf-8", health(view)
        if path == "/metrics":
            content, content_type = self._metrics.text(accept)
            return 200, content_type, content
        return 404, "text/plain; charset=utf-8", b"There is nothing here.\n"

    def knows(self, host: str) -> bool:
        """Whether a browser may ask for that host: no page elsewhere can make its name point here.

        An address is what it is; a name could be anybody's (DNS rebinding).
        """
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in ("localhost", self._config.host.lower(), *self._config.names):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _bind(self, level: int) -> socket.socket | None:
        host, port = self._config.host, self._config.port
        try:
            family, _, _, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listening = socket.create_server(address[:2], family=family, backlog=MOST_CONNECTIONS)
        except OSError as error:
            _log.log(
                level,
                "http: %s port %d: cannot listen: %s (Is another daemon running? Choose another "
                "port; the replications go on without the page, and it is tried again every %g s.)",
                host,
                port,
                error.strerror or error,
                TRY_AGAIN,
            )
            return None
        listening.setblocking(False)
        _log.info("the page is at %s", _url(host, port))
        if not _is_loopback(address[0]):
            _log.warning(
                "http: %s port %d: everybody who reaches this address can read the page; there is "
                "no login (put a web server with one before it, or use host: 127.0.0.1)",
                host,
                port,
            )
        return listening

    # The thread that accepts

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self._listening is None:
                    if not self._stop.wait(TRY_AGAIN):
                        self._listening = self._bind(logging.DEBUG)
                    continue
                self._accept(self._listening)
        finally:
            if self._listening is not None:
                self._listening.close()
            with self._lock:
                for connection in self._connections:
                    _shut(connection)

    def _accept(self, listening: socket.socket) -> None:
        awaited: list[socket.socket | Wakeup] = [listening, self._stop]
        ready, _, _ = select.select(awaited, [], [], self._end_late())
        if listening not in ready:
            return
        try:
            connection, address = listening.accept()
        except OSError as error:
            # it has gone away; or there are no more descriptors, and a pause is all that helps
            _log.debug("accept: %s", error)
            self._stop.wait(0.1)
            return
        with self._lock:
            full = len(self._connections) >= MOST_CONNECTIONS
            if not full:
                self._connections[connection] = time.monotonic() + LONGEST_REQUEST
        if full:
            connection.close()
            return
        connection.settimeout(LONGEST_SILENCE)
        threading.Thread(
            target=self._serve, args=(connection, address), name="http request", daemon=True
        ).start()

    def _end_late(self) -> float | None:
        """End connections that take too long; gives the seconds until the next may have to be."""
        now = time.monotonic()
        with self._lock:
            for connection, until in self._connections.items():
                if until <= now:
                    _shut(connection)
            coming = [until - now for until in self._connections.values() if until > now]
        return min(coming, default=None)

    # The threads of the connections

    def _serve(self, connection: socket.socket, address: Any) -> None:
        try:
            with suppress(OSError):  # it has gone away, or was shut
                _Request(connection, address, self)
        except Exception:
            _log.exception("an HTTP request could not be answered")
        finally:
            # what was sent and not read would have the answer thrown away
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                connection.recv(LONGEST_HEADER)
            with self._lock:
                self._connections.pop(connection, None)
            connection.close()


class _TooLong(Exception):
    """The request is longer than any that is meant."""


class _Head:
    """Reads a request's lines, so many bytes of them."""

    def __init__(self, readline: Callable[[int], bytes]) -> None:
        self._readline = readline
        self._left = LONGEST_HEADER

    def readline(self, size: int = -1) -> bytes:
        """The next line."""
        line = self._readline(min(size, self._left + 1) if size >= 0 else self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise _TooLong
        return line

    def close(self) -> None:
        """Nothing: the socket is somebody else's."""


class _Request(BaseHTTPRequestHandler):
    """One request."""

    server_version = "pyreplica"
    sys_version = ""
    timeout = LONGEST_SILENCE

    def __init__(self, connection: socket.socket, address: Any, serving: Server) -> None:
        self._serving = serving
        super().__init__(connection, address, serving)  # type: ignore[arg-type]

    def setup(self) -> None:
        """Limit what is read."""
        super().setup()
        reader: Any = _Head(self.rfile.readline)
        self.rfile = reader

    def handle(self) -> None:
        """Answer it."""
        try:
            super().handle()
        except _TooLong:
            self.requestline, self.request_version, self.command = "", "HTTP/1.0", "GET"
            self.send_error(431)

    def do_GET(self) -> None:
        """Answer with what there is."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1:
            self.send_error(400)
        elif not self._serving.knows(hosts[0]):
            self._send(421, "text/plain; charset=utf-8", f"{_OTHER_NAME}\n".encode())
        else:
            path = self.path.split("?", 1)[0]
            self._send(*self._serving.answer(path, self.headers.get("Accept", "")))

    def do_HEAD(self) -> None:
        """The same without the content."""
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse, without repeating what was asked."""
        known = {405: "Only GET and HEAD are answered here."}
        code = 405 if code == 501 else code  # a method that nobody has
        phrase = known.get(code) or self.responses.get(code, ("Refused",))[0]
        self._send(code, "text/plain; charset=utf-8", f"{phrase}\n".encode())

    def _send(self, code: int, content_type: str, content: bytes) -> None:
        self.close_connection = True
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(content)))
        if code == 405:
            self.send_header("Allow", "GET, HEAD")
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def version_string(self) -> str:
        """Who answers; not in which version."""
        return self.server_version

    def log_message(self, format: str, *args: Any) -> None:
        """Only for those who look closely; what was asked is not to be trusted."""
        _log.debug("%s: %r", self.client_address[0], format % args)


def _file(name: str) -> bytes:
    return resources.files("pyreplica.daemon.web").joinpath(name).read_bytes()


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _is_loopback(address: object) -> bool:
    return ipaddress.ip_address(str(address).split("%")[0]).is_loopback


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
