"""The file that says which process runs the daemon; locked, so that a crash cannot leave it stale.

The lock is the kernel's (flock), and goes away with the process, however that ends. What stands in
the file counts only while somebody holds it: the process id, and what became of the last reload.
POSIX only.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from pyreplica.errors import PyReplicaError


class AlreadyRunning(PyReplicaError):
    """Another daemon holds the file."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What became of the last reload.

    Args:
        number: how many there were.
        done: what was done, in words.
        error: why the configuration was not taken; empty when it was.
        hint: what to do about that.
    """

    number: int = 0
    done: str = ""
    error: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the file: the daemon's process id, and what it notes there."""

    pid: int
    reloaded: Reloaded


class Pidfile:
    """The file of the daemon that this process is; held inside a ``with`` block.

    Args:
        path: where it is; its folder is made when there is none.

    Raises:
        AlreadyRunning: when it is entered, and another process holds it.
        PyReplicaError: then, too, when it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1
        self._reloads = 0

    def __enter__(self) -> Pidfile:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            while self._file < 0:
                self._file = _locked(self.path)
        except OSError as error:
            raise _unusable(self.path, error) from error
        self._write(Reloaded())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.path.unlink(missing_ok=True)  # first: nobody is to lock it once it is let go
        os.close(self._file)
        self._file = -1

    def reloaded(self, done: str, error: PyReplicaError | None) -> None:
        """Note what has become of a reload, for who has asked for it."""
        self._reloads += 1
        failed = ("", "") if error is None else (error.line, error.hint)
        self._write(Reloaded(self._reloads, done, *failed))

    def _write(self, reloaded: Reloaded) -> None:
        values = [reloaded.number, reloaded.done, reloaded.error, reloaded.hint]
        text = f"{os.getpid()}\n{json.dumps(values)}\n".encode()
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))


def holder(path: Path) -> Holder | None:
    """Who holds a pidfile; None when nobody does, whatever is in it.

    Raises:
        PyReplicaError: it cannot be read.
    """
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _, noted = os.pread(file, 1 << 16, 0).decode(errors="replace").partition("\n")
            try:
                return Holder(int(pid), Reloaded(*json.loads(noted)))
            except (ValueError, TypeError):  # it is being written just now
                return Holder(int(pid) if pid.isdigit() else 0, Reloaded())
        return None
    finally:
        os.close(file)


def _locked(path: Path) -> int:
    """Lock the file; gives its descriptor, -1 when it was taken away meanwhile."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is(path, file):
            return file
    except BlockingIOError:
        other = holder(path)
        os.close(file)
        who = f"process {other.pid}" if other is not None and other.pid else "another process"
        raise AlreadyRunning(
            f"the daemon is running already: {who}",
            where=str(path),
            hint="Stop it first (`pyreplica stop`), or name another file with --pidfile.",
        ) from None
    os.close(file)
    return -1


def _is(path: Path, file: int) -> bool:
    """Whether the path still names the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _unusable(path: Path, error: OSError) -> PyReplicaError:
    return PyReplicaError(
        f"the pidfile cannot be used: {error.strerror}",
        where=str(path),
        hint="Name one in a folder that this user may write, with --pidfile.",
    )
