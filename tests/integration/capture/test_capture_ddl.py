"""Capture follows what DDL does to a captured table, and refuses by name what would end it."""

from __future__ import annotations

import psycopg2
import psycopg2.extensions
import pytest

from tests.integration.capture.oracle import Master


@pytest.fixture
def table(master: Master) -> Master:
    """The table t with the row 1."""
    master.table("id int PRIMARY KEY, v text, w int")
    master.run("INSERT INTO t VALUES (1, 'a', 1)")
    return master


def generations(master: Master) -> int:
    """How often a table's capture was built."""
    count: int = master.reader.value("SELECT count(*) FROM pyreplica.replica_table")
    return count


# Columns


def test_a_column_added_is_captured_from_then_on(table: Master) -> None:
    assert table.logged("ALTER TABLE t ADD x text") == ["t F x=NULL"]
    assert table.logged("UPDATE t SET x = 'new'") == ["t U 1 x=new"]
    assert table.logged("INSERT INTO t VALUES (2, 'b', 2, 'y')") == ["t I 2 v=b w=2 x=y"]
    table.assert_exact()


def test_a_column_added_between_two_statements_of_a_transaction_is_captured(table: Master) -> None:
    other = table.session()
    other.run("INSERT INTO t VALUES (5, 'e', 5)")  # has its plans cached
    assert table.logged(
        "BEGIN",
        "INSERT INTO t VALUES (2, 'b', 2)",
        "ALTER TABLE t ADD x int, DROP w",
        "INSERT INTO t VALUES (3, 'c', 3)",
        "UPDATE t SET x = 4 WHERE id = 2",
        "COMMIT",
    ) == ["t I 2 v=b w=2", "t F x=NULL", "t I 3 v=c x=3", "t U 2 x=4"]
    assert table.logged("INSERT INTO t VALUES (4, 'd', 4)", session=other) == ["t I 4 v=d x=4"]


def test_the_value_that_a_new_column_begins_with_is_logged_once_for_all_rows(
    table: Master,
) -> None:
    table.run("SET TimeZone = 'Asia/Kolkata'", "INSERT INTO t VALUES (2, 'b', 2)")
    assert table.logged("ALTER TABLE t ADD x int DEFAULT 5, ADD y text[] DEFAULT '{a,NULL}'") == [
        "t F x=5 y={a,NULL}"
    ]
    table.run("ALTER TABLE t ADD at timestamptz NOT NULL DEFAULT now()")  # the same for all rows
    table.run("ALTER TABLE t DROP x, ADD x int DEFAULT 6")
    table.assert_exact()


@pytest.mark.parametrize(
    "alteration",
    [
        "ADD x double precision DEFAULT random()",
        "ADD x bigserial",
        "ALTER w TYPE bigint USING w + 100",
        "ALTER v TYPE text USING upper(v)",
        "ALTER id TYPE bigint USING id + 100",
        "ALTER id TYPE text USING 'k' || id",
        "DROP CONSTRAINT t_pkey, ADD x serial PRIMARY KEY",
        "ALTER g DROP EXPRESSION",
        "ALTER at TYPE timestamptz",
    ],
)
@pytest.mark.parametrize("partitioned", [False, True], ids=["plain", "partitioned"])
# one of the conversions needs no rewrite in UTC
@pytest.mark.parametrize("zone", ["UTC", "America/St_Johns"])
def test_values_that_alter_table_computes_are_logged(
    master: Master, alteration: str, partitioned: bool, zone: str
) -> None:
    columns = (
        "id int PRIMARY KEY, v text, w int, at timestamp DEFAULT '2020-02-02 02:02', "
        "z int DEFAULT 7, g int GENERATED ALWAYS AS (z * 2) STORED"
    )
    if partitioned:
        if "id TYPE" in alteration or "PRIMARY KEY" in alteration:
            return  # PostgreSQL does not alter a partition key
        master.run(
            f"CREATE TABLE t ({columns}) PARTITION BY RANGE (id)",
            "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (2)",
            "CREATE TABLE t2 PARTITION OF t DEFAULT",
        )
        master.add("public.t")
    else:
        master.table(columns)
    # what a table held before it was added has been copied; here all of it is in the log
    master.run("INSERT INTO t (id, v, w) SELECT n, 'v' || n, n FROM generate_series(1, 3) n")
    master.run(f"SET TimeZone = '{zone}'", "BEGIN", f"ALTER TABLE t {alteration}")
    master.run("UPDATE t SET v = v || 'z'", "COMMIT")
    master.assert_exact()


