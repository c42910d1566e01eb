"""What each policy of merged tables does, with daemons; and what is settled by a person."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyreplica.demo.cluster import Cluster
from pyreplica.errors import ApplyError, DatabaseError, Refused
from pyreplica.model import Step
from pyreplica.replication.check import check
from pyreplica.replication.session import Session
from tests.integration.nodes import Mesh, deliver, merge_file, mesh
from tests.integration.test_docs import ROOT, blocks, section
from tests.support import copy, eventually, running

TABLE = """
CREATE TABLE public.t (id integer PRIMARY KEY, a text, n numeric);
INSERT INTO public.t VALUES (1, 'one', 1), (2, 'two', 2);
"""
CLOCK = """
CREATE OR REPLACE FUNCTION pyreplica.wall_clock() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT {}::bigint
$$
"""


@contextmanager
def nodes_of(
    cluster: Cluster, names: str, way: Any, table: str = TABLE, **options: Any
) -> Iterator[Mesh]:
    """Nodes, called by their letters, whose clocks say 1, 2, ... in this order."""
    with mesh(cluster, names, table, merge={"public.t": way}, **options) as made:
        made.name()
        for number, node in enumerate(names, 1):
            made.sql(node, CLOCK.format(number))
        made.begin()
        yield made


@contextmanager
def daemons(nodes: Mesh) -> Iterator[None]:
    """All replications run."""
    with ExitStack() as stack:
        for way in nodes.ways.values():
            stack.enter_context(running(way))
        yield


def values(nodes: Mesh, node: str) -> list[tuple[int, str]]:
    """The rows of a node, without n."""
    return [(row["id"], row["a"]) for row in nodes.rows(node) or []]


def all_have(nodes: Mesh, wanted: list[tuple[int, str]]) -> bool:
    """Whether all nodes have these rows."""
    return all(values(nodes, node) == wanted for node in nodes.dsns)


POLICIES = {
    "last_update_wins": ("last_update_wins", "c"),
    "first_update_wins": ("first_update_wins", "a"),
    "priority": ({"priority": ["b", "c"]}, "b"),
    "priority of one that is not there": ({"priority": ["d"]}, "a"),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_row_of_one_node_counts_on_all(slave_cluster: Cluster, policy: str) -> None:
    way, winner = POLICIES[policy]
    with nodes_of(slave_cluster, "abc", way) as nodes:
        for node in nodes.dsns:
            nodes.sql(node, f"UPDATE public.t SET a = '{node}' WHERE id = 1")
            nodes.sql(node, f"INSERT INTO public.t VALUES (3, '{node}')")
            deleted = f"DELETE FROM public.t WHERE id = 2 AND '{node}' = '{winner}'"
            nodes.sql(node, deleted, f"UPDATE public.t SET a = '{node}' WHERE id = 2")
        with daemons(nodes):
            eventually(lambda: all_have(nodes, [(1, winner), (3, winner)]), "they do not converge")
            # who writes the row then has seen all of them
            nodes.sql("c", "UPDATE public.t SET a = 'after' WHERE id = 1")
            nodes.sql("b", "INSERT INTO public.t VALUES (2, 'again')")
            wanted = [(1, "after"), (2, "again"), (3, winner)]
            eventually(lambda: all_have(nodes, wanted), "what was written later does not count")
        with nodes.sessions() as sessions:
            deliver(sessions)
        for node in "bc":
            assert nodes.versions(node) == nodes.versions("a")
        siblings = nodes.value(
            "a",
            "SELECT array_agg(key ->> 'id' ORDER BY key) FROM pyreplica.replica_row "
            "WHERE version ? 'siblings'",
        )
        assert siblings == (None if policy == "last_update_wins" else ["3"])
        # each node has met the other two, in each of the three rows
        for node in nodes.dsns:
            met = nodes.conflicts(node)
            assert {*met} <= {
                "update_origin_differs",
                "update_missing",
                "delete_origin_differs",
                "insert_exists",
            }
            assert 3 <= len(met) <= 6


@pytest.mark.parametrize("way", ["first_update_wins", {"priority": ["a", "b"]}])
def test_a_change_that_another_has_replaced_does_not_come_to_count(
    slave_cluster: Cluster, way: Any
) -> None:
    with nodes_of(slave_cluster, "abc", way) as nodes, nodes.sessions() as sessions:
        nodes.sql("a", "UPDATE public.t SET a = 'a' WHERE id = 1")
        nodes.sql("b", "UPDATE public.t SET a = 'b' WHERE id = 1")
        sessions["a", "c"].step()
        sessions["b", "c"].step()
        assert values(nodes, "c")[0] == (1, "a")
        nodes.sql("a", CLOCK.format(9), "UPDATE public.t SET a = 'a again' WHERE id = 1")
        # c has met the first change of a, and chosen it; b only meets the second
        deliver(sessions)
        winner = "b" if way == "first_update_wins" else "a again"
        assert [values(nodes, node)[0] for node in "abc"] == [(1, winner)] * 3
        assert nodes.versions("a") == nodes.versions("b") == nodes.versions("c")


def test_a_copy_has_the_rows_that_are_in_conflict(slave_cluster: Cluster) -> None:
    with mesh(slave_cluster, "abc", TABLE, merge={"public.t": "first_update_wins"}) as nodes:
        nodes.name()
        for number, node in enumerate("abc", 1):
            nodes.sql(node, CLOCK.format(number))
        nodes.sql("c", "SET session_replication_role = replica; DELETE FROM public.t")
        for way in (("a", "b"), ("b", "a")):
            copy(nodes.ways[way], rows=False)
        nodes.sql("a", "UPDATE public.t SET a = 'a' WHERE id = 1")
        nodes.sql("b", "UPDATE public.t SET a = 'b' WHERE id = 1")
        for way in (("c", "a"), ("c", "b"), ("b", "c")):
            copy(nodes.ways[way], rows=False)
        with nodes.sessions(("a", "b"), ("b", "a")) as sessions:
            deliver(sessions)
        copy(nodes.ways["a", "c"])
        assert nodes.versions("c") == nodes.versions("a") == nodes.versions("b")
        with nodes.sessions() as sessions:
            # of the two only a's is replaced by one that has not seen b's
            nodes.sql("c", "UPDATE public.t SET a = 'c' WHERE id = 2")
            deliver(sessions)
            nodes.sql("c", "UPDATE public.t SET a = 'c' WHERE id = 1")
            deliver(sessions)
        assert all_have(nodes, [(1, "c"), (2, "c")])


FUNCTION = """
from pyreplica.transform import MergeConflict


