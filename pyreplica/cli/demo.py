"""``pyreplica demo``: the main job on two throw-away servers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pyreplica.cli.common import Commands
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console, error_console
from pyreplica.cli.output import seconds as duration
from pyreplica.demo.demo import NO_LOGS, demo
from pyreplica.demo.outcome import Outcome
from pyreplica.demo.probe import EVERY

WIDEST = 100
"""Columns the tables take at most."""


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "demo",
        run,
        "replicate pgbench between two throw-away servers of its own, one of which goes down in "
        "the middle; exit code 1 unless they are equal in the end",
        "pyreplica demo --seconds 60 --clients 8",
        names=None,
    )
    for option, default, least, help_ in (
        ("--seconds", 30, 5, "how long pgbench runs"),
        ("--scale", 5, 1, "pgbench's scale, 100,000 accounts each"),
        ("--clients", 4, 1, "pgbench's clients"),
    ):
        made.add_argument(
            option,
            type=_at_least(least),
            default=default,
            metavar="N",
            help=f"{help_} (default: {default})",
        )
    made.add_argument(
        "--keep", action="store_true", help="keep the logs and the configuration, and say where"
    )


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return number


def run(
    arguments: argparse.Namespace, before_compare: Callable[[str], object] | None = None
) -> int:
    """Run it; exit code 1 when anything differs.

    Args:
        arguments: the command line's.
        before_compare: called with the slave's connection string before the comparison.
    """
    with Terminal() as screen:
        screen.introduce(
            "A bank is replicated from a master to a slave, which goes down for a while. "
            f"This takes about {arguments.seconds + 12} s."
        )
        outcome = demo(
            screen,
            seconds=arguments.seconds,
            scale=arguments.scale,
            clients=arguments.clients,
            keep=arguments.keep,
            before_compare=before_compare,
        )
    return show(outcome, kept=arguments.keep)


class Terminal:
    """Headings, commands, their output indented, and a spinner where the output is a terminal."""

    def __init__(self) -> None:
        self._console = console()
        self._status = self._console.status("")
        self._live = sys.stdout.isatty()
        self._steps = 0

    def __enter__(self) -> Terminal:
        if self._live:
            self._status.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._status.stop()

    def introduce(self, text: str) -> None:
        """What is to come."""
        self._console.print(text)

    def step(self, text: str) -> None:
        """A new part begins."""
        self._steps += 1
        self._console.print()
        # not print(style=...), which the spinner would take on
        self._console.print(Text(f"{self._steps}. {text}", style="bold"))

    def say(self, text: str) -> None:
        """Something worth knowing."""
        self._print(text, 3, "")

    def command(self, text: str) -> None:
        """A command is run."""
        self._print(f"$ {text}", 3, "cyan")

    def output(self, line: str) -> None:
        """A line of a command's output, or of a file."""
        self._print(line, 5, "dim", cut="   " in line)

    def busy(self, text: str) -> None:
        """What is going on now; for a terminal alone."""
        self._status.update(Text(text, style="dim"))

    def _print(self, text: str, indent: int, style: str, cut: bool = False) -> None:
        """Print a line; one too long for the terminal is folded, or cut if it is a table's."""
        line = Text(text, style=style, no_wrap=cut, overflow="ellipsis" if cut else "fold")
        self._console.print(Padding(line, (0, 0, 0, indent), expand=False))


def show(outcome: Outcome, *, kept: bool) -> int:
    """Print what a demo has shown.

    Args:
        kept: whether the logs are still there.

    Returns:
        The exit code.
    """
    out = console()
    for made in (_tables(outcome), _figures(outcome)):
        _print(out, made)
    out.print()
    if not outcome.problems:
        out.print(
            "Master and slave are equal, and the daemon has ended with exit code 0.",
            style="bold green",
        )
        return 0
    error = error_console()
    for problem in outcome.problems:
        error.print(f"pyreplica: demo: {problem}", style="bold red")
    if not kept:
        error.print(f"  hint: {NO_LOGS}")
    error.print("The end of the daemon's log:")
    for line in outcome.daemon_log:
        error.print(line, style="dim")
    return 1


def _print(out: Console, made: RenderableType) -> None:
    """Print a table, indented, and not wider than can be read."""
    padded = Padding(made, (0, 0, 0, 3), expand=False)
    out.print()
    with out.capture() as captured:
        out.print(padded, width=min(out.width, WIDEST))
    for line in captured.get().splitlines():
        # where there are colours, what fills a line up is inside of them
        out.file.write(line.rstrip() + "\n")


def _tables(outcome: Outcome) -> Table:
    made = Table(box=None, pad_edge=False)
    made.add_column("table")
    made.add_column("rows", justify="right")
    made.add_column("result")
    for table in outcome.tables:
        made.add_row(
            table.name,
            f"{table.rows:,}",
            Text(f"DIFFERS: {table.problem}", style="bold red")
            if table.problem
            else Text("equal", style="green"),
        )
    return made


def _figures(outcome: Outcome) -> Table:
    it = outcome.measured
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column()
    made.add_column(justify="right", no_wrap=True, style="bold")
    made.add_column(style="dim")
    for name, value, meaning in (
        (
            "transactions",
            f"{it.transactions:,}",
            f"pgbench's on the master, {it.transaction_rate:,.0f} a second",
        ),
        ("changes captured", f"{it.changes:,}", "rows inserted or updated, and all applied"),
        (
            "changes applied",
            f"{it.change_rate:,.0f}/s",
            f"in {it.applied_in:.1f} s: from pgbench's beginning, through the outage, until the "
            "slave had everything",
        ),
        (
            "lag p50",
            f"{it.lag(0.5) * 1000:.1f} ms",
            "from a commit on the master until a query on the slave sees it; "
            f"{len(it.lags):,} marker rows, one every {EVERY * 1000:.0f} ms until the outage, "
            f"while pgbench wrote with {outcome.clients} clients",
        ),
        ("lag p99", f"{it.lag(0.99) * 1000:.1f} ms", "of the same"),
        (
            "slave server down",
            f"{it.down:.1f} s",
            "from pg_ctl stop until it took connections again; pgbench went on",
        ),
        (
            "catch-up time",
            f"{it.caught_up_in:.1f} s",
            "from then until the slave had all that was committed before then; pgbench went on",
        ),
        (
            "last changes",
            duration(it.finished_in),
            "from pgbench's end until the slave had everything",
        ),
    ):
        made.add_row(name, value, meaning)
    return made
