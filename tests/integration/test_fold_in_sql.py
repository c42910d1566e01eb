"""The statement that folds large batches does what the function for small ones does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyreplica import sqlfiles
from pyreplica.database import Connection, sql
from pyreplica.master.log import Log
from pyreplica.model import Snapshot
from pyreplica.slave import staging
from pyreplica.slave.fold import fold
from pyreplica.slave.stage import LAST_ID, Stage
from tests.conftest import Databases
from tests.histories import Entry, entries
from tests.support import config_file, connect, pyreplica

_SQL = sqlfiles.statements("stage.sql")
_TABLES = staging.names(1)
Plain = tuple[str, str, object, object]


@st.composite
def batches(draw: st.DrawFn) -> list[Entry]:
    """Histories of several keys, one after another (a key's order is all that matters)."""
    return [e for key in "xyz" for e in draw(entries(key, draw(st.booleans())))]


@st.composite
def updates(draw: st.DrawFn) -> list[Entry]:
    """Updates alone, of several keys; mostly all of the same columns."""
    same = draw(st.sets(st.sampled_from("abc"), min_size=1))
    changes: list[Entry] = []
    for _ in range(draw(st.integers(1, 8))):
        columns = draw(st.just(same) if draw(st.integers(0, 9)) else st.just({"a", "c"}))
        known = draw(st.sampled_from((columns, columns, set(), {"a"} & columns)))
        values = st.none() | st.sampled_from(("1", "2"))
        row = {name: draw(values) for name in sorted(columns)}
        old = {name: draw(values) for name in sorted(known)}
        no_old = not known and draw(st.booleans())
        changes.append(
            (
                "U",
                draw(st.sampled_from("xyz")),
                json.dumps(row),
                None if no_old else json.dumps(old),
            )
        )
    return changes


@pytest.fixture
def stage(databases: Databases, tmp_path: Path) -> Iterator[Connection]:
    """A session with the slave, which has staging tables."""
    pyreplica(config_file(tmp_path, databases), "install")
    with connect(databases.slave) as session:
        session.execute(sql.SQL(_SQL["create_staging"]).format(**_TABLES))
        yield session


_SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_PIECE = {"tab": 7, "after": 0, "before": LAST_ID}


def put(session: Connection, changes: list[Entry]) -> None:
    """Stage changes."""
    session.execute(sql.SQL("TRUNCATE {stage}, {net}").format(**_TABLES))
    session.execute(
        sql.SQL(_SQL["put_into_stage"]).format(**_TABLES),
        {
            "ids": list(range(1, len(changes) + 1)),
            "tabs": [7] * len(changes),
            "ops": [op for op, _, _, _ in changes],
            "keys": [key for _, key, _, _ in changes],
            "rows": [row for _, _, row, _ in changes],
            "olds": [old for _, _, _, old in changes],
        },
    )


_LOGGED = """
INSERT INTO pyreplica.replica_log (segment, tab, op, key, row, old)
SELECT 0, 7, 'U', jsonb_build_object('id', key), row, old
FROM unnest(%s::text[], %s::jsonb[], %s::jsonb[]) WITH ORDINALITY c(key, row, old, n) ORDER BY n
"""
_NETS = "SELECT kind::text, k1, row::text, old::text FROM {net} ORDER BY k1"


def net_changes(session: Connection) -> list[Plain]:
    """What was folded."""
    query = "SELECT kind::text, key, row::text, old::text FROM {net} ORDER BY key"
    return _plain(session.query(sql.SQL(query).format(**_TABLES)))


def in_python(changes: list[Entry]) -> list[Plain]:
    """The same of small batches."""
    return _plain(sorted(fold(changes), key=lambda net: net.key))


def test_both_ways_of_folding_give_the_same_net_changes(stage: Connection) -> None:
    @_SETTINGS
    @given(batches())
    def same(changes: list[Entry]) -> None:
        put(stage, changes)
        stage.execute(sql.SQL(_SQL["fold"]).format(**_TABLES), _PIECE)
        assert net_changes(stage) == in_python(changes)

    same()


def test_updates_of_the_same_columns_are_folded_alike(stage: Connection) -> None:
    folded: list[bool] = []

    @_SETTINGS
    @given(updates())
    def same(changes: list[Entry]) -> None:
        put(stage, changes)
        columns = [set(json.loads(row or "")) for _, _, row, _ in changes]
        olds = [set(json.loads(old)) if old else set() for _, _, _, old in changes]
        rows = stage.query(sql.SQL(_SQL["same_columns"]).format(**_TABLES), _PIECE)
        folded.append(all(one == columns[0] for one in columns))
        assert [(set(found), known) for found, known in rows] == (
            [(columns[0], all(old >= columns[0] for old in olds))] if folded[-1] else []
        )
        if rows:
            stage.execute(sql.SQL(_SQL["fold_updates"]).format(**_TABLES), _PIECE)
            assert net_changes(stage) == in_python(changes)

    same()
    assert {*folded} == {True, False}


def test_the_master_folds_updates_of_the_same_columns_alike(
    databases: Databases, stage: Connection
) -> None:
    folded: list[bool] = []
    net = Stage(stage, 1, lambda generation: None, compares=True)
    with connect(databases.master) as master:
        log = Log(master, "shop")

        @_SETTINGS
        @given(updates())
        def same(changes: list[Entry]) -> None:
            after = Snapshot.parse(master.one("SELECT pg_current_snapshot()::text")[0])
            master.execute(_LOGGED, [list(values) for values in zip(*changes, strict=True)][1:])
            until = Snapshot.parse(master.one("SELECT pg_current_snapshot()::text")[0])
            columns = log.columns_set(after, until, 7)
            sets = [set(json.loads(row or "")) for _, _, row, _ in changes]
            assert set(columns) in sets
            query = log.updated(after, until, 7, [sql.SQL("(c.key ->> 'id')")], columns)
            net.clear()
            count = net.fill_net(master, query, 1, "U")
            assert count == len({key for _, key, _, _ in changes})
            known = net.net_updates(7, columns)
            found = stage.query(sql.SQL(_NETS).format(**_TABLES))
            folded.append(all(one == set(columns) for one in sets))
            if not folded[-1]:
                assert (known, found) == (None, [])
                return
            expected = in_python(changes)
            assert _plain(found) == expected
            olds = [old if isinstance(old, dict) else {} for _, _, _, old in expected]
            assert known == all(old.keys() == set(columns) for old in olds)

        same()
    assert {*folded} == {True, False}


def _plain(nets: object) -> list[Plain]:
    assert isinstance(nets, list)
    return [
        (
            kind,
            key,
            json.loads(row) if row and kind not in "Dd" else None,
            (json.loads(old) if old else None) or None,
        )
        for kind, key, row, old in nets
    ]
