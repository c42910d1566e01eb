"""Runs the programs of a throw-away server's PostgreSQL."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from pyreplica.errors import PyReplicaError, TimedOut

if TYPE_CHECKING:  # only POSIX has it
    import pwd

LIMIT = 120.0
"""Seconds. Generous, for slow and busy machines: a limit is there to end what hangs."""

_LOG_TAIL_BYTES = 8192
_LOG_TAIL_LINES = 30


class Runner:
    """Runs programs for one server.

    Args:
        binaries: the folders that hold them; the first that has one counts.
        home: the server's folder.
        account: whom the server belongs to, when that is not the caller.
        log_path: what the server writes.
        where: the server, as errors name it.
    """

    def __init__(
        self,
        *,
        binaries: tuple[Path, ...],
        home: Path,
        account: pwd.struct_passwd | None,
        log_path: Path,
        where: str,
    ) -> None:
        self._binaries = binaries
        self._home = home
        self._account = account
        self._log_path = log_path
        self._where = where

    def find(self, name: str) -> Path:
        """Find a program.

        Raises:
            PyReplicaError: there is no such program.
        """
        for folder in self._binaries:
            if (folder / name).is_file():
                return folder / name
        path = self._binaries[0] / name
        raise PyReplicaError(f"PostgreSQL has no program {name} here", where=str(path))

    def run(
        self,
        program: str,
        *args: str,
        input: str | None = None,
        check: bool = True,
        timeout: float = LIMIT,
        hint: str = "",
        as_caller: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs, as the account that owns the server unless told."""
        account = None if as_caller else self._account
        try:
            done = subprocess.run(
                [self.find(program), *args],
                # A folder the account can be in; it may not get into the caller's.
                cwd=None if as_caller else self._home,
                env=self._environment(),
                input=input or "",  # never the caller's terminal
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=timeout,
                check=False,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                # Ctrl-C on the terminal is for us: a pg_ctl that it ends leaves a server behind.
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(
                f"{program} did not end within {timeout:g} seconds",
                where=self._where,
                details=self.log_tail(),
            ) from error
        if check and done.returncode != 0:
            raise PyReplicaError(
                f"{program} failed with status {done.returncode}",
                where=self._where,
                hint=hint,
                details=(done.stderr or done.stdout).strip(),
            )
        return done

    def log_tail(self) -> str:
        """The end of what the server wrote."""
        try:
            with self._log_path.open("rb") as log:
                log.seek(max(0, self._log_path.stat().st_size - _LOG_TAIL_BYTES))
                tail = log.read().decode(errors="replace")
        except OSError:
            return ""  # not started yet
        return "\n".join(tail.splitlines()[-_LOG_TAIL_LINES:])

    def _environment(self) -> dict[str, str]:
        """Build the whole environment of servers and clients: nothing of the caller's gets through.

        Otherwise PG* variables would change where a client connects to, LANG and LC_* the language
        of messages, and PATH which Python's library plpython3u finds for its own.
        """
        return {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(self._home)}
