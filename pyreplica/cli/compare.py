"""``pyreplica compare``: row by row, naming the keys that differ."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from rich.text import Text

from pyreplica.cli.common import Commands, chosen, duration
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console, counted, error_console, print_json, table
from pyreplica.errors import Differs
from pyreplica.replication.compare import TableResult, compare

SHOWN = 10
"""So many differing keys of a table are shown; --json has them all (up to 1,000)."""


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "compare",
        run,
        "compare master and slave row by row; exit code 3 when they differ",
        "pyreplica --config shop.yaml compare shop",
    )
    made.add_argument("--json", action="store_true", help="print JSON")
    made.add_argument(
        "--timeout",
        type=duration,
        default=60.0,
        metavar="S",
        help="seconds to wait for the slave to catch up (default: 60)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    results: dict[str, list[TableResult]] = {}
    status = error_console().status("comparing")
    if sys.stderr.isatty():
        status.start()
    try:
        for config in chosen(arguments):
            results[config.name] = compare(
                config,
                timeout=arguments.timeout,
                # no str: a name's brackets would be taken for markup
                progress=lambda name, rows: status.update(Text(f"{name}: {rows:,} rows")),
            )
    finally:
        status.stop()
    if arguments.json:
        print_json(
            {
                name: [{**asdict(result), "equal": result.equal} for result in tables]
                for name, tables in results.items()
            }
        )
    else:
        _show(results)
    unequal = [(name, r) for name, tables in results.items() for r in tables if not r.equal]
    if unequal:
        name, result = unequal[0]
        raise Differs(
            f"{result.table} differs"
            if len(unequal) == 1
            else f"{counted(len(unequal), 'table')} differ, {result.table} among them",
            where=name,
            hint="Stop writing to the slave's tables, and copy anew: "
            f"`pyreplica copy {name} --truncate`.",
        )
    return 0


def _show(results: dict[str, list[TableResult]]) -> None:
    out = console()
    out.print(
        table(
            ("replication", "table", "rows", "differing", "result"),
            [
                (
                    name,
                    result.table,
                    f"{result.rows:,}",
                    f"{result.differing:,}",
                    "equal" if result.equal else result.problem or "DIFFERS",
                )
                for name, tables in results.items()
                for result in tables
            ],
        )
    )
    for name, tables in results.items():
        for result in tables:
            for difference in result.differences[:SHOWN]:
                key = json.dumps(difference.key, ensure_ascii=False)
                out.print(f"{name}: {result.table} {key} {_WORDS[difference.kind]}")
            if result.differing > SHOWN:
                out.print(f"{name}: {result.table} and {result.differing - SHOWN:,} more")


_WORDS = {
    "missing": "is missing on the slave",
    "extra": "is on the slave only",
    "differs": "differs",
}
