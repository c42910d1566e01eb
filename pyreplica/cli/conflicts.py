"""``pyreplica conflicts``: lists what could not be applied, applies it again, or gives it up."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from pyreplica import config
from pyreplica.cli.common import Commands
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console, counted, one_line, print_json, table
from pyreplica.config import ReplicationConfig
from pyreplica.errors import ConfigError, PyReplicaError
from pyreplica.replication.conflicts import Outcome, listed, retry, skip

LONGEST_KEY = 200
"""Characters of a key that are printed."""


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "conflicts",
        run,
        "list the changes that could not be applied, apply them again, or give them up",
        "pyreplica --config shop.yaml conflicts list shop",
        names=None,
    )
    made.add_argument(
        "action",
        metavar="list|retry|skip",
        choices=("list", "retry", "skip"),
        help="show them, apply those that wait, or give those up that wait",
    )
    made.add_argument("name", metavar="NAME", help="the replication")
    made.add_argument(
        "ids",
        metavar="ID",
        nargs="*",
        type=int,
        help="numbers of changes, as list shows them; retry without any takes all that wait",
    )
    made.add_argument("--all", action="store_true", help="list: those that are settled, too")
    made.add_argument("--json", action="store_true", help="list: print JSON")
    made.add_argument("--all-waiting", action="store_true", help="skip: all changes that wait")


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    (chosen,) = config.load(arguments.config).select([arguments.name])
    if arguments.action == "list":
        return _list(chosen, settled_too=arguments.all, as_json=arguments.json)
    if arguments.action == "retry":
        return _retry(chosen, arguments.ids)
    if bool(arguments.ids) == arguments.all_waiting:
        raise ConfigError(
            "skip needs the numbers of changes, or --all-waiting",
            where=chosen.name,
            hint=f"`pyreplica conflicts list {chosen.name}` shows them.",
        )
    skipped = skip(chosen, arguments.ids)
    console().print(f"{chosen.name}: {counted(skipped, 'change')} given up")
    if skipped:
        console().print(
            f"{chosen.name}: `pyreplica repair {chosen.name}` shows in which rows the slave differs"
        )
    return 0


def _list(chosen: ReplicationConfig, *, settled_too: bool, as_json: bool) -> int:
    found = listed(chosen, settled_too=settled_too)
    if as_json:
        print_json([asdict(one) for one in found])
        return 0
    if not found:
        console().print(f"{chosen.name}: no change waits")
        return 0
    console().print(
        table(
            ("id", "at", "table", "key", "op", "conflict", "resolution", "error"),
            [
                (
                    str(one.id),
                    f"{one.at:%Y-%m-%d %H:%M:%S}",
                    one.table,
                    _shown(json.dumps(one.key, ensure_ascii=False)),
                    one.op,
                    one.conflict or "-",
                    one.resolution,
                    one_line(one.error or ""),
                )
                for one in found
            ],
        )
    )
    return 0


def _retry(chosen: ReplicationConfig, ids: list[int]) -> int:
    def say(outcome: Outcome) -> None:
        numbers = ", ".join(map(str, outcome.ids))
        words = outcome.resolution
        if outcome.problem is not None:
            words = f"still waiting: {one_line(outcome.problem)}"
        console().print(f"{chosen.name}: {numbers}: {outcome.table} {_shown(outcome.key)}: {words}")

    outcomes = retry(chosen, ids, say)
    left = [one for one in outcomes if one.problem is not None]
    if left:
        raise PyReplicaError(
            f"{counted(len(left), 'row')} still cannot be changed",
            where=chosen.name,
            hint="Repair the rows or the tables on the slave, or choose other policies in "
            f"`conflicts:`; or give them up: `pyreplica conflicts skip {chosen.name} ID`.",
        )
    if not outcomes:
        console().print(f"{chosen.name}: no change waits")
    return 0


def _shown(key: str) -> str:
    return key if len(key) <= LONGEST_KEY else f"{key[: LONGEST_KEY - 1]}…"
