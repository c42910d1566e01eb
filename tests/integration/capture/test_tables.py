"""Which tables can be captured, and what is said of those that cannot."""

from __future__ import annotations

import psycopg2
import pytest

from pyreplica import sqlfiles
from pyreplica.demo.cluster import Cluster
from tests.integration.capture.oracle import Master


def add(master: Master, table: str) -> str:
    """What add_table() says."""
    line: str = master.writer.value(f"SELECT pyreplica.add_table('{table}')")
    return line


def test_a_table_is_added_once_and_removed_once(master: Master) -> None:
    master.run("CREATE TABLE t (a int, b text, c text, PRIMARY KEY (c, a))")
    assert add(master, "t") == "public.t: added, key (c, a)"
    assert add(master, "t") == "public.t: is added already"
    assert len(master.logged("INSERT INTO t VALUES (1, 'b', 'c')")) == 1
    remove = "SELECT pyreplica.remove_table('t')"
    assert master.writer.value(remove) == (
        "public.t: removed; what was logged before still goes to the slaves"
    )
    assert master.writer.value(remove) == "public.t: not removed: it was not added"
    assert master.logged("INSERT INTO t VALUES (2, 'b', 'c')") == []
    assert len(master.changes()) == 1
    assert add(master, "t") == "public.t: added, key (c, a)"
    assert len(master.logged("INSERT INTO t VALUES (3, 'b', 'c')")) == 1


def test_adding_a_table_again_renews_triggers_that_are_missing(master: Master) -> None:
    master.table("id int PRIMARY KEY")
    master.run(
        "ALTER EVENT TRIGGER pyreplica_drop DISABLE",
        "DROP TRIGGER pyreplica_insert ON t",
        "ALTER EVENT TRIGGER pyreplica_drop ENABLE",
    )
    assert master.logged("INSERT INTO t VALUES (1)") == []
    assert add(master, "t") == "public.t: is added already, its triggers were renewed"
    assert master.logged("INSERT INTO t VALUES (2)") == ["t I 2"]


MADE = (
    "CREATE TABLE keyless (id int)",
    "CREATE UNIQUE INDEX ON keyless (id)",
    "CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY)",
    "CREATE TEMP TABLE passing (id int PRIMARY KEY)",
    "CREATE EXTENSION file_fdw",
    "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
    "CREATE FOREIGN TABLE far (id int) SERVER files OPTIONS (filename '/')",
    "CREATE TABLE t (id int PRIMARY KEY)",
    "CREATE VIEW seen AS SELECT * FROM t",
    "CREATE MATERIALIZED VIEW kept AS SELECT * FROM t",
    "CREATE SEQUENCE counting",
    "CREATE TYPE pair AS (a int, b int)",
    "CREATE TABLE tree (id int PRIMARY KEY) PARTITION BY RANGE (id)",
    "CREATE TABLE leaf PARTITION OF tree DEFAULT",
    "CREATE TABLE mixed (id int PRIMARY KEY) PARTITION BY RANGE (id)",
    "CREATE UNLOGGED TABLE mixed_leaf PARTITION OF mixed DEFAULT",
    "CREATE TABLE foreign_parent (id int PRIMARY KEY)",
    "CREATE FOREIGN TABLE foreign_child () INHERITS (foreign_parent) SERVER files "
    "OPTIONS (filename '/')",
    "CREATE TABLE parent (id int, v text)",
    "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)",
    "CREATE TABLE base (v text PRIMARY KEY)",
    "CREATE TABLE derived (id int PRIMARY KEY) INHERITS (base)",
    "CREATE TABLE owned (id int PRIMARY KEY)",
    "ALTER EXTENSION file_fdw ADD TABLE owned",
    "CREATE TABLE wide (id int PRIMARY KEY, " + ", ".join(f"c{n} int" for n in range(800)) + ")",
)

REFUSED = {
    "keyless": "it has no primary key; ALTER TABLE public.keyless ADD PRIMARY KEY (...)",
    "fleeting": "it is unlogged, a crash of the master would empty it unnoticed; "
    "ALTER TABLE public.fleeting SET LOGGED",
    "far": "it is a foreign table; replicate it from where its rows live",
    "seen": "it is a view, not a table",
    "kept": "it is a materialized view, not a table",
    "counting": "it is a sequence, not a table",
    "t_pkey": "it is an index, not a table",
    "pair": "it is a type, not a table",
    "leaf": "it is a partition; add public.tree, its partitions come along",
    "mixed": "public.mixed_leaf under it is unlogged",
    "foreign_parent": "public.foreign_child under it is a foreign table",
    "child": "it inherits from public.parent, which is not added: a statement on that table would "
    "change rows here unnoticed; add that one first",
    "wide": "it has more than 800 columns; a query that compares two of its rows would be too wide",
    "owned": "it belongs to an extension",
    "pg_catalog.pg_class": "it belongs to the system or to PyReplica",
    "information_schema.sql_features": "it belongs to the system or to PyReplica",
    "pyreplica.replica_slave": "it belongs to the system or to PyReplica",
}


def test_what_cannot_be_captured_is_refused_by_name_with_the_cure(master: Master) -> None:
    master.run("SET client_min_messages = warning", *MADE)
    for name, reason in REFUSED.items():
        full = name.removeprefix("pg_catalog.") if "." in name else f"public.{name}"
        assert add(master, name) == f"{full}: not added: {reason}"
    assert add(master, "passing") == "passing: not added: it is temporary"
    assert add(master, "base") == "public.base: added, key (v)"
    assert add(master, "derived") == (
        "public.derived: not added: its key column id is not a column of public.base, which it "
        "inherits from: a statement on that table could not tell which rows it changed here"
    )
    with pytest.raises(psycopg2.errors.UndefinedTable, match='relation "nothing" does not exist'):
        add(master, "nothing")
    assert master.reader.run("SELECT table_name FROM pyreplica.replica_table") == [("base",)]


