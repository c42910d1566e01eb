"""The proxy does to connections what it says: seen with plain sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.faults.proxy import DELAY, Mode, Proxy

SILENCE = 0.2
"""Seconds for which nothing must arrive."""


class Ends:
    """A connection through the proxy: the daemon's end, and the server's."""

    def __init__(self, proxy: Proxy, listener: socket.socket) -> None:
        self.proxy = proxy
        self.listener = listener
        self.daemon, self.server = self.connected()

    def connected(self) -> tuple[socket.socket, socket.socket]:
        daemon = socket.create_connection(("127.0.0.1", self.proxy.port), timeout=10)
        server, _ = self.listener.accept()
        for end in (daemon, server):
            end.settimeout(10)
        daemon.sendall(b"!")  # when it arrives the proxy knows of both ends
        assert server.recv(1) == b"!"
        return daemon, server

    def is_silent(self, end: socket.socket) -> bool:
        """Whether nothing arrives, not even an end."""
        end.settimeout(SILENCE)
        try:
            end.recv(1)
        except TimeoutError:
            return True
        finally:
            end.settimeout(10)
        return False


@pytest.fixture
def ends() -> Iterator[Ends]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        with Proxy(listener.getsockname()[1]) as proxy:
            made = Ends(proxy, listener)
            yield made
            for end in (made.daemon, made.server):
                with suppress(OSError):
                    end.close()


def test_bytes_pass_both_ways_and_so_does_the_end(ends: Ends) -> None:
    ends.daemon.sendall(b"question")
    assert ends.server.recv(100) == b"question"
    ends.server.sendall(b"answer")
    assert ends.daemon.recv(100) == b"answer"
    ends.server.close()
    assert ends.daemon.recv(100) == b""


def test_a_dropped_connection_is_closed_and_so_are_new_ones(ends: Ends) -> None:
    assert ends.proxy.set(Mode.DROP) == 1
    assert ends.daemon.recv(1) == b""
    assert ends.server.recv(1) == b""
    with socket.create_connection(("127.0.0.1", ends.proxy.port), timeout=10) as another:
        assert another.recv(1) == b""


def test_a_reset_is_a_reset_at_both_ends(ends: Ends) -> None:
    ends.proxy.set(Mode.RESET)
    for end in (ends.daemon, ends.server):
        with pytest.raises(ConnectionResetError):
            end.recv(1)


def test_a_frozen_connection_loses_nothing(ends: Ends) -> None:
    ends.proxy.set(Mode.FREEZE)
    ends.daemon.sendall(b"question")
    ends.server.sendall(b"answer")
    assert ends.is_silent(ends.server)
    assert ends.is_silent(ends.daemon)
    assert ends.proxy.set(Mode.PASS) == 0
    assert ends.server.recv(100) == b"question"
    assert ends.daemon.recv(100) == b"answer"


@pytest.mark.parametrize("mode", [Mode.DEAF, Mode.MUTE])
def test_a_half_open_connection_swallows_one_way_and_is_reset_afterwards(
    ends: Ends, mode: Mode
) -> None:
    ends.proxy.set(mode)
    into, out_of = (ends.daemon, ends.server) if mode is Mode.DEAF else (ends.server, ends.daemon)
    into.sendall(b"lost")
    assert ends.is_silent(out_of)
    out_of.sendall(b"arrives")
    assert into.recv(100) == b"arrives"
    assert ends.proxy.set(Mode.PASS) == 1
    with pytest.raises(ConnectionResetError):
        out_of.recv(1)


def test_a_half_open_connection_that_has_lost_nothing_goes_on(ends: Ends) -> None:
    ends.proxy.set(Mode.DEAF)
    assert ends.proxy.set(Mode.PASS) == 0
    ends.daemon.sendall(b"question")
    assert ends.server.recv(100) == b"question"


def test_a_delayed_connection_is_slow(ends: Ends) -> None:
    ends.proxy.set(Mode.DELAY)
    began = time.monotonic()
    ends.daemon.sendall(b"question")
    assert ends.server.recv(100) == b"question"
    assert time.monotonic() - began >= DELAY


def test_a_vanished_peer_is_noticed_by_its_silence_alone(ends: Ends) -> None:
    ends.daemon.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 200)
    ends.proxy.set(Mode.VANISH)
    ends.proxy.set(Mode.PASS)
    ends.daemon.sendall(b"question")
    assert ends.is_silent(ends.server)
    with pytest.raises(TimeoutError, match="timed out"):
        ends.daemon.recv(1)
    daemon, server = ends.connected()
    with daemon, server:
        daemon.sendall(b"again")
        assert server.recv(100) == b"again"
