"""``pyreplica copy``: the initial copy, with progress bars."""

from __future__ import annotations

import argparse
import time

from pyreplica.cli.common import Commands, chosen
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console, counted, seconds
from pyreplica.cli.progress import shown
from pyreplica.config import ReplicationConfig
from pyreplica.errors import ConfigError
from pyreplica.replication.copy import Copy


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "copy",
        run,
        "copy the master's rows to the slave, consistent with the log",
        "pyreplica --config shop.yaml copy shop --schema",
        names="?",
    )
    made.add_argument(
        "--schema", action="store_true", help="make the tables on the slave first, with pg_dump"
    )
    made.add_argument(
        "--truncate", action="store_true", help="remove the rows that the slave's tables have"
    )
    made.add_argument(
        "--no-rows",
        action="store_true",
        help="the slave has the master's rows already: begin with the changes from now on",
    )
    made.add_argument(
        "--workers",
        type=workers,
        metavar="N",
        help="tables copied at a time, 1 to 64 (default: copy_workers of the configuration)",
    )


def workers(text: str) -> int:
    """A number of workers on the command line; as many as `copy_workers` allows."""
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 64")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    if arguments.no_rows and (arguments.schema or arguments.truncate):
        raise ConfigError(
            "--no-rows copies nothing, so it does not go with --schema or --truncate",
            hint="Leave out either.",
        )
    for config in chosen(arguments):
        _copy(config, arguments)
    return 0


def _copy(config: ReplicationConfig, arguments: argparse.Namespace) -> None:
    began = time.monotonic()
    with shown(config.name) as progress:
        copied = Copy(
            config,
            progress,
            truncate=arguments.truncate,
            schema=arguments.schema,
            workers=arguments.workers,
            rows=not arguments.no_rows,
        ).run()
    if arguments.no_rows:
        console().print(
            f"{config.name}: {counted(copied.tables, 'table')} taken as they are; `pyreplica "
            f"compare {config.name}` tells whether they are equal"
        )
        return
    took = time.monotonic() - began
    console().print(
        f"{config.name}: copied {counted(copied.tables, 'table')}, {counted(copied.rows, 'row')}"
        f" in {seconds(took)} ({copied.rows / max(took, 0.001):,.0f} rows/s)"
    )
