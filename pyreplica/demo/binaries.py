"""Finds the PostgreSQL that the throw-away servers are made of."""

from __future__ import annotations

import os
from pathlib import Path

from pyreplica.errors import PyReplicaError

OLDEST_MAJOR = 13
"""The oldest major version of PostgreSQL that PyReplica works with."""

_SERVERS = Path("/usr/lib/postgresql")
_SHARED_FILES = Path("/usr/share/postgresql")


def find_binaries() -> Path:
    """Find the programs of the newest installed PostgreSQL that has PL/Python.

    Looked for where Debian has them. The environment variable PYREPLICA_PG_BIN names another
    folder, which is then taken as it is.

    Returns:
        The folder that holds initdb, pg_ctl and psql.

    Raises:
        PyReplicaError: there is none; the hint names the packages to install.
    """
    if chosen := os.environ.get("PYREPLICA_PG_BIN"):
        if not (Path(chosen) / "initdb").is_file():
            raise PyReplicaError(
                "there is no initdb in the folder that PYREPLICA_PG_BIN names",
                where=chosen,
                hint="name the folder of a PostgreSQL server's programs, or unset the variable",
            )
        return Path(chosen)

    installed = {
        int(initdb.parent.parent.name): initdb.parent
        for initdb in _SERVERS.glob("*/bin/initdb")
        if initdb.parent.parent.name.isdecimal()
    }
    usable = [major for major in installed if major >= OLDEST_MAJOR]
    complete = [major for major in usable if _plpython_control(major).is_file()]
    if complete:
        return installed[max(complete)]
    if usable:
        hint = f"install the package postgresql-plpython3-{max(usable)}"
    else:
        hint = "install the packages postgresql and postgresql-plpython3-<its major version>"
    raise PyReplicaError(
        f"no PostgreSQL {OLDEST_MAJOR} or newer with the language plpython3u is installed",
        hint=f"{hint}, or set PYREPLICA_PG_BIN to the folder of a PostgreSQL of your own",
    )


def _plpython_control(major: int) -> Path:
    return _SHARED_FILES / str(major) / "extension" / "plpython3u.control"
