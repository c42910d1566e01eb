"""Chains and trees: what is applied to a slave goes on to the slaves that it is the master of."""

from __future__ import annotations

import random
from functools import partial

import pytest

from pyreplica import sqlfiles
from pyreplica.errors import DatabaseError
from pyreplica.replication.addition import Addition
from pyreplica.replication.compare import compare
from pyreplica.replication.repair import repair
from pyreplica.replication.wait import wait
from tests.integration.cascade.conftest import Place
from tests.integration.cascade.support import Tree, both, log_end, logged, transfer, watched
from tests.integration.test_random_histories import STATEMENTS
from tests.integration.test_random_histories import TABLES as HISTORIES
from tests.support import LIMIT, Running, Silence, connect, copy, eventually, sql, value

HISTORY = "SELECT (SELECT json_agg(t ORDER BY t::text)::text FROM public.{} t)"


def moved(daemon: Running, batches: int) -> bool:
    """Whether it has committed so many batches."""
    return len(daemon.batches()) >= batches


@pytest.mark.usefixtures("apply_path")
def test_a_chain_of_three_ends_equal_and_the_leaf_sees_whole_transactions(chain: Tree) -> None:
    top = chain.dsns["top"]
    with chain.all_running(), watched(chain.dsns["leaf"], 4000), connect(top) as session:
        for number in range(60):
            session.execute(transfer(number))
        session.execute("TRUNCATE public.p_1")
        session.execute("INSERT INTO public.p VALUES (5, 'again'), (500, 'more')")
        session.execute("DELETE FROM public.p WHERE id = 5")
        session.execute("INSERT INTO public.p SELECT i, 'many' FROM generate_series(2000, 6000) i")
        session.execute("UPDATE public.p SET v = 'changed' WHERE id > 3000")
        chain.assert_equal()
        # what is written in the middle goes down, and not up
        sql(chain.dsns["mid"], "INSERT INTO public.p VALUES (7, 'of the middle')")
        chain.settle()
        assert value(chain.dsns["leaf"], "SELECT v FROM public.p WHERE id = 7") == "of the middle"
        assert value(top, "SELECT count(*) FROM public.p WHERE id = 7") == 0


@pytest.mark.usefixtures("apply_path")
def test_what_a_batch_does_is_logged_as_it_was_on_the_top_with_its_origin(chain: Tree) -> None:
    mid = chain.dsns["mid"]
    origin = value(mid, "SELECT id FROM pyreplica.replica_cursor")
    end = log_end(mid)
    with chain.all_running("top-mid"):
        sql(
            chain.dsns["top"],
            "BEGIN; DELETE FROM public.b WHERE id = 1; UPDATE public.b SET n = 1 WHERE id = 2; "
            "INSERT INTO public.b VALUES (50, 0), (51, 0); COMMIT",
        )
        wait(chain.edges["top-mid"], LIMIT)
        # several statements on one table at one moment: none of them is taken for another's part
        assert logged(mid, "b", end) == [(op, origin) for op in "DUII"]
        # values of another unique key change hands: the batch is judged, and rows are restated
        sql(
            chain.dsns["top"],
            "BEGIN; UPDATE public.b SET u = -1 WHERE id = 3; UPDATE public.b SET u = 3 "
            "WHERE id = 4; UPDATE public.b SET u = 4 WHERE id = 3; COMMIT",
        )
        wait(chain.edges["top-mid"], LIMIT)
    with chain.all_running("mid-leaf") as daemons:
        chain.assert_equal()
        assert daemons["mid-leaf"].said("conflict") == []


def test_only_a_session_that_may_silence_triggers_can_say_whose_changes_it_writes(
    chain: Tree,
) -> None:
    mid = chain.dsns["mid"]
    end = log_end(mid)
    with connect(mid) as session:
        session.execute("SET pyreplica.origin = 'top-mid'")
        session.execute("INSERT INTO public.a VALUES (100, 0)")
        # another program's session, such as one of logical replication
        session.execute("RESET pyreplica.origin; SET session_replication_role = replica")
        session.execute("INSERT INTO public.a VALUES (101, 0)")
        session.execute("SET pyreplica.origin = 'unknown'")
        session.execute("INSERT INTO public.a VALUES (102, 0)")
    assert logged(mid, "a", end) == [("I", None), ("I", None), ("I", 0)]


@pytest.mark.usefixtures("apply_path")
def test_a_replication_without_forward_gets_only_what_was_written_on_its_master(
    place: Place,
) -> None:
    tree = Tree(place("top", "mid", "plain", "leaf"))
    tree.grow(("top", "mid", False), ("mid", "leaf", True), ("mid", "plain", False))
    with tree.all_running() as daemons:
        sql(tree.dsns["top"], "UPDATE public.a SET v = 'of the top'")
        sql(tree.dsns["mid"], "INSERT INTO public.a VALUES (200, 0, 'of the middle')")
        tree.settle()
        assert value(tree.dsns["leaf"], "SELECT count(*) FROM public.a WHERE v LIKE 'of%'") == 21
        assert value(tree.dsns["plain"], "SELECT count(*) FROM public.a WHERE v LIKE 'of%'") == 1
        assert daemons["mid-plain"].said("conflict") == []


