"""PostgreSQL's client programs: finds them, and keeps passwords off their command lines."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pyreplica.database import lives, without_password
from pyreplica.errors import PyReplicaError, Unreachable


def program(name: str, version: int) -> Path:
    """The newest of a client program, which must not be older than the server.

    Args:
        name: for instance "pg_dump".
        version: server_version_num.

    Raises:
        PyReplicaError: there is none.
    """
    folders = sorted(
        (p for p in Path("/usr/lib/postgresql").glob("*/bin") if p.parent.name.isdigit()),
        key=lambda p: int(p.parent.name),
        reverse=True,
    )
    for folder in folders:
        if (folder / name).exists() and int(folder.parent.name) >= version // 10000:
            return folder / name
    found = shutil.which(name)
    if found is None:
        raise PyReplicaError(
            f"{name} is needed and was not found",
            hint=f"Install PostgreSQL's client programs: postgresql-client-{version // 10000}.",
        )
    return Path(found)


def run_program(
    command: Sequence[str | Path],
    *,
    where: str,
    time_limit: float | None,
    hint: str,
    dsn: str | None = None,
    peer_timeout: float = 60.0,
    arguments: Sequence[str | Path] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a client program and give what it has printed.

    Args:
        command: the program and its options; with a ``dsn`` its last one takes the database.
        where: how messages name the place.
        time_limit: seconds it may take; None for as long as it wants.
        hint: what to do when it fails.
        dsn: the database; its password is given in the environment, because everybody on the
            machine can read a command line.
        peer_timeout: seconds after which it is broken off when that database's server has answered
            nobody.
        arguments: what follows the database.

    Raises:
        PyReplicaError: it failed; the message is its own first line about an error.
        Unreachable: the server has stopped answering.
    """
    environment = dict(os.environ)
    whole = [str(part) for part in command]
    if dsn is not None:
        shown, password = without_password(dsn, peer_timeout)
        whole.append(shown)
        if password is not None:
            environment["PGPASSWORD"] = password
    name = Path(whole[0]).name
    with subprocess.Popen(
        [*whole, *map(str, arguments)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watched = _Watched(process, name, where, time_limit, hint, dsn, peer_timeout)
        try:
            output, errors = watched.finished()
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, output, errors)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        first = next((line for line in lines if "error" in line.lower()), "it failed")
        raise PyReplicaError(
            f"{name}: {first}", where=where, hint=hint, details=done.stderr.strip()
        )
    return done


@dataclass(frozen=True, slots=True)
class _Watched:
    """A program that runs; see run_program()."""

    process: subprocess.Popen[str]
    name: str
    where: str
    time_limit: float | None
    hint: str
    dsn: str | None
    peer_timeout: float

    def finished(self) -> tuple[str, str]:
        """Wait for its end; gives what it wrote to stdout and stderr."""
        alive = time.monotonic()
        late = alive + (math.inf if self.time_limit is None else self.time_limit)
        while True:
            pause = min(late - time.monotonic(), self.peer_timeout / 2)
            with suppress(subprocess.TimeoutExpired):
                return self.process.communicate(timeout=max(0.0, pause))
            now = time.monotonic()
            if now >= late:
                raise PyReplicaError(
                    f"{self.name} took longer than {self.time_limit:.0f} s",
                    where=self.where,
                    hint=self.hint,
                )
            if self.dsn is None or lives(self.dsn, max(2.0, self.peer_timeout / 4)):
                alive = now
            elif now - alive >= self.peer_timeout:
                raise Unreachable(
                    f"{self.name}: no answer for {self.peer_timeout:g} s, and the server does not "
                    "answer a new connection either",
                    where=self.where,
                    hint=self.hint,
                )
