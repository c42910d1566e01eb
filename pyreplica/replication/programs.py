"""PostgreSQL's client programs: finds them, and keeps passwords off their command lines."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pyreplica.database import without_password
from pyreplica.errors import PyReplicaError


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
        arguments: what follows the database.

    Raises:
        PyReplicaError: it failed; the message is its own first line about an error.
    """
    environment = dict(os.environ)
    whole = [str(part) for part in command]
    if dsn is not None:
        shown, password = without_password(dsn)
        whole.append(shown)
        if password is not None:
            environment["PGPASSWORD"] = password
    name = Path(whole[0]).name
    try:
        done = subprocess.run(
            [*whole, *map(str, arguments)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=time_limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PyReplicaError(
            f"{name} took longer than {time_limit:.0f} s", where=where, hint=hint
        ) from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        first = next((line for line in lines if "error" in line.lower()), "it failed")
        raise PyReplicaError(
            f"{name}: {first}", where=where, hint=hint, details=done.stderr.strip()
        )
    return done
