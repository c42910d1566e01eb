"""Every trigger logs what is written, and everything is measured and told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from pyreplica.demo.cluster import Cluster
from tests.bench.system import execute, session
from tests.bench.triggers.kinds import KINDS, NoTrigger, Original, PgQ, Plain
from tests.bench.triggers.measures import WAYS, Wrong, begin, insert, median
from tests.bench.triggers.report import report
from tests.bench.triggers.run import LOADING, PLAIN, SESSION, SHARED, Plan, run
from tests.folders import servers_folder

_SETTINGS = {"fsync": "off", "autovacuum": "off"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Which the servers' account can reach."""
    with servers_folder() as made:
        yield made


@pytest.fixture
def cluster(folder: Path) -> Iterator[Cluster]:
    """A server that runs."""
    with Cluster.create(folder, "server", _SETTINGS) as made:
        made.start()
        yield made


def test_every_trigger_is_measured_and_told(folder: Path) -> None:
    # that all rows were logged is looked at in it
    figures = run(Plan(rows=20, rounds=2, sessions=2), folder, lambda text: None, _SETTINGS)
    names = [kind.name for kind in KINDS if not kind.missing()]
    assert list(figures.titles) == names
    assert list(figures.took) == list(WAYS)
    for took in figures.took.values():
        assert {name: len(found) for name, found in took.items()} == dict.fromkeys(names, 2)
        assert all(one.cpu > 0 and one.seconds > 0 for found in took.values() for one in found)
    assert list(figures.beginnings) == [PLAIN, SESSION, SHARED]
    assert list(figures.beginnings[PLAIN]) == names
    for loaded in (SESSION, SHARED):
        assert list(figures.beginnings[loaded]) == [kind.name for kind in LOADING]
    python = figures.beginnings[PLAIN]["pyreplica"]
    none = figures.beginnings[PLAIN]["none"]
    assert python.after - python.before > none.after - none.before + (1 << 20)
    # the libraries are there before the first write
    assert figures.beginnings[SESSION]["pyreplica"].before > python.before

    lines = report(figures).splitlines()
    assert [line for line in lines if line.startswith("Triggers: 20")] == lines[:1]
    for name in names:
        # the two ways, and the first write
        told = [line for line in lines if line.startswith(f"{figures.titles[name]}  ")]
        assert len(told) == 3, (name, lines)
    claims = [line for line in lines if "hold" in line and " beside " in line]
    assert len(claims) == len(WAYS) * 3 * len({"slony", "pgq"} & set(names))


def test_rows_that_are_not_logged_are_no_result(cluster: Cluster, folder: Path) -> None:
    plain = Plain(cluster, folder)
    assert insert(plain, 10, "loop").cpu > 0
    assert plain.count() == (0, 10)
    execute(plain.dsn, "ALTER TABLE bench DISABLE TRIGGER plain_capture")
    with pytest.raises(Wrong, match="plain PL/pgSQL: 10 rows were written, 10 are there; 10 of 20"):
        insert(plain, 10, "client")
    plain.empty()
    with pytest.raises(Wrong, match="3 rows were written, 3 are there; 10 of 13"):
        begin(plain, 1)


def test_what_the_trigger_of_2008_logs_are_the_same_rows(cluster: Cluster, folder: Path) -> None:
    original, slave = Original(cluster, folder), NoTrigger(cluster, folder)
    execute(
        original.dsn,
        "INSERT INTO bench VALUES (1, NULL, -0.5, '2008-07-01 12:00+00', NULL), "
        r"(2, 'it''s a \ row', 'NaN', NULL, true)",
    )
    with session(original.dsn) as cursor:
        cursor.execute("SELECT sql FROM replica_log ORDER BY id")
        execute(slave.dsn, *(sql for (sql,) in cursor.fetchall()))
        cursor.execute("SELECT bench::text FROM bench ORDER BY id")
        rows = cursor.fetchall()
    with session(slave.dsn) as cursor:
        cursor.execute("SELECT bench::text FROM bench ORDER BY id")
        assert cursor.fetchall() == rows


def test_the_median_is_that_of_each_figure(cluster: Cluster, folder: Path) -> None:
    none = NoTrigger(cluster, folder)
    found = [begin(none, 1) for _ in range(3)]
    middle = median(found)
    assert middle.first.ms == sorted(one.first.ms for one in found)[1]
    assert middle.after == sorted(one.after for one in found)[1]
    assert none.count() == (0, 0)


def test_what_is_not_installed_is_named() -> None:
    class Absent(PgQ):
        packages: ClassVar[tuple[str, ...]] = ("postgresql-15", "no-such-package")

    assert Absent.missing()[-1] == "no-such-package"
