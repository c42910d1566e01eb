"""The part of benchmarks.txt about operation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

import pyreplica
from tests.bench.operation.figures import Section
from tests.bench.program import machine
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
    yield f"Operation: {datetime.now(timezone.utc):%Y-%m-%d}"
    yield ""
    yield f"{machine(postgresql)}; PyReplica {pyreplica.__version__}, two-phase commit"
    yield "A master and a slave on this machine; the daemon is a process of its own."
    yield f"Servers: {', '.join(f'{key} = {value}' for key, value in BASE.items())}"
    yield (
        f"Scale {scale:g}: 1 has the rows of the targets. All of it took {seconds / 60:.0f} "
        "minutes. The machine is shared: only what was measured in turns can be compared."
    )
    for section in sections:
        yield from section.lines()
