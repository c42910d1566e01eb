"""What the benchmarks' programs share: arguments, a folder, progress, and what they ran on."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

_BEGAN = time.monotonic()


def say(text: str) -> None:
    """Print at once, with the time since the beginning."""
    print(f"{time.monotonic() - _BEGAN:6.0f}  {text}" if "\n" not in text else text, flush=True)


def names(known: Collection[str]) -> Callable[[str], list[str]]:
    """A parser of names with commas or blanks in between."""

    def parse(text: str) -> list[str]:
        chosen = text.replace(",", " ").split()
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return chosen

    return parse


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for servers, gone at the end; also when the program is told to stop."""
    signal.signal(signal.SIGTERM, _stop)
    path = Path(tempfile.mkdtemp(prefix="pyreplica-bench-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def machine(postgresql: str) -> str:
    """The machine, and what it runs; on one line.

    Args:
        postgresql: the servers' version.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    processors = f"{os.cpu_count()} cores" + (f" of {models[0]}" if models else "")
    return (
        f"{processors}; {memory} GB; {platform.system()} {platform.release().split('-')[0]}; "
        f"PostgreSQL {postgresql}; Python {platform.python_version()}"
    )


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
