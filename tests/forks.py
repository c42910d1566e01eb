"""Starts Python programs without the time that Python takes to import what they consist of.

``python -m pyreplica`` computes for a third of a second before it does anything, and the tests run
it more than a thousand times. Here one process has imported it all, and forks for each program that
is to run: a process of its own, with its own arguments, environment, folder, files, signals, output
and exit code, that ends as any other does. What is not as in a fresh interpreter: the modules are
there already (none of them does anything when it is imported), the hashes of texts are the same in
all, and memory is counted that was the first one's. Tests of such things start one of their own.
"""

from __future__ import annotations

import atexit
import functools
import gc
import io
import json
import os
import pkgutil
import runpy
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import pyreplica

_MESSAGE = 1 << 20
"""Bytes that a request may have: arguments and an environment."""

_NUMBER = struct.Struct("<i")

# These are run with -m, and are not to be there before.
_PROGRAMS = {"pyreplica.__main__"}


class Forked:
    """A program that was started by :func:`forked`; used as a Popen is.

    Attributes:
        pid: its process id.
        returncode: its exit code, as Popen's; None before its end was seen.
    """

    def __init__(self, command: Sequence[str], answers: int) -> None:
        self.args = command
        self.returncode: int | None = None
        self._answers = answers
        self._lock = threading.Lock()
        pid = self._answer(None)
        assert pid is not None
        self.pid = pid

    def poll(self) -> int | None:
        """Its exit code if it has ended."""
        with self._lock:
            if self.returncode is None and (code := self._answer(0)) is not None:
                self.returncode = code
                os.close(self._answers)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; gives its exit code.

        Raises:
            subprocess.TimeoutExpired: it has not ended within so many seconds.
        """
        if self.returncode is None:
            ended, _, _ = select.select([self._answers], [], [], timeout)
            if not ended:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)

    def _answer(self, timeout: float | None) -> int | None:
        """The next number that is told of it: its process id, then its exit code."""
        ready, _, _ = select.select([self._answers], [], [], timeout)
        if not ready:
            return None
        told = os.read(self._answers, _NUMBER.size)
        assert told, "the process that forks has ended"
        return int(_NUMBER.unpack(told)[0])


def forked(
    command: Sequence[str], stdout: int | BinaryIO, stderr: int | BinaryIO, **more: str
) -> Forked:
    """Start a program, ``python -m`` with these words, that has nothing to read.

    Args:
        command: a module and its arguments.
        stdout: where it writes.
        stderr: where it writes of its failures.
        more: variables of its environment besides those of this process.
    """
    answers, tell = os.pipe()
    request = {"command": command, "environment": {**os.environ, **more}, "folder": str(Path.cwd())}
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 -- no Path has it
        files = [it if isinstance(it, int) else it.fileno() for it in (nothing, stdout, stderr)]
        try:
            socket.send_fds(_server(), [json.dumps(request).encode()], [*files, tell])
        finally:
            os.close(tell)
    return Forked(command, answers)


def run(command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """The same, to its end and the end of what it wrote.

    Raises:
        subprocess.TimeoutExpired: it was killed after so many seconds.
    """
    pipes = {name: os.pipe() for name in ("stdout", "stderr")}
    written = {read: bytearray() for read, _ in pipes.values()}
    try:
        process = forked(command, *(write for _, write in pipes.values()))
    finally:
        for _, write in pipes.values():
            os.close(write)
    deadline = time.monotonic() + timeout
    open_ = set(written)
    try:
        while open_:
            ready, _, _ = select.select(open_, [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired(command, timeout)
            for one in ready:
                if data := os.read(one, 1 << 16):
                    written[one] += data
                else:
                    open_.remove(one)
        process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        process.kill()
        process.wait()
        for read, _ in pipes.values():
            os.close(read)
    stdout, stderr = (
        io.TextIOWrapper(io.BytesIO(written[read]), encoding="utf-8").read()
        for read, _ in pipes.values()
    )
    assert process.returncode is not None
    return subprocess.CompletedProcess(list(command), process.returncode, stdout, stderr)


@functools.cache
def _server() -> socket.socket:
    """The other end of the process that forks, which ends when this one does."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(its.fileno())],
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# The process that forks


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork for each request, and tell of the ends.

    Returns:
        In a process that was forked, what it is to run; None at the end of the first one.
    """
    children: dict[int, tuple[int, int]] = {}  # by pidfd: the pid, and where its end is told
    with selectors.DefaultSelector() as waiting:
        waiting.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select():
                if key.fileobj is not control:
                    pid, tell = children.pop(key.fd)
                    waiting.unregister(key.fd)
                    os.close(key.fd)
                    _, status = os.waitpid(pid, 0)
                    _tell(tell, os.waitstatus_to_exitcode(status))
                    os.close(tell)
                    continue
                data, files, _, _ = socket.recv_fds(control, _MESSAGE, 4)
                if not data:
                    for pid, _ in children.values():  # the tests were killed
                        os.kill(pid, signal.SIGKILL)
                    return None
                *streams, tell = files
                if (pid := os.fork()) == 0:
                    for number, file in enumerate(streams):
                        os.dup2(file, number)
                    others = [fd for pidfd, (_, other) in children.items() for fd in (pidfd, other)]
                    for file in (*files, *others):
                        os.close(file)
                    control.close()
                    request: dict[str, Any] = json.loads(data)
                    return request
                for file in streams:
                    os.close(file)
                _tell(tell, pid)
                children[pidfd := os.pidfd_open(pid)] = (pid, tell)
                waiting.register(pidfd, selectors.EVENT_READ)


def _tell(file: int, number: int) -> None:
    with suppress(BrokenPipeError):  # nobody waits for its end
        os.write(file, _NUMBER.pack(number))


def _become(request: dict[str, Any]) -> None:
    """Run the program that a process was forked for."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    sys.path[0] = request["folder"]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As Python makes them: what kind of file it is decides on how they are written.
    sys.stdout = _stream(1, sys.stdout, lines=os.isatty(1))
    sys.stderr = _stream(2, sys.stderr, lines=True)
    module, *arguments = request["command"]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _stream(number: int, like: TextIO, *, lines: bool) -> TextIO:
    raw = io.FileIO(number, "wb", closefd=False)
    at_once = "PYTHONUNBUFFERED" in os.environ
    return io.TextIOWrapper(
        raw if at_once else io.BufferedWriter(raw),
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=lines,
        write_through=at_once,
    )


def main() -> None:
    """Import it all, and fork until nobody asks any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    control = socket.socket(fileno=int(sys.argv[1]))
    for module in pkgutil.walk_packages(pyreplica.__path__, "pyreplica."):
        if module.name not in _PROGRAMS:
            import_module(module.name)
    import_module("tests.support")
    gc.collect()
    gc.freeze()  # what is never collected is not copied by the processes either
    if request := _serve(control):
        _become(request)


if __name__ == "__main__":
    main()
