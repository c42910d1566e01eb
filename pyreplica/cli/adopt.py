"""``pyreplica adopt``: takes two databases that have moved for the ones they were."""

from __future__ import annotations

import argparse

from pyreplica import config
from pyreplica.cli.common import Commands
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console
from pyreplica.replication.adoption import adopt


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "adopt",
        run,
        "take both databases for the ones it was set up with, after pg_upgrade or a new name",
        "pyreplica --config shop.yaml adopt shop",
        names=None,
    )
    made.add_argument("name", metavar="NAME", help="the replication")


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    (chosen,) = config.load(arguments.config).select([arguments.name])
    for line in adopt(chosen) or ["both databases are known already; nothing was changed"]:
        console().print(f"{chosen.name}: {line}")
    return 0
