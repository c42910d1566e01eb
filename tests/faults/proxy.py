"""A TCP proxy that does to connections what networks do to them, switched at run time.

It stands between the daemon and a server on loopback. What it does is set for all connections,
those that are there and those to come:

    pass       bytes go both ways
    drop       connections are closed, new ones are accepted and closed
    reset      the same with an RST
    freeze     no byte goes either way, nothing is closed; afterwards they go on, and none was lost
    deaf       what the daemon sends is swallowed, what the server sends arrives: half open
    mute       what the server sends is swallowed, what the daemon sends arrives: half open
    delay      each piece waits a while
    vanish     both ends' packets are not even acknowledged any more, as if the cable was cut; the
               connections that are there stay so for good, new ones pass

A connection that has lost bytes can only be ended: it is reset when that is over.
"""

from __future__ import annotations

import asyncio
import ctypes
import enum
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TypeVar

_T = TypeVar("_T")

DELAY = 0.02
"""Seconds that each piece waits under Mode.DELAY."""
_PIECE = 1 << 16
_SO_ATTACH_FILTER = 26


class Mode(enum.Enum):
    """What is done to connections; see the module."""

    PASS = "pass"
    DROP = "drop"
    RESET = "reset"
    FREEZE = "freeze"
    DEAF = "deaf"
    MUTE = "mute"
    DELAY = "delay"
    VANISH = "vanish"


class _Link:
    """One connection through the proxy."""

    def __init__(self, daemon: socket.socket, server: socket.socket) -> None:
        self.daemon = daemon
        self.server = server
        self.lost = False
        self.vanished = False
        self.pumps: list[asyncio.Task[None]] = []

    def close(self, *, reset: bool = False) -> None:
        for pump in self.pumps:
            pump.cancel()
        for end in (self.daemon, self.server):
            if reset:
                _reset(end)
            else:
                end.close()


class Proxy:
    """Listens on a port of 127.0.0.1 and connects to another one.

    Args:
        target: the server's port.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._mode = Mode.PASS
        self._links: list[_Link] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._thread = threading.Thread(target=self._run, name=f"proxy {self.port}")
        self._thread.start()

    def set(self, mode: Mode) -> int:
        """Do this to all connections from now on.

        Returns:
            How many connections were ended, or can never be used again.
        """
        return self._call(lambda: self._set(mode))

    def close(self) -> None:
        """End all connections and listen no more."""

        def end() -> None:
            for link in self._links:
                link.close()
            self._acceptor.cancel()
            self._listener.close()

        self._call(end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # In the proxy's thread

    def _call(self, act: Callable[[], _T]) -> _T:
        async def called() -> _T:
            return act()

        return asyncio.run_coroutine_threadsafe(called(), self._loop).result()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._acceptor = self._loop.create_task(self._accept())
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    def _set(self, mode: Mode) -> int:
        self._mode = mode
        ended = 0
        for link in [link for link in self._links if not link.vanished]:
            if link.lost or mode in (Mode.DROP, Mode.RESET):
                self._end(link, reset=link.lost or mode is Mode.RESET)
                ended += 1
            elif mode is Mode.VANISH:
                link.vanished = True
                for pump in link.pumps:
                    pump.cancel()
                for end in (link.daemon, link.server):
                    _blackhole(end)
                ended += 1
        if mode is Mode.FREEZE:
            self._thawed.clear()
        else:
            self._thawed.set()
        return ended

    def _end(self, link: _Link, *, reset: bool = False) -> None:
        if link in self._links:
            self._links.remove(link)
            link.close(reset=reset)

    async def _accept(self) -> None:
        while True:
            daemon, _ = await self._loop.sock_accept(self._listener)
            daemon.setblocking(False)
            if self._mode in (Mode.DROP, Mode.RESET):
                if self._mode is Mode.RESET:
                    _reset(daemon)
                daemon.close()
                continue
            server = socket.socket()
            server.setblocking(False)
            try:
                await self._loop.sock_connect(server, ("127.0.0.1", self._target))
            except OSError:  # it does not run
                server.close()
                _reset(daemon)
                continue
            link = _Link(daemon, server)
            for end in (daemon, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._links.append(link)
            link.pumps = [
                self._loop.create_task(self._pump(link, daemon, server, Mode.DEAF)),
                self._loop.create_task(self._pump(link, server, daemon, Mode.MUTE)),
            ]

    async def _pump(
        self, link: _Link, source: socket.socket, target: socket.socket, swallowing: Mode
    ) -> None:
        with suppress(OSError):
            while True:
                piece = await self._loop.sock_recv(source, _PIECE)
                await self._thawed.wait()
                if self._mode is swallowing:
                    link.lost = True
                    if piece:
                        continue
                    await asyncio.Event().wait()  # nor does the end arrive
                if not piece:
                    break
                if self._mode is Mode.DELAY:
                    await asyncio.sleep(DELAY)
                await self._loop.sock_sendall(target, piece)
        self._end(link)


def _reset(end: socket.socket) -> None:
    """Close it with an RST."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def _blackhole(end: socket.socket) -> None:
    """Have the kernel take no notice of any packet that comes for it, see socket(7)."""
    refuse = struct.pack("HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K: keep 0 bytes
    program = ctypes.create_string_buffer(refuse, len(refuse))
    filter_ = struct.pack("HL", 1, ctypes.addressof(program))
    end.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
