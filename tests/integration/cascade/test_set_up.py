"""What chains and trees may look like, how they are set up, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pyreplica.demo.cluster import Cluster
from pyreplica.errors import DatabaseError, Refused
from pyreplica.replication.setup import install, uninstall
from pyreplica.replication.wait import wait
from tests.integration.cascade.conftest import Place
from tests.integration.cascade.support import (
    ROWS,
    TABLES,
    Tree,
    both,
    contents,
    log_end,
    logged,
    transfer,
)
from tests.support import LIMIT, connect, copy, daemon, eventually, pyreplica, running, sql, value

ROLES = Path(__file__).parents[3] / "sql" / "roles.sql"
FIRES = (
    "SELECT DISTINCT g.tgenabled::text FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid "
    "WHERE p.pronamespace = 'pyreplica'::regnamespace AND p.proname LIKE 'capture%' "
    "AND g.tgrelid <> ALL (ARRAY(SELECT c.oid FROM pg_class c "
    "WHERE c.relnamespace = 'pyreplica'::regnamespace))"
)


def refused(act: Callable[[], object]) -> str:
    """The message and the hint of what is refused."""
    with pytest.raises(Refused) as caught:
        act()
    return f"{caught.value.line} {caught.value.hint}"


def fires(dsn: str) -> list[str]:
    """In which sessions the capture triggers fire: O in ordinary ones, A in all."""
    with connect(dsn) as session:
        return [how for (how,) in session.query(FIRES)]


def test_a_ring_is_refused_by_the_copy_that_would_close_it(place: Place) -> None:
    tree = Tree(both(place("one", "two", "three")))
    tree.grow(("one", "two", False), ("two", "three", True))
    with tree.all_running():
        sql(tree.dsns["one"], "UPDATE public.a SET v = 'x'")
        tree.settle()
    closing = tree.edge("three", "one", forward=True)
    install(closing)
    said = refused(lambda: copy(closing, truncate=True))
    assert "would come back to it: two-three brings it to the master" in said
    assert "Take `forward: true` away from one of the replications on that way" in said
    # without that it is a ring in which nothing goes round
    tree.edge("three", "one")
    copy(tree.edges["three-one"], truncate=True)
    with tree.all_running() as daemons:
        sql(tree.dsns["three"], "INSERT INTO public.a VALUES (300, 0, 'three')")
        sql(tree.dsns["one"], "INSERT INTO public.a VALUES (100, 0, 'one')")
        tree.settle()
        tree.settle()
        ids = "SELECT array_agg(id ORDER BY id) FROM public.a WHERE id >= 100"
        found = {name: value(dsn, ids) for name, dsn in tree.dsns.items()}
        assert found == {"one": [100, 300], "two": [100], "three": [100, 300]}
        assert [one for daemon in daemons.values() for one in daemon.said("conflict")] == []


def test_a_ring_that_nobody_knows_of_yet_is_found_before_a_change_goes_round(place: Place) -> None:
    tree = Tree(place("one", "two", "three"))
    for dsn in tree.dsns.values():
        sql(dsn, TABLES)
    edges = (("one", "two"), ("two", "three"), ("three", "one"))
    for master, slave in edges:
        install(tree.edge(master, slave, forward=True))
    # in the order in which none can know of those before it
    for master, slave in reversed(edges):
        copy(tree.edges[f"{master}-{slave}"])
    with tree.all_running() as daemons:
        sql(tree.dsns["one"], "INSERT INTO public.a VALUES (1, 0)")
        eventually(
            lambda: any(daemon.error is not None for daemon in daemons.values()),
            "nobody has found the ring",
        )
        errors = [daemon.error for daemon in daemons.values() if daemon.error is not None]
        assert all("would come back to it" in error.line for error in errors), errors
        assert [one for daemon in daemons.values() for one in daemon.said("conflict")] == []
        assert logged(tree.dsns["one"], "a") == [("I", None)]


def test_a_change_that_would_come_twice_is_refused(place: Place) -> None:
    tree = Tree(place("top", "mid", "leaf"))
    tree.grow(("top", "mid", False), ("mid", "leaf", True))
    twice = tree.edge("top", "leaf")
    install(twice)
    said = refused(lambda: copy(twice, truncate=True))
    assert "to table public.a would come here twice" in said
    assert "with this replication and with mid-leaf" in said
    # of other tables it may
    only = replace(twice, tables=("public.other",))
    for name in ("top", "leaf"):
        sql(tree.dsns[name], "CREATE TABLE public.other (id integer PRIMARY KEY)")
    install(only)
    copy(only)


def test_what_was_not_captured_is_not_missed_quietly(place: Place) -> None:
    tree = Tree(place("top", "mid", "leaf"))
    tree.grow(("top", "mid", False))
    plain = Tree(both(tree.dsns)).edge("mid", "leaf")
    install(plain)
    copy(plain, truncate=True)
    assert fires(tree.dsns["mid"]) == ["O"]
    leaf = tree.edge("mid", "leaf", forward=True)
    said = refused(lambda: copy(leaf, truncate=True))
    assert "what other replications apply to the master is not captured there" in said
    assert "Run `pyreplica install mid-leaf`." in said
    lines = [line.text for line in install(leaf)]
    assert "master: what other replications apply here is forwarded" in lines
    assert fires(tree.dsns["mid"]) == ["A"]
    # it was copied when nothing was forwarded
    with running(leaf) as daemon:
        daemon.until(lambda: daemon.error is not None, "it does not end")
        assert daemon.error is not None
        assert "the slave was copied without `forward: true`" in daemon.error.line
    copy(leaf, truncate=True)
    with pytest.raises(DatabaseError, match="forwarded for the slaves of mid-leaf"):
        sql(tree.dsns["mid"], "SELECT pyreplica.set_forwarding(false)")
    # who has gone without it for a while has to be copied again
    with running(plain) as daemon:
        daemon.until_asleep()
    sql(tree.dsns["mid"], "SELECT pyreplica.set_forwarding(false)")
    assert fires(tree.dsns["mid"]) == ["O"]
    install(leaf)
    with running(leaf) as daemon:
        daemon.until(lambda: daemon.error is not None, "it does not end")


def test_check_says_what_is_missing(chain: Tree, tmp_path: Path) -> None:
    path = chain.path(tmp_path, "mid-leaf")
    assert "what other replications apply to it is forwarded" in pyreplica(path, "check").stdout
    sql(
        chain.dsns["mid"],
        "UPDATE pyreplica.replica_slave SET forward = false",
        "SELECT pyreplica.set_forwarding(false)",
    )
    done = pyreplica(path, "check", code=None)
    assert done.returncode != 0
    assert "is not captured on all tables" in done.stdout
    assert "Run `pyreplica install mid-leaf`" in done.stdout
    pyreplica(path, "install")
    assert "is forwarded" in pyreplica(path, "check").stdout


def test_the_lower_replication_may_be_installed_first(place: Place) -> None:
    tree = Tree(place("top", "mid", "leaf"))
    for dsn in tree.dsns.values():
        sql(dsn, TABLES)
    sql(tree.dsns["top"], ROWS)
    lower, upper = tree.edge("mid", "leaf", forward=True), tree.edge("top", "mid")
    for made in (lower, upper):
        install(made)
    copy(lower)
    # what is copied to the middle goes down as well
    copy(upper, truncate=True)
    with tree.all_running():
        sql(tree.dsns["top"], "UPDATE public.a SET v = 'x'")
        wait(upper, LIMIT)
        tree.assert_equal()


def test_tables_and_partitions_that_come_later_forward_as_well(chain: Tree) -> None:
    mid = chain.dsns["mid"]
    sql(
        mid,
        "CREATE TABLE public.late (id integer PRIMARY KEY)",
        "SELECT pyreplica.add_table('public.late')",
        "CREATE TABLE public.p_3 PARTITION OF public.p FOR VALUES FROM (1000000) TO (2000000)",
        "ALTER TABLE public.a ADD COLUMN more text",
    )
    assert fires(mid) == ["A"]
    assert value(
        mid, "SELECT bool_and(pyreplica.stands(id)) FROM pyreplica.replica_table t WHERE t.active"
    )
    end = log_end(mid)
    with connect(mid) as session:
        session.execute("SET session_replication_role = replica; SET pyreplica.origin = 'top-mid'")
        session.execute("INSERT INTO public.late VALUES (1)")
        session.execute("INSERT INTO public.p VALUES (1000001, 'x')")
        session.execute("UPDATE public.a SET more = 'x' WHERE id = 1")
    assert [logged(mid, table, end) for table in ("late", "p", "a")] == [
        [("I", 1)],
        [("I", 1)],
        [("U", 1)],
    ]


def test_neither_a_trigger_nor_ddl_of_the_forwarding_is_for_others(chain: Tree) -> None:
    mid = chain.dsns["mid"]
    for how in ("ENABLE", "DISABLE", "ENABLE REPLICA"):
        with pytest.raises(DatabaseError, match="for PyReplica and cannot be disabled"):
            sql(mid, f"ALTER TABLE public.a {how} TRIGGER pyreplica_insert")
    with pytest.raises(DatabaseError, match="only by the daemon that runs it"):
        sql(mid, "SELECT pyreplica.forward_ddl('{}')")


@pytest.mark.usefixtures("apply_path")
def test_ddl_goes_down_the_chain(place: Place, tmp_path: Path) -> None:
    tree = Tree(place("top", "mid", "leaf"), ddl="replicate")
    tree.grow(("top", "mid", False), ("mid", "leaf", True))
    top = tree.dsns["top"]
    script = tmp_path / "script.sql"
    script.write_text(
        "ALTER TABLE public.b ADD COLUMN w text DEFAULT 'w'; UPDATE public.b SET w = 'x' "
        "WHERE id < 5; CREATE TYPE public.mood AS ENUM ('calm');",
        encoding="utf-8",
    )
    with tree.all_running() as daemons:
        for daemon in daemons.values():
            daemon.until_said("connected, at batch")  # then its master knows that it wants DDL
        sql(
            top,
            "ALTER TABLE public.a ADD COLUMN more integer DEFAULT 7",
            "UPDATE public.a SET more = 8 WHERE id = 3",
            "CREATE TABLE public.p_3 PARTITION OF public.p FOR VALUES FROM (1000000) TO (2000000)",
            "INSERT INTO public.p VALUES (1000001, 'x')",
        )
        pyreplica(tree.path(tmp_path, "top-mid"), "execute", str(script))
        sql(top, "ALTER TYPE public.mood ADD VALUE 'wild'")
        sql(top, "ALTER TABLE public.a ADD COLUMN mood public.mood")
        sql(top, "UPDATE public.a SET mood = 'wild' WHERE id = 4")
        sql(top, "DROP TABLE public.p_1")
        tree.assert_equal()
        for name in ("mid", "leaf"):
            assert value(tree.dsns[name], "SELECT more FROM public.a WHERE id = 3") == 8
        assert [one for daemon in daemons.values() for one in daemon.said("conflict")] == []


def test_either_side_of_the_middle_can_be_uninstalled(chain: Tree) -> None:
    mid = chain.dsns["mid"]
    uninstall(chain.edges["mid-leaf"])
    with chain.all_running("top-mid") as daemons:
        sql(chain.dsns["top"], "UPDATE public.a SET v = 'x'")
        wait(chain.edges["top-mid"], LIMIT)
        assert daemons["top-mid"].said("ERROR") == []
    assert fires(mid) == []
    install(chain.edges["mid-leaf"])
    copy(chain.edges["mid-leaf"], truncate=True)
    with chain.all_running() as daemons:
        sql(chain.dsns["top"], "UPDATE public.a SET v = 'y'")
        chain.assert_equal()
    uninstall(chain.edges["top-mid"])
    with chain.all_running("mid-leaf") as daemons:
        sql(mid, "UPDATE public.a SET v = 'z'")
        wait(chain.edges["mid-leaf"], LIMIT)
        assert value(chain.dsns["leaf"], "SELECT count(*) FROM public.a WHERE v = 'z'") == 20
        assert daemons["mid-leaf"].error is None


def test_daemons_that_are_no_superusers_forward(place: Place, slave_cluster: Cluster) -> None:
    dsns = place("top", "mid", "leaf")
    tree = Tree(dsns)
    tree.grow(("top", "mid", False), ("mid", "leaf", True))
    upper, lower = "cascade_upper", "cascade_lower"
    names = {name: str(value(dsn, "SELECT current_database()")) for name, dsn in dsns.items()}
    try:
        for name in dsns:
            slave_cluster.psql(
                *("-v", f"master_role={lower}", "-v", f"slave_role={upper}"),
                *("-v", "tables=own", "-f", str(ROLES)),
                dbname=names[name],
            )
        as_roles = {
            ("top", "mid", False): (lower, upper),
            ("mid", "leaf", True): (lower, upper),
        }
        for (master, slave, forward), (reader, writer) in as_roles.items():
            tree.dsns = {
                **dsns,
                master: slave_cluster.dsn(names[master], user=reader),
                slave: slave_cluster.dsn(names[slave], user=writer),
            }
            tree.edge(master, slave, forward=forward)
        with tree.all_running() as daemons:
            for number in range(5):
                sql(dsns["top"], transfer(number))
            wait(tree.edges["top-mid"], LIMIT)
            wait(tree.edges["mid-leaf"], LIMIT)
            assert contents(dsns["leaf"]) == contents(dsns["top"])
            for daemon in daemons.values():
                assert daemon.said("permission denied") == []
    finally:
        for role in (upper, lower):
            for name in names.values():
                slave_cluster.psql(
                    *("-qc", f"REASSIGN OWNED BY {role} TO postgres"),
                    *("-c", f"DROP OWNED BY {role}"),
                    dbname=name,
                )
            slave_cluster.psql("-qc", f"DROP OWNED BY {role}", "-c", f"DROP ROLE {role}")


def test_the_steps_of_the_documentation_make_a_chain(place: Place, tmp_path: Path) -> None:
    tree = Tree(place("top", "mid", "leaf"))
    sql(tree.dsns["top"], TABLES, ROWS)
    replications = {
        "top-mid": {"master": tree.dsns["top"], "slave": tree.dsns["mid"], "guard": True},
        "mid-leaf": {"master": tree.dsns["mid"], "slave": tree.dsns["leaf"], "forward": True},
    }
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump({"replications": replications}), encoding="utf-8")
    path.chmod(0o600)
    pyreplica(path, "install")
    pyreplica(path, "copy", "top-mid", "--schema")
    with running(replace(tree.edge("top", "mid"), guard=True)) as guarding:
        guarding.until_asleep()
    pyreplica(path, "install", "mid-leaf")
    pyreplica(path, "copy", "mid-leaf", "--schema")
    with daemon(path):
        sql(tree.dsns["top"], *(transfer(number) for number in range(5)))
        for name in ("top-mid", "mid-leaf"):
            pyreplica(path, "wait", name)
    assert contents(tree.dsns["leaf"]) == contents(tree.dsns["top"])
    triggers = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pyreplica%' AND tgrelid = {}"
    assert value(tree.dsns["leaf"], triggers.format("'public.a'::regclass")) == 0
    assert value(tree.dsns["mid"], triggers.format("'public.a'::regclass")) > 4
