"""What dies in the middle of a chain, at whatever moment: the leaf has every change once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyreplica.demo.cluster import Cluster
from pyreplica.model import Step
from pyreplica.replication.wait import wait
from tests.integration.cascade.support import Tree, transfer, watched
from tests.support import LIMIT, cursors, eventually, running, sql, stalling_daemon, value


def test_the_daemons_of_the_middle_are_killed_at_each_step_of_a_batch(
    chain: Tree, tmp_path: Path
) -> None:
    numbers = iter(range(1000))
    for name in ("top-mid", "mid-leaf"):
        other = "mid-leaf" if name == "top-mid" else "top-mid"
        for step in (Step.FETCHED, Step.PREPARED, Step.CONFIRMED, Step.COMMITTED):
            with running(chain.edges[other]), watched(chain.dsns["leaf"], 4000):
                _, before = cursors(chain.edges[name])
                path = chain.path(tmp_path, name)
                with stalling_daemon(path, step, before.batch + 1) as daemon:
                    for _ in range(3):
                        sql(chain.dsns["top"], transfer(next(numbers)))
                    daemon.until_said("stalled")
                    daemon.kill()
                with running(chain.edges[name]) as daemon_:
                    sql(chain.dsns["top"], transfer(next(numbers)))
                    chain.assert_equal()
                    assert daemon_.said("conflict") == []


@pytest.mark.usefixtures("apply_path")
def test_the_servers_crash_while_the_chain_is_at_work(chain: Tree, slave_cluster: Cluster) -> None:
    with chain.all_running() as daemons:
        for turn in range(3):
            for number in range(20 * turn, 20 * turn + 20):
                sql(chain.dsns["top"], transfer(number))
            slave_cluster.stop("immediate")
            for daemon in daemons.values():
                daemon.until_said("connection lost")
            slave_cluster.start()
        chain.assert_equal()
        for daemon in daemons.values():
            assert daemon.said("conflict") == []


def test_a_batch_in_doubt_in_the_middle_is_not_seen_by_the_leaf_until_it_is_decided(
    chain: Tree, tmp_path: Path
) -> None:
    top, leaf = chain.dsns["top"], chain.dsns["leaf"]
    _, before = cursors(chain.edges["top-mid"])
    with running(chain.edges["mid-leaf"]) as lower:
        path = chain.path(tmp_path, "top-mid")
        with stalling_daemon(path, Step.CONFIRMED, before.batch + 1) as daemon:
            sql(top, "INSERT INTO public.a VALUES (100, 0, 'in doubt')")
            daemon.until_said("stalled")
            # what the middle writes meanwhile goes on, and is committed before it
            sql(chain.dsns["mid"], "INSERT INTO public.a VALUES (200, 0, 'later')")
            wait(chain.edges["mid-leaf"], LIMIT)
            ids = "SELECT array_agg(id ORDER BY id) FROM public.a WHERE id >= 100"
            assert value(leaf, ids) == [200]
            daemon.kill()
        with running(chain.edges["top-mid"]):
            eventually(lambda: value(leaf, ids) == [100, 200], "it does not come to the leaf")
        assert lower.said("conflict") == []