def merge(conflict: MergeConflict):
    assert conflict.table == "public.t" and isinstance(conflict.key["id"], int)
    assert list(conflict.nodes) == sorted(conflict.nodes)
    if None in conflict.rows:
        return None
    if conflict.key["id"] == 3:
        assert conflict.old is None
        return conflict.rows[-1]
    kept = dict(conflict.rows[0])
    kept["n"] = conflict.old["n"] + sum(row["n"] - conflict.old["n"] for row in conflict.rows)
    kept["a"] = "+".join(row["a"] for row in conflict.rows)
    return kept
"""


def test_a_function_makes_one_row_of_all(slave_cluster: Cluster, tmp_path: Path) -> None:
    way = {"function": merge_file(tmp_path, FUNCTION)}
    with nodes_of(slave_cluster, "abc", way) as nodes:
        assert ("public.t", "is merged by the function of " + way["function"]) in [
            (one.side, one.text) for one in check(nodes.ways["a", "b"])
        ]
        for number, node in enumerate(nodes.dsns, 1):
            # twice: what others have not seen is no row from which all have come
            nodes.sql(
                node,
                "UPDATE public.t SET n = n + 1 WHERE id = 1",
                f"UPDATE public.t SET a = '{node}', n = n + {10 * number} WHERE id = 1",
            )
            nodes.sql(node, f"INSERT INTO public.t VALUES (3, '{node}', 0.{number}0)")
        nodes.sql("a", "DELETE FROM public.t WHERE id = 2")
        nodes.sql("b", "UPDATE public.t SET a = 'b' WHERE id = 2")
        wanted = [(1, "a+b+c"), (3, "c")]
        with daemons(nodes):
            eventually(lambda: all_have(nodes, wanted), "they do not converge")
        with nodes.sessions() as sessions:
            deliver(sessions)
        for node in nodes.dsns:
            assert nodes.value(node, "SELECT n FROM public.t WHERE id = 1") == 1 + 3 + 60
            assert nodes.value(node, "SELECT n::text FROM public.t WHERE id = 3") == "0.30"
            assert nodes.versions(node) == nodes.versions("a")


def test_the_function_of_both_ways_md(slave_cluster: Cluster, tmp_path: Path) -> None:
    (code,) = blocks(section(ROOT / "docs" / "both-ways.md", "A function"), "python")
    table = (
        "CREATE TABLE public.t (id integer PRIMARY KEY, priority integer, stock integer, "
        "note text); "
        "INSERT INTO public.t VALUES (1, 1, 100, 'x'), (2, 1, 100, 'x')"
    )
    way = {"function": merge_file(tmp_path, code)}
    with nodes_of(slave_cluster, "ab", way, table) as nodes, nodes.sessions() as sessions:
        nodes.sql("a", "UPDATE public.t SET priority = 2, stock = stock - 10, note = 'a'")
        nodes.sql("b", "UPDATE public.t SET stock = stock - 1, note = 'b' WHERE id = 1")
        nodes.sql("b", "DELETE FROM public.t WHERE id = 2")
        deliver(sessions)
        assert nodes.rows("a") == nodes.rows("b")
        assert nodes.rows("a") == [{"id": 1, "priority": 2, "stock": 89, "note": "a"}]


FAULTS = {
    "raise ValueError('no idea')": r"it failed: ValueError: no idea, line 2$",
    "return None": "it has returned None, and nobody has deleted the row",
    "return 7": "what it has returned is no row: a int is no mapping",
    "return {'a': 'x'}": "it has returned a row without the column n",
    "return dict(conflict.rows[0], x=1)": "a row with a column that there is not: x",
    "return dict(conflict.rows[0], a=object())": "what it has returned is no row: a object is no",
}


def test_a_function_that_fails_stops_the_replication(
    slave_cluster: Cluster, tmp_path: Path
) -> None:
    way = {"function": merge_file(tmp_path, "def merge(conflict):\n    return 7\n")}
    with nodes_of(slave_cluster, "ab", way) as nodes:
        nodes.sql("a", "UPDATE public.t SET a = 'a' WHERE id = 1")
        nodes.sql("b", "UPDATE public.t SET a = 'b' WHERE id = 1")
        for code, message in FAULTS.items():
            merge_file(tmp_path, f"def merge(conflict):\n    {code}\n")
            with nodes.sessions(("a", "b")) as sessions:
                with pytest.raises(ApplyError, match=message) as raised:
                    sessions["a", "b"].step()
                assert raised.value.key == '{"id": "1"}'
                assert "has not merged public.t" in raised.value.what
        assert values(nodes, "b")[0] == (1, "b")
        merge_file(tmp_path, "def merge(conflict):\n    return conflict.rows[0]\n")
        with nodes.sessions() as sessions:
            deliver(sessions)
        assert all_have(nodes, [(1, "a"), (2, "two")])


def test_a_function_that_is_not_there_or_not_named_is_told(
    slave_cluster: Cluster, tmp_path: Path
) -> None:
    way = {"function": merge_file(tmp_path, "def other(conflict):\n    pass\n")}
    with nodes_of(slave_cluster, "ab", way) as nodes:
        config = nodes.ways["a", "b"]
        with pytest.raises(Refused, match=r"merge\.py has no function merge"):
            Session(config, lambda step, batch: None)
        assert ("merge", "problem") in [(one.side, one.level) for one in check(config)]
        nodes.sql("a", "UPDATE public.t SET a = 'a' WHERE id = 1")
        unnamed = replace(config, merge=())
        session = Session(unnamed, lambda step, batch: None)
        with pytest.raises(ApplyError, match="and the replication names none"):
            session.step()
        session.close()


def test_two_nodes_keep_the_rows_of_one(slave_cluster: Cluster) -> None:
    # the replication into a keeps a's rows, the one into b takes them
    ways = {
        "a": {"merge": {"public.t": "keep_local"}},
        "b": {"merge": {"public.t": "apply_remote"}},
    }
    with mesh(slave_cluster, "ab", TABLE, of=ways) as nodes:
        nodes.begin()
        nodes.sql("a", *changes("a"), "DELETE FROM public.t WHERE id = 2")
        nodes.sql("b", *changes("b"), "UPDATE public.t SET a = 'b' WHERE id = 2")
        with daemons(nodes):
            eventually(lambda: all_have(nodes, [(1, "a"), (3, "a")]), "they do not converge")
            nodes.sql("b", "UPDATE public.t SET a = 'later' WHERE id = 1")
            wanted = [(1, "later"), (3, "a")]
            eventually(lambda: all_have(nodes, wanted), "a later change does not count")


def changes(node: str) -> tuple[str, str]:
    """What a node does at the same time as the others."""
    return (
        f"UPDATE public.t SET a = '{node}' WHERE id = 1",
        f"INSERT INTO public.t VALUES (3, '{node}')",
    )


@pytest.mark.parametrize("way", ["keep_local", "apply_remote"])
def test_each_keeps_its_own_row_or_takes_the_others(slave_cluster: Cluster, way: str) -> None:
    with nodes_of(slave_cluster, "ab", way) as nodes, nodes.sessions() as sessions:
        nodes.sql("a", *changes("a"))
        nodes.sql("b", *changes("b"))
        deliver(sessions)
        own = [(1, "a"), (2, "two"), (3, "a")], [(1, "b"), (2, "two"), (3, "b")]
        wanted = own if way == "keep_local" else own[::-1]
        assert (values(nodes, "a"), values(nodes, "b")) == wanted
        resolution = nodes.value(
            "a", "SELECT array_agg(DISTINCT resolution) FROM pyreplica.replica_conflict"
        )
        assert resolution == ["skipped" if way == "keep_local" else "applied"]
        # the next change of the row, or a person, has them the same again
        nodes.sql("a", "UPDATE public.t SET a = 'same' WHERE id = 1")
        nodes.sql("b", """SELECT pyreplica.settle_row('public.t', '{"id": 3}')""")
        deliver(sessions)
        kept = "b" if way == "keep_local" else "a"
        assert all_have(nodes, [(1, "same"), (2, "two"), (3, kept)])


def settling(error: ApplyError) -> str:
    """The statement that the message of a conflict gives."""
    found = re.search(r"On the node whose row is to stay: (SELECT .*\)); all", error.hint)
    assert found, error.hint
    return found[1]


def deliver_again(sessions: dict[tuple[str, str], Session]) -> None:
    """Deliver as daemons do, of which some have to wait until something has come by another way."""
    for _ in range(2):
        for session in sessions.values():
            try:
                while session.step()[0]:
                    pass
            except ApplyError:
                session.recover()
    deliver(sessions)


@pytest.mark.parametrize("winner", ["a", "b", "c"])
def test_a_conflict_stops_until_somebody_settles_the_row(
    slave_cluster: Cluster, winner: str
) -> None:
    with (
        nodes_of(slave_cluster, "abc", "error", on_error="quarantine") as nodes,
        nodes.sessions() as sessions,
    ):
        nodes.sql("a", "UPDATE public.t SET a = 'a' WHERE id = 1")
        nodes.sql("b", "UPDATE public.t SET a = 'b' WHERE id = 1")
        nodes.sql("b", "DELETE FROM public.t", "INSERT INTO public.t VALUES (1, 'b')")
        sessions["a", "c"].step()
        for way in (("a", "b"), ("b", "a"), ("b", "c")):
            for _ in range(2):
                with pytest.raises(ApplyError, match=r"conflict on public\.t") as raised:
                    sessions[way].step()
                assert raised.value.key == '{"id": "1"}'
                sessions[way].recover()
        assert [values(nodes, node)[0][1] for node in "abc"] == ["a", "b", "a"]
        said = nodes.value(winner, settling(raised.value))
        assert said == 'public.t {"id": "1"}: the row as it is here goes to all nodes'
        deliver_again(sessions)
        assert all_have(nodes, [(1, "b" if winner == "b" else "a")])
        assert nodes.versions("a") == nodes.versions("b") == nodes.versions("c")
        nodes.sql("c", "UPDATE public.t SET a = 'on' WHERE id = 1")
        deliver(sessions)
        assert all_have(nodes, [(1, "on")])


def test_a_row_that_is_gone_on_one_node_can_be_gone_on_all(slave_cluster: Cluster) -> None:
    with nodes_of(slave_cluster, "ab", "error") as nodes, nodes.sessions() as sessions:
        nodes.sql("a", "DELETE FROM public.t")
        nodes.sql("b", "UPDATE public.t SET a = 'b' WHERE id = 1", "DELETE FROM public.t")
        # both have deleted them: that is no conflict that anybody had to settle
        deliver(sessions)
        assert nodes.conflicts("a") == ["delete_missing"] * 2
        nodes.everywhere("INSERT INTO public.t VALUES (3, 'three')")
        nodes.sql("a", "DELETE FROM public.t")
        with pytest.raises(ApplyError, match="conflict on") as raised:
            sessions["a", "b"].step()
        sessions["a", "b"].recover()
        said = nodes.value("a", settling(raised.value))
        assert said == 'public.t {"id": "3"}: there is no row, which goes to all nodes'
        deliver(sessions)
        assert nodes.rows("a") is None is nodes.rows("b")


def test_names_and_keys_are_quoted_in_the_statement(slave_cluster: Cluster) -> None:
    table = """CREATE TABLE public."T's" ("K k" text PRIMARY KEY, a text)"""
    merge = {"public.T's": "error"}
    with mesh(slave_cluster, "ab", table, merge=merge) as nodes:
        nodes.begin()
        for node in "ab":
            nodes.sql(
                node, f"""INSERT INTO public."T's" VALUES ('o''clo\\ck "%" {{x}}', '{node}')"""
            )
        with nodes.sessions() as sessions:
            with pytest.raises(ApplyError) as raised:
                sessions["a", "b"].step()
            sessions["a", "b"].recover()
            nodes.value("b", settling(raised.value))
            deliver_again(sessions)
        assert nodes.rows("a", """public."T's\"""") == nodes.rows("b", """public."T's\"""")


