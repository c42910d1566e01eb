"""``pyreplica add-table``: takes tables into a running replication."""

from __future__ import annotations

import argparse

from pyreplica import config
from pyreplica.cli.common import Commands, duration
from pyreplica.cli.common import register as register_command
from pyreplica.cli.copy import workers
from pyreplica.cli.output import console, counted
from pyreplica.cli.progress import shown
from pyreplica.replication.addition import Added, Addition


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "add-table",
        run,
        "copy tables to the slave while the others are replicated, and replicate them as well",
        "pyreplica --config shop.yaml add-table shop public.orders",
        names=None,
    )
    made.add_argument("name", metavar="NAME", help="the replication")
    made.add_argument("tables", metavar="TABLE", nargs="+", help="schema.table on the master")
    made.add_argument(
        "--truncate", action="store_true", help="remove the rows that the slave's tables have"
    )
    made.add_argument(
        "--workers",
        type=workers,
        metavar="N",
        help="tables copied at a time, 1 to 64 (default: copy_workers of the configuration)",
    )
    made.add_argument(
        "--timeout",
        type=duration,
        metavar="S",
        default=60.0,
        help="how long to wait for the daemon after the copy (default: 60s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    (chosen,) = config.load(arguments.config).select([arguments.name])
    with shown(chosen.name) as progress:
        added = Addition(
            chosen,
            arguments.tables,
            progress,
            truncate=arguments.truncate,
            workers=arguments.workers,
        ).run(arguments.timeout)
    for table in added:
        console().print(f"{chosen.name}: {_line(table, chosen.name)}")
    return 0


def _line(added: Added, replication: str) -> str:
    if added.state == "in step already":
        return f"{added.table} is in step already"
    if added.state == "in step":
        return f"{added.table} is in step, {counted(added.rows, 'row')} copied"
    return (
        f"{added.table} is copied, {counted(added.rows, 'row')}; it joins as soon as the daemon "
        f"runs: `pyreplica run {replication}`"
    )
