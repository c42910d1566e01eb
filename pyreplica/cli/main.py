"""The command ``pyreplica``: finds the subcommand, prints errors in one line, gives the exit code.

Exit codes: 0 success; 1 failure; 2 wrong usage or configuration; 3 databases differ; 4 a time limit
has passed; 130 interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pyreplica import __version__
from pyreplica.cli import (
    add_table,
    adopt,
    alert,
    check,
    check_lag,
    compare,
    conflicts,
    copy,
    demo,
    execute,
    install,
    pause,
    reload,
    remove_table,
    repair,
    restart,
    resume,
    run,
    service,
    start,
    status,
    stop,
    uninstall,
    wait,
)
from pyreplica.cli.output import error_console
from pyreplica.errors import DatabaseError, PyReplicaError

RAISED = "P0001"
"""The SQLSTATE of RAISE EXCEPTION: what the scripts of sql/ refuse with, hint and all."""

COMMANDS = (
    check,
    install,
    copy,
    run,
    start,
    stop,
    restart,
    reload,
    service,
    status,
    check_lag,
    pause,
    resume,
    wait,
    compare,
    repair,
    conflicts,
    alert,
    execute,
    add_table,
    remove_table,
    adopt,
    uninstall,
    demo,
)


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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # a name that the terminal's encoding lacks is better shown escaped than not at all
            stream.reconfigure(errors="backslashreplace")
    arguments = parser().parse_args(argv)
    # as Ctrl-C does: what was begun is taken back, nothing stays in the temporary folder
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(arguments.execute(arguments))
    except PyReplicaError as error:
        _show(error)
        return error.exit_code
    except KeyboardInterrupt:
        error_console().print("pyreplica: interrupted", style="bold red")
        return 130
    except BrokenPipeError:
        # the reader of our output went away (| head)
        sys.stderr.close()
        return 1


def _show(error: PyReplicaError) -> None:
    console = error_console()
    console.print(f"pyreplica: {error.line}", style="bold red")
    if error.hint:
        console.print(f"  hint: {error.hint}")
    # where our own SQL raised an error says nothing to those who read it
    ours = isinstance(error, DatabaseError) and error.sqlstate == RAISED
    if error.details and not ours:
        console.print(error.details, style="dim")


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
