"""``pyreplica run``: the daemon, in the foreground."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from pyreplica import config
from pyreplica.cli import posix
from pyreplica.cli.common import Commands
from pyreplica.cli.common import register as register_command
from pyreplica.config import Config
from pyreplica.daemon.alerts import Alerts
from pyreplica.daemon.listener import Listener
from pyreplica.daemon.logs import Logs
from pyreplica.daemon.service import Service
from pyreplica.daemon.systemd import Systemd
from pyreplica.daemon.web.listener import Web
from pyreplica.errors import ConfigError


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "run",
        run,
        "run the daemon in the foreground, until SIGTERM or SIGINT",
        "pyreplica --config shop.yaml run",
    )
    made.add_argument(
        "--pidfile",
        metavar="FILE",
        type=Path,
        help="lock this file, for `stop` and `reload` (POSIX only)",
    )


def listeners(settings: Config) -> list[Listener]:
    """Who is told what the replications do: add what is to listen here."""
    return [Alerts(settings), Web(settings.http)]


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    settings = load(arguments)
    if arguments.pidfile is None:
        return serve(arguments, settings)
    with posix.module("pidfile").Pidfile(arguments.pidfile) as held:
        return serve(arguments, settings, reloaded=held.reloaded)


def load(arguments: argparse.Namespace) -> Config:
    """The configuration; it has all the replications that are named."""
    settings = config.load(arguments.config)
    settings.select(arguments.names)
    return settings


def serve(
    arguments: argparse.Namespace,
    settings: Config,
    *,
    log: Path | None = None,
    running: Callable[[], None] = lambda: None,
    reloaded: Callable[[str, ConfigError | None], None] = lambda done, error: None,
) -> int:
    """Be the daemon, in the main thread, until a signal ends it.

    Args:
        log: a file that goes before the configuration's ``log_file``.
        running: called when all replications have been started.
        reloaded: told what has become of each reload.

    Returns:
        The exit code.
    """
    service = Service(
        settings,
        arguments.names,
        listeners=[Logs(settings, log), *listeners(settings)],
        read=lambda: config.load(arguments.config),
        running=running,
        reloaded=reloaded,
        systemd=Systemd(),
    )
    service.handle_signals()
    return 0 if service.run() else 1
