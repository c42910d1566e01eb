"""What the commands about the daemon in the background share: their options, how it is started."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from pyreplica.cli import posix
from pyreplica.cli.output import console
from pyreplica.cli.run import load, serve
from pyreplica.config import Config
from pyreplica.errors import ConfigError


def add_pidfile(command: argparse.ArgumentParser) -> None:
    """Add the option that says who the daemon is."""
    command.add_argument(
        "--pidfile",
        metavar="FILE",
        type=Path,
        help="says who the daemon is (default: the configuration's name, in /run/pyreplica, "
        "$XDG_RUNTIME_DIR/pyreplica or ~/.local/state/pyreplica)",
    )


def add_log(command: argparse.ArgumentParser) -> None:
    """Add the option that says where its log goes."""
    command.add_argument(
        "--log",
        metavar="FILE",
        type=Path,
        help="where the log goes (default: log_file of the configuration)",
    )


def daemons() -> Any:
    """The module ``pyreplica.daemon.background``."""
    return posix.module("background")


def pidfile(arguments: argparse.Namespace) -> Path:
    """Where the pidfile is: as it is said, or by the name of the configuration."""
    if arguments.pidfile is not None:
        return Path(arguments.pidfile).absolute()
    if getattr(os, "geteuid", lambda: 1)() == 0:
        folder = Path("/run")
    elif "XDG_RUNTIME_DIR" in os.environ:
        folder = Path(os.environ["XDG_RUNTIME_DIR"])
    else:
        folder = Path.home() / ".local" / "state"
    return folder / "pyreplica" / f"{arguments.config.stem}.pid"


def settings_and_log(arguments: argparse.Namespace) -> tuple[Config, Path]:
    """The configuration and the log; what is wrong with them is said before anything is done."""
    settings = load(arguments)
    log = arguments.log or settings.log_file
    if log is None:
        raise ConfigError(
            "there is no log_file, and a daemon in the background needs one",
            where=settings.source,
            hint="Add `log_file: /var/log/pyreplica/pyreplica.log`, or give --log FILE.",
        )
    return settings, log.absolute()


def start(arguments: argparse.Namespace, settings: Config, log: Path) -> None:
    """Start it, and say so."""
    arguments.config = arguments.config.absolute()  # to be found again by a reload
    given = log if arguments.log else None

    def body(held: Any, running: Any) -> int:
        return serve(arguments, settings, log=given, running=running, reloaded=held.reloaded)

    pid = daemons().start(pidfile(arguments), log, body)
    console().print(f"the daemon runs: process {pid}, log {log}")


def stop(arguments: argparse.Namespace) -> None:
    """Stop it, and say so; that there is none is no failure."""
    path = pidfile(arguments)
    pid = daemons().stop(path, arguments.timeout)
    console().print(
        f"no daemon is running: nobody holds {path}"
        if pid is None
        else f"the daemon has ended: process {pid}"
    )
