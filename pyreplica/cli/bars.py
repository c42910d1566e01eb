"""Progress bars on a terminal."""

from __future__ import annotations

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

from pyreplica.cli.output import error_console


class Bars:
    """A bar for each table with rows, rate and time left."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=error_console(),
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

    def say(self, text: str) -> None:
        """Something else is being done."""
        self._bars.console.print(f"{self._name}: {text}")
