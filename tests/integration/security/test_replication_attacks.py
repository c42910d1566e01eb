"""A writer of the master reaches nothing on the slave but the rows of his tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyreplica.errors import DatabaseError
from tests.integration.cli_support import rows
from tests.integration.security.conftest import Roles
from tests.support import (
    assert_same,
    connected,
    copy,
    eventually,
    pyreplica,
    running,
    sql,
    value,
)

BAIT = "CREATE TABLE public.bait (id integer PRIMARY KEY, name text); " + (
    "INSERT INTO public.bait VALUES (1, 'untouched')"
)
NAMES = (
    'x"; DROP TABLE public.bait; --',
    "x'; DROP TABLE public.bait; --",
    "x\\'; DROP TABLE public.bait; --",
    "%s %(id)s %% {} {0} {rows}",
    "\\.\nDROP TABLE public.bait;\n--",
    "$1 $$; DROP TABLE public.bait; $$ ) t, c",
    "select",
)
VALUES = (
    "\\.",
    "\\N",
    "\\\\N",
    "\\.\n\\.\nDROP TABLE public.bait;\n",
    "'; DROP TABLE public.bait; --",
    "$$; DROP TABLE public.bait; $$",
    "%s %(id)s %d %% {} {0}",
    "\\x00 \\u0000 \\0 \\000",
    '{"row": null} ","}\\"',
    "\t\r\n\b\v",
    "",
    "NULL",
)


def quoted(name: str) -> str:
    """A name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as a string constant; the session has standard_conforming_strings."""
    return "'" + text.replace("'", "''") + "'"


def prepared(roles: Roles, *, create: bool = False) -> None:
    """Both sides installed, with their roles; no table is there yet on the slave but its own."""
    sql(roles.databases.slave, BAIT)
    roles.install()
    roles.make("master")
    roles.make("slave", *(["create=on", "tables=none"] if create else []))


def untouched(roles: Roles) -> bool:
    """Whether the slave's own table is as it was."""
    return rows(roles.databases.slave, "SELECT * FROM bait") == [(1, "untouched")]


@pytest.mark.usefixtures("apply_path")
def test_names_and_values_that_look_like_sql_or_copy_are_names_and_values(
    roles: Roles, tmp_path: Path
) -> None:
    sql(
        roles.databases.master,
        f"CREATE SCHEMA {quoted(NAMES[0])} AUTHORIZATION {roles.app}",
    )
    with roles.attacker() as app:
        for number, name in enumerate(NAMES):
            schema = quoted(NAMES[0] if number % 2 else "public")
            it, label = quoted(name), literal(name)
            app.execute(
                f"CREATE TYPE {schema}.{quoted('t ' + name[:40])} AS ENUM ({label}, 'b'); "
                f"CREATE SEQUENCE {schema}.{quoted('s ' + name[:40])}; "
                f"CREATE TABLE {schema}.{it} ({it} text, n integer, "
                f"e {schema}.{quoted('t ' + name[:40])}, {quoted('v ' + name[:40])} text, "
                f"PRIMARY KEY ({it}, n))"
            )
    prepared(roles, create=True)
    path, made = roles.file(tmp_path), roles.config()
    pyreplica(path, "copy", "--schema")
    with connected(made) as daemon, roles.attacker() as app:
        daemon.until_asleep()
        for number, name in enumerate(NAMES):
            schema = quoted(NAMES[0] if number % 2 else "public")
            it, other = quoted(name), quoted("v " + name[:40])
            app.execute(
                f"INSERT INTO {schema}.{it} VALUES "
                + ", ".join(f"({literal(v)}, 1, 'b', {literal(v)})" for v in VALUES)
            )
            app.execute(f"UPDATE {schema}.{it} SET e = {literal(name)}, {other} = {it} || {other}")
            app.execute(f"UPDATE {schema}.{it} SET {it} = {it} || {literal(VALUES[3])}, n = 2")
            app.execute(f"DELETE FROM {schema}.{it} WHERE {it} LIKE '%NULL%'")
            app.execute(f"SELECT nextval({literal(f'{schema}.' + quoted('s ' + name[:40]))})")
        assert_same(made)
        # and where rows differ, are met as conflicts, and are put right
        first = f"public.{quoted(NAMES[0])}"
        sql(roles.databases.slave, f"DELETE FROM {first}")
        pyreplica(path, "repair", "--yes")
        assert_same(made)
        sql(roles.databases.slave, f"DELETE FROM {first}")
        app.execute(f"UPDATE {first} SET n = 3")
        eventually(
            lambda: value(roles.databases.slave, "SELECT count(*) FROM pyreplica.replica_conflict"),
            "no conflict was met",
        )
        pyreplica(path, "conflicts", "list", "shop", "--all")
        pyreplica(path, "repair", "--yes")
        assert_same(made)
    assert untouched(roles)


