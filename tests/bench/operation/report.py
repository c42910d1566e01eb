"""The part of benchmarks.txt about operation."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import pyreplica
from tests.bench.operation.figures import Section
from tests.bench.system import BASE


def report(sections: Sequence[Section], scale: float, seconds: float, postgresql: str) -> str:
    """The whole text.

    Args:
        scale: what the rows were multiplied by.
        seconds: how long all of it took.
        postgresql: the servers' version.
    """
    return "\n".join(_lines(sections, scale, seconds, postgresql)) + "\n"


def _lines(
    sections: Sequence[Section], scale: float, seconds: float, postgresql: str
) -> Iterator[str]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    yield f"Operation: {datetime.now(timezone.utc):%Y-%m-%d}"
    yield ""
    yield (
        f"{_processors()}; {memory} GB; {platform.system()} {platform.release().split('-')[0]}; "
        f"PostgreSQL {postgresql}; Python {platform.python_version()}; "
        f"PyReplica {pyreplica.__version__}, two-phase commit"
    )
    yield "A master and a slave on this machine; the daemon is a process of its own."
    yield f"Servers: {', '.join(f'{key} = {value}' for key, value in BASE.items())}"
    yield (
        f"Scale {scale:g}: 1 has the rows of the targets. All of it took {seconds / 60:.0f} "
        "minutes. The machine is shared: only what was measured in turns can be compared."
    )
    for section in sections:
        yield from section.lines()


def _processors() -> str:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return f"{os.cpu_count()} cores" + (f" of {models[0]}" if models else "")
