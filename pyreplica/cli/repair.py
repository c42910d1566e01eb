"""``pyreplica repair``: makes the slave's rows equal to the master's, and first shows how."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from pyreplica.cli.common import Commands, chosen
from pyreplica.cli.common import register as register_command
from pyreplica.cli.compare import add_json_and_timeout, add_table_option, key_of
from pyreplica.cli.output import console, counted, print_json, table
from pyreplica.cli.progress import shown
from pyreplica.errors import Differs
from pyreplica.replication.repair import SHOWN, TableRepair, repair

MANY = 1_000
"""When most rows of a table differ, and more than these, copying is the better way."""


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "repair",
        run,
        "show what would make the slave's rows equal to the master's (exit code 3), or do it",
        "pyreplica --config shop.yaml repair shop --yes",
    )
    add_table_option(made)
    made.add_argument(
        "--yes", action="store_true", help="do it: have the master log the rows once more"
    )
    add_json_and_timeout(made)


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    found: dict[str, list[TableRepair]] = {}
    for config in chosen(arguments):
        with shown(config.name) as progress:
            found[config.name] = repair(
                config,
                apply=arguments.yes,
                timeout=arguments.timeout,
                tables=arguments.tables,
                progress=progress,
                say=progress.say,
            )
    if arguments.json:
        print_json({name: [asdict(one) for one in tables] for name, tables in found.items()})
    else:
        _show(found)
    for name, tables in found.items():
        _judge(name, tables)
    return 0


def _judge(name: str, tables: list[TableRepair]) -> None:
    """Raise Differs unless there is nothing left to do."""
    left = [one for one in tables if one.state in ("to repair", "differs")]
    problems = [one for one in tables if one.state == "problem"]
    if left and left[0].state == "to repair":
        raise Differs(
            f"{counted(sum(one.differing for one in left), 'row')} to be repaired"
            f" in {counted(len(left), 'table')}",
            where=name,
            hint=f"Nothing was changed. Do it: `pyreplica repair {name} --yes`.",
        )
    if left:
        raise Differs(
            f"{left[0].table} still differs",
            where=name,
            hint="Does something else write to the slave's tables? Stop it, and run this again.",
        )
    if problems:
        raise Differs(
            f"{problems[0].table} cannot be repaired: {problems[0].problem}",
            where=name,
            hint=problems[0].hint or "",
        )


def _show(found: dict[str, list[TableRepair]]) -> None:
    out = console()
    out.print(
        table(
            ("replication", "table", "rows", "insert", "update", "delete", "result"),
            [
                (
                    name,
                    one.table,
                    *(f"{n:,}" for n in (one.rows, one.insert, one.update, one.delete)),
                    one.problem if one.problem is not None else one.state,
                )
                for name, tables in found.items()
                for one in tables
            ],
        )
    )
    for name, tables in found.items():
        for one in tables:
            if one.state == "to repair":
                _show_plan(name, one)
        logged = sum(one.logged for one in tables if one.state == "logged")
        if logged:
            out.print(
                f"{name}: {counted(logged, 'row')} in the log of the master; no daemon is at work, "
                f"they are applied once it runs: `pyreplica run {name}`"
            )
        for one in tables:
            if one.problem is not None:
                out.print(f"{name}: {one.table}: {one.problem}. {one.hint}")


def _show_plan(name: str, one: TableRepair) -> None:
    out = console()
    for kind, count, word in (
        ("missing", one.insert, "inserted"),
        ("differs", one.update, "updated"),
        ("extra", one.delete, "deleted"),
    ):
        for difference in one.differences:
            if difference.kind == kind:
                out.print(f"{name}: {one.table} {key_of(difference)} would be {word}")
        if count > SHOWN:
            out.print(f"{name}: {one.table} and {count - SHOWN:,} more would be {word}")
    if one.differing > max(MANY, one.rows // 2):
        out.print(
            f"{name}: {one.table}: most rows differ, copying anew is faster: "
            f"`pyreplica copy {name} --truncate`"
        )
