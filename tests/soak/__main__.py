"""python -m tests.soak --minutes N [--seed S]: see docs/soak.md."""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from pyreplica.demo.cluster import Cluster
from tests.conftest import PREPARING_SETTINGS, Databases
from tests.soak.run import Settings, soak
from tests.soak.table import report
from tests.soak.watch import write_csv
from tests.support import value

NAME = "soak"


def main() -> int:
    """Run it."""
    arguments = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    arguments.add_argument("--minutes", type=float, default=5.0)
    arguments.add_argument("--seed", type=int, default=None)
    arguments.add_argument("--output", type=Path, default=Path("build/soak"))
    given = arguments.parse_args()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    folder = given.output.absolute()
    signal.signal(signal.SIGTERM, _stop)
    with ExitStack() as stack:
        servers = Path(tempfile.mkdtemp(prefix="pyreplica-soak-"))
        servers.chmod(0o755)
        stack.callback(shutil.rmtree, servers)
        say(f"{given.minutes:g} minutes, seed {seed}; two servers are made in {servers}")
        settings = {**PREPARING_SETTINGS, "max_prepared_transactions": "0"}
        master = stack.enter_context(Cluster.create(servers, "master", settings))
        slave = stack.enter_context(Cluster.create(servers, "slave", PREPARING_SETTINGS))
        for cluster in (master, slave):
            cluster.start()
            cluster.create_database(NAME)
        databases = Databases(master.dsn(NAME), slave.dsn(NAME), NAME, master, slave)
        version = str(value(databases.master, "SHOW server_version")).split()[0]
        files = servers / "files"
        files.mkdir()
        outcome = soak(Settings(given.minutes * 60, seed), databases, files, say)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(files / "daemon.log", folder)
        for cluster in (master, slave):
            shutil.copy(cluster.log_path, folder / f"{cluster.name}.log")
    text = report(outcome, version)
    (folder / "soak.md").write_text(text, encoding="utf-8")
    write_csv(outcome.samples, folder / "soak.csv")
    say(f"\n{text}\nWritten to {folder}.")
    return 0 if outcome.passed else 1


def say(text: str) -> None:
    """Print at once."""
    print(text, flush=True)


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    raise SystemExit(main())
