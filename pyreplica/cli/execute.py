"""``pyreplica execute``: a DDL script for the master and its slaves."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyreplica import config
from pyreplica.cli.common import Commands, duration
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console, counted, error_console
from pyreplica.replication.script import execute, follow


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "execute",
        run,
        "run a DDL script on the master, and on the slaves at the same point of the changes",
        "pyreplica --config shop.yaml execute add_prices.sql",
        names=None,
    )
    made.add_argument("file", metavar="FILE", type=Path, help="the script, as psql reads it")
    made.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        help="only the slaves of these replications run it (default: all of the master)",
    )
    made.add_argument(
        "--timeout",
        type=duration,
        default=60.0,
        metavar="S",
        help="seconds to wait for each slave (default: 60; 0: do not wait)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    configs = config.load(arguments.config).select(arguments.names)
    done = execute(configs, arguments.file, everybody=not arguments.names)
    out = console()
    for text, where in ((done.output, out), (done.messages, error_console())):
        if text:
            where.print(text)
    if not done.sent:
        out.print(f"{arguments.file}: run on the master; there was no DDL in it")
        return 0
    out.print(
        f"{arguments.file}: run on the master, {counted(done.sent, 'statement')} for the slaves"
    )
    if arguments.timeout:
        for one in configs:
            follow(one, arguments.timeout)
            out.print(f"{one.name}: run on the slave")
    return 0