def test_a_rewrite_while_there_is_no_key_is_logged_with_the_new_key(table: Master) -> None:
    table.run("INSERT INTO t VALUES (2, 'b', 2)")
    table.run(
        "ALTER TABLE t DROP CONSTRAINT t_pkey",
        "ALTER TABLE t ALTER id TYPE int USING id + 7",
        "ALTER TABLE t ADD x int DEFAULT 3",
        "ALTER TABLE t ADD PRIMARY KEY (id)",
    )
    table.assert_exact()


def test_who_says_that_the_slaves_compute_the_same_has_no_rewrite_logged(table: Master) -> None:
    table.run("SET pyreplica.log_rewrites = off")
    assert table.logged("ALTER TABLE t ALTER w TYPE bigint") == []
    table.run("RESET pyreplica.log_rewrites")
    assert table.logged("ALTER TABLE t ADD x int") == ["t F x=NULL"]


def test_a_column_dropped_is_logged_no_more(table: Master) -> None:
    table.run("ALTER TABLE t DROP v")
    assert table.logged("INSERT INTO t VALUES (2, 2)") == ["t I 2 w=2"]
    assert table.logged("UPDATE t SET w = 3 WHERE id = 1") == ["t U 1 w=3"]


def test_a_column_renamed_is_logged_by_its_new_name(table: Master) -> None:
    table.run("ALTER TABLE t RENAME v TO name", "ALTER TABLE t RENAME id TO number")
    assert table.logged("UPDATE t SET name = 'b'") == ["t U 1 name=b"]
    assert table.changes()[-1].key == {"number": "1"}


def test_a_column_of_another_type_is_logged_as_that_type_prints(table: Master) -> None:
    table.run("SET TimeZone = 'Asia/Kolkata'")
    table.run("ALTER TABLE t ALTER w TYPE timestamptz USING '2024-01-01 00:00+00'")
    assert table.logged("UPDATE t SET w = w + '1 day'") == ["t U 1 w=2024-01-02 00:00:00+00"]
    table.run("ALTER TABLE t ALTER w TYPE numeric USING 1.0")
    assert table.logged("UPDATE t SET w = 1.00") == ["t U 1 w=1.00"]


def test_a_column_that_becomes_generated_or_plain_is_followed(table: Master) -> None:
    table.run("ALTER TABLE t ADD g int GENERATED ALWAYS AS (w * 2) STORED")
    assert table.logged("UPDATE t SET w = 2") == ["t U 1 w=2"]
    table.run("ALTER TABLE t ALTER g DROP EXPRESSION")
    assert table.logged("UPDATE t SET w = 3, g = 5") == ["t U 1 g=5 w=3"]


def test_a_table_may_lose_all_its_columns(table: Master) -> None:
    table.run("ALTER TABLE t DROP id, DROP v, DROP w")
    with pytest.raises(psycopg2.Error, match="lost its primary key"):
        table.run("INSERT INTO t DEFAULT VALUES")


# Keys


def test_another_primary_key_is_used_from_then_on(table: Master) -> None:
    table.run("INSERT INTO t VALUES (2, 'b', 1)")
    table.run("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (v, w)")
    assert table.logged("UPDATE t SET id = id + 5 WHERE v = 'a'") == ["t U a,1 id=6"]
    assert sorted(table.logged("UPDATE t SET v = 'c' WHERE v = 'b'")) == [
        "t D b,1",
        "t I c,1 id=2",
    ]


