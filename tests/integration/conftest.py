"""What the tests of whole replications share."""

from __future__ import annotations

import pytest

from pyreplica.master import log
from pyreplica.slave import inserts


@pytest.fixture(params=["folded", "staged"])
def apply_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test twice: batches folded in Python, and all of them as large ones.

    Of a large one all goes through the staging table that is not a table's new rows alone.
    """
    path = str(request.param)
    if path == "staged":
        monkeypatch.setattr(log, "FETCH_ROWS", 1)
        monkeypatch.setattr(inserts, "FEWEST_ROWS", 1)
    return path
