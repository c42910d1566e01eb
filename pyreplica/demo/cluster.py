"""Throw-away PostgreSQL servers, for the demo and for the tests.

A :class:`Cluster` is a real server with a folder of its own, made by the installed PostgreSQL's
initdb and gone without a trace after :meth:`Cluster.destroy`. It needs no rights: run by root, the
server belongs to the account `postgres`, because PostgreSQL refuses to run as root; run by anybody
else it is theirs.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from pyreplica.demo.binaries import find_binaries
from pyreplica.demo.places import account_for_root, am_root, free_port, socket_directory
from pyreplica.demo.runner import LIMIT, Runner
from pyreplica.errors import PyReplicaError

if TYPE_CHECKING:  # only POSIX has it
    import pwd

# Seconds
_INITDB_LIMIT = 300.0
_PSQL_LIMIT = 300.0

# A prepared transaction keeps DROP DATABASE from working, even WITH (FORCE), and can only be rolled
# back from inside its database.
_DROP_DATABASE = r"""
SELECT count(*) > 0 AS prepared FROM pg_prepared_xacts WHERE database = :'name' \gset
\if :prepared
    \connect :"name"
    SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts
    WHERE database = current_database() \gexec
    \connect postgres
\endif
DROP DATABASE :"name" WITH (FORCE);
"""

StopMode = Literal["smart", "fast", "immediate"]
"""How a server is stopped, as in pg_ctl's manual page: "immediate" is a crash."""


