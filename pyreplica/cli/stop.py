"""``pyreplica stop``: end the daemon in the background."""

from __future__ import annotations

import argparse

from pyreplica.cli import background
from pyreplica.cli.common import Commands, add_timeout
from pyreplica.cli.common import register as register_command


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "stop",
        run,
        "end the daemon in the background, and return once it has ended",
        "pyreplica --config shop.yaml stop",
        names=None,
    )
    background.add_pidfile(made)
    add_timeout(made)


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    background.stop(arguments)
    return 0