def test_a_key_over_an_index_that_was_there_is_used(table: Master) -> None:
    table.run(
        "CREATE UNIQUE INDEX CONCURRENTLY i ON t (v) INCLUDE (w)",
        "ALTER TABLE t DROP CONSTRAINT t_pkey, ALTER v SET NOT NULL",
        "ALTER TABLE t ADD CONSTRAINT k PRIMARY KEY USING INDEX i",
    )
    assert table.logged("UPDATE t SET w = 7") == ["t U a w=7"]


def test_without_a_primary_key_writing_is_refused_by_name_until_there_is_one(
    table: Master,
) -> None:
    table.run("ALTER TABLE t DROP CONSTRAINT t_pkey")
    for statement in (
        "INSERT INTO t VALUES (2)",
        "UPDATE t SET w = 3",
        "DELETE FROM t",
        "TRUNCATE t",
    ):
        with pytest.raises(psycopg2.Error, match=r"table public\.t .* lost its primary key"):
            table.run(statement)
    table.run("ALTER TABLE t ADD PRIMARY KEY (id)")
    assert table.logged("UPDATE t SET w = 3") == ["t U 1 w=3"]
    table.run("ALTER TABLE t DROP CONSTRAINT t_pkey")
    answer = table.reader.value("SELECT pyreplica.remove_table('public.t')")
    assert answer.startswith("public.t: removed")
    assert table.logged("UPDATE t SET w = 4") == []


# Names


def test_a_renamed_table_logs_by_its_new_name(table: Master) -> None:
    table.run("ALTER TABLE t RENAME TO u")
    assert table.logged("UPDATE u SET v = 'b'") == ["u U 1 v=b"]
    table.run("DO $$BEGIN UPDATE u SET v = 'c'; UPDATE u SET v = 'd'; END$$")
    table.assert_exact()


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE t SET SCHEMA other",
        "ALTER SCHEMA public RENAME TO moved",
        "ALTER INDEX t RENAME TO other_name",
        'ALTER TABLE t RENAME TO "o\'""t.h er"',
    ],
)
def test_a_table_moved_in_the_catalog_is_found_again(table: Master, statement: str) -> None:
    table.run("CREATE SCHEMA other", statement)
    table.run("SET search_path = other, moved, public")
    (name,) = table.run("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^[to]'")[0]
    quoted = '"' + name.replace('"', '""') + '"'
    table.run(f"INSERT INTO {quoted} VALUES (2, 'b', 2)", f"UPDATE {quoted} SET v = 'x'")
    # nested statements read the table itself
    table.run(f"DO $$BEGIN UPDATE {quoted} SET v = 'y'; UPDATE {quoted} SET id = id + 5; END$$")
    table.assert_exact()


def test_a_name_that_was_taken_over_logs_for_the_table_that_has_it(table: Master) -> None:
    table.run("BEGIN", "ALTER TABLE t RENAME TO old", "CREATE TABLE t (id int PRIMARY KEY, v text)")
    table.run("INSERT INTO t SELECT id, v FROM old", "COMMIT")
    assert [change.table for change in table.changes()] == ["t"]  # the row of the fixture
    table.add("public.t")
    assert table.logged("UPDATE t SET v = 'new'", "UPDATE old SET v = 'o'") == [
        "t U 1 v=new",
        "old U 1 v=o",
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER EXTENSION citext SET SCHEMA other",
        "ALTER SCHEMA extensions RENAME TO moved",
        "ALTER TYPE pair RENAME TO couple",
        "ALTER TYPE pair SET SCHEMA other",
        "ALTER TYPE pair RENAME ATTRIBUTE b TO c",
        "ALTER TYPE pair ADD ATTRIBUTE z timestamptz",
        "ALTER DOMAIN word RENAME TO term",
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'",
        "ALTER TYPE mood RENAME TO temper",
    ],
)
def test_types_that_are_renamed_or_moved_do_not_stop_a_writer(
    master: Master, statement: str
) -> None:
    master.run(
        "CREATE SCHEMA extensions",
        "CREATE SCHEMA other",
        "CREATE EXTENSION citext SCHEMA extensions",
        "CREATE DOMAIN word AS extensions.citext",
        "CREATE TYPE pair AS (a text, b numeric)",
        "CREATE DOMAIN pairs AS pair",
        "CREATE TYPE mood AS ENUM ('sad', 'happy')",
        "SET TimeZone = 'Asia/Kolkata'",
        "SET DateStyle = 'German'",
    )
    master.table("id extensions.citext PRIMARY KEY, w word, p pairs, q pair, m mood, ms mood[]")
    insert = "INSERT INTO t VALUES ('{}', 'W', NULL, NULL, 'happy', '{{happy}}')"
    other = master.session()
    other.run(insert.format("A"))
    master.run(insert.format("B"), statement)
    for session in (master.writer, other, master.session()):
        session.run("UPDATE t SET w = lower(w), p.a = 'c', q.a = 'd', m = 'happy'")
        session.run("DO $$BEGIN UPDATE t SET w = 'x'; UPDATE t SET id = lower(id::text); END$$")
        session.run("DELETE FROM t", insert.format("C"), insert.format("D"))
        master.assert_exact()


