"""PyReplica itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import yaml

import pyreplica
from tests.bench.system import System
from tests.support import pyreplica as command

_LIMIT = 600.0
_LOADED = """
import sys
from pyreplica.cli.main import main
from pyreplica.cli import run
from pyreplica.replication import loop
print("loaded", flush=True)
sys.stdin.read()
sys.exit(main(sys.argv[1:]))
"""


class PyReplica(System):
    """The daemon as it is installed, but loaded before the clock runs.

    What is measured is connecting and catching up, not the start of a Python program.
    """

    name = "pyreplica"
    title = "PyReplica"
    slave_settings: ClassVar[Mapping[str, str]] = {"max_prepared_transactions": "20"}
    options: ClassVar[Mapping[str, object]] = {}

    def set_up(self, tables: Sequence[str]) -> None:
        """Install, copy, and start the daemon."""
        self._log = self.folder / "pyreplica.log"
        self._config = self.configure("bench", self.master_dsn, self.slave_dsn, tables)
        self.begin()
        self._load()
        self.resume()

    def configure(
        self, name: str, master: str, slave: str, tables: Sequence[str], **options: object
    ) -> Path:
        """Write a file with one replication."""
        settings = {
            "master": master,
            "slave": slave,
            "tables": [f"public.{table}" for table in tables],
            **self.options,
            **options,
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({"replications": {name: settings}}))
        path.chmod(0o600)  # there may be a secret in it
        return path

    def begin(self) -> None:
        """Install, and copy."""
        self.command(self._config, "install")
        self.command(self._config, "copy")

    def command(self, config: Path, *arguments: str) -> None:
        """Run the program to its end."""
        command(config, *arguments, timeout=_LIMIT)

    def _load(self) -> None:
        """Start a process that has the daemon's program loaded, and waits to run it."""
        with self._log.open("ab") as output:
            self._daemon = subprocess.Popen(
                [sys.executable, "-c", _LOADED, "--config", str(self._config), "run"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )
        assert self._daemon.stdout is not None
        assert self._daemon.stdout.readline() == "loaded\n"

    def pause(self) -> None:
        """Stop the daemon once the slave has everything; the next one is loaded."""
        command(self._config, "wait", "bench", timeout=_LIMIT)
        self._end()
        self._load()

    def resume(self) -> None:
        """Run the daemon, which is loaded; it connects first."""
        assert self._daemon.stdin is not None
        self._daemon.stdin.close()

    def _end(self) -> None:
        with self._daemon:  # which closes its pipes
            self._daemon.terminate()
        if self._daemon.returncode:
            raise RuntimeError(f"the daemon has failed: {self._log.read_text()}")

    def tear_down(self) -> None:
        """End the daemon, if there is one yet."""
        if hasattr(self, "_daemon"):
            with self._daemon:
                self._daemon.kill()

    @property
    def version(self) -> str:
        """The version."""
        return f"{pyreplica.__version__}, capture: plpython3u, two-phase commit, all checks on"

    def processes(self) -> list[int]:
        """The daemon."""
        return [self._daemon.pid]


class OnePhase(PyReplica):
    """The same without two-phase commit."""

    name = "pyreplica-one-phase"
    title = "PyReplica, one-phase"
    measures = ("latency",)
    options: ClassVar[Mapping[str, object]] = {"commit": "one-phase"}

    @property
    def version(self) -> str:
        """The version."""
        return f"{pyreplica.__version__}, commit: one-phase, all checks on"


class PlPgSQL(PyReplica):
    """The same with capture in PL/pgSQL, which only writers notice."""

    name = "pyreplica-plpgsql"
    title = "PyReplica, PL/pgSQL"
    measures = ("cost", "trigger")
    options: ClassVar[Mapping[str, object]] = {"capture": "plpgsql"}

    @property
    def version(self) -> str:
        """The version."""
        return f"{pyreplica.__version__}, capture: plpgsql"
