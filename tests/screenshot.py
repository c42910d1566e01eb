"""Makes docs/status-page.png: the page as it looks, with an hour that was made up.

Run by ``make screenshot``. The page, its server and the browser are the real ones; only what a
daemon would have told in the last hour is invented here, so that nobody has to wait for one.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

from pyreplica.config.http import HttpConfig
from pyreplica.daemon.web.board import Board
from pyreplica.daemon.web.server import Server
from pyreplica.model import Event, EventKind, State, Status

STEP = 5
"""Seconds between two statuses."""
OUTAGE = (24, 20)
"""The slave's server is away from so many minutes ago until so many minutes ago."""


class Past:
    """A board that was told of an hour, and the clock that it went by."""

    def __init__(self, end: datetime) -> None:
        self.end = end
        self.now = end - timedelta(minutes=65)
        self.board = Board(lambda: self.now)
        self._chance = random.Random(2008)

    def tell(self) -> None:
        """Tell all of it."""
        self._event(EventKind.STARTED, "shop", 65, "shop: the daemon has started")
        self._event(EventKind.STARTED, "archive", 65, "archive: the daemon has started")
        shop = Status("shop", State.WAITING, self.now, batch=20_417, changes=48_200_311)
        archive = Status(
            "archive",
            State.WAITING,
            self.now,
            batch=77_102,
            changes=910_233_871,
            log_bytes=2_900_000_000,
            log_percent=15,
            conflicts_waiting=0,
        )
        self.board.status(archive)
        paused = self.end - timedelta(minutes=12)
        while self.now < self.end:
            if self.now >= paused and archive.state is State.WAITING:
                note = "paused by ann@desk: new disks for the slave"
                archive = replace(
                    archive, state=State.PAUSED, since=paused, in_step_at=paused, note=note
                )
                self.board.status(archive)
            shop = self._next(shop)
            self.now += timedelta(seconds=STEP)
        self.now = self.end
        error = "shop: slave: cannot connect: connection refused"
        self._event(EventKind.ERROR, "shop", OUTAGE[0], error, "Start the server.")
        self._event(EventKind.RECOVERED, "shop", 17, f"shop: in step again; what failed: {error}")

    def _next(self, before: Status) -> Status:
        ago = (self.end - self.now).total_seconds() / 60
        since, until = OUTAGE
        if since > ago > until:
            failed = replace(before, state=State.FAILED, error="cannot connect")
            self.board.status(failed)
            return failed
        behind = until >= ago > 17
        wave = 400 * (1.3 + math.sin(ago / 7)) * self._chance.uniform(0.4, 1)
        moved = replace(
            before,
            state=State.CATCHING_UP,
            batch=before.batch + 1,
            changes=before.changes + int(STEP * (wave + 1_600 * behind)),
            in_step_at=before.in_step_at
            if behind
            else self.now - timedelta(seconds=self._chance.expovariate(3)),
            error=None,
            log_bytes=48_000_000,
            log_percent=2,
            conflicts_waiting=0,
        )
        self.board.status(moved)
        if not behind:
            self.board.status(replace(moved, state=State.WAITING, in_step_at=self.now))
        return moved

    def _event(
        self, kind: EventKind, replication: str, ago: float, what: str, hint: str = ""
    ) -> None:
        self.board.event(Event(kind, replication, self.end - timedelta(minutes=ago), what, hint))


def main() -> int:
    """Make the picture."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("picture", type=Path)
    arguments.add_argument("--size", default="900,1470", help="width and height of the window")
    arguments.add_argument("--dark", action="store_true")
    given = arguments.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        print("there is no chromium: apt-get install chromium", file=sys.stderr)
        return 1
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    past = Past(datetime.now(timezone.utc))
    past.tell()
    server = Server(HttpConfig(port), past.board)
    server.start()
    try:
        subprocess.run(
            [
                *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
                *(f"--window-size={given.size}", f"--screenshot={given.picture.resolve()}"),
                *(["--blink-settings=preferredColorScheme=0"] if given.dark else []),
                f"http://127.0.0.1:{port}/",
            ],
            check=True,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
    finally:
        server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
