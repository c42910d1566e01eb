"""The statement that folds large batches does what the function for small ones does."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyreplica import sqlfiles
from pyreplica.database import sql
from pyreplica.slave import staging
from pyreplica.slave.fold import fold
from pyreplica.slave.stage import LAST_ID
from tests.conftest import Databases
from tests.histories import Entry, entries
from tests.support import config_file, connect, pyreplica

_SQL = sqlfiles.statements("slave.sql")
_TABLES = staging(1)
Plain = tuple[str, str, object, object]


@st.composite
def batches(draw: st.DrawFn) -> list[Entry]:
    """Histories of several keys, one after another (a key's order is all that matters)."""
    return [e for key in "xyz" for e in draw(entries(key, draw(st.booleans())))]


def test_both_ways_of_folding_give_the_same_net_changes(
    databases: Databases, tmp_path: Path
) -> None:
    path = config_file(tmp_path, databases)
    pyreplica(path, "install")
    with connect(databases.slave) as session:
        session.execute(sql.SQL(_SQL["create_staging"]).format(**_TABLES))

        @settings(
            max_examples=150,
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @given(batches())
        def same(changes: list[Entry]) -> None:
            session.execute(sql.SQL("TRUNCATE {stage}, {net}").format(**_TABLES))
            session.execute(
                sql.SQL(
                    "INSERT INTO {stage} SELECT * FROM "
                    'unnest(%(ids)s::bigint[], %(tabs)s::integer[], %(ops)s::"char"[], '
                    "%(keys)s::text[], %(rows)s::jsonb[], %(olds)s::jsonb[])"
                ).format(**_TABLES),
                {
                    "ids": list(range(1, len(changes) + 1)),
                    "tabs": [7] * len(changes),
                    "ops": [op for op, _, _, _ in changes],
                    "keys": [key for _, key, _, _ in changes],
                    "rows": [row for _, _, row, _ in changes],
                    "olds": [old for _, _, _, old in changes],
                },
            )
            values = {"tab": 7, "after": 0, "before": LAST_ID}
            session.execute(sql.SQL(_SQL["fold"]).format(**_TABLES), values)
            rows = session.query(
                sql.SQL(
                    "SELECT kind::text, key, row::text, old::text FROM {net} ORDER BY key"
                ).format(**_TABLES)
            )
            in_python = sorted(fold(changes), key=lambda net: net.key)
            assert _plain(rows) == _plain(in_python)

        same()


def _plain(nets: object) -> list[Plain]:
    assert isinstance(nets, list)
    return [
        (
            kind,
            key,
            json.loads(row) if row and kind not in "Dd" else None,
            json.loads(old) if old else None,
        )
        for kind, key, row, old in nets
    ]
