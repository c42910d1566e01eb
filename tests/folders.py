"""Folders for servers, which go away again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def servers_folder(parent: Path | None = None) -> Iterator[Path]:
    """A folder that the servers' account can reach; pytest's own are for its user alone.

    Args:
        parent: where it is made; None: where temporary files go.
    """
    made = Path(tempfile.mkdtemp(prefix="pyreplica-tests-", dir=parent))
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)
