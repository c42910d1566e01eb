"""Files in Python that the configuration names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pyreplica.config.yamltree import Spot


@dataclass(frozen=True, slots=True)
class PythonFile:
    """A file with functions of the user's.

    Args:
        digest: what tells the file from what it was when the configuration was read before; empty
            when it cannot be read.
    """

    path: Path
    digest: str


def python_file(spot: Spot, expected: str) -> PythonFile:
    """Check the path of a file; whether it can be executed is seen by whoever needs it."""
    path = Path(spot.expand(spot.text(expected)))
    if not path.is_absolute() or path.suffix != ".py":
        spot.refuse(expected)
    try:
        return PythonFile(path, hashlib.sha256(path.read_bytes()).hexdigest())
    except OSError:
        return PythonFile(path, "")  # whoever needs it says so
