"""``pyreplica reload``: have the daemon read its configuration anew."""

from __future__ import annotations

import argparse

from pyreplica.cli import background
from pyreplica.cli.common import Commands, add_timeout
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console
from pyreplica.errors import ConfigError


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "reload",
        run,
        "have the daemon read its configuration anew, and say what came of it",
        "pyreplica --config shop.yaml reload",
        names=None,
    )
    background.add_pidfile(made)
    add_timeout(made)


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    path = background.pidfile(arguments)
    reloaded = background.daemons().reload(path, arguments.timeout)
    if reloaded.error:
        raise ConfigError(
            f"the configuration was not taken, the one before goes on: {reloaded.error}",
            hint=reloaded.hint,
        )
    console().print(f"the configuration was taken: {reloaded.done}")
    return 0
