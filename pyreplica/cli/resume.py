"""``pyreplica resume``: what was paused goes on."""

from __future__ import annotations

import argparse

from pyreplica.cli.common import Commands, add_timeout, chosen
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console
from pyreplica.replication.pause import resume


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "resume",
        run,
        "let paused replications go on",
        "pyreplica --config shop.yaml resume shop",
    )
    add_timeout(made)


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    out = console()
    for config in chosen(arguments):
        done = resume(config, arguments.timeout)
        without = "" if done.daemon else f"; no daemon is at work: `pyreplica run {config.name}`"
        out.print(f"{done.said}{without}")
    return 0
