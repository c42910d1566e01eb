"""Tables that a large batch only deletes from, or only updates: the master reads net changes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

import pytest

from pyreplica.master import Master
from pyreplica.master.log import LONGEST_FOLDED
from pyreplica.replication.setup import install
from pyreplica.slave import unstaged
from pyreplica.slave.inserts import FEWEST_ROWS
from pyreplica.slave.stage import DELETE_BELOW, Stage
from pyreplica.slave.unstaged import NetTable
from tests.conftest import Databases
from tests.support import assert_same, config, connect, copied, copy, running, sql, value

MANY = 2_000
TABLES = "".join(
    f"CREATE TABLE public.{name} (id int PRIMARY KEY, v text, n numeric);"
    f"INSERT INTO public.{name} SELECT g, 'row ' || g, g FROM generate_series(1, {MANY}) g;"
    for name in "tuw"
)
Seen = list[list[tuple[str, str, int, int]]]


@pytest.fixture
def nets(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """The tables that came as net changes, batch by batch: kind, net changes, changes."""
    seen: Seen = []
    original = Stage.apply_nets

    def apply_nets(self: Stage, tables: Sequence[NetTable]) -> int:
        seen.append([(str(t.statements.table), t.kind, t.nets, t.changes) for t in tables])
        return original(self, tables)

    monkeypatch.setattr(Stage, "apply_nets", apply_nets)
    return seen


def one(*statements: str) -> list[str]:
    """Statements in one transaction; not in one message, which would have rows restated."""
    return ["BEGIN", *statements, "COMMIT"]


def twice(table: str) -> list[str]:
    """Updates that set the same column of each row twice."""
    return [f"UPDATE public.{table} SET v = v || '{mark}'" for mark in "ab"]


def test_tables_with_changes_of_one_kind_come_as_net_changes_and_the_others_are_staged(
    databases: Databases, nets: Seen
) -> None:
    made = copied(databases, TABLES)
    sql(
        databases.master,
        *one(
            "DELETE FROM public.t WHERE id > 3",
            *twice("u"),
            "UPDATE public.w SET n = -n",
            "DELETE FROM public.w WHERE id = 7",
        ),
    )
    with running(made) as daemon:
        assert_same(made)
        assert nets == [[("public.t", "D", MANY - 3, MANY - 3), ("public.u", "U", MANY, 2 * MANY)]]
        assert daemon.replication.status.changes == 4 * MANY - 2
        # what the batch before has left is no part of the next one
        sql(databases.master, *one(*twice("u"), *twice("w")))
        assert_same(made)
        sql(databases.master, "DELETE FROM public.u WHERE id > 700")
        assert_same(made)
    assert nets[1:] == [
        [("public.u", "U", MANY, 2 * MANY), ("public.w", "U", MANY - 1, 2 * MANY - 2)],
        [("public.u", "D", MANY - 700, MANY - 700)],
    ]


@pytest.mark.parametrize(
    "statements",
    [
        ["DELETE FROM public.w WHERE id < {few}"],
        ["UPDATE public.w SET n = 0 WHERE id < {few}"],
        ["DELETE FROM public.w WHERE id > 5", "INSERT INTO public.w VALUES (-1)"],
        ["UPDATE public.w SET n = -1", "DELETE FROM public.w WHERE id = 1"],
        ["UPDATE public.w SET n = -1 WHERE id <> 5", "UPDATE public.w SET v = 'x' WHERE id = 5"],
        ["UPDATE public.w SET n = -1", "UPDATE public.w SET v = 'x', n = 0 WHERE id = 5"],
        ["UPDATE public.w SET id = -id"],
        ["UPDATE public.w SET n = -1", "TRUNCATE public.w"],
    ],
    ids=[
        "few deletes",
        "few updates",
        "an insert",
        "a delete",
        "updates of other columns",
        "an update of a column more",
        "other keys",
        "a truncate",
    ],
)
def test_what_is_staged(databases: Databases, nets: Seen, statements: list[str]) -> None:
    made = copied(databases, TABLES)
    given = [statement.format(few=FEWEST_ROWS) for statement in statements]
    sql(databases.master, *one(*twice("t"), *given))
    with running(made):
        assert_same(made)
    assert nets == [[("public.t", "U", MANY, 2 * MANY)]]


def test_with_ddl_in_the_batch_all_is_staged(databases: Databases, nets: Seen) -> None:
    made = copied(databases, TABLES)
    sql(databases.slave, "ALTER TABLE public.u ADD w int DEFAULT 5")
    sql(
        databases.master,
        *one(
            "SET pyreplica.log_rewrites = on",
            "DELETE FROM public.t WHERE id > 3",
            *twice("u"),
            "ALTER TABLE public.u ADD w int DEFAULT 5",
            *twice("u"),
        ),
    )
    with running(made):
        assert_same(made)
    assert nets == []


def test_a_small_part_of_a_batch_is_staged(databases: Databases, nets: Seen) -> None:
    made = copied(databases, TABLES)
    times = 2 * unstaged.LEAST_PART
    sql(
        databases.master,
        *one(
            "DELETE FROM public.u WHERE id <= 1500",
            *(f"UPDATE public.t SET n = {n}" for n in range(-times, 0)),
        ),
    )
    with running(made):
        assert_same(made)
    assert nets == [[("public.t", "U", MANY, times * MANY)]]


def test_a_table_whose_updates_set_different_columns_is_tried_once(
    databases: Databases, nets: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    original = Stage.fill_net

    def fill_net(self: Stage, source: object, nets: object, keys: int, kind: str) -> int:
        tried.append(kind)
        return original(self, source, nets, keys, kind)  # type: ignore[arg-type]

    monkeypatch.setattr(Stage, "fill_net", fill_net)
    made = copied(databases, TABLES)
    different = ("UPDATE public.t SET n = n + 1", "UPDATE public.t SET v = v || 'x'")
    with running(made):
        for _ in range(3):
            sql(databases.master, *one(*different))
            assert_same(made)
    assert tried == ["U"]
    assert nets == [[], [], []]


@pytest.mark.parametrize("commit", ["two-phase", "one-phase"])
@pytest.mark.parametrize(
    ("damage", "statements", "told"),
    [
        (
            "DELETE FROM public.t WHERE id IN (5, 6)",
            ["DELETE FROM public.t"],
            "conflict delete_missing on public.t: 2 rows",
        ),
        (
            "DELETE FROM public.t WHERE id = 5",
            twice("t"),
            "conflict update_missing on public.t: 1 row",
        ),
        (
            "UPDATE public.t SET v = 'of the slave' WHERE id = 5",
            twice("t"),
            "conflict update_differs on public.t: 1 row",
        ),
    ],
    ids=["delete_missing", "update_missing", "update_differs"],
)
def test_what_meets_something_else_is_judged(
    databases: Databases, nets: Seen, damage: str, statements: list[str], told: str, commit: str
) -> None:
    policies = {"delete_missing": "apply", "update_missing": "apply", "update_differs": "apply"}
    if "differs" in told:
        policies["update_differs"] = "warn"
    made = copied(databases, TABLES, conflicts=policies, commit=commit)
    sql(databases.slave, damage)
    sql(databases.master, *one(*statements, *twice("u"), "UPDATE public.w SET n = 0 WHERE id = 1"))
    with running(made) as daemon:
        assert_same(made)
        daemon.until_said(told)
    assert [table for table, *_ in nets[0]] == ["public.t", "public.u"]


def test_rows_that_exchange_values_of_a_unique_key_are_judged(
    databases: Databases, nets: Seen
) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.t (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED)",
        slave="CREATE TABLE public.t (id int PRIMARY KEY, u int UNIQUE)",
    )
    sql(databases.master, f"INSERT INTO public.t SELECT g, g FROM generate_series(1, {MANY}) g")
    with running(made):
        assert_same(made)
        sql(databases.master, f"UPDATE public.t SET u = {MANY} + 1 - u")
        assert_same(made)
    assert nets[1:] == [[("public.t", "U", MANY, MANY)]]


TEXT = """E'\\\\N\\t{"}\\n\'\'\\\\ é' || g"""
KEYS = {
    "text": ("k", "k text PRIMARY KEY", TEXT),
    "of two columns": ("a, k", "a int, k text, PRIMARY KEY (k, a)", f"g, {TEXT}"),
    "of four columns": (
        "a, k, b, c",
        "a int, k text, b numeric(6,2), c timestamptz, PRIMARY KEY (c, a, b, k)",
        f"g, {TEXT}, g / 4.0, '2024-02-29 12:00+00'::timestamptz + g * interval '1.1 s'",
    ),
    "of five columns": (
        "a, k, b, c, d",
        "a int, k text, b int, c int, d int, PRIMARY KEY (a, b, c, d, k)",
        f"g, {TEXT}, g % 7, g % 11, g % 13",
    ),
    "char, of another collation": ("k", 'k char(20) COLLATE "C" PRIMARY KEY', TEXT),
    "bytea and boolean": (
        "a, b",
        "a bytea, b boolean, PRIMARY KEY (a, b)",
        f"convert_to({TEXT}, 'UTF8'), g % 2 = 0",
    ),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_every_kind_find_their_rows(databases: Databases, nets: Seen, kind: str) -> None:
    names, columns, values = KEYS[kind]
    made = copied(databases, f"CREATE TABLE public.t (v text, {columns})")
    sql(
        databases.master,
        f"INSERT INTO public.t (v, {names}) SELECT 'row ' || g, {values} "
        f"FROM generate_series(1, {MANY}) g",
    )
    with running(made):
        assert_same(made)
        sql(databases.master, *one(*twice("t")))
        assert_same(made)
        sql(databases.master, "DELETE FROM public.t WHERE v NOT LIKE '%9%'")
        assert_same(made)
    assert 0 < value(databases.slave, "SELECT count(*) FROM public.t") < MANY
    assert [bool(tables) for tables in nets[1:]] == [kind != "of five columns"] * 2


def test_values_of_every_kind_are_updated(databases: Databases, nets: Seen) -> None:
    made = copied(
        databases, "CREATE TABLE public.t (id int PRIMARY KEY, a text, b jsonb, c numeric[], d xml)"
    )
    sql(databases.master, f"INSERT INTO public.t SELECT g FROM generate_series(1, {MANY}) g")
    with running(made):
        assert_same(made)
        sql(
            databases.master,
            *one(
                """UPDATE public.t SET a = repeat(E'\\\\N\\t{"}\\n' || id, 30), b = 'null',
                c = '[0:1]={NaN,1.0}', d = '<a>é</a>'""",
                """UPDATE public.t SET a = CASE WHEN id % 3 > 0 THEN '' END, b = '{"é": [1.0]}',
                c = '{NULL,1.00}', d = NULL""",
            ),
        )
        assert_same(made)
    assert nets[1:] == [[("public.t", "U", MANY, 2 * MANY)]]


def test_long_values_are_folded_only_up_to_a_limit(databases: Databases, nets: Seen) -> None:
    made = copied(databases, TABLES)
    with running(made):
        # what stood there before is logged up to 1,000 bytes
        for size in (1_600, 1_500, 1, LONGEST_FOLDED, 1):
            sql(
                databases.master,
                f"UPDATE public.t SET v = repeat('é' || id % 10, {size} / 3 + 1)",
            )
            assert_same(made)
    table = ("public.t", "U", MANY, MANY)
    assert nets == [[table], [table], [table], [], []]


def test_a_table_that_the_slave_leaves_out_is_passed_over(databases: Databases, nets: Seen) -> None:
    for dsn in (databases.master, databases.slave):
        sql(dsn, TABLES)
    made = config(databases, tables=["public.t"])
    install(made)
    copy(made, truncate=True)
    sql(databases.master, *one("DELETE FROM public.u", "DELETE FROM public.t", *twice("w")))
    with running(made) as daemon:
        assert_same(made)
        assert daemon.replication.status.changes == MANY
    assert nets == [[("public.t", "D", MANY, MANY)]]
    assert value(databases.slave, "SELECT count(*) FROM public.u") == MANY


def test_staging_tables_of_every_size_are_emptied(databases: Databases) -> None:
    made = copied(databases, TABLES)
    sizes = []
    with running(made):
        for rows in (600, 40_000, 600, 600):
            # nothing but staged changes, and net changes of these
            sql(
                databases.master,
                *one(
                    f"INSERT INTO public.t SELECT g FROM generate_series(3001, 3000 + {rows}) g",
                    "UPDATE public.t SET n = 0 WHERE id > 3000",
                    "DELETE FROM public.t WHERE id > 3500",
                    "UPDATE public.t SET v = 'x' WHERE id > 3400",
                ),
            )
            assert_same(made)
            sizes.append(value(databases.slave, "SELECT pg_relation_size('pyreplica.stage_1')"))
            sql(databases.master, "DELETE FROM public.t WHERE id > 3000")
            assert_same(made)
    assert sizes[1] > DELETE_BELOW > sizes[3] > sizes[2] > 0


def test_many_tables_are_found_by_an_index(databases: Databases, nets: Seen) -> None:
    """The batches before and after the index is there have the same results."""
    names = [f"public.m{number}" for number in range(6)]
    tables = "".join(
        f"CREATE TABLE {name} (id int PRIMARY KEY, v text);"
        f"INSERT INTO {name} SELECT g, 'row' FROM generate_series(1, 900) g;"
        for name in names
    )
    made = copied(databases, tables)
    indexes = (
        "SELECT array_agg(indexname ORDER BY indexname) FROM pg_indexes "
        "WHERE tablename ~ '^(stage|net)_'"
    )
    with running(made) as daemon:
        for statement in (
            "UPDATE {} SET v = v || id WHERE id % 3 = 0; DELETE FROM {} WHERE id % 50 = 7",
            "UPDATE {} SET v = 'x'; INSERT INTO {} SELECT g, 'n' FROM generate_series(901, 950) g",
        ):
            sql(
                databases.master,
                *one(*(part for n in names for part in statement.replace("{}", n).split("; "))),
            )
            assert_same(made)
            assert value(databases.slave, indexes) == ["net_1_by_tab", "stage_1_by_tab"]
        assert daemon.said("conflict") == []
    assert nets == [[], []]


def test_what_a_running_transaction_has_written_is_not_read_by_each_batch(
    databases: Databases,
) -> None:
    made = copied(databases, TABLES)
    with connect(databases.master) as open_, closing(Master(made)) as master:
        open_.execute("BEGIN")
        open_.execute("UPDATE public.t SET v = v || '!'")
        sql(databases.master, "UPDATE public.u SET v = 'x' WHERE id = 1")
        seen = master.log.position().snapshot
        assert seen.running
        sql(databases.master, "UPDATE public.u SET v = 'y' WHERE id = 1")
        read = (
            "SELECT sum(idx_tup_fetch)::int FROM pg_stat_xact_user_tables "
            "WHERE relname ~ '^replica_log_'"
        )
        with master.connection.transaction():
            fetched = master.log.fetch(seen)
            assert [change.op for change in fetched.changes or ()] == ["U"]
            assert master.connection.one(read) == (1,)
            master.log.contents(seen, fetched.position.snapshot)
            assert master.connection.one(read) == (2,)
        open_.execute("COMMIT")
        assert len(master.log.fetch(seen).changes or ()) in (0, MANY + 1)
