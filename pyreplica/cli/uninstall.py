"""``pyreplica uninstall``: takes away what install and copy made; the tables stay."""

from __future__ import annotations

import argparse

from pyreplica.cli.common import Commands, chosen
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console
from pyreplica.replication.setup import uninstall


def register(commands: Commands) -> None:
    """Add the command."""
    register_command(
        commands,
        "uninstall",
        run,
        "forget a replication on both sides, and remove the SQL where nothing else needs it",
        "pyreplica --config shop.yaml uninstall shop",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    out = console()
    for config in chosen(arguments):
        for line in uninstall(config):
            out.print(f"{config.name}: {line.text}")
    return 0
