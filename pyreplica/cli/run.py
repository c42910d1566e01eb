"""``pyreplica run``: the daemon, in the foreground."""

from __future__ import annotations

import argparse

from pyreplica import config
from pyreplica.cli.common import Commands
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import set_up_logging
from pyreplica.daemon.service import Service


def register(commands: Commands) -> None:
    """Add the command."""
    register_command(
        commands,
        "run",
        run,
        "run the daemon in the foreground, until SIGTERM or SIGINT",
        "pyreplica --config shop.yaml run",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    settings = config.load(arguments.config)
    chosen = settings.select(arguments.names)
    set_up_logging(settings.log_level)
    service = Service(chosen)
    service.handle_signals()
    return 0 if service.run() else 1
