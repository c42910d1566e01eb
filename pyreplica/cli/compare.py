"""``pyreplica compare``: every row of both sides by checksums, naming the keys that differ."""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from dataclasses import asdict

from pyreplica.cli.common import Commands, chosen, duration
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console, counted, print_json, table
from pyreplica.cli.progress import shown
from pyreplica.config import ReplicationConfig
from pyreplica.errors import Differs
from pyreplica.master import Master
from pyreplica.replication.compare import Difference, TableResult, compare
from pyreplica.replication.sequences import SequenceDifference, sequences_differ
from pyreplica.slave import Slave

SHOWN = 10
"""So many differing keys of a table are shown; --json has them all (up to 1,000)."""


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "compare",
        run,
        "compare every row and sequence of master and slave; exit code 3 when they differ",
        "pyreplica --config shop.yaml compare shop",
    )
    add_table_option(made)
    add_json_and_timeout(made)


def add_table_option(made: argparse.ArgumentParser) -> None:
    """Let tables be chosen."""
    made.add_argument(
        "--table",
        dest="tables",
        action="append",
        default=[],
        metavar="SCHEMA.TABLE",
        help="only this table; may be given several times (default: all)",
    )


def add_json_and_timeout(made: argparse.ArgumentParser) -> None:
    """Let the output be JSON, and the wait before it be limited."""
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
    sequences: dict[str, list[SequenceDifference]] = {}
    for config in chosen(arguments):
        with shown(config.name) as progress:
            results[config.name] = compare(
                config, timeout=arguments.timeout, tables=arguments.tables, progress=progress
            )
        sequences[config.name] = [] if arguments.tables else _sequences(config, arguments.timeout)
    if arguments.json:
        print_json(
            {
                name: {
                    "tables": [{**asdict(result), "equal": result.equal} for result in tables],
                    "sequences": [asdict(difference) for difference in sequences[name]],
                }
                for name, tables in results.items()
            }
        )
    else:
        _show(results)
        for name, differences in sequences.items():
            for difference in differences:
                console().print(f"{name}: {difference}")
    unequal = [(name, r) for name, tables in results.items() for r in tables if not r.equal]
    if unequal:
        name, result = unequal[0]
        raise Differs(
            f"{result.table} differs"
            if len(unequal) == 1
            else f"{counted(len(unequal), 'table')} differ, {result.table} among them",
            where=name,
            hint=result.hint or f"See what makes them equal: `pyreplica repair {name}`.",
        )
    for name, differences in sequences.items():
        if differences:
            raise Differs(
                str(differences[0]),
                where=name,
                hint=f"`pyreplica check {name}` says what is in the way of sequences.",
            )
    return 0


def _sequences(config: ReplicationConfig, timeout: float) -> list[SequenceDifference]:
    with closing(Master(config)) as master, closing(Slave(config)) as slave:
        return sequences_differ(config, master, slave, timeout)


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
                what = _WORDS[difference.kind]
                if difference.master:
                    what += f" in {', '.join(difference.master)}"
                out.print(f"{name}: {result.table} {key_of(difference)} {what}")
            if result.differing > SHOWN:
                out.print(f"{name}: {result.table} and {result.differing - SHOWN:,} more")


def key_of(difference: Difference) -> str:
    """A key as people read it."""
    return json.dumps(difference.key, ensure_ascii=False)


_WORDS = {
    "missing": "is missing on the slave",
    "extra": "is on the slave only",
    "differs": "differs",
}
