"""The command ``pyreplica``: finds the subcommand, prints errors in one line, gives the exit code.

Exit codes: 0 success; 1 failure; 2 wrong usage or configuration; 3 databases differ; 4 a time limit
has passed; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pyreplica import __version__
from pyreplica.cli import check, compare, copy, demo, install, run, status, uninstall, wait
from pyreplica.cli.output import error_console
from pyreplica.errors import ConfigError, PyReplicaError

COMMANDS = (check, install, copy, run, status, wait, compare, uninstall, demo)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="pyreplica",
        description="Replicates a PostgreSQL database to slaves, asynchronously and exactly.",
        epilog="example: pyreplica --config shop.yaml check",
    )
    top.add_argument("--version", action="version", version=f"pyreplica {__version__}")
    top.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        default=Path(os.environ.get("PYREPLICA_CONFIG", "/etc/pyreplica/pyreplica.yaml")),
        help="the configuration (default: $PYREPLICA_CONFIG, or %(default)s)",
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.register(commands)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; sys.argv's when None.

    Returns:
        The exit code.
    """
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.execute(arguments))
    except PyReplicaError as error:
        console = error_console()
        console.print(f"pyreplica: {error.line}", style="bold red")
        if error.hint:
            console.print(f"  hint: {error.hint}")
        if error.details and not isinstance(error, ConfigError):
            console.print(error.details, style="dim")
        return error.exit_code
    except KeyboardInterrupt:
        error_console().print("pyreplica: interrupted", style="bold red")
        return 130
    except BrokenPipeError:
        # the reader of our output went away (| head)
        sys.stderr.close()
        return 1