# Triggers


def test_a_trigger_made_later_is_reckoned_with(table: Master) -> None:
    table.run(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN UPDATE t SET v = v || '+' WHERE id = new.id; RETURN NULL; END$$",
        "CREATE TRIGGER z AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "INSERT INTO t VALUES (2, 'b', 2)",
    )
    table.assert_exact()


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE t DISABLE TRIGGER ALL",
        "ALTER TABLE t DISABLE TRIGGER USER",
        "ALTER TABLE t DISABLE TRIGGER pyreplica_insert",
        "ALTER TABLE t ENABLE REPLICA TRIGGER pyreplica_truncate",
        "DROP TRIGGER pyreplica_update ON t",
        "DROP TRIGGER pyreplica_truncate ON t",
    ],
)
def test_the_capture_triggers_can_be_neither_disabled_nor_dropped(
    table: Master, statement: str
) -> None:
    with pytest.raises(psycopg2.Error, match=r"captures changes .* cannot be") as error:
        table.run(statement)
    assert "pyreplica.remove_table()" in str(error.value.diag.message_hint)
    assert table.logged("UPDATE t SET v = 'b'", "TRUNCATE t") == ["t U 1 v=b", "t T"]


def test_a_capture_trigger_that_was_renamed_and_dropped_comes_back(table: Master) -> None:
    table.run("ALTER TRIGGER pyreplica_update ON t RENAME TO mine", "DROP TRIGGER mine ON t")
    assert table.logged("UPDATE t SET v = 'b'") == ["t U 1 v=b"]


def test_other_triggers_can_be_disabled_and_dropped(table: Master) -> None:
    before = generations(table)
    table.run(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$",
        "CREATE TRIGGER mine BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "ALTER TABLE t DISABLE TRIGGER mine",
    )
    assert table.logged("INSERT INTO t VALUES (2, 'b', 2)") == ["t I 2 v=b w=2"]
    table.run("ALTER TABLE t ENABLE ALWAYS TRIGGER mine", "DROP TRIGGER mine ON t")
    assert generations(table) == before


# The end of a table


def test_a_dropped_table_is_marked_inactive_and_its_log_stays(table: Master) -> None:
    table.run("CREATE TABLE child (id int REFERENCES t)", "CREATE VIEW seen AS SELECT * FROM t")
    assert table.logged("DROP TABLE t CASCADE") == []
    assert table.reader.run("SELECT table_name, active FROM pyreplica.replica_table") == [
        ("t", False)
    ]
    assert table.reader.run('SELECT "table", op FROM pyreplica.changes') == [("public.t", "I")]
    table.table("id int PRIMARY KEY")
    assert table.logged("INSERT INTO t VALUES (1)") == ["t I 1"]


