"""Databases that replicate to each other: nothing comes back, and merged rows come to the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyreplica.demo.cluster import Cluster
from tests.integration.nodes import Mesh, deliver, mesh
from tests.integration.test_docs import ROOT, blocks, section
from tests.integration.test_docs_commands import Terminal, commands
from tests.support import eventually, sql, value

TABLE = """
CREATE TABLE public.t (id integer PRIMARY KEY, a text, b text, n integer NOT NULL DEFAULT 0);
INSERT INTO public.t VALUES (1, 'one', 'eins'), (2, 'two', 'zwei');
"""


@pytest.fixture(params=["ab", "abc"])
def plain(request: pytest.FixtureRequest, slave_cluster: Cluster) -> Iterator[Mesh]:
    """Nodes with a table that is not merged."""
    with mesh(slave_cluster, request.param, TABLE) as made:
        made.begin()
        yield made


def test_what_has_come_does_not_go_back(plain: Mesh) -> None:
    with plain.sessions() as sessions:
        for number, node in enumerate(plain.dsns):
            plain.sql(node, f"INSERT INTO public.t VALUES ({10 + number}, '{node}')")
        deliver(sessions)
        # what was applied is in no log: there is nothing that could come back
        assert [session.step()[0] for session in sessions.values()] == [0] * len(sessions)
    logged = [plain.value(n, "SELECT count(*) FROM pyreplica.replica_log") for n in plain.dsns]
    assert logged == [1] * len(plain.dsns)
    assert len({str(plain.rows(node)) for node in plain.dsns}) == 1
    assert len(plain.rows("a")) == 2 + len(plain.dsns)


@pytest.fixture(params=["last_update_wins", "columns"])
def merged(request: pytest.FixtureRequest, slave_cluster: Cluster) -> Iterator[Mesh]:
    """Two nodes with a table that is merged."""
    with mesh(slave_cluster, "ab", TABLE, merge={"public.t": request.param}) as made:
        made.begin()
        yield made


def test_rows_that_one_has_changed_are_no_conflict(merged: Mesh) -> None:
    with merged.sessions() as sessions:
        merged.sql(
            "a", "INSERT INTO public.t VALUES (3, 'three')", "DELETE FROM public.t WHERE id = 2"
        )
        deliver(sessions)
        merged.sql(
            "b", "UPDATE public.t SET b = 'drei' WHERE id = 3", "INSERT INTO public.t VALUES (2)"
        )
        deliver(sessions)
    assert merged.rows("a") == merged.rows("b")
    assert [row["b"] for row in merged.rows("a")] == ["eins", None, "drei"]
    assert merged.versions("a") == merged.versions("b")
    assert merged.conflicts("a") == merged.conflicts("b") == []


CONCURRENT = {
    # what a and b do at the same time; the conflicts there; the rows then, by row and by columns
    "update": (
        ("UPDATE public.t SET a = 'a' WHERE id = 1", "UPDATE public.t SET b = 'b' WHERE id = 1"),
        ("update_origin_differs", "update_origin_differs"),
        [("one", "b"), ("two", "zwei")],
        [("a", "b"), ("two", "zwei")],
    ),
    "insert": (
        ("INSERT INTO public.t VALUES (3, 'a', 'A')", "INSERT INTO public.t VALUES (3, 'b', 'B')"),
        ("insert_exists", "insert_exists"),
        [("one", "eins"), ("two", "zwei"), ("b", "B")],
        [("one", "eins"), ("two", "zwei"), ("b", "B")],
    ),
    "delete and update": (
        ("DELETE FROM public.t WHERE id = 1", "UPDATE public.t SET b = 'b' WHERE id = 1"),
        ("update_missing", "delete_origin_differs"),
        [("one", "b"), ("two", "zwei")],
        [("two", "zwei")],
    ),
    "update and delete": (
        ("UPDATE public.t SET b = 'b' WHERE id = 1", "DELETE FROM public.t WHERE id = 1"),
        ("delete_origin_differs", "update_missing"),
        [("two", "zwei")],
        [("two", "zwei")],
    ),
    "delete": (
        ("DELETE FROM public.t WHERE id = 1", "DELETE FROM public.t WHERE id = 1"),
        ("delete_missing", "delete_missing"),
        [("two", "zwei")],
        [("two", "zwei")],
    ),
    "delete and insert": (
        (
            "DELETE FROM public.t WHERE id = 1; INSERT INTO public.t VALUES (1, 'new', 'neu')",
            "UPDATE public.t SET b = 'b' WHERE id = 1",
        ),
        ("insert_exists", "insert_exists"),
        [("one", "b"), ("two", "zwei")],
        [("new", "neu"), ("two", "zwei")],
    ),
}


def test_what_both_have_changed_comes_to_the_same(merged: Mesh) -> None:
    by_row = merged.ways["a", "b"].merge[0].way == "last_update_wins"
    with merged.sessions() as sessions:
        for what, (statements, conflicts, rows, columns) in CONCURRENT.items():
            merged.everywhere("DELETE FROM pyreplica.replica_conflict")
            merged.sql("a", statements[0])
            merged.sql("b", statements[1])
            deliver(sessions)
            met = (merged.conflicts("a"), merged.conflicts("b"))
            assert met == ([conflicts[0]], [conflicts[1]]), what
            wanted = rows if by_row else columns
            assert [(row["a"], row["b"]) for row in merged.rows("a")] == wanted, what
            assert merged.rows("a") == merged.rows("b"), what
            assert merged.versions("a") == merged.versions("b"), what
            merged.sql("a", "DELETE FROM public.t")
            merged.sql("a", "INSERT INTO public.t VALUES (1, 'one', 'eins'), (2, 'two', 'zwei')")
            deliver(sessions)


SHOP = """
CREATE TABLE public.customer (id serial PRIMARY KEY, name text, mail text);
CREATE TABLE public.note (id serial PRIMARY KEY, words text);
CREATE TABLE public.item (id serial PRIMARY KEY, stock integer NOT NULL);
INSERT INTO public.customer (name) VALUES ('Ada');
INSERT INTO public.note (words) VALUES ('call');
INSERT INTO public.item (stock) VALUES (100);
"""


def test_the_set_up_of_both_ways_md_works_as_it_is_written(
    slave_cluster: Cluster, tmp_path: Path
) -> None:
    slave_cluster.create_database("paris")
    slave_cluster.create_database("tokyo")
    paris, tokyo = slave_cluster.dsn("paris"), slave_cluster.dsn("tokyo")
    sql(paris, SHOP)
    theirs = "host={}.example.com dbname=shop user=postgres"
    setting = '{}" -c "ALTER DATABASE {}'
    dsns = {"paris": paris, "tokyo": tokyo}
    terminal = Terminal(
        tmp_path,
        {
            # both are databases of one server here, and so cannot both be called shop
            **{
                setting.format(theirs.format(node), "shop"): setting.format(dsn, node)
                for node, dsn in dsns.items()
            },
            **{theirs.format(node): dsn for node, dsn in dsns.items()},
            "pyreplica --config": f"{sys.executable} -m pyreplica --config",
        },
    )
    begin, wait, both, draw, ring, check, look = (
        commands(f"```sh\n{block}```")
        for block in blocks(section(ROOT / "docs" / "both-ways.md", "Setting it up"), "sh")
    )
    for command in begin[:-1]:
        terminal.type(command)
    running = terminal.start(begin[-1])
    sql(paris, "INSERT INTO public.customer (name) VALUES ('Bo')")
    for command in wait:
        terminal.type(command)
    assert running.stop() == 0
    for command in [*both, *draw, *ring, *check[:-1]]:
        terminal.type(command)
    running = terminal.start(check[-1])
    try:
        for dsn in (paris, tokyo):
            sql(
                dsn,
                "UPDATE public.item SET stock = stock - 1",
                "INSERT INTO public.note DEFAULT VALUES",
            )
        eventually(lambda: value(paris, "SELECT count(*) FROM public.note") == 3)
        eventually(lambda: value(tokyo, "SELECT stock FROM public.item") == 98)
        eventually(lambda: value(paris, "SELECT stock FROM public.item") == 98)
        eventually(
            lambda: value(tokyo, "SELECT array_agg(id ORDER BY id) FROM public.note") == [1, 2, 3]
        )
        for command in look:
            assert "differ " not in terminal.type(command)
    finally:
        assert running.stop() == 0
        for database in ("paris", "tokyo"):
            slave_cluster.drop_database(database)