def test_a_table_renamed_to_one_that_only_the_slave_has_does_not_reach_it(roles: Roles) -> None:
    tables = "CREATE TABLE public.mine (id integer PRIMARY KEY, name text)"
    with roles.attacker() as app:
        app.execute(tables)
    sql(roles.databases.slave, tables)
    prepared(roles)
    made = roles.config()
    copy(made)
    with running(made) as daemon, roles.attacker() as app:
        daemon.until_asleep()
        app.execute("ALTER TABLE mine RENAME TO bait")
        app.execute("UPDATE bait SET name = 'reached'; DELETE FROM bait; TRUNCATE bait")
        app.execute("INSERT INTO bait VALUES (1, 'reached'), (2, 'reached')")
        daemon.until_said("public.bait is not the one that was copied")
        assert untouched(roles)
        # renamed there as well it is the same table
        sql(
            roles.databases.slave,
            "ALTER TABLE public.bait RENAME TO own",
            "ALTER TABLE public.mine RENAME TO bait",
        )
        assert_same(made)
    assert rows(roles.databases.slave, "SELECT * FROM own") == [(1, "untouched")]


def test_settings_of_a_writer_do_not_keep_his_changes_from_the_slave(roles: Roles) -> None:
    """Nor have the slave get anything else. Those that he may use are in docs/security.md."""
    tables = """CREATE TABLE public.t (id integer PRIMARY KEY, v text);
        CREATE TABLE public.p (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE public.p1 PARTITION OF public.p FOR VALUES FROM (0) TO (10);
        CREATE TABLE public.p2 PARTITION OF public.p DEFAULT;"""
    with roles.attacker() as app:
        app.execute(tables)
    sql(roles.databases.slave, tables)
    prepared(roles)
    made = roles.config()
    copy(made)
    with running(made) as daemon, roles.attacker() as app:
        daemon.until_asleep()
        marks = app.query("SELECT format('pyreplica.t%s', oid::bigint) FROM pg_class "
            "WHERE relname IN ('t', 'p')")  # fmt: skip
        settings = [mark for (mark,) in marks]
        settings += [
            f"pyreplica.{name}"
            for name in ("merging", "moving", "looked_after", "announced", "script", "upgraded")
        ]
        hostile = ("on", "", "null", "'", "interval_hash(statement_timestamp() - 'epoch')::text")
        for text in hostile:
            for setting in settings:
                mark = text if "(" in text else literal(text)
                app.execute(f"SELECT set_config('{setting}', {mark}, false)")
            for table in ("t", "p"):
                app.execute(
                    f"INSERT INTO {table} VALUES (1, 'a'), (2, 'b'), (30, 'c')",
                    )  # fmt: skip
                app.execute(f"UPDATE {table} SET v = v || 'x'")
                app.execute(f"UPDATE {table} SET id = id + 9 WHERE id < 10")
                app.execute(
                    f"MERGE INTO {table} USING (VALUES (10), (11)) m (id) ON m.id = {table}.id "
                    f"WHEN MATCHED AND m.id = 10 THEN UPDATE SET id = 5 WHEN MATCHED THEN DELETE"
                )
            assert_same(made)
            app.execute("TRUNCATE t; DELETE FROM p")
        app.execute("SET pyreplica.notify = off; INSERT INTO t VALUES (100, 'silent')")
        assert_same(made)