def test_what_was_settled_may_come_in_a_later_batch(slave_cluster: Cluster) -> None:
    with nodes_of(slave_cluster, "ab", "error") as nodes:
        nodes.sql("a", "UPDATE public.t SET a = 'a' WHERE id = 1")
        nodes.sql("b", "UPDATE public.t SET a = 'b' WHERE id = 1")
        statements: list[str] = []

        def observe(step: Step, batch: int) -> None:
            # the batch is read, and does not have what somebody writes now
            if step is Step.FETCHED and statements:
                nodes.value("a", statements.pop())

        with closing(Session(nodes.ways["a", "b"], observe)) as session:
            with pytest.raises(ApplyError) as raised:
                session.step()
            session.recover()
            statements.append(settling(raised.value))
            assert session.step()[0] == 1
            # a's first change is left out, and b's row stays until the other one comes
            assert values(nodes, "b")[0] == (1, "b")
            assert session.step()[0] == 1
        with nodes.sessions() as sessions:
            deliver(sessions)
        assert all_have(nodes, [(1, "a"), (2, "two")])
        assert nodes.versions("a") == nodes.versions("b")
        assert nodes.conflicts("b") == ["update_origin_differs"]


def test_daemons_go_on_when_a_row_is_settled(slave_cluster: Cluster) -> None:
    with nodes_of(slave_cluster, "ab", "error") as nodes:
        nodes.sql("a", "UPDATE public.t SET a = 'a' WHERE id = 1")
        nodes.sql("b", "UPDATE public.t SET a = 'b' WHERE id = 1")
        with nodes.sessions(("a", "b")) as sessions, pytest.raises(ApplyError) as raised:
            sessions["a", "b"].step()
        failing = "SELECT bool_or(state = 'failed') FROM pyreplica.replica_status"
        with daemons(nodes):
            eventually(lambda: nodes.value("a", failing), "b's conflict is not told on a")
            eventually(lambda: nodes.value("b", failing), "a's conflict is not told on b")
            # what is written meanwhile comes as well, when that is over
            nodes.sql("a", "INSERT INTO public.t VALUES (3, 'a')")
            nodes.sql("b", "INSERT INTO public.t VALUES (4, 'b')")
            nodes.value("b", settling(raised.value))
            wanted = [(1, "b"), (2, "two"), (3, "a"), (4, "b")]
            eventually(lambda: all_have(nodes, wanted), "they do not go on")


