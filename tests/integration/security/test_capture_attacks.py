"""Who owns a captured table on the master does not get the rights of the capture by that."""

from __future__ import annotations

import re

import pytest

from pyreplica.errors import DatabaseError
from tests.integration.cli_support import rows
from tests.integration.security.conftest import Roles
from tests.support import sql, value

# PostgreSQL computes an immutable function of constants while it plans a query. This one notes for
# whom.
CODE = """
CREATE TABLE heard (who text);
GRANT ALL ON heard TO PUBLIC;
CREATE FUNCTION note() RETURNS integer LANGUAGE plpgsql AS
    'BEGIN INSERT INTO public.heard VALUES (current_user); RETURN 1; END';
CREATE FUNCTION code() RETURNS integer LANGUAGE plpgsql IMMUTABLE AS
    'DECLARE one integer; BEGIN SELECT public.note() INTO one; RETURN one; END';
"""
TWICE = "DO $$BEGIN UPDATE t SET v = '1'; UPDATE t SET v = '2'; END$$"
"""The second is logged by what stands in the table, which the capture reads then."""


KEY = "jsonb_build_object('id', '1')"


@pytest.fixture
def master(roles: Roles) -> Roles:
    """An installed master."""
    roles.install()
    return roles


def choose(roles: Roles, language: str) -> None:
    """Have tables captured in a language."""
    sql(roles.databases.master, f"SELECT pyreplica.set_capture('{language}')")


def add(roles: Roles, table: str) -> str:
    """A superuser captures a table; gives the answer."""
    return str(value(roles.databases.master, f"SELECT pyreplica.add_table('public.{table}')"))


def heard(roles: Roles) -> set[str]:
    """For whom the function was computed."""
    return {who for (who,) in rows(roles.databases.master, "SELECT who FROM heard")}


@pytest.mark.parametrize("language", ["plpython3u", "plpgsql"])
def test_check_constraints_are_not_planned_with_the_rights_of_the_capture(
    master: Roles, language: str
) -> None:
    choose(master, language)
    with master.attacker(constraint_exclusion="on") as app:
        app.execute(CODE + "CREATE TABLE t (id int PRIMARY KEY, v text, CHECK (code() = 1))")
        app.execute(
            "CREATE TABLE r (id int PRIMARY KEY, v text, CHECK (code() = 1)) "
            "PARTITION BY RANGE (id); CREATE TABLE r1 PARTITION OF r DEFAULT"
        )
        assert ": added" in add(master, "t")
        assert ": added" in add(master, "r")
        for table in ("t", "r"):
            app.execute(f"INSERT INTO {table} VALUES (1, 'a')")
            app.execute(TWICE.replace(" t ", f" {table} "))
            app.execute(f"ALTER TABLE {table} ADD COLUMN w timestamptz DEFAULT clock_timestamp()")
            sql(
                master.databases.master,
                "SET constraint_exclusion = on",
                f"SELECT pyreplica.restate('public.{table}', ARRAY[{KEY}])",
            )
            app.execute(f"TRUNCATE {table}")
    assert heard(master) <= {master.app}


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("CREATE INDEX bad ON t ((v || code()))", "its index public.bad calls public.code()"),
        ("CREATE UNIQUE INDEX bad ON t (id) WHERE code() = 1", "its index public.bad calls"),
        ("CREATE STATISTICS bad ON (v || code()), id FROM t", "statistics object bad calls"),
    ],
)
def test_functions_of_others_in_what_queries_are_planned_with_are_refused(
    master: Roles, place: str, message: str
) -> None:
    with master.attacker() as app:
        app.execute(CODE + "CREATE TABLE t (id int PRIMARY KEY, v text)")
        assert ": added" in add(master, "t")
        with pytest.raises(DatabaseError, match="is replicated.*" + re.escape(message)):
            app.execute(place)
        sql(master.databases.master, "SELECT pyreplica.remove_table('public.t')")
        app.execute(place)
        assert message in add(master, "t")
        # a superuser who has read the function lets it be
        sql(master.databases.master, "ALTER FUNCTION public.code() OWNER TO postgres")
        assert ": added" in add(master, "t")


def test_an_operator_or_a_partition_key_of_others_is_refused(master: Roles) -> None:
    with master.attacker() as app:
        app.execute(
            CODE + "CREATE FUNCTION plus(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS "
            "'SELECT public.code()'; "
            "CREATE OPERATOR ||| (leftarg = int, rightarg = int, function = plus); "
            "CREATE TABLE t (id int PRIMARY KEY); CREATE INDEX bad ON t ((id ||| 1)); "
            "CREATE TABLE r (id int) PARTITION BY RANGE ((id + code()))"
        )
    assert "calls public.plus(integer,integer)" in add(master, "t")
    assert "not added" in add(master, "r")


