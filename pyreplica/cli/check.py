"""``pyreplica check``: what is in the way of a replication, each with its cure."""

from __future__ import annotations

import argparse

from pyreplica.cli.common import Commands, chosen
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console, one_line
from pyreplica.replication.check import check

_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def register(commands: Commands) -> None:
    """Add the command."""
    register_command(
        commands,
        "check",
        run,
        "say what is in the way of a replication, each problem with its cure; changes nothing",
        "pyreplica --config shop.yaml check",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it; exit code 1 when there is a problem."""
    out = console()
    all_problems = 0
    for config in chosen(arguments):
        problems = 0
        for finding in check(config):
            problems += finding.level == "problem"
            out.print(
                f"{config.name}: {finding.side}: {finding.level}: {one_line(finding.text)}",
                style=_STYLES[finding.level],
            )
            if finding.cure:
                out.print(f"    {finding.cure}")
        if problems == 0:
            out.print(f"{config.name}: no problems found", style="green")
        all_problems += problems
    return 1 if all_problems else 0
