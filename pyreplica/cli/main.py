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
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pyreplica import __version__
from pyreplica.cli.output import error_console
from pyreplica.errors import DatabaseError, PyReplicaError

RAISED = "P0001"
"""The SQLSTATE of RAISE EXCEPTION: what the scripts of sql/ refuse with, hint and all."""

COMMANDS = (
    "check",
    "install",
    "copy",
    "run",
    "start",
    "stop",
    "restart",
    "reload",
    "service",
    "status",
    "check-lag",
    "pause",
    "resume",
    "wait",
    "compare",
    "repair",
    "conflicts",
    "alert",
    "execute",
    "add-table",
    "remove-table",
    "adopt",
    "uninstall",
    "demo",
)


def parser(names: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """The command line with these commands, each of which is a module of pyreplica.cli."""
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
    for name in names:
        import_module(f"pyreplica.cli.{name.replace('-', '_')}").register(commands)
    return top


def needed(words: Sequence[str]) -> tuple[str, ...]:
    """The commands that have to be known to read a command line.

    That is the one that it calls; to import all of them would take it twice as long to begin. Where
    that is not plain, as when help is asked for, it is all.
    """
    rest = iter(words)
    for word in rest:
        if word in COMMANDS:
            return (word,)
        if word == "--config":
            next(rest, None)
        elif not word.startswith("--config="):
            break
    return COMMANDS


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
    words = sys.argv[1:] if argv is None else argv
    arguments = parser(needed(words)).parse_args(words)
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
