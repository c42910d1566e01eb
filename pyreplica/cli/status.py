"""``pyreplica status``: state, lag, last batch, last error; once, or again and again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pyreplica.cli.common import Commands, chosen, duration
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console, counted, plain, print_json, seconds, table
from pyreplica.config import ReplicationConfig
from pyreplica.replication.limits import sized
from pyreplica.replication.report import RUNNING, Report, look_at

EVERY = 2.0
"""Seconds between two looks of --watch, unless told otherwise."""


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
    made.add_argument(
        "--watch",
        nargs="?",
        type=duration,
        const=EVERY,
        metavar="S",
        help=f"look again every S seconds (default: {EVERY:g}), until Ctrl-C",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    configs = chosen(arguments)
    if arguments.watch is None:
        reports = look_at(configs)
        if arguments.json:
            print_json([asdict(one) for one in reports])
        else:
            console().print(_shown(reports))
        return 0 if all(one.state in RUNNING for one in reports) else 1
    with suppress(KeyboardInterrupt):  # that is how it is ended
        _watch(_looks(configs, arguments.watch), as_json=arguments.json)
    return 0


def _looks(
    configs: Sequence[ReplicationConfig],
    every: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[list[Report]]:
    while True:
        began = clock()
        yield look_at(configs)
        sleep(max(0.0, began + every - clock()))


def _watch(looks: Iterator[list[Report]], *, as_json: bool) -> None:
    """Show each look in the place of the one before; without a terminal one after another."""
    out = console()
    if as_json:
        for reports in looks:
            json.dump([asdict(one) for one in reports], sys.stdout, default=plain)
            print(flush=True)
    elif not out.is_terminal:
        for reports in looks:
            out.print(_dated(reports))
            out.print()
            sys.stdout.flush()
    else:
        with Live(console=out, auto_refresh=False, vertical_overflow="visible") as live:
            for reports in looks:
                live.update(_dated(reports), refresh=True)


def _dated(reports: list[Report]) -> Group:
    now = datetime.now(timezone.utc).astimezone()
    return Group(Text(f"{now:%Y-%m-%d %H:%M:%S}"), _shown(reports))


def _shown(reports: list[Report]) -> Group:
    notes = [Text(line) for one in reports for line in _notes(one)]
    return Group(_table(reports), *notes)


def _table(reports: list[Report]) -> Table:
    return table(
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


def _notes(one: Report) -> Iterator[str]:
    """What there is to say beside the figures."""
    if one.paused_at:
        why = f": {one.pause_reason}" if one.pause_reason else ""
        when = f"{one.paused_at:%Y-%m-%d %H:%M:%S}"
        yield f"{one.replication}: paused at {when} by {one.paused_by}{why}"
    if one.in_doubt:
        since = seconds(one.in_doubt_seconds or 0.0)
        yield (
            f"{one.replication}: batches in doubt: {', '.join(map(str, one.in_doubt))}, for {since}"
        )
    if one.conflicts_waiting:
        yield (
            f"{one.replication}: {counted(one.conflicts_waiting, 'change')} could not be "
            f"applied and {'waits' if one.conflicts_waiting == 1 else 'wait'}: "
            f"`pyreplica conflicts list {one.replication}`"
        )
    elif one.conflicts_last_day:
        yield (
            f"{one.replication}: {counted(one.conflicts_last_day, 'conflict')} within the last "
            f"day: `pyreplica conflicts list {one.replication} --all`"
        )
    if one.error and (one.state not in RUNNING or one.error_at):
        when = f" at {one.error_at:%Y-%m-%d %H:%M:%S}" if one.error_at else ""
        yield f"last error{when}: {one.error}"
    if one.hint and one.state not in RUNNING:
        yield f"  hint: {one.hint}"