def test_what_cannot_be_settled_is_refused(slave_cluster: Cluster) -> None:
    with nodes_of(slave_cluster, "ab", "error", TABLE + "CREATE TABLE public.o ()") as nodes:
        for call, why in {
            "'public.o', '{}'": "table public.o is not merged",
            "'public.t', '{}'": "{} is no key of table",
            "'public.t', '{\"id\": 1}', '[]'": "these are no stamps",
            "'public.t', '{\"id\": 1}', '{\"a\": \"soon\"}'": "these are no stamps",
        }.items():
            with pytest.raises(DatabaseError, match=why):
                nodes.sql("a", f"SELECT pyreplica.settle_row({call})")
        with pytest.raises(DatabaseError, match="does not see the newest"):
            nodes.sql(
                "a",
                "BEGIN ISOLATION LEVEL REPEATABLE READ; "
                "SELECT pyreplica.settle_row('public.t', '{\"id\": 1}')",
            )
        nodes.sql("a", "SELECT pyreplica.set_merge('public.t', 'last_update_wins')")
        with pytest.raises(DatabaseError, match="are settled by its policy"):
            nodes.sql("a", """SELECT pyreplica.settle_row('public.t', '{"id": 1}', '{"b": 9}')""")
        assert nodes.value("a", "SELECT count(*) FROM pyreplica.replica_log") == 0


