"""``pyreplica remove-table``: has tables passed over from now on."""

from __future__ import annotations

import argparse

from pyreplica import config
from pyreplica.cli.common import Commands
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console
from pyreplica.replication.addition import remove_tables


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "remove-table",
        run,
        "replicate tables no more; the slave's rows stay as they are",
        "pyreplica --config shop.yaml remove-table shop public.orders",
        names=None,
    )
    made.add_argument("name", metavar="NAME", help="the replication")
    made.add_argument("tables", metavar="TABLE", nargs="+", help="schema.table on the master")


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    (chosen,) = config.load(arguments.config).select([arguments.name])
    for line in remove_tables(chosen, arguments.tables):
        console().print(f"{chosen.name}: {line}")
    return 0
