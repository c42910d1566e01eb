"""The daemon in the background, and how it is spoken to there. POSIX only.

python-daemon detaches it. Nothing is connected before that: libpq must not cross a fork. Whoever
has started it waits at the end of a pipe until it runs, or says why it does not.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from daemon import DaemonContext

from pyreplica.daemon.pidfile import Holder, Pidfile, Reloaded, holder
from pyreplica.errors import PyReplicaError, TimedOut

_LOOK = 0.05
"""What nobody tells of is looked at so often, seconds."""

Body = Callable[[Pidfile, Callable[[], None]], int]
"""The daemon: given its pidfile and what to call when it runs; gives its exit code."""


def start(pidfile: Path, log: Path, body: Body) -> int:
    """Run the daemon in the background, and return once it runs.

    Args:
        pidfile: says who runs it; nobody may hold it.
        log: what it writes to standard error goes there.
        body: the daemon.

    Returns:
        Its process id.

    Raises:
        PyReplicaError: it does not run, and why.
    """
    try:
        output = log.open("ab", buffering=0)
    except OSError as error:
        raise PyReplicaError(
            f"the log cannot be written: {error.strerror}",
            where=str(log),
            hint="Choose another log_file, or --log FILE.",
        ) from error
    with output:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            code = 1
            try:
                code = _detached(pidfile, output, writer, body)
            finally:
                # nothing of the command that has started us is to go on
                os._exit(code)
        os.close(writer)
    # python-daemon forks twice more: this one ends at once
    os.waitpid(child, 0)
    with os.fdopen(reader, encoding="utf-8") as said:
        answer = said.read()
    if not answer:
        raise PyReplicaError(
            "the daemon has ended without a word", where=str(pidfile), hint=f"Look into {log}."
        )
    what, where, hint, pid = json.loads(answer)
    if what:
        raise PyReplicaError(what, where=where, hint=hint)
    return int(pid)


def _detached(pidfile: Path, output: object, writer: int, body: Body) -> int:
    def tell(what: str, where: str = "", hint: str = "") -> None:
        answer = json.dumps([what, where, hint, os.getpid()]).encode()
        with suppress(OSError):  # who has started us did not wait
            os.write(writer, answer)
            os.close(writer)

    held = Pidfile(pidfile)
    context = DaemonContext(
        pidfile=held,
        # paths in the configuration, such as sslrootcert, mean what they meant before
        working_directory=str(Path.cwd()),
        umask=0o027,
        detach_process=True,
        files_preserve=[writer],
        stdout=output,
        stderr=output,
        # the daemon sets its own
        signal_map={},
    )
    try:
        with context:
            return body(held, lambda: tell(""))
    except PyReplicaError as error:
        tell(error.what, error.where, error.hint)
        return error.exit_code
    except Exception as unexpected:
        tell(f"unexpected {type(unexpected).__name__}: {unexpected}", hint="Look into its log.")
        sys.excepthook(type(unexpected), unexpected, unexpected.__traceback__)
        return 1


def stop(pidfile: Path, timeout: float) -> int | None:
    """Have the daemon end, and return when it has.

    Args:
        pidfile: says who it is.
        timeout: seconds.

    Returns:
        Its process id; None when none was running.

    Raises:
        TimedOut: it has not ended in the time given.
    """
    running = holder(pidfile)
    if running is None:
        return None
    _signal(running, pidfile, signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while (now := holder(pidfile)) is not None and now.pid == running.pid:
        if time.monotonic() >= deadline:
            raise TimedOut(
                f"the daemon, process {running.pid}, has not ended after {timeout:g} s",
                where=str(pidfile),
                hint="It finishes the batches at hand; wait longer with --timeout.",
            )
        time.sleep(_LOOK)
    return running.pid


def reload(pidfile: Path, timeout: float) -> Reloaded:
    """Have the daemon read its configuration anew; gives what has become of it.

    Raises:
        PyReplicaError: no daemon is running.
        TimedOut: it has not answered in the time given.
    """
    running = holder(pidfile)
    if running is None:
        raise PyReplicaError(
            "no daemon is running",
            where=str(pidfile),
            hint="Start it with `pyreplica start`, or name its file with --pidfile.",
        )
    _signal(running, pidfile, signal.SIGHUP)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        now = holder(pidfile)
        if now is None or now.pid != running.pid:
            raise PyReplicaError(
                f"the daemon, process {running.pid}, has ended meanwhile",
                where=str(pidfile),
                hint="Its log says why.",
            )
        if now.reloaded.number > running.reloaded.number:
            return now.reloaded
        time.sleep(_LOOK)
    raise TimedOut(
        f"the daemon, process {running.pid}, has not answered after {timeout:g} s",
        where=str(pidfile),
        hint="Its log says what it does.",
    )


def _signal(running: Holder, pidfile: Path, number: int) -> None:
    try:
        os.kill(running.pid, number)
    except ProcessLookupError:  # it is ending
        pass
    except OSError as error:
        raise PyReplicaError(
            f"process {running.pid} cannot be told: {error.strerror}",
            where=str(pidfile),
            hint="Do it as the user that runs the daemon, or as root.",
        ) from error
