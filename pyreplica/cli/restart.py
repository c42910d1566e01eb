"""``pyreplica restart``: stop the daemon in the background, and start it again."""

from __future__ import annotations

import argparse

from pyreplica.cli import background
from pyreplica.cli.common import Commands, add_timeout
from pyreplica.cli.common import register as register_command


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "restart",
        run,
        "stop the daemon in the background, and start it again",
        "pyreplica --config shop.yaml restart",
    )
    background.add_pidfile(made)
    background.add_log(made)
    add_timeout(made)


def run(arguments: argparse.Namespace) -> int:
    """Run it; a configuration that is not right leaves the daemon running."""
    settings, log = background.settings_and_log(arguments)
    background.stop(arguments)
    background.start(arguments, settings, log)
    return 0
