"""The scenarios of statements between servers of two versions: all in one replication."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pyreplica.database import Connection
from tests.integration.test_replication_traps import SCENARIOS, assert_no_trouble, transactions
from tests.support import assert_same, connect, copied, running
from tests.versions.conftest import Pair

SINCE = ((15, r"\bMERGE\b"),)
"""What older servers do not know: transactions with it are left out there."""
TABLES_SINCE = (
    (15, r"ON DELETE SET (NULL|DEFAULT) \(|NULLS NOT DISTINCT"),
    (14, r"multirange|by_numeric VALUES .*'Infinity'"),
)
"""Scenarios whose tables have it are left out there."""


def fits(path: Path, version: int) -> bool:
    """Whether servers of that version know a scenario's tables."""
    text = path.read_text("utf-8")
    return not any(re.search(pattern, text) for since, pattern in TABLES_SINCE if version < since)


def parts_of(path: Path, version: int) -> dict[str, str]:
    """The blocks of a scenario, without what that version does not know."""
    parts = re.split(r"^-- name: (\w+)\n", path.read_text("utf-8"), flags=re.MULTILINE)
    blocks = dict(zip(parts[1::2], parts[2::2], strict=True))
    unknown = [pattern for since, pattern in SINCE if version < since]
    kept = [
        transaction
        for transaction in re.split(r"\n\n+", blocks["work"].strip())
        if not any(re.search(pattern, transaction) for pattern in unknown)
    ]
    return {**blocks, "work": "\n\n".join(kept)}


def schema_of(path: Path) -> str:
    """Where a scenario has its tables."""
    return path.stem[:60]


def in_schemas(scenarios: dict[str, dict[str, str]], *blocks: str) -> str:
    """SQL of all scenarios: of each the given blocks that it has, in its schema."""
    return "".join(
        f"BEGIN; CREATE SCHEMA {schema}; SET search_path = {schema}, public; "
        + ";".join(parts.get(block, "") for block in blocks)
        + "; COMMIT; "
        for schema, parts in scenarios.items()
    )


def work(session: Connection, scenarios: dict[str, dict[str, str]], *, one_message: bool) -> None:
    """What the scenarios do."""
    for schema, parts in scenarios.items():
        for _ in transactions(session, schema, parts["work"], one_message=one_message):
            pass


@pytest.mark.parametrize("live", [True, False], ids=["live", "backlog"])
def test_the_slave_equals_the_master_after_all_scenarios(pair: Pair, live: bool) -> None:
    """Change by change while the daemon runs, or all at once when it starts."""
    scenarios = {
        schema_of(path): parts_of(path, pair.master)
        for path in SCENARIOS
        if fits(path, min(pair.master, pair.slave)) and parts_of(path, pair.master)["work"]
    }
    on_slave = {schema: {"slave": it["tables"], **it} for schema, it in scenarios.items()}
    made = copied(
        pair.databases,
        in_schemas(scenarios, "tables", "master", "rows"),
        slave=in_schemas(on_slave, "slave"),
    )
    with connect(pair.databases.master) as session:
        if not live:
            work(session, scenarios, one_message=True)
        with running(made) as daemon:
            if live:
                work(session, scenarios, one_message=False)
            assert_same(made)
            assert_no_trouble(daemon)
