"""Runs the command of ``alerts: command:``, with the event as JSON on its standard input."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from pyreplica.daemon.alerts.texts import one_line
from pyreplica.errors import PyReplicaError

LAST_OUTPUT = 2_000
"""So many bytes at the end of what it prints are looked at."""


Started = Callable[[Callable[[], None]], None]
"""Is given how to kill what was started."""


def run(
    command: tuple[str, ...],
    given: str,
    timeout: float,
    started: Started = lambda kill: None,
) -> str:
    """Run it and wait for its end.

    Args:
        command: the program and its arguments; no shell is involved.
        given: what it can read on standard input.
        timeout: seconds; then it is killed, with the processes it has started.
        started: given how to kill it before; for another thread, while this one waits.

    Returns:
        The end of what it has printed.

    Raises:
        PyReplicaError: it cannot be run, has failed, or has taken too long.
    """
    where = f"command {command[0]}"
    # Files, not pipes: nobody has to read and write at the right moment, and a process that it
    # leaves behind holds nobody up.
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as output:
        stdin.write(f"{given}\n".encode())
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise PyReplicaError(
                f"cannot be run: {error.strerror}",
                where=where,
                hint="See alerts.command in the configuration.",
                retry=True,
            ) from error
        started(lambda: _kill(process))
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            _kill(process)
            process.wait()
            raise PyReplicaError(
                f"has not ended within {timeout:g} s, and was killed",
                where=where,
                hint="See what it waits for, or raise alerts.command_timeout.",
                details=_end(output),
                retry=True,
            ) from error
        said = _end(output)
    if code != 0:
        how = f"exit code {code}" if code > 0 else f"signal {-code}"
        last = f": {one_line(said)[-300:]}" if said else ""
        raise PyReplicaError(
            f"has failed with {how}{last}",
            where=where,
            hint="`pyreplica alert test` runs it once more.",
            details=said,
            retry=True,
        )
    return said


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End it and what it has started."""
    if process.returncode is None and hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # does nothing to one that has ended


def _end(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - LAST_OUTPUT))
    return output.read().decode("utf-8", "replace").strip()
