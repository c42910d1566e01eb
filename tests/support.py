"""What tests of the whole product share: a configuration, the command line, the daemon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pyreplica.config import ReplicationConfig, parse
from pyreplica.database import Connection
from tests.conftest import Databases

LIMIT = 60.0
"""Seconds that any command of a test may take."""


def config_text(databases: Databases, name: str = "shop", **options: Any) -> str:
    """A configuration with one replication between the two databases."""
    settings = {"master": databases.master, "slave": databases.slave, **options}
    return yaml.safe_dump({"replications": {name: settings}})


def config_file(folder: Path, databases: Databases, name: str = "shop", **options: Any) -> Path:
    """The same in a file."""
    path = folder / f"{name}.yaml"
    path.write_text(config_text(databases, name, **options), encoding="utf-8")
    return path


def config(databases: Databases, name: str = "shop", **options: Any) -> ReplicationConfig:
    """The same, loaded."""
    return parse(config_text(databases, name, **options), "test.yaml", {}).select([])[0]


def pyreplica(
    path: Path, *arguments: str, code: int | None = 0, timeout: float = LIMIT
) -> subprocess.CompletedProcess[str]:
    """Run the command line; its exit code must be ``code`` (None: whatever)."""
    done = subprocess.run(
        [sys.executable, "-m", "pyreplica", "--config", str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    if code is not None:
        assert done.returncode == code, done.stdout + done.stderr
    return done


class Daemon:
    """A running ``pyreplica run`` (or another program that runs one)."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log_path = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_path.read_text(encoding="utf-8")

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(LIMIT)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; gives its exit code."""
        self.process.send_signal(number)
        return self.process.wait(LIMIT)


@contextmanager
def daemon(path: Path, *names: str) -> Iterator[Daemon]:
    """``pyreplica run`` for the time of the block."""
    command = [sys.executable, "-m", "pyreplica", "--config", str(path), "run", *names]
    started = Daemon(command, path.with_suffix(".log"))
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.stop()


def connect(dsn: str) -> Connection:
    """A session of the test's own; names must be qualified with their schema."""
    return Connection(dsn, where="test")


def set_up(path: Path) -> None:
    """install and copy --schema."""
    pyreplica(path, "install")
    pyreplica(path, "copy", "--schema")
