"""``pyreplica pause``: the daemon finishes the batch at hand, and rests."""

from __future__ import annotations

import argparse
import getpass
import socket

from pyreplica.cli.common import Commands, add_timeout, chosen
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console
from pyreplica.model import LogKept
from pyreplica.replication.limits import said_of, sized
from pyreplica.replication.pause import pause


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "pause",
        run,
        "have replications rest until `resume`, whatever is restarted; the master goes on logging",
        'pyreplica --config shop.yaml pause shop --reason "new disks for the slave"',
    )
    made.add_argument("--reason", metavar="TEXT", help="why, for those who look at the status")
    add_timeout(made)


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    out = console()
    for config in chosen(arguments):
        done = pause(config, _who(), arguments.reason, arguments.timeout)
        if done.before is not None:
            out.print(done.said)
        if done.daemon:
            out.print(f"{config.name}: paused, at batch {done.batch:,}")
        else:
            out.print(
                f"{config.name}: paused, at batch {done.batch:,}; no daemon is at work, and one "
                "that is started will rest as well"
            )
        out.print(f"  {_of_log(done.kept)}")
        out.print(f"  go on with: pyreplica resume {config.name}")
    return 0


def _of_log(kept: LogKept | None) -> str:
    if kept is None:
        return "the master cannot be asked how much log it keeps"
    if kept.used is None:
        return (
            f"the master keeps its log meanwhile, {sized(kept.bytes)} now, without a limit "
            "(max_log_size, max_log_age)"
        )
    return f"{said_of(kept)}; that counts on, and past 100 % the slave needs a new copy"


def _who() -> str | None:
    """Who has typed the command; None where the system does not say."""
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError, ImportError):
        return None
