"""``pyreplica copy``: the initial copy, with progress bars."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence

from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from pyreplica.cli.common import Commands, chosen
from pyreplica.cli.common import register as register_command
from pyreplica.cli.output import console, counted, error_console, seconds
from pyreplica.config import ReplicationConfig
from pyreplica.replication.copy import Copy


def register(commands: Commands) -> None:
    """Add the command."""
    made = register_command(
        commands,
        "copy",
        run,
        "copy the master's rows to the slave, consistent with the log",
        "pyreplica --config shop.yaml copy shop --schema",
        names="?",
    )
    made.add_argument(
        "--schema", action="store_true", help="make the tables on the slave first, with pg_dump"
    )
    made.add_argument(
        "--truncate", action="store_true", help="remove the rows that the slave's tables have"
    )
    made.add_argument(
        "--workers",
        type=workers,
        metavar="N",
        help="tables copied at a time, 1 to 64 (default: copy_workers of the configuration)",
    )


def workers(text: str) -> int:
    """A number of workers on the command line; as many as `copy_workers` allows."""
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 64")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Run it."""
    for config in chosen(arguments):
        _copy(config, arguments)
    return 0


def _copy(config: ReplicationConfig, arguments: argparse.Namespace) -> None:
    began = time.monotonic()
    with Bars(config.name) as bars:
        copied = Copy(
            config,
            bars,
            truncate=arguments.truncate,
            schema=arguments.schema,
            workers=arguments.workers,
        ).run()
    took = time.monotonic() - began
    console().print(
        f"{config.name}: copied {counted(copied.tables, 'table')}, {counted(copied.rows, 'row')}"
        f" in {seconds(took)} ({copied.rows / max(took, 0.001):,.0f} rows/s)"
    )


class Bars:
    """A bar for each table with rows, rate and time left; plain lines when it is no terminal."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=error_console(),
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}
        self._rows: dict[str, int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def begin(self, tables: Sequence[tuple[str, int]]) -> None:
        """The tables to be copied."""
        for table, rows in tables:
            self._tasks[table] = self._bars.add_task(
                table, total=rows or None, start=False, count="", rate=""
            )

    def rows(self, table: str, rows: int) -> None:
        """So many rows more have gone through."""
        task = self._tasks[table]
        with self._lock:
            if table not in self._began:
                self._began[table] = time.monotonic()
                self._bars.start_task(task)
            self._rows[table] = total = self._rows.get(table, 0) + rows
        rate = total / max(0.001, time.monotonic() - self._began[table])
        self._bars.update(
            task, completed=total, count=f"{total:,} rows", rate=f"{rate:,.0f} rows/s"
        )

    def done(self, table: str, rows: int) -> None:
        """A table is complete."""
        self._bars.update(
            self._tasks[table], total=max(rows, 1), completed=max(rows, 1), count=f"{rows:,} rows"
        )
        if self._bars.disable:
            self.say(f"{table}: {rows:,} rows")

    def say(self, text: str) -> None:
        """Something else is being done."""
        self._bars.console.print(f"{self._name}: {text}")
