"""What the tests of whole replications share."""

from __future__ import annotations

import pytest

from pyreplica.master import log
from pyreplica.slave import inserts
from tests import support


@pytest.fixture(params=["folded", "staged"])
def apply_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test twice: batches folded in Python, and all of them as large ones.

    Of a large one all goes through the staging table that is not a table's new rows alone. What is
    in the log does not depend on how it is applied: the second time it was captured in PL/pgSQL.
    """
    path = str(request.param)
    if path == "staged":
        monkeypatch.setitem(support.DEFAULTS, "capture", "plpgsql")
        monkeypatch.setattr(log, "FETCH_ROWS", 1)
        monkeypatch.setattr(inserts, "FEWEST_ROWS", 1)
    return path
