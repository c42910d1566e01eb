"""Names of any kind, in every place where one can stand."""

from __future__ import annotations

import pytest
from psycopg2.extensions import quote_ident

from tests.integration.capture.oracle import Master

NAMES = [
    "My.Schema",
    "with space",
    "quote\"d'",
    "back\\slash",
    "UPPER",
    "select",
    "%s %I %1$s {} $$ $body$",
    "<<partition>>",
    "new_rows",
    "日本語日本語日本語日本語日本語",
    "ü" * 31 + "x",  # 63 bytes, the longest there is
    "-- comment",
    "/*",
    "a,b",
    "(a)",
    "NULL",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_captured_wherever_it_stands(master: Master, name: str) -> None:
    quoted = quote_ident(name, master.writer.connection)
    table, domain = f"{quoted}.{quoted}", f'{quoted}."{"d" * 40}"'
    master.run(
        f"CREATE SCHEMA {quoted}",
        f"CREATE DOMAIN {domain} AS numeric",
        f"CREATE TABLE {table} ({quoted} int PRIMARY KEY, v {domain}) "
        f"PARTITION BY RANGE ({quoted})",
        f"CREATE TABLE {quoted}.other PARTITION OF {table} FOR VALUES FROM (0) TO (100)",
        f'CREATE TABLE {quoted}."{"p" * 60}" PARTITION OF {table} FOR VALUES FROM (100) TO (200)',
        f"CREATE TABLE public.{quoted} (k int PRIMARY KEY, {quoted} {domain})",
    )
    answers = [row for (row,) in master.reader.run("SELECT pyreplica.add_all_tables()")]
    assert [": added, key (" in answer for answer in answers] == [True, True]
    for target, key, value in ((table, quoted, "v"), (f"public.{quoted}", "k", quoted)):
        before = master.last_id()
        master.run(
            f"INSERT INTO {target} VALUES (1, 1.0), (2, 2.0), (101, 1)",
            f"UPDATE {target} SET {value} = 1.00",
            f"UPDATE {target} SET {key} = 3 WHERE {key} = 2",
            f"DO $do$BEGIN UPDATE {target} SET {value} = 9; DELETE FROM {target} WHERE {key} = 1; "
            f"INSERT INTO {target} VALUES (4, 4), (102, 5); END$do$",
        )
        assert {change.table for change in master.changes(before)} == {name}
        master.assert_exact()
    master.run(f"TRUNCATE {quoted}.other", f'TRUNCATE {quoted}."{"p" * 60}"')
    assert master.rows(table) == []
    master.assert_exact()
    master.run(f"TRUNCATE {table}, public.{quoted}")
    master.assert_exact()
    # people read it, and take it out by its name
    assert {row for (row,) in master.reader.run('SELECT "table" FROM pyreplica.changes')} == {
        master.reader.value(f"SELECT format('%I.%I', $n${name}$n$, $n${name}$n$)"),
        master.reader.value(f"SELECT format('%I.%I', 'public', $n${name}$n$)"),
    }
    removed = master.reader.value(f"SELECT pyreplica.remove_table($n${table}$n$)")
    assert removed.endswith("removed; what was logged before still goes to the slaves")


@pytest.mark.parametrize("key", ["op", "k1"])
def test_columns_may_have_the_names_that_capture_uses(master: Master, key: str) -> None:
    names = [
        *("op", "key", "row", "here", "there", "images", "k1", "k2", "v1", "v2", "changed_v1"),
        *("c", "o", "n", "m", "k", "t", "r", "u", "l", "d", "s", "now", "id", "txid", "segment"),
        *("tab", "at", "old_rows", "new_rows", "touched", "this_partition", "value", "t_1"),
    ]
    columns = ", ".join(f'"{name}" int{" PRIMARY KEY" * (name == key)}' for name in names)
    ones = ", ".join("1" for _ in names)
    for table in ("new_rows", "touched", "this_partition", "c"):
        master.table(columns, name=table)
        master.run(f"INSERT INTO {table} VALUES ({ones})")
        for name in names:
            assert len(master.logged(f'UPDATE {table} SET "{name}" = 2')) == 1 + (name == key)
        master.run(
            f'DO $$BEGIN UPDATE {table} SET here = 3; UPDATE {table} SET "{key}" = 4, "row" = 5; '
            f"DELETE FROM {table} WHERE here < 2; UPDATE {table} SET images = 6; END$$"
        )
        master.assert_exact()


@pytest.mark.parametrize("name", ["old_rows", "new_rows", "touched", "replica_log"])
def test_temporary_tables_with_the_names_that_capture_uses_do_not_get_into_it(
    master: Master, name: str
) -> None:
    master.table("id int PRIMARY KEY, v int")
    master.run(f"CREATE TEMP TABLE {name} (id int, v int)", f"INSERT INTO {name} VALUES (66, 66)")
    master.run("INSERT INTO t VALUES (1, 1)", "UPDATE t SET v = 2", "UPDATE t SET id = 5")
    master.run("DO $$BEGIN UPDATE t SET v = 3; UPDATE t SET id = 6; DELETE FROM t; END$$")
    master.assert_exact()
    assert master.run(f"SELECT * FROM {name}") == [(66, 66)]