def test_a_schema_with_captured_tables_can_be_dropped(table: Master) -> None:
    table.run("CREATE SCHEMA s", "CREATE TABLE s.u (id int PRIMARY KEY)")
    table.add("s.u")
    table.run("DROP SCHEMA s CASCADE")
    assert table.logged("UPDATE t SET v = 'b'") == ["t U 1 v=b"]
    assert table.reader.run("SELECT table_name FROM pyreplica.replica_table WHERE active") == [
        ("t",)
    ]


# What could not have been added cannot come about


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("ALTER TABLE t SET UNLOGGED", "unlogged"),
        ("ALTER TABLE root ATTACH PARTITION t FOR VALUES FROM (0) TO (9)", "partition"),
        ("ALTER TABLE tree ATTACH PARTITION loose FOR VALUES FROM (0) TO (9)", "unlogged"),
        ("CREATE UNLOGGED TABLE p PARTITION OF tree DEFAULT", "unlogged"),
        ("CREATE FOREIGN TABLE p () INHERITS (t) SERVER files OPTIONS (filename '/')", "foreign"),
        ("ALTER TABLE t INHERIT keyless", "inherits from public.keyless"),
    ],
)
def test_ddl_that_would_end_capture_is_refused_by_name(
    table: Master, statement: str, reason: str
) -> None:
    table.run(
        "CREATE TABLE root (id int NOT NULL, v text, w int) PARTITION BY RANGE (id)",
        "CREATE TABLE tree (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE UNLOGGED TABLE loose (id int NOT NULL)",
        "CREATE TABLE keyless (v text)",
        "CREATE EXTENSION file_fdw",
        "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
    )
    table.add("public.tree")
    with pytest.raises(psycopg2.Error, match=rf"table public\.t(ree)? is replicated.*{reason}"):
        table.run(statement)
    assert table.logged("INSERT INTO t VALUES (2, 'b', 2)") == ["t I 2 v=b w=2"]
    for name in ("t", "tree"):
        table.reader.run(f"SELECT pyreplica.remove_table('public.{name}')")
    table.run(statement)
    assert table.logged("INSERT INTO t VALUES (3, 'c', 3)") == []


# What does not concern capture


def test_temporary_tables_and_other_peoples_ddl_build_nothing_anew(table: Master) -> None:
    before = generations(table)
    table.run(
        "CREATE TEMP TABLE x (id int PRIMARY KEY, v text)",
        "ALTER TABLE x ADD w int",
        "CREATE INDEX ON x (w)",
        "CREATE TEMP TABLE y ON COMMIT DROP AS SELECT 1 AS one",
        "DROP TABLE x",
        "CREATE TABLE z (id int)",
        "CREATE INDEX ON t (w)",
        "ALTER TABLE t ALTER w SET STATISTICS 10, ALTER w SET DEFAULT 5",
        "VACUUM FULL t",
        "CLUSTER t USING t_pkey",
        "ANALYZE",
        "COMMENT ON TABLE t IS 'x'",
    )
    assert generations(table) == before
    assert table.logged("INSERT INTO t VALUES (2, 'b')") == ["t I 2 v=b w=5"]


def test_the_settings_of_who_runs_ddl_build_nothing_anew(table: Master) -> None:
    before = generations(table)
    odd = table.session(quote_all_identifiers="on", DateStyle="German", search_path="")
    odd.run("CREATE TABLE public.z (id int)")
    assert generations(table) == before


def test_rolled_back_ddl_leaves_capture_as_it_was(table: Master) -> None:
    other = table.session()
    table.run("BEGIN", "ALTER TABLE t ADD x int", "INSERT INTO t VALUES (2, 'b', 2, 2)", "ROLLBACK")
    for number, session in enumerate((table.writer, other), 3):
        statement = f"INSERT INTO t VALUES ({number}, 'c', 3)"
        assert table.logged(statement, session=session) == [f"t I {number} v=c w=3"]
    table.run(
        "BEGIN",
        "SAVEPOINT s",
        "ALTER TABLE t DROP w",
        "INSERT INTO t VALUES (5, 'e')",
        "ROLLBACK TO s",
        "INSERT INTO t VALUES (6, 'f', 6)",
        "COMMIT",
    )
    table.assert_exact()


