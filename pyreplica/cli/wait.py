"""``pyreplica wait``: until the slave has what was committed on the master."""

from __future__ import annotations

import argparse

from pyreplica.cli.common import Commands, chosen, duration
from pyreplica.cli.common import register as register_command
from pyreplica.replication.wait import wait


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "wait",
        run,
        "return once all that was committed on the master before the call is on the slave",
        "pyreplica --config shop.yaml wait shop --timeout 30s",
    )
    made.add_argument(
        "--timeout", type=duration, metavar="S", help="seconds, or 500ms, 30s, 2min (default: none)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    for config in chosen(arguments):
        wait(config, arguments.timeout)
    return 0
