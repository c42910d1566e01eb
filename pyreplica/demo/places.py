"""Where a throw-away server can be: whose it is, its port, and the folder of its sockets."""

from __future__ import annotations

import importlib
import os
import re
import secrets
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pyreplica.errors import PyReplicaError

if TYPE_CHECKING:  # only POSIX has it
    import pwd

_ROOTS_ACCOUNT = "postgres"

# Below the range Linux takes the ports of outgoing connections from (net.ipv4.ip_local_port_range),
# so that none of these can take a server's port while it is stopped.
_PORTS = range(16384, 32768)

_LONGEST_SOCKET_PATH = 107  # sockaddr_un.sun_path of unix(7), without its closing NUL
# What can stand in a connection string and in unix_socket_directories, where commas separate.
_PLAIN_PATH = re.compile(r"[\w/.+-]+", re.ASCII)


def am_root() -> bool:
    """Whether this process is root's; where there is no POSIX, nobody is root."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def account_for_root() -> pwd.struct_passwd:
    """Find the account that a server belongs to when root makes it."""
    try:
        found: pwd.struct_passwd = importlib.import_module("pwd").getpwnam(_ROOTS_ACCOUNT)
        return found
    except KeyError:
        raise PyReplicaError(
            f"there is no account {_ROOTS_ACCOUNT}, and PostgreSQL does not run as root",
            hint="Debian's package postgresql makes it; or run this as an ordinary user",
        ) from None


def free_port() -> int:
    """Choose a TCP port that nobody listens on. At random, so that two choosers hardly meet."""
    for _ in range(100):
        port = secrets.choice(_PORTS)  # not `random`, which tests seed
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise PyReplicaError(
        f"no free port was found among {_PORTS.start} to {_PORTS.stop - 1}", where="127.0.0.1"
    )


def socket_directory(home: Path) -> Path:
    """Choose the folder of the sockets: the server's own, unless a socket cannot be there."""
    longest_name = home / f".s.PGSQL.{_PORTS.stop}"
    if len(os.fsencode(longest_name)) <= _LONGEST_SOCKET_PATH and _PLAIN_PATH.fullmatch(str(home)):
        return home
    # Not where TMPDIR says, which may be as long.
    return Path(tempfile.mkdtemp(prefix="pyreplica-", dir="/tmp"))
