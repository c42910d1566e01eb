"""``pyreplica status``: state, lag, last batch, last error."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from pyreplica.cli.common import Commands, chosen
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console, counted, print_json, seconds, table
from pyreplica.replication.limits import sized
from pyreplica.replication.report import RUNNING, Report, report


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "status",
        run,
        "show state, lag, last batch and last error; exit code 1 unless all are running",
        "pyreplica --config shop.yaml status",
    )
    made.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    reports = [report(config) for config in chosen(arguments)]
    if arguments.json:
        print_json([asdict(one) for one in reports])
    else:
        _show(reports)
    return 0 if all(one.state in RUNNING for one in reports) else 1


def _show(reports: list[Report]) -> None:
    out = console()
    out.print(
        table(
            (
                "replication",
                "state",
                "lag",
                "changes behind",
                "batch",
                "changes in it",
                "at",
                "log kept",
                "of its limit",
            ),
            [
                (
                    one.replication,
                    one.state,
                    "-" if one.lag_seconds is None else seconds(one.lag_seconds),
                    "-" if one.lag_changes is None else f"{one.lag_changes:,}",
                    "-" if one.batch is None else f"{one.batch:,}",
                    "-" if one.last_batch_changes is None else f"{one.last_batch_changes:,}",
                    f"{one.last_batch_at:%Y-%m-%d %H:%M:%S}" if one.last_batch_at else "-",
                    "-" if one.log_bytes is None else sized(one.log_bytes),
                    "-" if one.log_percent is None else f"{one.log_percent} %",
                )
                for one in reports
            ],
        )
    )
    for one in reports:
        if one.in_doubt:
            since = seconds(one.in_doubt_seconds or 0.0)
            numbers = ", ".join(map(str, one.in_doubt))
            out.print(f"{one.replication}: batches in doubt: {numbers}, for {since}")
        if one.conflicts_waiting:
            out.print(
                f"{one.replication}: {counted(one.conflicts_waiting, 'change')} could not be "
                f"applied and {'waits' if one.conflicts_waiting == 1 else 'wait'}: "
                f"`pyreplica conflicts list {one.replication}`"
            )
        elif one.conflicts_last_day:
            out.print(
                f"{one.replication}: {counted(one.conflicts_last_day, 'conflict')} within the last "
                f"day: `pyreplica conflicts list {one.replication} --all`"
            )
        if one.error and (one.state not in RUNNING or one.error_at):
            when = f" at {one.error_at:%Y-%m-%d %H:%M:%S}" if one.error_at else ""
            out.print(f"last error{when}: {one.error}")
        if one.hint and one.state not in RUNNING:
            out.print(f"  hint: {one.hint}")