class Cluster:
    """A throw-away PostgreSQL server: made by :meth:`create`, removed by :meth:`destroy`.

    It ends with the process that made it, whether that returns, exits or raises; only a signal that
    kills without a chance to clean up leaves the server behind. Threads may share it, though not
    start and stop it at the same time. As a context manager it is destroyed at the end.

    Attributes:
        name: what it was called in :meth:`create`; also PostgreSQL's cluster_name.
        port: the TCP port on 127.0.0.1, also part of the socket's name; it stays the same.
        socket_directory: the folder of the unix socket.
        log_path: what the server wrote, from all its starts.
    """

    def __init__(
        self,
        *,
        name: str,
        home: Path,
        socket_directory: Path,
        port: int,
        binaries: tuple[Path, ...],
        account: pwd.struct_passwd | None,
    ) -> None:
        """Take over a folder that :meth:`create` made; not to be called by others."""
        self.name = name
        self.port = port
        self.socket_directory = socket_directory
        self.log_path = home / "server.log"
        self._home = home
        self._data = home / "data"
        self._account = account
        self._where = f"PostgreSQL server {name}"
        self._programs = Runner(
            binaries=binaries,
            home=home,
            account=account,
            log_path=self.log_path,
            where=self._where,
        )
        self._owner = os.getpid()
        atexit.register(self._at_exit)

    @classmethod
    def create(
        cls,
        directory: Path,
        name: str,
        settings: Mapping[str, str] | None = None,
        *,
        binaries: Path | None = None,
    ) -> Cluster:
        """Make a server, without starting it.

        Its superuser is `postgres`, who needs no password on the socket (only the caller can reach
        that) nor on 127.0.0.1 (everybody on the machine can reach that). Encoding UTF8, locale
        C.UTF-8.

        Args:
            directory: where its folder is made. Called by root, the account `postgres` must be able
                to pass through this folder and those above it.
            name: the name of its folder, which must not be there yet.
            settings: lines for postgresql.conf, each value as one would SET it, without quotes.
            binaries: the programs of another PostgreSQL than the installed one; what is not among
                them, psql for instance, is the installed one's.

        Raises:
            PyReplicaError: no PostgreSQL is installed, or initdb failed.
        """
        folders = (find_binaries(),) if binaries is None else (binaries, find_binaries())
        account = account_for_root() if am_root() else None
        home = Path(directory).absolute() / name
        try:
            home.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise PyReplicaError(
                f"the folder for a server cannot be made: {error.strerror}", where=str(home)
            ) from error

        cluster = cls(
            name=name,
            home=home,
            socket_directory=socket_directory(home),
            port=free_port(),
            binaries=folders,
            account=account,
        )
        try:
            cluster._initialise(settings or {})
        except BaseException:
            cluster._remove()
            raise
        return cluster

    def start(self) -> None:
        """Start the server and wait until it takes connections; nothing to do where it runs.

        Raises:
            PyReplicaError: it did not start; the details are the end of its log.
        """
        if self.running:
            return
        # -l is what keeps this from hanging: the server's output goes there, and not into the pipes
        # that pg_ctl's output is read from, which would stay open for as long as the server runs.
        self._pg_ctl("start", "-l", str(self.log_path))

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait for its end; nothing to do where it does not run.

        Args:
            mode: "smart" waits for the clients to leave, "fast" ends their sessions, "immediate" is
                a crash that the next start recovers from.

        Raises:
            PyReplicaError: it did not stop in time; the details are the end of its log.
        """
        if self.running:
            self._pg_ctl("stop", "-m", mode)

    def restart(self) -> None:
        """Stop the server as "fast" does, and start it."""
        self.stop()
        self.start()

    def destroy(self) -> None:
        """End the server and remove everything it had; nothing to do where that was done before."""
        self.stop("immediate")
        self._remove()

    @property
    def running(self) -> bool:
        """Whether the server's process is there (it may be starting or stopping)."""
        # A pid file may be left by a crash, and its pid be taken by somebody else. A server is in
        # its folder of data (pg_ctl status asks less, and is a program to start).
        try:
            return Path(f"/proc/{self.pid}/cwd").samefile(self._data)
        except (PyReplicaError, OSError):
            return False

    @property
    def pid(self) -> int:
        """The process id of the running server's first process, the postmaster.

        Raises:
            PyReplicaError: the server does not run.
        """
        try:
            first_line, *_ = (self._data / "postmaster.pid").read_text().splitlines()
        except (OSError, ValueError) as error:
            raise PyReplicaError("the server does not run", where=self._where) from error
        return int(first_line)

    def binary(self, name: str) -> Path:
        """Find a program of this server's PostgreSQL, for instance pgbench.

        Raises:
            PyReplicaError: there is no such program.
        """
        return self._programs.find(name)

    def dsn(
        self,
        dbname: str = "postgres",
        *,
        user: str = "postgres",
        tcp: bool = False,
        **extra: str | int,
    ) -> str:
        """Write the connection string of one of the server's databases.

        Args:
            dbname: the database's name, as it is.
            user: the role to connect as.
            tcp: through 127.0.0.1 rather than the unix socket.
            extra: further parameters of libpq, for instance application_name="demo".

        Returns:
            Keyword/value pairs for libpq, quoted where they need it.
        """
        host = "127.0.0.1" if tcp else str(self.socket_directory)
        parameters: dict[str, str | int]
        parameters = {"host": host, "port": self.port, "user": user, "dbname": dbname, **extra}
        return " ".join(f"{key}={_conninfo_value(str(it))}" for key, it in parameters.items())

    def psql(
        self,
        *args: str,
        dbname: str = "postgres",
        input: str | None = None,
        check: bool = True,
        timeout: float = _PSQL_LIMIT,
    ) -> subprocess.CompletedProcess[str]:
        """Run psql as the superuser, without a psqlrc, stopping at the first error.

        Args:
            args: further arguments, for instance "-Atc", "SELECT 1" or "-f", "some.sql"; files are
                read with the caller's rights and from the caller's current folder.
            dbname: the database to run it in.
            input: what psql reads from its standard input; empty where not given.
            check: whether a failure is raised.
            timeout: the time limit, in seconds.

        Returns:
            What psql wrote (stdout, stderr) and its exit status (returncode).

        Raises:
            TimedOut: it took longer than the time limit.
            PyReplicaError: psql failed; the details are what it wrote to stderr.
        """
        options = ("-X", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(dbname, connect_timeout=30))
        return self._programs.run(
            *("psql", *options, *args), input=input, check=check, timeout=timeout, as_caller=True
        )

    def take_over(self, old: Cluster) -> None:
        """Have pg_upgrade move everything of another server here; both are stopped.

        Raises:
            PyReplicaError: it failed; the details are what it wrote.
        """
        folders = ("-d", str(old._data), "-D", str(self._data), "-s", str(self.socket_directory))
        binaries = (
            "-b",
            str(old.binary("postgres").parent),
            "-B",
            str(self.binary("postgres").parent),
        )
        ports = ("-p", str(old.port), "-P", str(self.port))
        self.run("pg_upgrade", *folders, *binaries, *ports)

    def run(self, program: str, *args: str) -> subprocess.CompletedProcess[str]:
        """Run one of its PostgreSQL's programs, as the account that it belongs to.

        Raises:
            TimedOut: it took longer than the time limit.
            PyReplicaError: there is no such program, or it failed.
        """
        return self._programs.run(program, *args)

    def create_database(self, name: str) -> None:
        """Make an empty database.

        Raises:
            PyReplicaError: it is there already, or the server cannot be reached.
        """
        self.psql("-q", "-v", f"name={name}", input='CREATE DATABASE :"name";')

    def drop_database(self, name: str) -> None:
        """Remove a database together with its sessions and its prepared transactions.

        Raises:
            PyReplicaError: it is not there, or the server cannot be reached.
        """
        self.psql("-q", "-v", f"name={name}", input=_DROP_DATABASE)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.destroy()

    def __repr__(self) -> str:
        return f"<Cluster {self.name} in {self._home}, port {self.port}>"

    def _initialise(self, settings: Mapping[str, str]) -> None:
        if account := self._account:
            for folder in (self._home, self.socket_directory):
                os.chown(folder, account.pw_uid, account.pw_gid)
        self._programs.run(
            *("initdb", "-D", str(self._data), "-U", "postgres", "--auth=trust", "--no-sync"),
            *("--encoding=UTF8", "--locale=C.UTF-8"),
            timeout=_INITDB_LIMIT,
            hint=f"the account {account.pw_name} must be able to reach {self._home}"
            if account
            else "",
        )
        all_settings = {
            "cluster_name": self.name,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_directory),
            **settings,
        }
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.writelines(f"{key} = {_conf_value(it)}\n" for key, it in all_settings.items())

    def _pg_ctl(self, action: Literal["start", "stop"], *args: str) -> None:
        """Run pg_ctl and wait until the server has done it."""
        limit = ("-w", "-t", str(int(LIMIT)))
        try:
            # pg_ctl keeps the limit itself, and then says what it waited for; ours is behind it.
            self._programs.run(
                *("pg_ctl", action, "-D", str(self._data), *limit, *args),
                timeout=LIMIT + 30,
            )
        except PyReplicaError as error:
            raise PyReplicaError(
                f"the server did not {action}",
                where=self._where,
                hint=f"its log is {self.log_path}",
                details=self._programs.log_tail() or error.details,
            ) from error

    def _remove(self) -> None:
        for folder in (self.socket_directory, self._home):
            if folder.exists():
                shutil.rmtree(folder)
        atexit.unregister(self._at_exit)

    def _at_exit(self) -> None:
        # A fork (a daemon going into the background, say) inherits this, but not the server.
        if os.getpid() == self._owner:
            self.destroy()


def _conninfo_value(value: str) -> str:
    """Quote a value for libpq (the PostgreSQL manual, "Keyword/Value Connection Strings")."""
    if re.fullmatch(r"[^\s'\\]+", value):
        return value
    return "'" + re.sub(r"(['\\])", r"\\\1", value) + "'"


def _conf_value(value: str) -> str:
    """Quote a value for postgresql.conf (the PostgreSQL manual, "Parameter Names and Values")."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
