"""Every series, with few rows: what must hold at any speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from tests.bench.growth.replicated import Replicated, Wrong
from tests.bench.growth.report import report, verdict
from tests.bench.growth.series import WITH_ONE_SLAVE, Plan, Point, run, tables_of
from tests.bench.growth.tables import KINDS, TRANSACTION, Table, write
from tests.bench.system import execute, value
from tests.folders import servers_folder

_SETTINGS = {"fsync": "off"}
_PLAN = Plan(
    rounds=1,
    backlogs=(100, 1_500),
    tables=(1, 3),
    table_rows=250,
    columns=(2, 8),
    column_rows=200,
    slaves=(2,),
    slave_rows=200,
    turns=1,
    seconds=0.5,
    settings=_SETTINGS,
)


@pytest.fixture(scope="module")
def replicated() -> Iterator[Replicated]:
    """Every test leaves its tables empty."""
    with (
        servers_folder() as folder,
        Replicated(folder / "one", tables_of(_PLAN), settings=_SETTINGS) as made,
    ):
        yield made


@pytest.mark.parametrize("name", list(WITH_ONE_SLAVE))
def test_a_series_is_measured_and_told(replicated: Replicated, name: str) -> None:
    # the slave's rows are compared with the master's in it
    _is_told(name, list(WITH_ONE_SLAVE[name](_PLAN, replicated, lambda text: None)))


def test_more_slaves_are_measured_and_told() -> None:
    with servers_folder() as folder:
        found = run(_PLAN, ["slaves"], folder, lambda text: None)
    _is_told("slaves", found["slaves"])
    (point,) = found["slaves"]
    (without,), (applying,) = point.without, point.applying
    assert without.rows > 0
    assert without.applied == 0
    assert applying.applied > 0


def _is_told(name: str, points: Sequence[Point]) -> None:
    assert [one.size for one in points] == list(getattr(_PLAN, name))
    for one in points:
        assert list(one.spent) == list(KINDS)
        for kind in KINDS:
            assert len(one.spent[kind]) == 1
            # each of the three has worked
            assert all(part > 0 for part in one.parts(kind))
    text = report(_PLAN, {name: points}, 60, "15")
    lines = text.splitlines()
    assert lines[0].startswith("Growth: 20")
    for one in points:
        assert any(line.split()[:1] == [f"{one.size:,}"] for line in lines), text
    assert any(line.endswith(".") and "costs, in CPU: INSERT " in line for line in lines), text


def test_a_backlog_is_whole_transactions_on_all_tables(replicated: Replicated) -> None:
    tables = [Table("table_1"), Table("columns_2", 2), Table("columns_8", 8)]
    assert set(tables) < set(tables_of(_PLAN))
    master = replicated.master_dsn
    logged = "SELECT last_value FROM pyreplica.replica_log_id"
    before = value(master, logged)
    each = TRANSACTION // 3
    assert write(master, tables, 100, "INSERT") == 2 * 3 * each
    transactions = f"SELECT count(DISTINCT txid) FROM pyreplica.replica_log WHERE id > {before}"
    assert value(master, transactions) == 2
    for table in tables:
        assert value(master, f"SELECT count(*) FROM {table.name}") == 2 * each
        columns = f"SELECT count(*) FROM pg_attribute WHERE attrelid = '{table.name}'::regclass"
        assert value(master, f"{columns} AND attnum > 0") == table.columns
    assert write(master, tables, 100, "UPDATE") == 2 * 3 * each
    assert value(master, logged) == before + 2 * 2 * 3 * each
    changed = "SELECT count(*) FROM columns_8 WHERE c0 LIKE '%.' AND c1 = id"
    assert value(master, changed) == 2 * each
    replicated.settle()
    replicated.check(tables)

    execute(replicated.slave_dsns[0], "UPDATE columns_8 SET c1 = 0 WHERE id = 1")
    with pytest.raises(Wrong, match="columns_8 differs"):
        replicated.check(tables)
    replicated.empty(tables)
    with pytest.raises(Wrong, match="table_1 differs"):
        replicated.check(tables)


def test_flat_is_what_is_within_half_of_the_smallest() -> None:
    assert verdict([3.0, 2.0, 2.5]) == "flat (the largest is 1.50 times the smallest)"
    assert verdict([3.1, 2.0]) == "not flat, the largest is 1.55 times the smallest"


def test_the_largest_backlog_goes_with_the_scale() -> None:
    assert Plan.of(1) == Plan()
    assert list(Plan.of(10).backlogs) == [1_000, 10_000, 100_000, 1_000_000, 10_000_000]
    assert list(Plan.of(0.1).backlogs) == [1_000, 10_000, 100_000]
    assert list(Plan.of(0.0001).backlogs) == [1_000]
