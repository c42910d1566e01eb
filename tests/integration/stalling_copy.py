"""``pyreplica copy``, except that it stops dead at a point, for a test to kill it there.

python -m tests.integration.stalling_copy CONFIG POINT [--schema | --add TABLE]

With --add it is ``pyreplica add-table``.

POINT is what a copy tells its Progress: begin, rows, done, or a text that it says.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from pyreplica import config
from pyreplica.replication.addition import Addition
from pyreplica.replication.copy import Copy
from tests.support import Silence


class Watching(Silence):
    """Does something when a copy has come to a point: once, in a thread of the copy."""

    def __init__(self, point: str, act: Callable[[], object]) -> None:
        self._point = point
        self._act = act
        self._lock = threading.Lock()
        self._done = False

    def _at(self, point: str) -> None:
        with self._lock:
            now = point == self._point and not self._done
            self._done = self._done or now
        if now:
            self._act()

    def begin(self, tables: Sequence[tuple[str, int]]) -> None:
        """The snapshot is taken; no row has been copied."""
        self._at("begin")

    def rows(self, table: str, rows: int) -> None:
        """Rows have been copied, and are not committed."""
        self._at("rows")

    def done(self, table: str, rows: int) -> None:
        """One table is complete."""
        self._at("done")

    def say(self, text: str) -> None:
        """Something else is about to be done."""
        self._at(text)


def main() -> None:
    """Run it."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("config", type=Path)
    arguments.add_argument("point")
    arguments.add_argument("--schema", action="store_true")
    arguments.add_argument("--add", metavar="TABLE")
    given = arguments.parse_args()

    def stall() -> None:
        print(f"stalled: {given.point}", flush=True)
        threading.Event().wait()

    (chosen,) = config.load(given.config).select([])
    watching = Watching(given.point, stall)
    if given.add:
        Addition(chosen, [given.add], watching).run()
    else:
        Copy(chosen, watching, schema=given.schema).run()


if __name__ == "__main__":
    main()