def test_notifications_of_anybody_are_no_more_than_a_knock(roles: Roles) -> None:
    tables = "CREATE TABLE public.t (id integer PRIMARY KEY)"
    with roles.attacker() as app:
        app.execute(tables)
    sql(roles.databases.slave, tables)
    prepared(roles)
    made = roles.config()
    copy(made)
    with running(made) as daemon, roles.attacker() as app, roles.attacker("slave") as there:
        daemon.until_asleep()
        for payload in (*VALUES, "tables", "sequences", "sequences anew", "x" * 7999):
            app.execute(f"NOTIFY pyreplica, {literal(payload)}")
            there.execute(f"NOTIFY pyreplica, {literal(payload)}")
            there.execute(f"NOTIFY pyreplica_pause, {literal(payload)}")
        there.execute("NOTIFY pyreplica_pause, 'shop'")
        app.execute("INSERT INTO t VALUES (1)")
        assert_same(made)
        assert not daemon.failing
        assert not daemon.said("ERROR")


def test_an_ordinary_role_of_the_slave_reaches_nothing_of_pyreplicas_there(roles: Roles) -> None:
    prepared(roles)
    with roles.attacker("slave") as there:
        for statement in (
            "SELECT * FROM pyreplica.replica_cursor",
            "UPDATE pyreplica.replica_cursor SET batch = 0",
            "INSERT INTO pyreplica.replica_conflict DEFAULT VALUES",
            "SELECT pyreplica.run_ddl('DROP TABLE public.bait', '', 'on')",
            "SELECT pyreplica.pause('shop')",
            "CREATE TABLE pyreplica.stage_1 (id bigint)",
            "SET session_replication_role = replica",
        ):
            with pytest.raises(DatabaseError, match="permission denied"):
                there.execute(statement)


@pytest.mark.parametrize("wanted", [False, True])
def test_ddl_of_an_ordinary_owner_is_not_sent_whatever_it_looks_like(
    roles: Roles, wanted: bool
) -> None:
    tables = "CREATE TABLE public.t (id integer PRIMARY KEY, v text)"
    with roles.attacker() as app:
        app.execute(tables + "; INSERT INTO public.t VALUES (1)")
    sql(roles.databases.slave, tables)
    prepared(roles)
    copy(roles.config(), truncate=True)
    owner = roles.databases.master
    sql(
        owner,
        f"UPDATE pyreplica.replica_slave SET ddl = {wanted}",
        # what an administrator may have made for others: it does DDL with his rights
        "CREATE FUNCTION public.made() RETURNS integer LANGUAGE plpgsql SECURITY DEFINER AS "
        "'BEGIN DROP TABLE IF EXISTS public.helper; CREATE TABLE public.helper (); RETURN 1; END'",
    )
    before = "SELECT coalesce(max(id), 0) FROM pyreplica.replica_log"
    begin = value(owner, before)
    drop = "DROP TABLE IF EXISTS public.bait"
    with roles.attacker() as app:
        for script in ("", "null", '["shop"]'):
            app.execute(f"SELECT set_config('pyreplica.script', '{script}', false)")
            # the capture makes its triggers anew, with the rights of who installed it
            app.execute(f"DO $$BEGIN {drop}; ALTER TABLE public.t ADD w integer; END$$")
            app.execute(f"ALTER TABLE t DROP w /* {drop} */")
            app.execute(f"ALTER TABLE t ADD w integer DEFAULT made(); {drop}")
            app.execute("ALTER TABLE t DROP w")
            app.execute("CREATE TABLE x AS SELECT made(); DROP TABLE x")
    sent = f"SELECT row ->> 'sql' FROM pyreplica.replica_log WHERE op = 'S' AND id > {begin}"
    assert rows(owner, sent) == []
