"""`map:` other names on the slave, constants, and several masters in one table of the slave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.errors import Refused
from pyreplica.replication.addition import Addition
from pyreplica.replication.compare import compare
from pyreplica.replication.conflicts import listed
from pyreplica.replication.repair import repair
from pyreplica.replication.setup import install
from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.support import (
    Silence,
    assert_same,
    config,
    config_file,
    connect,
    connected,
    copied,
    copy,
    pyreplica,
    running,
    sql,
    value,
)

MASTER = """
    CREATE TABLE public.item (id integer PRIMARY KEY, price numeric, name text UNIQUE, note text);
    INSERT INTO public.item SELECT i, i, 'name ' || i, 'note' FROM generate_series(1, 9) i;
    CREATE TABLE public.other (id serial PRIMARY KEY, v text);
    INSERT INTO public.other (v) VALUES ('a'), ('b')
"""
SLAVE = """
    CREATE SCHEMA shop;
    CREATE SCHEMA archive;
    CREATE TABLE archive.goods (
        number bigint PRIMARY KEY, amount numeric, name text UNIQUE, note text,
        price text DEFAULT 'the slave''s own');
    CREATE TABLE shop.other (id serial PRIMARY KEY, v text);
    CREATE TABLE public.item (id integer PRIMARY KEY, v text);
    INSERT INTO public.item VALUES (1, 'of the slave alone');
    CREATE SEQUENCE public.other_id_seq
