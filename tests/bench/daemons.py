"""The programs of other systems: found, started, made to stand still, and ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pyreplica.demo.cluster import Cluster
from tests.bench.system import DATABASE, value
from tests.support import eventually

LIMIT = 600.0
"""Seconds that anything of them may take."""


def program(name: str, cluster: Cluster) -> str:
    """Where a program is: in the PATH, or beside the server's own.

    Raises:
        RuntimeError: it is not installed.
    """
    found = shutil.which(name) or shutil.which(name, path=cluster.binary("psql").parent)
    if found is None:
        raise RuntimeError(f"{name} is not installed")
    return found


def run(command: Sequence[str], script: str = "") -> None:
    """Run a program to its end.

    Args:
        script: what it reads from its standard input.

    Raises:
        RuntimeError: it failed; with what it wrote.
    """
    done = subprocess.run(
        command, input=script, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name}: {done.stdout}{done.stderr}")


class Daemon:
    """A program that stays, in a process group of its own.

    Args:
        command: the program, which must stay in the foreground, and its arguments.
        log: where its output goes.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pids(self) -> list[int]:
        """Its process, and those that it has forked."""
        pid = self._process.pid
        return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]

    def stop(self, clusters: Sequence[Cluster], sessions: str) -> None:
        """Make it stand still between two transactions.

        One that stands still within a transaction would keep locks and old rows for as long.

        Args:
            clusters: the servers it is connected to.
            sessions: what the application_name of its sessions is LIKE.
        """
        query = (
            "SELECT count(*) FROM pg_stat_activity "
            f"WHERE application_name LIKE '{sessions}' AND state <> 'idle'"
        )

        def stands() -> bool:
            os.killpg(self._process.pid, signal.SIGSTOP)
            eventually(self._is_stopped, "it has stopped", LIMIT, 0.001)
            if all(value(cluster.dsn(DATABASE), query) == 0 for cluster in clusters):
                return True
            self.go_on()
            return False

        eventually(stands, f"the sessions {sessions} are idle", LIMIT)

    def go_on(self) -> None:
        """Let it go on; returns at once."""
        os.killpg(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        """End it, if it has not ended by itself."""
        if self._process.poll() is None:
            self.go_on()
            self._process.terminate()
            self._process.wait(LIMIT)

    def _is_stopped(self) -> bool:
        tasks = [task for pid in self.pids for task in Path(f"/proc/{pid}/task").iterdir()]
        stats = [(task / "stat").read_text() for task in tasks]
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)
