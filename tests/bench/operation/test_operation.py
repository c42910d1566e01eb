"""Every measure, with few rows: what must hold at any speed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.document import write_part
from tests.bench.operation import comparing, copying, idle, memory, oldest, upkeep
from tests.bench.operation.figures import Section
from tests.bench.operation.operated import Pair
from tests.bench.operation.report import report
from tests.bench.operation.run import MEASURES, Plan
from tests.bench.system import execute, session
from tests.folders import servers_folder


@pytest.fixture
def folder() -> Iterator[Path]:
    """Which the servers' account can reach."""
    with servers_folder() as made:
        yield made


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Every measure leaves it as it was."""
    with servers_folder() as made, Pair(made) as pair:
        yield pair


def test_the_memory_of_a_large_transaction(pair: Pair) -> None:
    # the slave's rows are compared with the master's in it
    found = memory.measure(pair, 5_000, lambda text: None)
    assert [one.kind for one in found.moved] == ["INSERT", "UPDATE", "DELETE"]
    for one in found.moved:
        assert 10 << 20 < one.peak < memory.TARGET
        assert one.daemon > 0
    _is_told(found.section())


def test_the_log_comes_back_to_its_floor(pair: Pair) -> None:
    found = upkeep.measure(pair, 30_000, 1, 1.0, lambda text: None)
    assert found.written.rows >= 30_000
    assert found.written.singles > 0
    assert max(one.log for one in found.sizes) > 10 * found.before.log
    assert found.after.log == found.before.log
    assert found.after.waiting == 0
    (turn,) = found.turns
    assert turn.trimmed.rows > 0
    assert turn.untrimmed.rows > 0
    _is_told(found.section())


def test_a_reading_of_the_log_does_not_grow_while_a_transaction_is_open(pair: Pair) -> None:
    found = oldest.measure(pair, 1, 1.0, 2, 5_000, lambda text: None)
    (turn,) = found.turns
    for stretch in turn:
        # who is in the middle of it has drawn the row's number, and the log's not yet
        assert stretch.singles > 0
        assert abs(stretch.rows - stretch.singles) <= oldest.CLIENTS
    closed, *opened = found.steps
    assert opened[0].rows > closed.rows
    assert opened[1].rows >= opened[0].rows + 5_000
    # a level of the index more is a block
    assert opened[1].reading.blocks <= opened[0].reading.blocks + 4
    _is_told(found.section())


def test_idle_replications_execute_nothing(folder: Path) -> None:
    with idle.Idlers(folder, 2) as idlers:
        rest = idlers.rest(2, 3.0)
    assert rest.statements == {}
    assert rest.moments == 0
    assert rest.daemon.wakeups < 20
    assert rest.worked.resident < idle.TARGET
    _is_told(idle.Found([rest]).section())


def test_a_statement_in_the_servers_log_is_noted(pair: Pair) -> None:
    execute(
        pair.master.dsn(), "ALTER SYSTEM SET log_line_prefix = '%n '", "SELECT pg_reload_conf()"
    )
    noted = idle.Noted(pair.master)
    with session(pair.system.master_dsn) as cursor:
        cursor.execute("SELECT 1")
        assert not noted.new()
        cursor.execute("SET log_statement = 'all'")
        cursor.execute("SELECT 41 + 1")
    assert noted.new() == {"SELECT N + N": 1}
    assert len(noted.times) == 1
    assert not noted.new()


def test_every_way_copies_the_same_rows(folder: Path) -> None:
    found = copying.measure(folder, 2_000, 1, lambda text: None, [1])
    assert len(found.took) == 6
    assert all(0 < one.loaded <= one.analysed for (one,) in found.took.values())
    _is_told(found.section())


def test_equal_rows_are_compared(pair: Pair) -> None:
    found = comparing.measure(pair, 2_000, 1, lambda text: None)
    assert found.rows == 2_000
    _is_told(found.section())


def test_the_targets_are_the_plan_at_scale_1(tmp_path: Path) -> None:
    assert Plan.of(1) == Plan()
    assert Plan.of(0.01).memory_rows == 100_000
    assert len(MEASURES) == 6
    path = tmp_path / "benchmarks.txt"
    path.write_text("Another part: today\n", encoding="utf-8")
    write_part(path, report([], 1, 60, "15"))
    assert path.read_text(encoding="utf-8").startswith("Another part: today\n")
    assert "\nOperation: 20" in path.read_text(encoding="utf-8")


def _is_told(section: Section) -> None:
    lines = list(section.lines())
    assert section.title in lines
    for figure in section.figures:
        assert any(line.startswith(figure.what) and figure.found in line for line in lines)
