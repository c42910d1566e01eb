"""What several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyreplica import config
from pyreplica.config import ReplicationConfig, parse_duration

Commands = Any
"""The object of argparse that commands register with; it has no public name."""

PATIENCE = 60.0
"""How long the daemon is waited for, seconds, unless something else is said."""


def register(
    commands: Commands,
    name: str,
    execute: Callable[[argparse.Namespace], int],
    help_: str,
    example: str,
    *,
    names: str | None = "*",
) -> argparse.ArgumentParser:
    """Add a command to the command line.

    Args:
        help_: what it does, in a line.
        example: a call, shown at the end of its help.
        names: how many replications may be named: "*", "?" or None for no such argument.
    """
    made: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help_,
        description=help_[0].upper() + help_[1:] + ".",
        epilog=f"example: {example}",
    )
    # also after the command, where many would write it; without a default, which would win over
    # the one before it
    made.add_argument(
        "--config", metavar="FILE", type=Path, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    if names is not None:
        made.add_argument(
            "names",
            metavar="NAME",
            nargs=names,
            help="a replication of the configuration (default: all)",
        )
    made.set_defaults(execute=execute)
    return made


def chosen(arguments: argparse.Namespace) -> tuple[ReplicationConfig, ...]:
    """The replications a command is about."""
    names = arguments.names
    if names is None or isinstance(names, str):
        names = [names] if names else []
    return config.load(arguments.config).select(names)


def duration(text: str) -> float:
    """A time limit on the command line, seconds: a plain number, or with a unit."""
    try:
        value = float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no duration; write seconds, or 500ms, 30s, 2min, 1h"
        ) from None
    return value


def add_timeout(command: argparse.ArgumentParser) -> None:
    """Add the option that says how long it is waited for."""
    command.add_argument(
        "--timeout",
        metavar="DURATION",
        type=duration,
        default=PATIENCE,
        help=f"how long to wait for the daemon (default: {PATIENCE:g}s)",
    )