def test_all_tables_are_added_but_for_those_that_nobody_would_expect(master: Master) -> None:
    master.run("SET client_min_messages = warning", *MADE)
    master.run('CREATE SCHEMA "O\'ther s"', 'CREATE TABLE "O\'ther s".x (id int PRIMARY KEY)')
    lines = [line for (line,) in master.run("SELECT pyreplica.add_all_tables()")]
    said = {line.split(":")[0]: line.split(": ")[1] for line in lines}
    assert said == {
        '"O\'ther s".x': "added, key (id)",
        "public.base": "added, key (v)",
        "public.child": "not added",
        "public.derived": "not added",
        "public.far": "not added",
        "public.fleeting": "not added",
        "public.foreign_child": "not added",
        "public.foreign_parent": "not added",
        "public.keyless": "not added",
        "public.mixed": "not added",
        "public.parent": "not added",
        "public.t": "added, key (id)",
        "public.tree": "added, key (id)",
        "public.wide": "not added",
    }


def test_all_tables_of_one_schema_are_added(master: Master) -> None:
    master.run(
        'CREATE SCHEMA "a B"',
        'CREATE TABLE "a B".x (id int PRIMARY KEY)',
        "CREATE TABLE y (id int PRIMARY KEY)",
    )
    assert master.run("SELECT pyreplica.add_all_tables('a B')") == [('"a B".x: added, key (id)',)]
    assert master.run("SELECT pyreplica.add_all_tables('a B')") == [('"a B".x: is added already',)]
    with pytest.raises(psycopg2.Error, match=r'schema "a b" does not exist in database capture'):
        master.run("SELECT pyreplica.add_all_tables('a b')")
    master.run("CREATE SCHEMA empty")
    assert master.run("SELECT pyreplica.add_all_tables('empty')") == [("there are no tables",)]


def test_a_table_of_800_columns_is_captured(master: Master) -> None:
    master.table("id int PRIMARY KEY, " + ", ".join(f"c{n} int" for n in range(799)))
    master.run(f"INSERT INTO t VALUES (1{', 1' * 799})", "UPDATE t SET c0 = 2")
    master.run(
        "DO $$BEGIN UPDATE t SET c1 = 3; UPDATE t SET id = 4, c798 = 5; DELETE FROM t; END$$"
    )
    master.assert_exact()
    with pytest.raises(psycopg2.Error, match="more than 800 columns"):
        master.run("ALTER TABLE t ADD c799 int")


def test_candidates_say_what_is_added_and_what_cannot_be(master: Master) -> None:
    master.run(
        "CREATE TABLE a (id int)",
        "CREATE TABLE b (id int PRIMARY KEY)",
        "CREATE TABLE c (id int PRIMARY KEY)",
    )
    master.add("public.c")
    rows = master.reader.run(
        "SELECT table_name, added, reason IS NULL FROM pyreplica.candidates('public')"
    )
    assert rows == [("a", False, False), ("b", False, True), ("c", True, True)]


def test_adding_a_table_waits_for_its_writers_and_misses_none_of_their_rows(
    master: Master,
) -> None:
    master.run("CREATE TABLE t (id int PRIMARY KEY)")
    master.run("BEGIN", "INSERT INTO t VALUES (1)")
    adder = master.session()
    adding = adder.start("SELECT pyreplica.add_table('t')")
    adder.wait_for_lock()
    master.run("INSERT INTO t VALUES (2)", "COMMIT")
    assert adding.result() == [("public.t: added, key (id)",)]
    assert master.logged("INSERT INTO t VALUES (3)") == ["t I 3"]
    assert len(master.changes()) == 1  # a copy that begins now sees the others


def test_in_a_database_that_is_not_utf8_values_are_captured_and_names_must_be_ascii(
    master_cluster: Cluster,
) -> None:
    master_cluster.psql(
        *("-c", "CREATE DATABASE latin ENCODING LATIN1 LOCALE 'C' TEMPLATE template0"),
    )
    master_cluster.psql("-q", "-f", str(sqlfiles.path("master-install.sql")), dbname="latin")
    with Master(master_cluster, "latin") as latin:
        latin.table("id text PRIMARY KEY, v text")
        latin.run("INSERT INTO t VALUES ('ä', 'ö')", "UPDATE t SET id = 'ß'")
        assert latin.changes()[0].row == {"v": "ö"}
        latin.assert_exact()
        latin.run('CREATE TABLE "ä" (id int PRIMARY KEY)')
        assert "in a database with the encoding LATIN1;" in add(latin, '"ä"')
        with pytest.raises(psycopg2.Error, match="replicated, but could not be any more"):
            latin.run('ALTER TABLE t RENAME v TO "ü"')
        latin.run("SELECT pyreplica.set_capture('plpgsql')", "DELETE FROM pyreplica.replica_log")
        assert add(latin, '"ä"') == 'public."ä": added, key (id)'
        latin.run('ALTER TABLE t RENAME v TO "ü"', "INSERT INTO t VALUES ('x', 'ö')")
        assert latin.changes()[0].row == {"ü": "ö"}
    master_cluster.drop_database("latin")