def test_keys_whose_text_a_function_of_others_would_read_are_refused(master: Roles) -> None:
    with master.attacker() as app:
        app.execute(
            CODE + "CREATE DOMAIN word AS text; CREATE TYPE pair AS (w word); "
            "CREATE TABLE t (id pair PRIMARY KEY, v text)"
        )
        assert ": added" in add(master, "t")
        with pytest.raises(DatabaseError, match=r"its domain public\.word calls"):
            app.execute("ALTER DOMAIN word ADD CHECK (code() = 1) NOT VALID")
        app.execute("CREATE DOMAIN bad AS text CHECK (code() = 1); CREATE TYPE two AS (w bad)")
        app.execute("CREATE TABLE t2 (id two PRIMARY KEY, v text)")
    assert "its domain public.bad calls" in add(master, "t2")


def test_a_trigger_of_the_capture_cannot_be_replaced(master: Roles) -> None:
    with master.attacker() as app:
        app.execute(
            "CREATE TABLE t (id int PRIMARY KEY, v text); "
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
        )
        add(master, "t")
        fires = "AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION f()"
        with pytest.raises(DatabaseError, match="trigger pyreplica_insert on"):
            app.execute(f"CREATE OR REPLACE TRIGGER pyreplica_insert {fires}")
        app.execute(f"CREATE TRIGGER mine {fires}")
        app.execute("INSERT INTO t VALUES (1, 'a')")
    logged = "SELECT op::text FROM pyreplica.replica_log"
    assert rows(master.databases.master, logged) == [("I",)]


@pytest.mark.parametrize(
    ("language", "value_"),
    [("plpython3u", "on"), ("plpgsql", "'00000000-0000-0000-0000-000000000000'")],
)
def test_no_setting_has_ddl_pass_unfollowed(master: Roles, language: str, value_: str) -> None:
    choose(master, language)
    with master.attacker(**{"pyreplica.refreshing": value_}) as app:
        app.execute(CODE + "CREATE TABLE t (id int PRIMARY KEY, v text)")
        add(master, "t")
        with pytest.raises(DatabaseError, match="cannot be dropped"):
            app.execute("DROP TRIGGER pyreplica_insert ON t")
        with pytest.raises(DatabaseError, match="cannot be disabled"):
            app.execute("ALTER TABLE t DISABLE TRIGGER ALL")
        # unfollowed, the capture would read the view for the table
        app.execute("ALTER TABLE t RENAME TO t2")
        app.execute("CREATE VIEW t AS SELECT id, v FROM t2 WHERE note() = 1")
        app.execute("INSERT INTO t2 VALUES (1, 'a')")
        app.execute(TWICE.replace(" t ", " t2 "))
    assert heard(master) <= {master.app}
    logged = 'SELECT DISTINCT "table" FROM pyreplica.changes'
    assert rows(master.databases.master, logged) == [("public.t2",)]


def test_the_secret_of_the_captures_own_ddl_is_never_there_to_be_read(master: Roles) -> None:
    with master.attacker() as app:
        app.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
        add(master, "t")
        app.execute("BEGIN; ALTER TABLE t ADD w text")
        assert app.query("SELECT current_setting('pyreplica.refreshing', true)") == [("",)]
        app.execute("COMMIT")


def test_nobody_joins_or_reads_a_table_that_is_not_his(master: Roles) -> None:
    owner = master.databases.master
    sql(
        owner,
        "CREATE TABLE public.r (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE public.parent (id int PRIMARY KEY, v text)",
        "SELECT pyreplica.add_table('public.r'), pyreplica.add_table('public.parent')",
    )
    with master.attacker() as app:
        app.execute("CREATE TABLE mine (id int PRIMARY KEY, v text)")
        for statement in (
            "ALTER TABLE r ATTACH PARTITION mine DEFAULT",
            "CREATE TABLE mine2 PARTITION OF r DEFAULT",
            "ALTER TABLE mine INHERIT parent",
            "CREATE TABLE mine3 () INHERITS (parent)",
            "INSERT INTO parent VALUES (1, 'a')",
            "CREATE TRIGGER x AFTER INSERT ON parent EXECUTE FUNCTION pyreplica.capture('1', 'x')",
            "CREATE TRIGGER x AFTER INSERT ON mine EXECUTE FUNCTION pyreplica.capture('1', 'x')",
        ):
            with pytest.raises(DatabaseError):
                app.execute(statement)
    assert value(owner, "SELECT count(*) FROM pyreplica.replica_log") == 0