# Sessions side by side


@pytest.mark.parametrize("language", ["plpgsql"], indirect=True)
def test_a_repeatable_read_writer_older_than_the_ddl_logs_what_stands_now(table: Master) -> None:
    """The function has its statements in it, it need not look them up."""
    old = table.session()
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1")
    table.run("ALTER TABLE t ADD x int")
    logged = table.logged("UPDATE t SET v = 'b'", "INSERT INTO t VALUES (7)", "COMMIT", session=old)
    assert logged == ["t U 1 v=b", "t I 7 v=NULL w=NULL x=NULL"]


@pytest.mark.parametrize("language", ["plpython3u"], indirect=True)
def test_a_repeatable_read_writer_older_than_the_ddl_is_told_to_try_again(table: Master) -> None:
    old = table.session()
    old.run("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1")
    table.run("ALTER TABLE t ADD x int")
    with pytest.raises(psycopg2.errors.SerializationFailure, match="could not serialize") as error:
        old.run("UPDATE t SET v = 'b'")
    assert "public.t" in str(error.value)
    old.run("ROLLBACK", "BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert table.logged("UPDATE t SET x = 5", "COMMIT", session=old) == ["t U 1 x=5"]


def test_ddl_of_two_sessions_at_a_time_is_followed_one_after_the_other(master: Master) -> None:
    master.run(
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE a (v int, PRIMARY KEY (id)) INHERITS (parent)",
        "CREATE TABLE b (v int, PRIMARY KEY (id)) INHERITS (parent)",
    )
    master.add("public.parent", "public.a", "public.b")
    master.run("INSERT INTO a VALUES (1, 1)", "INSERT INTO b VALUES (2, 2)")
    first, second = master.session(), master.session()
    first.run("BEGIN", "ALTER TABLE a ADD x int")
    altered = second.start("ALTER TABLE b ADD y int")
    second.wait_for_lock()
    first.run("COMMIT")
    altered.result()
    # the parent's capture knows the new columns of both
    assert sorted(master.logged("UPDATE parent SET id = id + 5")) == [
        "a d 1",
        "a d 2",
        "a d 7",
        "a i 6 v=1 x=NULL",
        "b d 1",
        "b d 2",
        "b d 6",
        "b i 7 v=2 y=NULL",
        "parent d 1",
        "parent d 2",
        "parent d 6",
        "parent d 7",
    ]


PLAIN = [
    "ALTER TABLE t ADD c text",
    "  create index on t (v);  ",
    "/* a; b */ DROP TABLE t -- gone; for good",
    "-- first\nALTER TABLE t ADD c text DEFAULT 'a;b''c;d'",
    "COMMENT ON TABLE t IS E'it\\'s; ''mine'' \\\\'",
    'ALTER TABLE "a;""b" RENAME TO c',
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$SELECT 1; SELECT 2;$$",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $a$SELECT 1; $$; $a$",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; "
    "SELECT CASE WHEN true THEN 2 END; END",
]
NOT_PLAIN = [
    "ALTER TABLE t ADD c text; INSERT INTO t VALUES (1)",
    "DO $$BEGIN ALTER TABLE t ADD c text; END$$",
    "SELECT f()",
    "CALL p()",
    "ALTER TABLE t ADD c text DEFAULT 'a'; DROP TABLE u -- 'b'",
    "COMMENT ON TABLE t IS E'a\\''; DROP TABLE u; COMMENT ON TABLE t IS 'b'",
    "/* ALTER TABLE */ SELECT f()",
    "",
]


def test_a_plain_ddl_statement_is_told_from_what_does_more(master: Master) -> None:
    def is_plain(query: str) -> bool:
        literal = psycopg2.extensions.adapt(query).getquoted().decode()
        return bool(master.reader.value(f"SELECT pyreplica.is_plain_ddl({literal})"))

    assert [query for query in PLAIN + NOT_PLAIN if is_plain(query)] == PLAIN
