"""Bucardo: triggers on the master, and daemons in Perl that copy the rows that were changed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.bench.system import DATABASE, System, debian_version, execute, session, value
from tests.support import eventually

_LIMIT = 120.0

_ROLE = "bucardo"
_CONTROL = "bucardo"
"""Its own database, on the slave's server; the name is fixed in its installation."""

_SETTINGS = {
    # what its daemon for that does is done by pause()
    "bucardo_vac": "0",
    # keys in a statement: with more rows than this (6000) it takes ways that are many times slower
    "statement_chunk_size": "1000000",
    # seconds between two looks for something to do; three daemons wait for one another
    "mcp_loop_sleep": "0.1",
    "ctl_sleep": "0.1",
    "kid_sleep": "0.1",
    "kid_nodeltarows_sleep": "0.1",
}
_PLACES = {
    "piddir": "",
    "reason_file": "restart.reason",
    "warning_file": "warning.log",
    "log_conflict_file": "conflict.log",
}
"""Settings that are files in its folder, or the folder itself."""

_DAEMONS = ("mcp", "ctl.sync.bench", "kid.sync.bench")
_RUNNING = "SELECT count(*) FROM bucardo.syncrun WHERE ended IS NULL"
_LOGS = """
SELECT string_agg(DISTINCT format('bucardo.%s, bucardo.%s', deltaname, trackname), ', ')
FROM bucardo.bucardo_delta_names
"""


class Bucardo(System):
    """One sync; the daemon that copies, called the kid, is stopped by a signal and goes on.

    The tables of its log are emptied and vacuumed while it is paused, so that this costs it nothing
    while the clock runs.
    """

    name = "bucardo"
    title = "Bucardo 5"
    packages = ("bucardo", "postgresql-plperl-15")

    def set_up(self, tables: Sequence[str]) -> None:
        """Make its own database, add the sync, and start its daemons."""
        self._home.mkdir()
        for cluster in (self.master, self.slave):
            # its installation would write a password into the home folder
            execute(cluster.dsn(), f"CREATE ROLE {_ROLE} LOGIN SUPERUSER")
        options = {
            "dbhost": self.slave.socket_directory,
            "dbport": self.slave.port,
            "dbname": _CONTROL,
            "dbuser": _ROLE,
            "logdest": self._home,
            "piddir": self._home,
            "sendmail": 0,
        }
        self._rc.write_text("".join(f"{key} = {it}\n" for key, it in options.items()))
        self._run("install", "--batch", "--dbname=postgres", "--dbuser=postgres")
        self._configure()
        for side, cluster in (("master", self.master), ("slave", self.slave)):
            where = (f"host={cluster.socket_directory}", f"port={cluster.port}", f"user={_ROLE}")
            self._run("add", "db", side, f"dbname={DATABASE}", *where)
        names = ",".join(f"public.{table}" for table in tables)
        self._run(
            *("add", "sync", "bench", "dbs=master:source,slave:target", f"tables={names}"),
            *("onetimecopy=0", "autokick=1", "stayalive=1", "kidsalive=1"),
        )
        self._run("start")
        eventually(lambda: self._pid_file(_DAEMONS[-1]).exists(), self._log, _LIMIT)
        eventually(lambda: len(self.processes()) == len(_DAEMONS), self._log, _LIMIT)

    def pause(self) -> None:
        """Stop the kid where it has no transaction open, and clean up."""
        eventually(self._stopped, self._log, _LIMIT)
        logs = value(self.master_dsn, _LOGS)
        execute(
            self.master_dsn,
            "SELECT bucardo.bucardo_purge_delta('0 seconds')",
            f"VACUUM {logs}",
        )

    def resume(self) -> None:
        """Kick the kid as its controller does, and let it go on."""
        execute(self.slave.dsn(_CONTROL), "NOTIFY bucardo_kid, 'run_bench'")
        os.kill(self._kid, signal.SIGCONT)

    def tear_down(self) -> None:
        """Stop the daemons, and end what does not stop."""
        pids = self.processes()
        if not pids:
            return
        try:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            self._run("stop")
            eventually(lambda: not any(map(_alive, pids)), self._log, _LIMIT)
        finally:
            for pid in filter(_alive, pids):
                os.kill(pid, signal.SIGKILL)

    @property
    def version(self) -> str:
        """The version."""
        return f"{debian_version('bucardo')}, statement_chunk_size = 1000000, clean-up not counted"

    def processes(self) -> list[int]:
        """Those of the master control program, the controller and the kid that run."""
        files = filter(Path.exists, map(self._pid_file, _DAEMONS))
        words = (file.read_text().split() for file in files)
        return [int(found[0]) for found in words if found and _alive(int(found[0]))]

    # Its command line

    @property
    def _home(self) -> Path:
        return self.folder / "bucardo"

    @property
    def _rc(self) -> Path:
        return self._home / "bucardorc"

    def _run(self, *arguments: str) -> None:
        program = shutil.which("bucardo")
        assert program is not None
        done = subprocess.run(
            [program, "--bucardorc", str(self._rc), *arguments],
            cwd=self._home,
            env={**os.environ, "HOME": str(self._home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"bucardo {arguments[0]}: {done.stdout}{done.stderr}")

    def _configure(self) -> None:
        places = {key: str(self._home / it) for key, it in _PLACES.items()}
        with session(self.slave.dsn(_CONTROL)) as cursor:
            # a trigger turns names of folders into lower case
            cursor.execute("SET session_replication_role = replica")
            for key, it in {**_SETTINGS, **places}.items():
                cursor.execute(
                    "UPDATE bucardo.bucardo_config SET setting = %s WHERE name = %s", (it, key)
                )
                assert cursor.rowcount == 1, key

    def _log(self) -> str:
        log = self._home / "log.bucardo"
        return log.read_text()[-4000:] if log.exists() else "no log"

    # Its daemons

    def _pid_file(self, daemon: str) -> Path:
        return self._home / f"bucardo.{daemon}.pid"

    @property
    def _kid(self) -> int:
        return int(self._pid_file(_DAEMONS[-1]).read_text())

    def _stopped(self) -> bool:
        os.kill(self._kid, signal.SIGSTOP)
        eventually(lambda: _state(self._kid) == "T", "the kid is stopped", _LIMIT)
        # it commits a row that says so before its transactions begin, and ends it after them
        if value(self.slave.dsn(_CONTROL), _RUNNING) == 0:
            return True
        os.kill(self._kid, signal.SIGCONT)
        return False


def _state(pid: int) -> str:
    """As ps prints it; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _alive(pid: int) -> bool:
    return _state(pid) not in ("", "Z")
