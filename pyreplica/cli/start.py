"""``pyreplica start``: the daemon in the background, without systemd."""

from __future__ import annotations

import argparse

from pyreplica.cli import background
from pyreplica.cli.common import Commands
from pyreplica.cli.common import register as register_command


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "start",
        run,
        "run the daemon in the background, and return once it runs",
        "pyreplica --config shop.yaml start --log /var/log/pyreplica/shop.log",
    )
    background.add_pidfile(made)
    background.add_log(made)


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    background.start(arguments, *background.settings_and_log(arguments))
    return 0