"""
MAP: dict[str, Any] = {
    "schemas": {"public": "shop"},
    "tables": {"public.item": "archive.goods"},
    "columns": {"public.item": {"id": "number", "price": "amount"}},
}


def mapped(databases: Databases, **options: Any) -> ReplicationConfig:
    """A replication with other names on the slave, copied."""
    return copied(databases, MASTER, slave=SLAVE, map=MAP, **options)


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with connect(dsn) as session:
        return session.query(query)


# Names


@pytest.mark.usefixtures("apply_path")
def test_every_kind_of_change_goes_to_the_table_and_columns_of_other_names(
    databases: Databases,
) -> None:
    made = mapped(databases)
    with running(made):
        sql(
            databases.master,
            "BEGIN",
            "INSERT INTO public.item VALUES (10, 1.50, 'ten', NULL), (11, NULL, 'eleven', '')",
            "UPDATE public.item SET price = price + 1 WHERE id < 4",
            "UPDATE public.item SET note = 'changed' WHERE id = 5",
            "UPDATE public.item SET id = 60, price = 66 WHERE id = 6",
            # values of another unique key change hands
            "UPDATE public.item SET name = 'none' WHERE id = 1",
            "UPDATE public.item SET name = 'name 1' WHERE id = 8",
            "UPDATE public.item SET name = 'name 8' WHERE id = 1",
            "DELETE FROM public.item WHERE id IN (4, 7)",
            "INSERT INTO public.other (v) VALUES ('c')",
            "COMMIT",
        )
        assert_same(made)
        assert value(databases.slave, "SELECT v FROM public.item") == "of the slave alone"
        assert rows(
            databases.slave,
            "SELECT number, amount::text, note, price FROM archive.goods WHERE number IN (1, 60)"
            " ORDER BY number",
        ) == [(1, "2", "note", "the slave's own"), (60, "66", "note", "the slave's own")]
        sql(
            databases.master,
            "BEGIN",
            "INSERT INTO public.item VALUES (12)",
            "TRUNCATE public.item",
            "INSERT INTO public.item VALUES (13, 1, 'x', 'y')",
            "COMMIT",
        )
        assert_same(made)
    assert value(databases.slave, "SELECT array_agg(number) FROM archive.goods") == [13]
    assert value(databases.slave, "SELECT count(*) FROM public.item") == 1


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO public.item SELECT i, i, i, NULL FROM generate_series(100, 3000) i",
        "UPDATE public.big SET price = price + 1",
        "DELETE FROM public.big WHERE id > 10",
    ],
)
def test_large_batches_of_one_kind_know_the_names(databases: Databases, statement: str) -> None:
    big = """;
        CREATE TABLE {name} ({id} integer PRIMARY KEY, {price} numeric)"""
    made = copied(
        databases,
        MASTER
        + big.format(name="public.big", id="id", price="price")
        + ";INSERT INTO public.big SELECT i, i FROM generate_series(1, 3000) i",
        slave=SLAVE + big.format(name="shop.big", id="number", price="amount"),
        map={
            **MAP,
            "columns": {
                **MAP["columns"],
                "public.big": {"id": "number", "price": "amount"},
            },
        },
    )
    with running(made):
        sql(databases.master, statement)
        assert_same(made)


def test_what_only_the_slave_has_stays_when_rows_are_taken_out_and_put_back(
    databases: Databases,
) -> None:
    made = mapped(databases)
    sql(databases.slave, "UPDATE archive.goods SET price = 'own ' || number")
    with running(made):
        sql(
            databases.master,
            "BEGIN",
            "UPDATE public.item SET name = 'none', price = 77 WHERE id = 1",
            "UPDATE public.item SET name = 'name 1', price = 88 WHERE id = 2",
            "UPDATE public.item SET name = 'name 2', price = 99 WHERE id = 1",
            "COMMIT",
        )
        assert_same(made)
    assert rows(
        databases.slave,
        "SELECT number, amount::text, price FROM archive.goods WHERE number < 3 ORDER BY 1",
    ) == [(1, "99", "own 1"), (2, "88", "own 2")]


def test_a_column_that_is_new_fills_the_mapped_table_s_rows(databases: Databases) -> None:
    made = mapped(databases)
    sql(databases.slave, "ALTER TABLE archive.goods ADD extra text")
    changed = replace(
        made, map=replace(made.map, columns={("public", "item"): {**COLUMNS, "e": "extra"}})
    )
    with running(changed):
        # of a time when the table did not have it
        sql(databases.master, "UPDATE public.item SET note = 'before' WHERE id = 1")
        sql(databases.master, "ALTER TABLE public.item ADD e text DEFAULT 'filled'")
        sql(databases.master, "UPDATE public.item SET e = 'changed' WHERE id = 2")
        assert_same(changed)
    assert value(databases.slave, "SELECT count(*) FROM archive.goods WHERE extra = 'filled'") == 8


COLUMNS = MAP["columns"]["public.item"]


def test_a_partition_that_is_dropped_takes_the_rows_of_the_mapped_table_along(
    databases: Databases,
) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.p (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE public.p1 PARTITION OF public.p FOR VALUES FROM (0) TO (10);"
        "CREATE TABLE public.p2 PARTITION OF public.p FOR VALUES FROM (10) TO (20);"
        "INSERT INTO public.p SELECT i, i FROM generate_series(0, 19) i",
        slave="CREATE TABLE public.q (v integer PRIMARY KEY, id text)",
        map={
            "tables": {"public.p": "public.q"},
            # each is called what the other was
            "columns": {"public.p": {"id": "v", "v": "id"}},
        },
    )
    with running(made):
        sql(databases.master, "DROP TABLE public.p1")
        assert_same(made)
    assert rows(databases.slave, "SELECT min(v), max(v), count(*) FROM public.q") == [(10, 19, 10)]


def test_a_sequence_follows_to_the_column_of_the_mapped_table(databases: Databases) -> None:
    made = copied(
        databases,
        MASTER,
        slave=SLAVE.replace("shop.other", "shop.another"),
        map={**MAP, "tables": {**MAP["tables"], "public.other": "shop.another"}},
    )
    with running(made):
        sql(databases.master, "INSERT INTO public.other (v) SELECT i FROM generate_series(1, 50) i")
        assert_same(made)
    assert value(databases.slave, "SELECT last_value FROM shop.another_id_seq") == 52
    # not the one of the same name, which is of nothing that is replicated
    assert not value(databases.slave, "SELECT is_called FROM public.other_id_seq")


def test_a_table_is_added_under_its_other_name(databases: Databases) -> None:
    made = mapped(databases)
    sql(
        databases.master,
        "CREATE TABLE public.late (id integer PRIMARY KEY, v text)",
        "INSERT INTO public.late VALUES (1, 'one')",
    )
    sql(databases.slave, "CREATE TABLE shop.late (id integer PRIMARY KEY, v text)")
    with connected(made):
        (added,) = Addition(made, ["public.late"], Silence()).run()
        assert (added.table, added.state) == ("public.late", "in step")
        sql(databases.master, "INSERT INTO public.late VALUES (2, 'two')")
        assert_same(made)
    assert value(databases.slave, "SELECT count(*) FROM shop.late") == 2


def test_damage_is_found_repaired_and_guarded_against_under_the_other_name(
    databases: Databases,
) -> None:
    made = mapped(databases, guard=True)
    with connected(made) as daemon:
        daemon.until_asleep()
        with pytest.raises(Exception, match="is replicated"):
            sql(databases.slave, "UPDATE archive.goods SET amount = 0")
        sql(databases.slave, "UPDATE public.item SET v = v")
        sql(
            databases.slave,
            "SET session_replication_role = replica;"
            "UPDATE archive.goods SET amount = 0 WHERE number = 1;"
            "DELETE FROM archive.goods WHERE number = 2;"
            "INSERT INTO archive.goods (number) VALUES (99)",
        )
        found = {result.table: result for result in compare(made)}
        (item,) = (one for one in found.values() if not one.equal)
        assert item.table == "public.item"
        assert {(d.kind, d.key["id"]) for d in item.differences} == {
            ("differs", "1"),
            ("missing", "2"),
            ("extra", "99"),
        }
        (different,) = (d for d in item.differences if d.kind == "differs")
        assert (different.master, different.slave) == ({"price": "1"}, {"price": "0"})
        states = {one.table: one.state for one in repair(made, apply=True)}
        assert states == {"public.item": "repaired", "public.other": "equal"}
        assert_same(made)


@pytest.mark.usefixtures("apply_path")
def test_conflicts_are_met_and_settled_under_the_other_names(databases: Databases) -> None:
    made = mapped(
        databases,
        conflicts={
            **dict.fromkeys(("insert_exists", "update_missing", "delete_missing"), "apply"),
            "update_differs": "warn",
        },
    )
    sql(
        databases.slave,
        "DELETE FROM archive.goods WHERE number IN (1, 2)",
        "UPDATE archive.goods SET amount = -1 WHERE number = 3",
        "INSERT INTO archive.goods (number, price) VALUES (10, 'kept')",
    )
    with running(made):
        sql(
            databases.master,
            "BEGIN",
            "INSERT INTO public.item VALUES (10, 10)",
            "UPDATE public.item SET note = 'x' WHERE id = 1",
            "DELETE FROM public.item WHERE id = 2",
            "UPDATE public.item SET price = 33 WHERE id = 3",
            "COMMIT",
        )
        assert_same(made)
    met = {one.conflict: one for one in listed(made, settled_too=True)}
    assert met.keys() == {"insert_exists", "update_missing", "delete_missing", "update_differs"}
    differs = met["update_differs"]
    assert differs.key == {"id": "3"}
    assert differs.slave_row is not None
    assert differs.slave_row["amount"] == "-1"
    assert value(databases.slave, "SELECT price FROM archive.goods WHERE number = 10") == "kept"


def test_what_waits_in_quarantine_is_applied_under_the_other_names(
    databases: Databases, tmp_path: Path
) -> None:
    made = mapped(databases, on_error="quarantine")
    path = config_file(tmp_path, databases, map=MAP, on_error="quarantine")
    sql(databases.slave, "ALTER TABLE archive.goods ADD CHECK (amount < 100)")
    with running(made) as daemon:
        sql(databases.master, "UPDATE public.item SET price = 100 * id WHERE id < 3")
        daemon.until_said("cannot be applied and wait")
        wait(made, 30)
        assert len(listed(made, settled_too=False)) == 2
        sql(databases.slave, "ALTER TABLE archive.goods DROP CONSTRAINT goods_amount_check")
        pyreplica(path, "conflicts", "retry", "shop")
        assert_same(made)


def test_adopting_a_slave_of_another_name_keeps_to_the_mapped_tables(
    databases: Databases, tmp_path: Path
) -> None:
    made = mapped(databases)
    path = config_file(tmp_path, databases, map=MAP)
    # as a dump would leave it
    sql(
        databases.slave,
        "UPDATE pyreplica.replica_copy SET slave_relid = 1",
        "UPDATE pyreplica.replica_cursor SET master_database = 'before'",
    )
    pyreplica(path, "adopt", "shop")
    assert rows(
        databases.slave, "SELECT slave_relid::regclass::text FROM pyreplica.replica_copy ORDER BY 1"
    ) == [("archive.goods",), ("shop.other",)]
    with running(made):
        sql(databases.master, "UPDATE public.item SET price = 0")
        assert_same(made)


def test_another_mapping_than_it_was_copied_with_is_refused(databases: Databases) -> None:
    made = mapped(databases)
    sql(databases.slave, "CREATE TABLE archive.wrong (LIKE archive.goods INCLUDING ALL)")
    tables = {("public", "item"): ("archive", "wrong")}
    with running(replace(made, map=replace(made.map, tables=tables))) as daemon:
        sql(databases.master, "UPDATE public.item SET price = 0")
        daemon.until_said("archive.wrong is not the one that was copied")


# What is refused


def test_a_copy_with_the_schema_is_refused(databases: Databases, tmp_path: Path) -> None:
    sql(databases.master, MASTER)
    path = config_file(tmp_path, databases, map={"schemas": {"public": "shop"}})
    pyreplica(path, "install")
    done = pyreplica(path, "copy", "--schema", code=None)
    assert done.returncode != 0
    assert "--schema makes the master's tables, and `map:` wants other ones" in done.stderr


@pytest.mark.parametrize(
    ("map_", "says"),
    [
        ({"tables": {"public.itme": "public.x"}}, "names table public.itme, which is not among"),
        (
            {"columns": {"public.item": {"prize": "amount"}}},
            "names column prize of table public.",
        ),
        ({"tables": {"public.item": "shop.x"}}, "the slave has no table shop.x"),
        (
            {"columns": {"public.item": {"note": "remark"}}},
            "table public.item on the slave has no column remark",
        ),
        (
            {"constants": {"public.item": {"source": "x"}}},
            "table public.item on the slave has no column source",
        ),
        (
            {"constants": {"public.item": {"note": "x"}}},
            "has a constant for column note of table public.item, and the master's table has",
        ),
        ({"masks": {"public.itme": {"note": "null"}}}, "names column note of table public.itme"),
        ({"masks": {"public.item": {"nott": "null"}}}, "names column nott of table public.item"),
        ({"masks": {"public.item": {"id": "null"}}}, "column id of table public.item is part of"),
        (
            {"masks": {"public.item": {"price": "hash"}}, "secret": "0123456789abcdef"},
            "column price of table public.item is numeric, and cannot take the hash",
        ),
        (
            {"tables": {"public.other": "public.item"}},
            "public.item and public.other would be the same table on the slave, public.item",
        ),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_by_name(
    databases: Databases, map_: dict[str, Any], says: str, tmp_path: Path
) -> None:
    tables = MASTER.replace("CREATE TABLE public.other", "CREATE TABLE public.other2") + (
        ";CREATE TABLE public.other (LIKE public.item INCLUDING ALL)"
    )
    tables = tables.replace("INTO public.other (v)", "INTO public.other2 (v)")
    sql(databases.master, tables)
    sql(databases.slave, tables)
    made = config(databases, map=map_)
    install(made)
    with pytest.raises(Refused) as refused:
        copy(made, truncate=True)
    assert says in refused.value.what
    found = pyreplica(config_file(tmp_path, databases, map=map_), "check", code=None)
    assert found.returncode == 1
    assert says.split(", ", maxsplit=1)[0].removeprefix("names table ").split()[0] in found.stdout


# Constants


@pytest.fixture
def gathered(databases: Databases) -> Iterator[tuple[ReplicationConfig, ReplicationConfig, str]]:
    """Two masters whose table is one on the slave, copied; and the second master."""
    second = f"{databases.name[:55]}_b"
    databases.master_cluster.create_database(second)
    dsn = databases.master_cluster.dsn(second)
    table = "CREATE TABLE public.t (id integer PRIMARY KEY, v text, n integer DEFAULT 0)"
    for one, there in ((databases.master, "paris"), (dsn, "rome")):
        sql(one, table, f"INSERT INTO public.t SELECT i, '{there}' FROM generate_series(1, 9) i")
    sql(
        databases.slave,
        "CREATE TABLE public.gathered (source text, year int NOT NULL, id integer, v text, n int, "
        "PRIMARY KEY (source, id))",
    )
    both = []
    for one, there in ((databases.master, "paris"), (dsn, "rome")):
        map_ = {
            "tables": {"public.t": "public.gathered"},
            "constants": {"public.t": {"source": there, "year": 2026}},
        }
        made = config(replace(databases, master=one), name=there, map=map_)
        install(made)
        copy(made)
        both.append(made)
    yield both[0], both[1], dsn
    databases.master_cluster.drop_database(second)


def sources(databases: Databases) -> dict[str, int]:
    """How many rows of each master there are."""
    query = "SELECT source, count(*)::int FROM public.gathered WHERE year = 2026 GROUP BY source"
    return dict(rows(databases.slave, query))


@pytest.mark.usefixtures("apply_path")
def test_two_masters_are_gathered_in_one_table_and_touch_only_their_own_rows(
    databases: Databases, gathered: tuple[ReplicationConfig, ReplicationConfig, str]
) -> None:
    paris, rome, second = gathered
    assert sources(databases) == {"paris": 9, "rome": 9}
    with running(paris), running(rome):
        for dsn in (databases.master, second):
            sql(
                dsn,
                "BEGIN",
                "INSERT INTO public.t VALUES (10, 'new', 1)",
                "UPDATE public.t SET n = 5 WHERE id < 4",
                "COMMIT",
            )
        sql(databases.master, "DELETE FROM public.t WHERE id = 5")
        sql(second, "UPDATE public.t SET id = 50 WHERE id = 5")
        assert_same(paris)
        assert_same(rome)
        assert sources(databases) == {"paris": 9, "rome": 10}
        sql(databases.master, "TRUNCATE public.t", "INSERT INTO public.t VALUES (1, 'again', 1)")
        assert_same(paris)
        assert_same(rome)
        sql(second, "ALTER TABLE public.t ALTER n SET DEFAULT 1")
    assert sources(databases) == {"paris": 1, "rome": 10}


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO public.t SELECT i, i FROM generate_series(100, 3000) i",
        "UPDATE public.t SET n = n + 1",
        "DELETE FROM public.t WHERE id > 10",
    ],
)
def test_large_batches_of_one_kind_have_the_constants(
    databases: Databases,
    gathered: tuple[ReplicationConfig, ReplicationConfig, str],
    statement: str,
) -> None:
    paris, rome, second = gathered
    with running(paris), running(rome):
        if not statement.startswith("INSERT"):
            for dsn in (databases.master, second):
                sql(dsn, "INSERT INTO public.t SELECT i, i FROM generate_series(10, 2000) i")
            assert_same(rome)
        sql(databases.master, statement)
        assert_same(paris)
        assert_same(rome)


def test_a_new_copy_of_one_master_leaves_the_other_s_rows(
    databases: Databases, gathered: tuple[ReplicationConfig, ReplicationConfig, str]
) -> None:
    paris, rome, _ = gathered
    sql(databases.master, "DELETE FROM public.t WHERE id > 3")
    with pytest.raises(Refused, match="copied already"):
        copy(paris)
    copy(paris, truncate=True)
    assert sources(databases) == {"paris": 3, "rome": 9}
    with running(paris), running(rome):
        assert_same(paris)
        assert_same(rome)


def test_a_row_of_one_master_is_never_replaced_by_another_s(
    databases: Databases, gathered: tuple[ReplicationConfig, ReplicationConfig, str]
) -> None:
    paris, _, _ = gathered
    # now the key alone does not tell them apart
    sql(databases.slave, "CREATE UNIQUE INDEX ON public.gathered (id) WHERE id > 9")
    sql(databases.slave, "INSERT INTO public.gathered VALUES ('rome', 2026, 10, 'rome', 0)")
    policy = replace(paris.conflicts, insert_exists=type(paris.conflicts.insert_exists)("apply"))
    with running(replace(paris, conflicts=policy)) as daemon:
        sql(databases.master, "INSERT INTO public.t VALUES (10, 'paris')")
        daemon.until_said("conflict insert_exists")
    query = "SELECT v FROM public.gathered WHERE id = 10"
    assert rows(databases.slave, query) == [("rome",)]


def test_two_tables_of_one_master_are_gathered_when_their_constants_differ(
    databases: Databases,
) -> None:
    made = copied(
        databases,
        "".join(
            f"CREATE SCHEMA {s}; CREATE TABLE {s}.t (id integer PRIMARY KEY, v text);"
            f"INSERT INTO {s}.t SELECT i, '{s}' FROM generate_series(1, 5) i;"
            for s in ("a", "b")
        ),
        slave="CREATE TABLE public.t (id integer, v text, tenant integer, "
        "PRIMARY KEY (id, tenant))",
        map={
            "tables": {"a.t": "public.t", "b.t": "public.t"},
            "constants": {"a.t": {"tenant": 1}, "b.t": {"tenant": 2}},
        },
    )
    with running(made):
        sql(
            databases.master,
            "BEGIN",
            "TRUNCATE a.t",
            "INSERT INTO a.t VALUES (1, 'new')",
            "UPDATE b.t SET v = 'changed' WHERE id = 1",
            "COMMIT",
        )
        assert_same(made)
    query = "SELECT tenant, count(*), min(v) FROM public.t GROUP BY 1 ORDER BY 1"
    assert rows(databases.slave, query) == [(1, 1, "new"), (2, 5, "b")]


def test_a_batch_that_fails_names_the_master_s_table(databases: Databases) -> None:
    made = mapped(databases)
    sql(databases.slave, "ALTER TABLE archive.goods ADD CHECK (amount < 100)")
    with running(made) as daemon:
        sql(databases.master, "UPDATE public.item SET price = 100 WHERE id = 3")
        daemon.until_said('cannot update public.item {"id": "3"}')
        sql(databases.slave, "ALTER TABLE archive.goods DROP CONSTRAINT goods_amount_check")
        assert_same(made)


# Together with filters


@pytest.mark.usefixtures("apply_path")
def test_filters_masks_and_other_names_go_together(databases: Databases) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.c (id integer PRIMARY KEY, region text, mail text, secret text);"
        "INSERT INTO public.c SELECT i, CASE WHEN i % 2 = 0 THEN 'eu' ELSE 'us' END, 'hidden', 's' "
        "FROM generate_series(1, 9) i",
        slave="CREATE TABLE public.d (source text, id integer, area text, mail text, "
        "PRIMARY KEY (source, id))",
        filters={"public.c": {"where": "region = 'eu'", "columns": ["id", "region", "mail"]}},
        map={
            "tables": {"public.c": "public.d"},
            "columns": {"public.c": {"region": "area"}},
            "constants": {"public.c": {"source": "x"}},
            "masks": {"public.c": {"mail": "hash"}},
            "secret": "0123456789abcdef",
        },
    )
    with running(made):
        sql(
            databases.master,
            "BEGIN",
            "UPDATE public.c SET region = 'eu' WHERE id = 1",
            "UPDATE public.c SET region = 'us' WHERE id = 2",
            "UPDATE public.c SET mail = 'hidden too', secret = 'n' WHERE id = 4",
            "INSERT INTO public.c VALUES (10, 'eu', 'hidden', 's'), (11, 'us', 'hidden', 's')",
            "COMMIT",
        )
        assert_same(made)
    query = "SELECT id, source, area, length(mail) FROM public.d ORDER BY id"
    assert rows(databases.slave, query) == [(i, "x", "eu", 64) for i in (1, 4, 6, 8, 10)]
