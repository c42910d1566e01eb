"""The daemon, the copy or add-table, except that it pauses where a test wants it to.

python -m tests.faults.pausing CONFIG run [--pause STEP] [--staged] [--rotating]
python -m tests.faults.pausing CONFIG copy|add [--pause POINT] [--table TABLE] [--schema]

It is told on its standard input: `pause STEP` has it pause when it next comes to that step, `go`
has it go on. STEP is a pyreplica.model.Step, POINT what a copy tells its Progress, or has it say.
--staged moves every batch through the staging table, --rotating looks after the log after every
batch, however small it is.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import queue
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from pyreplica import config
from pyreplica.config import Config
from pyreplica.daemon.service import Service
from pyreplica.errors import PyReplicaError
from pyreplica.master import Master, log
from pyreplica.model import Step
from pyreplica.replication import loop
from pyreplica.replication.addition import Addition
from pyreplica.replication.copy import Copy
from tests.support import set_up_logging


class Pause:
    """Where to pause next, as standard input says."""

    def __init__(self, at: str | None) -> None:
        self._at = at
        self._go: queue.SimpleQueue[None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="stdin", daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            word, _, at = line.strip().partition(" ")
            if word == "pause":
                self._at = at
                print(f"will pause: {at}", flush=True)
            else:
                self._go.put(None)
        os._exit(1)  # the test is gone

    def at(self, point: str, batch: int = 0) -> None:
        """The program is at this point."""
        if point == self._at:
            self._at = None
            print(f"paused: {point} {batch}", flush=True)
            self._go.get()


class Progress:
    """Tells of the points of a copy."""

    def __init__(self, pause: Pause) -> None:
        self._pause = pause

    def begin(self, tables: Sequence[tuple[str, int]]) -> None:
        """The snapshot is taken; no row has been copied."""
        self._pause.at("begin")

    def rows(self, table: str, rows: int) -> None:
        """Rows have been copied, and are not committed."""
        self._pause.at("rows")

    def done(self, table: str, rows: int) -> None:
        """One table is complete."""
        self._pause.at("done")

    def say(self, text: str) -> None:
        """Something else is about to be done."""
        self._pause.at(text)


def _run(settings: Config, pause: Pause) -> bool:
    def observe(name: str, step: Step, batch: int) -> None:
        pause.at(step.value, batch)

    service = Service(settings, observe=observe)
    service.handle_signals()
    return service.run()


def _copy(settings: Config, pause: Pause, table: str | None, schema: bool) -> bool:
    (chosen,) = settings.select([])
    progress = Progress(pause)
    try:
        if table:
            Addition(chosen, [table], progress).run()
        else:
            Copy(chosen, progress, schema=schema).run()
    except PyReplicaError as error:
        print(f"pyreplica: {error.line}", flush=True)
        return False
    return True


def main() -> int:
    """Run it."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("config", type=Path)
    arguments.add_argument("program", choices=["run", "copy", "add"])
    arguments.add_argument("--pause")
    arguments.add_argument("--staged", action="store_true")
    arguments.add_argument("--rotating", action="store_true")
    arguments.add_argument("--table")
    arguments.add_argument("--schema", action="store_true")
    given = arguments.parse_args()
    if given.staged:
        log.FETCH_ROWS = 1
    if given.rotating:
        loop.ROTATE_EVERY = 0
        Master.rotate.__defaults__ = (1,)
    faulthandler.enable()
    settings = config.load(given.config)
    set_up_logging("debug")
    pause = Pause(given.pause)
    if given.program == "run":
        return 0 if _run(settings, pause) else 1
    return 0 if _copy(settings, pause, given.table, given.schema) else 1


if __name__ == "__main__":
    raise SystemExit(main())
