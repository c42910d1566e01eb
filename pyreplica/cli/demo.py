"""``pyreplica demo``: the main job on two throw-away servers."""

from __future__ import annotations

import argparse

from pyreplica.cli.common import Commands
from pyreplica.cli.common import register as register_command
from pyreplica.demo.demo import demo


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "demo",
        run,
        "replicate pgbench between two throw-away servers on this machine",
        "pyreplica demo --seconds 20",
        names=None,
    )
    made.add_argument("--seconds", type=int, default=20, help="how long pgbench runs (%(default)s)")
    made.add_argument("--scale", type=int, default=5, help="pgbench's scale (%(default)s)")
    made.add_argument("--clients", type=int, default=4, help="pgbench's clients (%(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Run it; exit code 1 when anything differs."""
    return demo(seconds=arguments.seconds, scale=arguments.scale, clients=arguments.clients)