def test_changes_that_are_not_for_a_slave_do_not_keep_the_log(place: Place) -> None:
    tree = Tree(place("top", "mid", "plain"))
    mid = tree.dsns["mid"]
    sql(mid, sqlfiles.script("master-install.sql"), "SELECT pyreplica.set_forwarding(true)")
    tree.grow(("top", "mid", False), ("mid", "plain", False))
    confirmed = "SELECT log_id FROM pyreplica.replica_slave WHERE replication = 'mid-plain'"
    with tree.all_running():
        sql(tree.dsns["top"], "UPDATE public.a SET v = 'of the top'")
        wait(tree.edges["top-mid"], LIMIT)
        end = value(mid, "SELECT last_value FROM pyreplica.replica_log_id")
        assert end >= 20
        eventually(lambda: value(mid, confirmed) >= end, "the master is not told")
    assert value(tree.dsns["plain"], "SELECT count(*) FROM public.a WHERE v = 'of the top'") == 0


@pytest.mark.usefixtures("apply_path")
def test_random_histories_end_equal_in_a_whole_tree(place: Place) -> None:
    tree = Tree(place("top", "left", "right", "leaf1", "leaf2", "leaf3"))
    tree.grow(
        ("top", "left", False),
        ("top", "right", False),
        ("left", "leaf1", True),
        ("left", "leaf2", True),
        ("right", "leaf3", True),
        tables=HISTORIES,
        rows="SELECT 1",
    )
    drawn = random.Random(7)
    with tree.all_running() as daemons, connect(tree.dsns["top"]) as session:
        for _ in range(150):
            statement = drawn.choice(STATEMENTS)
            statement = statement.format(k=drawn.randint(1, 6), l=drawn.randint(1, 6))
            try:
                session.execute(statement)
                if drawn.random() < 0.5:
                    session.execute("COMMIT")
                    if drawn.random() < 0.5:
                        session.execute("BEGIN")
            except DatabaseError:
                session.rollback()
        session.execute("COMMIT")
        tree.settle()
        for table in "abc":
            found = {name: value(dsn, HISTORY.format(table)) for name, dsn in tree.dsns.items()}
            assert len(set(found.values())) == 1, found
        for made in tree.edges.values():
            assert all(result.equal for result in compare(made, timeout=LIMIT))
        assert [one for daemon in daemons.values() for one in daemon.said("conflict")] == []


def test_a_pair_that_replicates_both_ways_has_a_leaf(place: Place) -> None:
    dsns = place("one", "other", "leaf")
    tree = Tree(both(dsns))
    tree.grow(("one", "other", False), ("other", "one", False), ("other", "leaf", True))
    with tree.all_running() as daemons:
        for number in range(10):
            sql(dsns["one"], f"INSERT INTO public.a VALUES ({1000 + number}, 1, 'one')")
            sql(dsns["other"], f"INSERT INTO public.a VALUES ({2000 + number}, 1, 'other')")
        sql(dsns["one"], "UPDATE public.b SET n = 1")
        tree.settle()
        tree.assert_equal()
        assert value(dsns["leaf"], "SELECT count(*) FROM public.a WHERE id >= 1000") == 20
        assert [one for daemon in daemons.values() for one in daemon.said("conflict")] == []


def test_a_pair_may_forward_to_each_other_what_comes_from_elsewhere(place: Place) -> None:
    dsns = place("top", "one", "other", "leaf")
    tree = Tree(both(dsns))
    tree.grow(
        ("top", "one", False),
        ("other", "one", True),
        ("one", "other", True),
        ("other", "leaf", True),
    )
    with tree.all_running() as daemons:
        sql(dsns["top"], "INSERT INTO public.a VALUES (1000, 1, 'top')")
        sql(dsns["one"], "INSERT INTO public.a VALUES (1001, 1, 'one')")
        tree.settle()
        sql(dsns["other"], "INSERT INTO public.a VALUES (1002, 1, 'other')")
        tree.settle()
        for name in ("one", "other", "leaf"):
            assert value(dsns[name], "SELECT count(*) FROM public.a WHERE id >= 1000") == 3, name
        assert value(dsns["top"], "SELECT count(*) FROM public.a WHERE id >= 1000") == 1
        assert [one for daemon in daemons.values() for one in daemon.said("conflict")] == []


