"""``pyreplica service install``: the daemon under systemd."""

from __future__ import annotations

import argparse
from pathlib import Path

from pyreplica.cli.common import Commands
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console
from pyreplica.daemon import units


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "service",
        run,
        "put the unit for systemd in place",
        "pyreplica service install",
        names=None,
    )
    made.add_argument("action", choices=["install"], help="what to do")
    made.add_argument(
        "--user",
        metavar="NAME",
        default=units.USER,
        help="the user that the daemon runs as; made when there is none (default: %(default)s)",
    )
    made.add_argument(
        "--instance",
        action="store_true",
        help="the template: pyreplica@shop runs /etc/pyreplica/shop.yaml",
    )
    made.add_argument(
        "--root",
        metavar="DIR",
        type=Path,
        help="write below this folder, and do no more (for packagers)",
    )
    made.add_argument("--dry-run", action="store_true", help="print what would be written")


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    out = console()
    made = units.files(user=arguments.user, instance=arguments.instance, version=units.version())
    if arguments.dry_run:
        for file in made:
            out.print(f"# /{file.path}")
            out.print(file.text)
        return 0
    root = arguments.root or Path("/")
    units.write(made, root)
    for file in made:
        out.print(f"written: {root / file.path}")
    if arguments.root is not None:
        return 0
    problems = units.take_up()
    for problem in problems:
        out.print(f"not done: {problem}")
    unit = "pyreplica@NAME" if arguments.instance else "pyreplica"
    config = "NAME" if arguments.instance else "pyreplica"
    out.print(
        f"Next: write /etc/pyreplica/{config}.yaml, readable by {arguments.user} alone, and run\n"
        f"  systemctl enable --now {unit}"
    )
    return 1 if problems else 0
