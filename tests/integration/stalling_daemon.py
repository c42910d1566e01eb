"""The daemon, except that it stops dead at a step of a batch, for a test to kill it there.

python -m tests.integration.stalling_daemon CONFIG [--step prepared --batch 3] [--staged]

At that step it prints a line and never does anything again, also not for SIGTERM. Without --step it
is the daemon as it is; --staged has it move every batch through the staging table.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from pyreplica import config
from pyreplica.daemon.service import Service
from pyreplica.master import log
from pyreplica.model import Step
from tests.support import set_up_logging


def main() -> int:
    """Run it."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("config", type=Path)
    arguments.add_argument("--step", type=Step)
    arguments.add_argument("--batch", type=int)
    arguments.add_argument("--staged", action="store_true")
    given = arguments.parse_args()
    if given.staged:
        log.FETCH_ROWS = 1

    def observe(name: str, step: Step, batch: int) -> None:
        if step is given.step and batch == given.batch:
            print(f"stalled: {name} {step.value} {batch}", flush=True)
            threading.Event().wait()

    settings = config.load(given.config)
    set_up_logging(settings.log_level)
    service = Service(settings, observe=observe)
    if given.step is None:
        service.handle_signals()
    return 0 if service.run() else 1


if __name__ == "__main__":
    raise SystemExit(main())
