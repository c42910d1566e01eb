"""Who writes needs no rights on the log and gets none; nothing of his runs inside capture."""

from __future__ import annotations

import psycopg2
import pytest

from tests.integration.capture.oracle import Master, Session

# Notes who runs it. A function that capture got hold of would run as the superuser.
NOTES = """CREATE FUNCTION {name}({arguments}) RETURNS {returns} LANGUAGE plpgsql AS $f$BEGIN
    INSERT INTO evil.ran VALUES (current_user, '{name}');
    RETURN {result};
END$f$"""


@pytest.fixture
def app(master: Master) -> Session:
    """A session of an ordinary role, which owns the schema app and what it makes there."""
    master.run("CREATE ROLE app LOGIN", "CREATE SCHEMA app AUTHORIZATION app")
    return master.session("app", search_path="app")


def test_a_role_without_rights_on_pyreplica_writes_captured_tables(
    master: Master, app: Session
) -> None:
    master.table("id int PRIMARY KEY, v text", name="app.t")
    master.run("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON app.t TO app")
    master.run("SELECT setval('pyreplica.doorbell', 2)")  # ringing it needs no rights either
    assert master.logged("INSERT INTO t VALUES (1, 'a')", session=app) == ["t I 1 v=a"]
    app.run("UPDATE t SET v = 'b'", "UPDATE t SET id = 2", "DELETE FROM t", "TRUNCATE t")
    app.run("DO $$BEGIN INSERT INTO t VALUES (3, 'c'); UPDATE t SET v = 'd'; END$$")
    master.assert_exact()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM pyreplica.replica_log",
        "SELECT * FROM pyreplica.replica_log_0",
        "SELECT * FROM pyreplica.changes",
        "INSERT INTO pyreplica.replica_log (segment, tab, op) VALUES (0, 1, 'T')",
        "DELETE FROM pyreplica.replica_log",
        "UPDATE pyreplica.replica_log_0 SET op = 'D'",
        "TRUNCATE pyreplica.replica_log_0",
        "SELECT * FROM pyreplica.replica_table",
        "UPDATE pyreplica.replica_slave SET batch = 9",
        "SELECT last_value FROM pyreplica.doorbell",
        "SELECT setval('pyreplica.doorbell', 1)",
        "SELECT nextval('pyreplica.replica_log_id')",
        "SELECT pyreplica.add_table('app.t')",
        "SELECT pyreplica.remove_table('app.t')",
        "SELECT pyreplica.rotate_log(0)",
        "SELECT pyreplica.set_doorbell(1, true)",
        "SELECT pyreplica.tick()",
        "SELECT pyreplica.refresh()",
        "CREATE TRIGGER x AFTER INSERT ON mine EXECUTE FUNCTION pyreplica.capture('1', 'table')",
        "CREATE TABLE pyreplica.x (id int)",
        "DROP SCHEMA pyreplica CASCADE",
        "DROP FUNCTION pyreplica.capture() CASCADE",
    ],
)
def test_a_role_without_rights_cannot_reach_into_pyreplica(
    master: Master, app: Session, statement: str
) -> None:
    app.run("CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE mine (id int)")
    master.add("app.t")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        app.run(statement)


def test_nobody_but_the_owner_has_rights_on_anything_in_pyreplica(master: Master) -> None:
    rows = master.reader.run(
        """SELECT n.nspname FROM pg_namespace n, aclexplode(n.nspacl) a
            WHERE n.nspname = 'pyreplica' AND a.grantee <> n.nspowner
        UNION ALL
        SELECT c.relname FROM pg_class c, aclexplode(c.relacl) a
            WHERE c.relnamespace = 'pyreplica'::regnamespace AND a.grantee <> c.relowner
        UNION ALL
        SELECT p.proname
            FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
            WHERE p.pronamespace = 'pyreplica'::regnamespace AND a.grantee <> p.proowner"""
    )
    assert rows == []


def test_functions_that_run_with_the_installers_rights_pin_their_search_path(
    master: Master,
) -> None:
    rows = master.reader.run(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'pyreplica'::regnamespace "
        "AND NOT coalesce(proconfig @> '{\"search_path=pg_catalog, pg_temp\"}', false) ORDER BY 1"
    )
    # the one looks at the search_path of who runs it; the other is for daemons, which have pinned
    # theirs, and is a part of the query that it stands in
    assert rows == [("announce_ddl",), ("log_of",)]
    assert not master.reader.value(
        "SELECT bool_or(prosecdef) FROM pg_proc WHERE proname IN ('announce_ddl', 'log_of')"
    )