@pytest.mark.usefixtures("apply_path")
def test_a_leaf_that_was_down_catches_up_while_the_others_go_on(chain: Tree) -> None:
    top = chain.dsns["top"]
    with chain.all_running("top-mid"), connect(top) as session:
        for number in range(30):
            session.execute(transfer(number))
        for number in range(1, 6):
            session.execute(
                "INSERT INTO public.p SELECT i, 'many' "
                f"FROM generate_series({number}2000, {number}8000) i"
            )
            session.execute("UPDATE public.p SET v = v || '+' WHERE id % 7 = 0")
        wait(chain.edges["top-mid"], LIMIT)
        with chain.all_running("mid-leaf") as daemons, watched(chain.dsns["leaf"], 4000):
            for number in range(30, 60):
                session.execute(transfer(number))
            chain.assert_equal()
            assert daemons["mid-leaf"].said("conflict") == []


def test_copying_the_middle_anew_goes_down_to_the_leaf(chain: Tree) -> None:
    # the middle has strayed from the top, and the leaf with it
    with chain.all_running("mid-leaf") as daemons:
        sql(
            chain.dsns["mid"],
            "DELETE FROM public.a WHERE id < 5",
            "INSERT INTO public.b VALUES (900, 0)",
        )
        chain.settle()
        sql(chain.dsns["top"], "UPDATE public.a SET v = 'meanwhile'")
        copy(chain.edges["top-mid"], truncate=True)
        with chain.all_running("top-mid"):
            sql(chain.dsns["top"], "UPDATE public.b SET n = n + 1 WHERE id = 7")
            chain.assert_equal()
        assert daemons["mid-leaf"].said("conflict") == []


@pytest.mark.usefixtures("apply_path")
def test_a_table_is_added_along_the_chain(chain: Tree) -> None:
    more = "CREATE TABLE public.more (id integer PRIMARY KEY, v text)"
    for dsn in chain.dsns.values():
        sql(dsn, more)
    insert = "INSERT INTO public.more SELECT i, 'x' FROM generate_series({}, {}) i"
    sql(chain.dsns["top"], insert.format(1, 50))
    with chain.all_running() as daemons:
        for daemon in daemons.values():
            daemon.until_said("connected, at batch")
        for number, name in enumerate(("top-mid", "mid-leaf")):
            (added,) = Addition(chain.edges[name], ["public.more"], Silence()).run()
            assert added.state == "in step"
            start = 100 * (number + 1)
            sql(chain.dsns["top"], insert.format(start, start + 50))
        chain.assert_equal()
        count = "SELECT count(*) FROM public.more"
        assert [value(dsn, count) for dsn in chain.dsns.values()] == [152] * 3


def test_the_leaf_is_compared_and_repaired_while_the_top_is_written(chain: Tree) -> None:
    leaf = chain.edges["mid-leaf"]
    with chain.all_running() as daemons, connect(chain.dsns["top"]) as session:
        for daemon in daemons.values():
            daemon.until_said("connected, at batch")
        chain.settle()
        sql(chain.dsns["leaf"], "UPDATE public.a SET v = 'strayed' WHERE id = 20")
        for number in (*range(19), *range(20, 30)):  # none of them writes that row
            session.execute(transfer(number))
        results = {result.table: result for result in compare(leaf, timeout=LIMIT)}
        assert not results["public.a"].equal
        repair(leaf, apply=True)
        for number in range(100, 110):
            session.execute(transfer(number))
        chain.assert_equal()


def test_the_daemon_of_the_leaf_is_woken_when_a_batch_is_committed(chain: Tree) -> None:
    mid = chain.dsns["mid"]
    database = value(mid, "SELECT current_database()")
    # else it would look ten times a second: nobody rings where transactions can be prepared
    sql(mid, f'ALTER DATABASE "{database}" SET pyreplica.notify = on')
    assert chain.edges["mid-leaf"].keepalive >= LIMIT
    with chain.all_running() as daemons:
        for number in range(3):
            for daemon in daemons.values():
                daemon.until_asleep()
            assert value(mid, "SELECT last_value > 1 FROM pyreplica.doorbell")
            sql(chain.dsns["top"], f"INSERT INTO public.a VALUES ({100 + number}, 0)")
            daemons["mid-leaf"].until(partial(moved, daemons["mid-leaf"], number + 1), "it sleeps")
        assert daemons["top-mid"].said("NOTIFY") == []
        chain.assert_equal()


def test_the_log_of_the_middle_is_looked_after_by_the_daemon_that_writes_it(
    chain: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyreplica.replication.loop.ROTATE_EVERY", 0.0)
    mid = chain.dsns["mid"]
    sql(mid, "UPDATE pyreplica.replica_slave SET max_log_size = 1000")
    # nobody else writes there, and no daemon of the leaf runs
    with chain.all_running("top-mid") as daemons:
        for number in range(20):
            sql(chain.dsns["top"], transfer(number))
            wait(chain.edges["top-mid"], LIMIT)
        eventually(
            lambda: value(mid, "SELECT state FROM pyreplica.replica_slave") == "dropped",
            lambda: str(daemons["top-mid"].lines[-5:]),
        )
