"""``pyreplica install``: the SQL on both sides, and the tables to be captured."""

from __future__ import annotations

import argparse

from pyreplica.cli.common import Commands, chosen
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console
from pyreplica.replication.setup import install


def register(commands: Commands) -> None:
    """Add the command."""
    register_command(
        commands,
        "install",
        run,
        "install PyReplica's SQL on both sides and capture the chosen tables",
        "pyreplica --config shop.yaml install",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it; may be run again at any time."""
    out = console()
    for config in chosen(arguments):
        for line in install(config):
            out.print(f"{config.name}: {line.text}", style="yellow" if line.refused else "")
    return 0
