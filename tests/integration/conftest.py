"""What the tests of whole replications share."""

from __future__ import annotations

import pytest

from pyreplica.master import log


@pytest.fixture(params=["folded", "staged"])
def apply_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test twice: batches folded in Python, and all of them through the staging table."""
    path = str(request.param)
    if path == "staged":
        monkeypatch.setattr(log, "FETCH_ROWS", 1)
    return path