def test_nodes_with_another_list_are_refused_by_name(slave_cluster: Cluster) -> None:
    with nodes_of(slave_cluster, "ab", {"priority": ["a", "b"]}) as nodes:
        setting = "SELECT pyreplica.set_merge('public.t', 'priority', priority => '{}')"
        said = nodes.value("b", setting.format("{b,a}"))
        assert said == "public.t: is merged by priority: b, a; this node is b"
        nodes.sql("a", "UPDATE public.t SET a = 'a' WHERE id = 1")
        why = r'and on node a: priority {b,a} here, priority \["a", "b"\] there'
        with nodes.sessions(("a", "b")) as sessions, pytest.raises(ApplyError, match=why):
            sessions["a", "b"].step()
        said = nodes.value("b", setting.format("{c}"))
        assert said.endswith(
            "priority: c; this node is b, which is not listed and comes after these"
        )
        for call, why in {
            "'priority'": "a list of nodes",
            "'columns', priority => '{a}'": "a list of nodes",
            "'priority', priority => '{a,a}'": "a node is in the list twice",
            "'priority', priority => '{NULL}'": "or has no name",
        }.items():
            with pytest.raises(DatabaseError, match=why):
                nodes.sql("b", f"SELECT pyreplica.set_merge('public.t', {call})")