def test_ddl_of_an_ordinary_owner_is_followed(master: Master, app: Session) -> None:
    app.run("CREATE TABLE t (id int PRIMARY KEY)")
    master.add("app.t")
    app.run("ALTER TABLE t ADD v text", "CREATE TABLE other (id int)", "DROP TABLE other")
    assert master.logged("INSERT INTO t VALUES (1, 'a')", session=app) == ["t I 1 v=a"]
    with pytest.raises(psycopg2.Error, match="cannot be dropped"):
        app.run("DROP TRIGGER pyreplica_insert ON t")
    app.run("DROP TABLE t")


def test_row_level_security_hides_nothing_from_capture(master: Master, app: Session) -> None:
    app.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE t FORCE ROW LEVEL SECURITY",
        "CREATE POLICY few ON t USING (id < 3) WITH CHECK (true)",
    )
    master.add("app.t")
    app.run(
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        "DO $$BEGIN UPDATE t SET v = 'x'; UPDATE t SET id = -id; END$$",
        "DELETE FROM t",
    )
    assert {row["id"] for row in master.rows("app.t")} == {"3"}
    master.assert_exact()


def write_in_every_way(session: Session) -> None:
    """Have each of the capture statements of the table t (k, v) run."""
    session.run(
        "INSERT INTO t SELECT k, v FROM source",
        "UPDATE t SET v = (SELECT max(v) FROM source)",
        "UPDATE t SET k = (SELECT max(k) FROM source) WHERE k = (SELECT min(k) FROM source)",
        "DO $$BEGIN UPDATE t SET v = (SELECT min(v) FROM source); "
        "UPDATE t SET v = (SELECT max(v) FROM source); DELETE FROM t; END$$",
        "TRUNCATE t",
    )


def test_what_shadows_the_system_in_the_writers_search_path_is_not_used(
    master: Master, app: Session
) -> None:
    master.run("CREATE SCHEMA evil AUTHORIZATION app")
    app.run(
        "CREATE TABLE t (k int PRIMARY KEY, v int)", "CREATE TABLE source AS SELECT 1 AS k, 1 AS v"
    )
    app.run("CREATE TABLE evil.ran (role text, function text)", "GRANT ALL ON evil.ran TO PUBLIC")
    master.add("app.t")
    for name, arguments, returns, result in (
        ("int_eq", "int, int", "bool", "true"),
        ("jsonb_object", "text[], text[]", "jsonb", "'{}'"),
        ("set_config", "text, text, bool", "text", "''"),
        ("current_setting", "text, bool", "text", "''"),
        ("interval_hash", "interval", "int", "1"),
        ("statement_timestamp", "", "timestamptz", "'epoch'"),
        ("pg_current_xact_id", "", "xid8", "'3'"),
        ("nextval", "regclass", "bigint", "1"),
        ("pg_notify", "text, text", "int", "1"),
        ("record_image_ne", "anyelement, anyelement", "bool", "false"),
    ):
        app.run(
            NOTES.format(name=f"evil.{name}", arguments=arguments, returns=returns, result=result)
        )
    app.run(
        "CREATE OPERATOR evil.= (leftarg = int, rightarg = int, function = evil.int_eq)",
        "CREATE TABLE evil.replica_log (LIKE t)",
        "CREATE TABLE evil.new_rows (LIKE t)",
        "CREATE TABLE evil.old_rows (LIKE t)",
        "CREATE VIEW evil.touched AS SELECT * FROM t",
        "CREATE DOMAIN evil.text AS pg_catalog.text",
        "CREATE DOMAIN evil.jsonb AS pg_catalog.jsonb",
    )
    master.run("SELECT setval('pyreplica.doorbell', 2)")
    for path in ("evil, pg_catalog, app, pyreplica", "app, evil"):
        app.run(f"SET search_path = {path}")
        write_in_every_way(app)
    # what the statements themselves used
    assert {function for _, function in master.run("SELECT * FROM evil.ran")} <= {"evil.int_eq"}
    assert not master.run("SELECT * FROM evil.ran WHERE role <> 'app'")
    master.assert_exact()


