"""Merged tables: what is refused, what stops, how a node joins, and writers beside the daemon."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from pyreplica.demo.cluster import Cluster
from pyreplica.errors import ApplyError, DatabaseError, Refused
from pyreplica.replication.check import check
from pyreplica.replication.compare import compare
from tests.integration.nodes import Mesh, deliver, mesh
from tests.integration.security.conftest import ROLES
from tests.support import blocked, connect, copy, eventually, running

TABLES = """
CREATE TABLE public.t (
    id serial PRIMARY KEY, u integer UNIQUE, n integer NOT NULL DEFAULT 0,
    m numeric(9, 2) NOT NULL DEFAULT 0
);
INSERT INTO public.t (n) VALUES (10), (20);
"""
COUNTERS = {"public.t": {"counters": ["n", "m"]}}


@pytest.fixture
def nodes(slave_cluster: Cluster) -> Iterator[Mesh]:
    """Two nodes with a table that has counters."""
    with mesh(slave_cluster, "ab", TABLES, merge=COUNTERS) as made:
        made.begin()
        yield made


def test_counters_add_up(nodes: Mesh) -> None:
    with nodes.sessions() as sessions:
        nodes.sql("a", "UPDATE public.t SET n = n + 5, m = m + 0.10 WHERE id = 1")
        nodes.sql("b", "UPDATE public.t SET n = n - 7, m = 2 WHERE id = 1")
        deliver(sessions)
        nodes.sql("a", "UPDATE public.t SET n = n + 1", "UPDATE public.t SET u = 3 WHERE id = 1")
        nodes.sql("b", "UPDATE public.t SET n = n + 1, u = 4 WHERE id = 1")
        deliver(sessions)
        assert nodes.rows("a") == nodes.rows("b")
        assert [(row["n"], row["m"], row["u"]) for row in nodes.rows("a")] == [
            (10 + 5 - 7 + 1 + 1, 2.10, 4),
            (21, 0, None),
        ]
        assert nodes.conflicts("a") == nodes.conflicts("b") == ["update_origin_differs"] * 2
        # a row that is inserted again counts anew
        nodes.sql("a", "DELETE FROM public.t WHERE id = 1; INSERT INTO public.t VALUES (1, 1, 100)")
        nodes.sql("b", "UPDATE public.t SET n = n + 50 WHERE id = 1")
        deliver(sessions)
        nodes.sql("b", "UPDATE public.t SET n = n + 1 WHERE id = 1")
        deliver(sessions)
        assert nodes.rows("a") == nodes.rows("b")
        assert nodes.rows("a")[0]["n"] == 101
    assert nodes.versions("a") == nodes.versions("b")
    assert all(result.equal for way in nodes.ways.values() for result in compare(way))


def test_a_change_that_has_seen_another_is_later_whatever_the_clock_says(nodes: Mesh) -> None:
    nodes.sql(
        "b",
        "CREATE OR REPLACE FUNCTION pyreplica.wall_clock() RETURNS bigint LANGUAGE sql "
        "AS 'SELECT 1::bigint'",
    )
    with nodes.sessions() as sessions:
        nodes.sql("a", "UPDATE public.t SET u = 1 WHERE id = 1")
        deliver(sessions)
        nodes.sql("b", "UPDATE public.t SET u = 2 WHERE id = 1")
        deliver(sessions)
        assert nodes.rows("a")[0]["u"] == nodes.rows("b")[0]["u"] == 2
        # of two that have not seen each other the clock decides
        nodes.sql("b", "UPDATE public.t SET u = 4 WHERE id = 2")
        nodes.sql("a", "UPDATE public.t SET u = 3 WHERE id = 2")
        deliver(sessions)
    assert nodes.rows("a")[1]["u"] == nodes.rows("b")[1]["u"] == 3


def test_a_value_of_another_unique_key_stops_until_somebody_settles_it(nodes: Mesh) -> None:
    with nodes.sessions() as sessions:
        nodes.sql("a", "UPDATE public.t SET u = 1 WHERE id = 1")
        nodes.sql("b", "UPDATE public.t SET u = 1 WHERE id = 2")
        with pytest.raises(ApplyError, match=r"multiple_unique_conflicts.*public\.t .*1") as raised:
            sessions["a", "b"].step()
        assert raised.value.key == '{"id": "1"}'
        sessions["a", "b"].recover()
        nodes.sql("b", "UPDATE public.t SET u = 2 WHERE id = 2")
        deliver(sessions)
        # values of rows that change hands within a batch are no conflict
        nodes.sql(
            "a",
            "BEGIN; UPDATE public.t SET u = NULL WHERE id = 1; UPDATE public.t SET u = 1 "
            "WHERE id = 2; UPDATE public.t SET u = 2 WHERE id = 1; COMMIT",
        )
        deliver(sessions)
    assert [row["u"] for row in nodes.rows("b")] == [2, 1]
    assert nodes.rows("a") == nodes.rows("b")


def test_an_update_beside_the_batch_is_not_lost(nodes: Mesh) -> None:
    nodes.sql("a", "UPDATE public.t SET n = n + 5")
    with nodes.sessions() as sessions, connect(nodes.dsns["b"]) as writer:
        writer.execute("BEGIN; UPDATE public.t SET n = n + 7 WHERE id = 2")
        applied = threading.Thread(target=sessions["a", "b"].step)
        applied.start()
        eventually(blocked(nodes.dsns["b"]), "the batch does not wait for the writer")
        # and the writer waits for the batch, which has the other row
        other = threading.Thread(
            target=nodes.sql, args=["b", "UPDATE public.t SET n = n + 7 WHERE id = 1"]
        )
        other.start()
        eventually(blocked(nodes.dsns["b"], 2), "the other writer does not wait for the batch")
        writer.execute("COMMIT")
        applied.join()
        other.join()
        deliver(sessions)
    assert nodes.rows("a") == nodes.rows("b")
    assert [row["n"] for row in nodes.rows("a")] == [10 + 12, 20 + 12]


@pytest.mark.parametrize("row", ["the row", "only its version"])
def test_an_insert_beside_the_batch_is_not_lost(nodes: Mesh, row: str) -> None:
    nodes.sql("a", "INSERT INTO public.t (id, u, n) VALUES (7, 1, 1)")
    if row == "only its version":
        nodes.sql("a", "DELETE FROM public.t WHERE id = 7")
    with nodes.sessions() as sessions, connect(nodes.dsns["b"]) as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO public.t (id, u, n) VALUES (7, 2, 2)")
        applied = threading.Thread(target=sessions["a", "b"].step)
        applied.start()
        eventually(blocked(nodes.dsns["b"]), "the batch does not wait for the writer")
        writer.execute("COMMIT")
        applied.join()
        deliver(sessions)
    assert nodes.rows("a") == nodes.rows("b")
    assert nodes.versions("a") == nodes.versions("b")
    assert nodes.rows("b")[-1]["id"] == 7
    assert nodes.conflicts("b") == [
        "insert_exists" if row == "the row" else "delete_origin_differs"
    ]


def test_what_has_no_place_in_merging_is_refused(nodes: Mesh) -> None:
    with pytest.raises(DatabaseError, match=r"public\.t is merged .* cannot be truncated"):
        nodes.sql("a", "TRUNCATE public.t")
    with pytest.raises(DatabaseError, match="cannot be logged once more"):
        nodes.sql("a", "SELECT pyreplica.restate('public.t', ARRAY['{\"id\": \"1\"}'::jsonb])")
    with pytest.raises(DatabaseError, match="its key column id is of the type numeric"):
        nodes.sql("a", "ALTER TABLE public.t ALTER id TYPE numeric")
    nodes.everywhere(
        "CREATE TABLE public.p (id integer PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE public.k (id numeric PRIMARY KEY, n integer)",
        "CREATE TABLE public.d (id integer PRIMARY KEY DEFERRABLE, n numeric NOT NULL)",
        "SELECT pyreplica.add_table(t) FROM unnest('{public.p,public.k,public.d}'::regclass[]) t",
    )
    for call, why in {
        "'public.p', 'last_update_wins'": "partitions",
        "'public.k', 'last_update_wins'": "numeric, in which values can be equal and not the same",
        "'public.d', 'last_update_wins'": "deferrable",
        "'public.t', 'last_update_wins', '{n}'": "counters go with tables that are merged",
        "'public.t', 'columns', '{x}'": "x cannot be a counter: there is no such column",
        "'public.t', 'columns', '{id}'": "id cannot be a counter: it belongs to the key",
        "'public.t', 'columns', '{u}'": "u cannot be a counter: it may be NULL",
        "'public.t', 'cells'": "tables are not merged by 'cells'",
        "'pg_class', 'columns'": "is not captured",
    }.items():
        with pytest.raises(DatabaseError, match=why):
            nodes.sql("a", f"SELECT pyreplica.set_merge({call})")
    with pytest.raises(DatabaseError, match=r"public\.t cannot have a filter: it is merged"):
        nodes.sql("a", "SELECT pyreplica.set_filter('x', 'public.t', columns => '{n}')")
    with pytest.raises(DatabaseError, match=r"forwarded by .* merged tables: public\.t"):
        nodes.sql("a", "SELECT pyreplica.set_forwarding(true)")
    assert nodes.value("a", "SELECT way FROM pyreplica.replica_merge") == "columns"


def test_a_column_that_is_added_everywhere_is_merged_too(nodes: Mesh) -> None:
    with nodes.sessions() as sessions:
        nodes.everywhere("ALTER TABLE public.t ADD c text DEFAULT 'new'")
        nodes.sql("b", "UPDATE public.t SET c = 'b' WHERE id = 1")
        nodes.sql("a", "UPDATE public.t SET u = 5 WHERE id = 1")
        deliver(sessions)
    assert nodes.rows("a") == nodes.rows("b")
    assert [(row["u"], row["c"]) for row in nodes.rows("a")] == [(5, "b"), (None, "new")]


def test_nodes_that_do_not_agree_stop_by_name(nodes: Mesh) -> None:
    nodes.sql("a", "UPDATE public.t SET n = 1 WHERE id = 1")
    name = nodes.value("a", "SELECT name FROM pyreplica.replica_node")
    other = nodes.value("b", "SELECT name FROM pyreplica.replica_node")
    with nodes.sessions() as sessions:
        session = sessions["a", "b"]
        for statement, message in (
            (f"SELECT pyreplica.set_node('{name}')", "both this database and the master are"),
            ("SELECT pyreplica.set_merge('public.t', NULL)", "merged on the master, and not here"),
            (
                "SELECT pyreplica.set_merge('public.t', 'last_update_wins')",
                "not merged in the same way",
            ),
            (
                "UPDATE public.t SET n = 0; "
                "SELECT pyreplica.set_merge('public.t', 'columns', '{m,n}')",
                "counter n began at 0 here and at 10",
            ),
        ):
            nodes.sql("b", statement)
            with pytest.raises(ApplyError, match=message):
                session.step()
            session.recover()
            nodes.sql("b", f"SELECT pyreplica.set_node('{other}')")


def test_a_node_that_is_copied_later_has_the_versions(slave_cluster: Cluster) -> None:
    with mesh(slave_cluster, "abc", TABLES, merge={"public.t": "columns"}) as nodes:
        old, new = [("a", "b"), ("b", "a")], [("c", "a"), ("c", "b"), ("b", "c")]
        # what c has written is not sent to anybody: it is empty
        nodes.sql("c", "SET session_replication_role = replica; DELETE FROM public.t")
        nodes.sql(
            "c",
            "CREATE OR REPLACE FUNCTION pyreplica.wall_clock() RETURNS bigint LANGUAGE sql "
            "AS 'SELECT 1::bigint'",
        )
        for way in old:
            copy(nodes.ways[way], rows=False)
        nodes.sql("a", "UPDATE public.t SET n = 1 WHERE id = 1")
        nodes.sql("b", "DELETE FROM public.t WHERE id = 2")
        for way in new:
            copy(nodes.ways[way], rows=False)
        with nodes.sessions(*old) as sessions:
            deliver(sessions)  # what b has not sent to c is on a now
        copy(nodes.ways["a", "c"])
        assert nodes.versions("c") == nodes.versions("a")
        with nodes.sessions() as sessions:
            nodes.sql("c", "UPDATE public.t SET n = 2 WHERE id = 1")
            nodes.sql("c", "INSERT INTO public.t (id, n) VALUES (2, 3)")
            deliver(sessions)
        assert [row["n"] for row in nodes.rows("a")] == [2, 3]
        for other in "bc":
            assert nodes.rows(other) == nodes.rows("a")
            assert nodes.versions(other) == nodes.versions("a")
        assert [nodes.conflicts(name) for name in nodes.dsns] == [[], [], []]
        nodes.sql("c", "SELECT pyreplica.set_merge('public.t', NULL)")
        with pytest.raises(Refused, match="is merged on the master, and not on the slave"):
            copy(nodes.ways["a", "c"], truncate=True)


def test_sequences_that_would_draw_the_same_numbers_are_found(nodes: Mesh) -> None:
    way = nodes.ways["a", "b"]
    problems = [one for one in check(way) if one.level == "problem"]
    assert [(one.side, one.text) for one in problems] == [
        ("public.t_id_seq", "master and slave may draw the same numbers from the sequence")
    ]
    for number, node in enumerate(nodes.dsns, 1):
        said = nodes.value(node, f"SELECT pyreplica.interleave_sequences({number}, 2)")
        assert said == f"public.t_id_seq: from {2 + number} by 2"
    assert not [one for one in check(way) if one.level == "problem"]
    nodes.everywhere(*["INSERT INTO public.t (n) VALUES (0)"] * 3)
    with nodes.sessions() as sessions:
        deliver(sessions)
    assert [row["id"] for row in nodes.rows("a")] == [*range(1, 9)]
    assert nodes.rows("a") == nodes.rows("b")


def test_daemons_and_writers_at_the_same_time(slave_cluster: Cluster) -> None:
    ways: dict[str, object] = {"public.t": {"counters": ["n"]}, "public.r": "last_update_wins"}
    tables = f"{TABLES} CREATE TABLE public.r (id integer PRIMARY KEY, who text, at integer)"
    with mesh(slave_cluster, "abc", tables, merge=ways) as nodes:
        nodes.begin()
        added = {name: [0, 0] for name in nodes.dsns}
        failures: list[BaseException] = []

        def write(name: str) -> None:
            try:
                with connect(nodes.dsns[name]) as writer:
                    for number in range(150):
                        row = 1 + number % 2
                        writer.execute(f"UPDATE public.t SET n = n + 1 WHERE id = {row}")
                        added[name][row - 1] += 1
                        writer.execute(
                            f"INSERT INTO public.r VALUES ({number % 7}, '{name}', {number}) "
                            "ON CONFLICT (id) DO UPDATE SET who = excluded.who, at = excluded.at"
                        )
                        if number % 5 == 0:
                            writer.execute(f"DELETE FROM public.r WHERE id = {number % 3}")
            except BaseException as error:
                failures.append(error)

        writers = [threading.Thread(target=write, args=[name]) for name in nodes.dsns]
        with ExitStack() as daemons:
            for way in nodes.ways.values():
                daemons.enter_context(running(way))
            for writer in writers:
                writer.start()
            for writer in writers:
                writer.join()
        assert not failures
        with nodes.sessions() as sessions:
            deliver(sessions)
        for other in "bc":
            for table in ("public.t", "public.r"):
                assert nodes.rows(other, table) == nodes.rows("a", table)
            assert nodes.versions(other) == nodes.versions("a")
        sums = [10 + sum(a[0] for a in added.values()), 20 + sum(a[1] for a in added.values())]
        assert [row["n"] for row in nodes.rows("a")] == sums


@pytest.mark.parametrize(
    ("policy", "wanted"), [("columns", (1, 1)), ("first_update_wins", (None, 1))]
)
def test_roles_that_are_no_superusers_merge(
    slave_cluster: Cluster, policy: str, wanted: tuple[int | None, int]
) -> None:
    reading, writing = f"merge_master_{os.getpid()}", f"merge_slave_{os.getpid()}"
    with mesh(slave_cluster, "ab", TABLES, merge={"public.t": policy}) as nodes:
        names = {node: nodes.value(node, "SELECT current_database()") for node in nodes.dsns}
        given = ("-v", f"master_role={reading}", "-v", f"slave_role={writing}")
        try:
            for name in names.values():
                slave_cluster.psql("-q", *given, "-f", str(ROLES), dbname=name)
            for (one, other), way in list(nodes.ways.items()):
                nodes.ways[one, other] = replace(
                    way,
                    master=slave_cluster.dsn(names[one], user=reading),
                    slave=slave_cluster.dsn(names[other], user=writing),
                )
            nodes.begin()
            with nodes.sessions() as sessions:
                nodes.sql("a", "UPDATE public.t SET n = 1", "DELETE FROM public.t WHERE id = 2")
                nodes.sql("b", "UPDATE public.t SET u = 1 WHERE id = 1")
                deliver(sessions)
            assert nodes.rows("a") == nodes.rows("b")
            assert [(row["u"], row["n"]) for row in nodes.rows("a")] == [wanted]
        finally:
            for name in names.values():
                for role in (reading, writing):
                    slave_cluster.psql("-qc", f"REASSIGN OWNED BY {role} TO postgres", dbname=name)
                    slave_cluster.psql("-qc", f"DROP OWNED BY {role}", dbname=name)
            for role in (reading, writing):
                slave_cluster.psql("-qc", f"DROP ROLE {role}")


def test_large_batches_of_merged_and_other_tables(slave_cluster: Cluster) -> None:
    tables = (
        "CREATE TABLE public.t (id integer PRIMARY KEY, a text, n bigint NOT NULL DEFAULT 0); "
        "CREATE TABLE public.o (id integer PRIMARY KEY, a text); "
        "INSERT INTO public.t SELECT g FROM generate_series(1, 2000) g"
    )
    merge = {"public.t": {"counters": ["n"]}}
    with mesh(slave_cluster, "ab", tables, merge=merge) as nodes:
        nodes.begin()
        nodes.sql(
            "a",
            "UPDATE public.t SET n = n + id",
            "INSERT INTO public.t SELECT g, 'new' FROM generate_series(2001, 5000) g",
            "INSERT INTO public.o SELECT g, 'other' FROM generate_series(1, 3000) g",
            "DELETE FROM public.t WHERE id % 10 = 0",
        )
        nodes.sql("b", "UPDATE public.t SET n = n - 1, a = 'b'")
        with nodes.sessions() as sessions:
            deliver(sessions)
        assert nodes.rows("a") == nodes.rows("b")
        assert nodes.versions("a") == nodes.versions("b")
        summed = nodes.value("b", "SELECT sum(n) FROM public.t WHERE id <= 2000")
        assert summed == sum(n - 1 for n in range(1, 2001) if n % 10)
        assert nodes.value("b", "SELECT count(*) FROM public.o") == 3000
        assert len(nodes.rows("a")) == 4500