def test_casts_and_operators_of_the_writers_types_are_not_used(
    master: Master, app: Session
) -> None:
    master.run("CREATE SCHEMA evil AUTHORIZATION app", "CREATE EXTENSION citext SCHEMA public")
    app.run(
        "CREATE TABLE evil.ran (role text, function text)",
        "GRANT ALL ON evil.ran TO PUBLIC",
        "CREATE TYPE mood AS ENUM ('a', 'b')",
        "CREATE TYPE pair AS (a text, b int)",
        "CREATE DOMAIN word AS public.citext",
    )
    for name, arguments, returns, result in (
        ("mood_text", "mood", "text", "'cast'"),
        ("pair_text", "pair", "text", "'cast'"),
        ("mood_json", "mood", "json", "'1'"),
        ("text_mood", "text", "mood", "'a'"),
        ("mood_eq", "mood, mood", "bool", "true"),
        ("pair_eq", "pair, pair", "bool", "true"),
    ):
        app.run(NOTES.format(name=name, arguments=arguments, returns=returns, result=result))
    # in the schema of the extension, where its own operators are looked up
    app.run(
        NOTES.format(
            name="public.word_eq",
            arguments="word, word",
            returns="bool",
            result="true",
        ),
        "CREATE OPERATOR public.= (leftarg = word, rightarg = word, function = public.word_eq)",
        NOTES.format(name="public.citextout", arguments="word", returns="text", result="'evil'"),
        "CREATE OPERATOR = (leftarg = mood, rightarg = mood, function = mood_eq)",
        "CREATE OPERATOR = (leftarg = pair, rightarg = pair, function = pair_eq)",
        "CREATE CAST (mood AS text) WITH FUNCTION mood_text(mood) AS ASSIGNMENT",
        "CREATE CAST (pair AS text) WITH FUNCTION pair_text(pair) AS ASSIGNMENT",
        "CREATE CAST (mood AS json) WITH FUNCTION mood_json(mood)",
        "CREATE CAST (text AS mood) WITH FUNCTION text_mood(text) AS ASSIGNMENT",
        "GRANT USAGE ON SCHEMA app TO PUBLIC",
    )
    for number, (type_, one, two) in enumerate(
        (("mood", "a", "b"), ("pair", "(x,1)", "(x,2)"), ("word", "X", "x"))
    ):
        app.run(
            f"CREATE TABLE t{number} (k {type_} PRIMARY KEY, v {type_}[])",
            f"CREATE TABLE IF NOT EXISTS source AS SELECT k, v FROM t{number}",
            f"INSERT INTO source VALUES ('{one}', NULL), ('{two}', ARRAY['{two}'::{type_}])",
        )
        master.add(f"app.t{number}")
        app.run("TRUNCATE evil.ran")
        app.run(
            f"INSERT INTO t{number} VALUES ('{one}')",
            f"UPDATE t{number} SET v = '{{}}'",
            f"UPDATE t{number} SET k = '{two}'",
            f"DO $$BEGIN UPDATE t{number} SET v = NULL; UPDATE t{number} SET k = '{one}'; END$$",
        )
        assert master.run("SELECT * FROM evil.ran") == []
        master.assert_exact()
        app.run("DROP TABLE source")


def test_names_cannot_smuggle_statements_into_capture(master: Master, app: Session) -> None:
    master.run("CREATE SCHEMA evil AUTHORIZATION app")
    app.run("CREATE TABLE evil.ran (role text, function text)", "GRANT ALL ON evil.ran TO PUBLIC")
    app.run(NOTES.format(name="evil.f", arguments="", returns="text", result="''"))
    for name in ("x'||evil.f()||'", 'x"||evil.f()||"', "x\\'||evil.f()||\\'", "{x}',evil.f(),'"):
        for column in ("<<partition>>", "<<rows>>", "%s", name):
            quoted, inner = (it.replace('"', '""') for it in (name, column))
            app.run(
                f'CREATE TABLE "r{quoted}" ("{inner}" int PRIMARY KEY, v text) '
                f'PARTITION BY LIST ("{inner}")',
                f'CREATE TABLE "{quoted}" PARTITION OF "r{quoted}" DEFAULT',
            )
            master.reader.run("SELECT pyreplica.add_all_tables('app')")
            app.run(
                f"INSERT INTO \"r{quoted}\" VALUES (1, 'a')",
                f"DO $do$BEGIN UPDATE \"r{quoted}\" SET v = 'b'; "
                f"UPDATE \"{quoted}\" SET v = 'c'; END$do$",
            )
            master.assert_exact()
            app.run(f'TRUNCATE "{quoted}"')
            master.assert_exact()
            app.run(f'DROP TABLE "r{quoted}"')
    assert master.run("SELECT * FROM evil.ran") == []
