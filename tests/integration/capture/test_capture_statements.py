"""What each kind of statement leaves in the log."""

from __future__ import annotations

import io

import psycopg2
import pytest

from tests.integration.capture.oracle import Master


def test_an_insert_logs_every_column_of_each_row(master: Master) -> None:
    master.table("id int PRIMARY KEY, v text, w int DEFAULT 7")
    assert master.logged("INSERT INTO t (id, v) VALUES (1, 'a')") == ["t I 1 v=a w=7"]
    assert master.logged("INSERT INTO t VALUES (2, '', NULL), (3, NULL, 0)") == [
        "t I 2 v= w=NULL",
        "t I 3 v=NULL w=0",
    ]
    assert master.logged("INSERT INTO t SELECT n, 'x' || n FROM generate_series(4, 5) n") == [
        "t I 4 v=x4 w=7",
        "t I 5 v=x5 w=7",
    ]
    master.assert_exact()


def test_an_update_logs_the_changed_columns_only(master: Master) -> None:
    master.table("id int PRIMARY KEY, v text, w int, x text")
    master.run("INSERT INTO t VALUES (1, 'a', 1, 'x'), (2, 'b', 2, NULL)")
    assert master.logged("UPDATE t SET v = 'c', w = 1") == ["t U 1 v=c", "t U 2 v=c w=1"]
    assert master.logged("UPDATE t SET x = NULL, w = NULL") == [
        "t U 1 w=NULL x=NULL",
        "t U 2 w=NULL",
    ]
    master.assert_exact()


def test_an_update_logs_what_stood_in_the_changed_columns(master: Master) -> None:
    master.table("id int PRIMARY KEY, v text, w numeric, x text, p point")
    master.run(
        "INSERT INTO t VALUES (1, 'a', 1.0, repeat('x', 1000), '(1,2)'), (2, NULL, 2, '', NULL)"
    )
    old = "SELECT key ->> 'id', old FROM pyreplica.changes WHERE op = 'U' ORDER BY id"

    master.run("UPDATE t SET v = 'b', w = 2, p = '(3,4)'")
    assert master.run(old) == [
        ("1", {"v": "a", "w": "1.0", "p": "(1,2)"}),
        ("2", {"v": None, "p": None}),
    ]
    master.run("TRUNCATE pyreplica.replica_log", "UPDATE t SET x = 'y', v = NULL")
    # a thousand bytes and their length are more than a thousand
    assert master.run(old) == [("1", {"v": "b"}), ("2", {"v": "b", "x": ""})]
    master.run("TRUNCATE pyreplica.replica_log", "UPDATE t SET id = 3 WHERE id = 1")
    assert master.run("SELECT op, old FROM pyreplica.changes ORDER BY op") == [
        ("D", None),
        ("I", None),
    ]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE t SET v = v, id = id",
        "UPDATE t SET v = 'a' WHERE id = 1",
        "UPDATE t SET v = 'z' WHERE false",
        "DELETE FROM t WHERE id > 99",
        "INSERT INTO t SELECT * FROM t WHERE false",
        "INSERT INTO t VALUES (1, 'z') ON CONFLICT DO NOTHING",
        "INSERT INTO t VALUES (1, 'z') ON CONFLICT (id) DO UPDATE SET v = t.v",
        "INSERT INTO t VALUES (1, 'z') ON CONFLICT (id) DO UPDATE SET v = 'z' WHERE false",
    ],
)
def test_a_statement_that_changes_nothing_logs_nothing(master: Master, statement: str) -> None:
    master.table("id int PRIMARY KEY, v text")
    master.run("INSERT INTO t VALUES (1, 'a'), (2, NULL)")
    assert master.logged(statement) == []


@pytest.mark.parametrize(
    ("type_", "before", "after"),
    [
        ("numeric", "1.0", "1.00"),
        ("float8", "0", "-0"),
        ("json", '{"a":1}', '{"a": 1}'),
        ("numeric[]", "{1.0,2}", "{1.00,2}"),
        ("numrange", "[1.0,2)", "[1.00,2)"),
        ("interval", "1 day", "24:00:00"),
        ("char(3)", "a", "b"),
        ("int[]", "{1,2}", "[0:1]={1,2}"),
    ],
)
def test_values_that_are_equal_but_print_differently_are_a_change(
    master: Master, type_: str, before: str, after: str
) -> None:
    master.table(f"id int PRIMARY KEY, v {type_}")
    master.run(f"INSERT INTO t VALUES (1, '{before}')")
    (changed,) = master.logged(f"UPDATE t SET v = '{after}'")
    assert changed == f"t U 1 v={after.ljust(3) if type_ == 'char(3)' else after}"
    assert master.logged(f"UPDATE t SET v = '{after}'") == []
    master.assert_exact()


def test_a_delete_logs_the_key(master: Master) -> None:
    master.table("a int, v text, b text, PRIMARY KEY (b, a)")
    master.run("INSERT INTO t VALUES (1, 'x', 'k'), (2, 'y', 'k'), (2, 'z', 'l')")
    assert sorted(master.logged("DELETE FROM t WHERE a = 2")) == ["t D 2,k", "t D 2,l"]
    master.assert_exact()


def test_a_truncate_is_logged_as_such(master: Master) -> None:
    master.table("id int PRIMARY KEY")
    assert master.logged("TRUNCATE t") == ["t T"]
    master.run("INSERT INTO t VALUES (1)")
    assert master.logged("TRUNCATE t RESTART IDENTITY") == ["t T"]
    master.assert_exact()


def test_truncate_cascade_reaches_the_referencing_tables(master: Master) -> None:
    master.table("id int PRIMARY KEY", name="a")
    master.table("id int PRIMARY KEY REFERENCES a", name="b")
    master.table("id int PRIMARY KEY REFERENCES b", name="c")
    master.run("INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)", "INSERT INTO c VALUES (1)")
    assert sorted(master.logged("TRUNCATE b, a, c")) == ["a T", "b T", "c T"]
    master.run("INSERT INTO a VALUES (2)", "INSERT INTO b VALUES (2)", "INSERT INTO c VALUES (2)")
    assert sorted(master.logged("TRUNCATE a CASCADE")) == ["a T", "b T", "c T"]
    master.assert_exact()


@pytest.mark.parametrize("name", ["aaa", "zzz"])
@pytest.mark.parametrize("moment", ["BEFORE", "AFTER"])
def test_rows_that_truncate_triggers_insert_are_logged_as_they_stand(
    master: Master, moment: str, name: str
) -> None:
    master.table("id int PRIMARY KEY, v text")
    master.run(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO t VALUES (7, 'new') ON CONFLICT DO NOTHING; RETURN NULL; END$$",
        f"CREATE TRIGGER {name} {moment} TRUNCATE ON t EXECUTE FUNCTION f()",
        "INSERT INTO t VALUES (1, 'old')",
        "TRUNCATE t",
    )
    assert len(master.rows("public.t")) == (1 if moment == "AFTER" else 0)
    master.assert_exact()


def test_a_changed_key_is_a_delete_and_an_insert(master: Master) -> None:
    master.table("id int PRIMARY KEY, v text")
    master.run("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    assert sorted(master.logged("UPDATE t SET id = 3 WHERE id = 1")) == ["t D 1", "t I 3 v=a"]
    master.assert_exact()


def test_shifted_keys_are_paired_by_key(master: Master) -> None:
    master.table("id int PRIMARY KEY, v text, w int")
    # so that no key is taken at the moment it is given
    master.run("INSERT INTO t SELECT n, 'v' || n, 0 FROM generate_series(3, 1, -1) n")
    assert sorted(master.logged("UPDATE t SET id = id + 1")) == [
        "t D 1",
        "t I 4 v=v3 w=0",
        "t U 2 v=v1",
        "t U 3 v=v2",
    ]
    master.assert_exact()


def test_keys_of_a_deferrable_constraint_are_logged_as_they_stand(master: Master) -> None:
    master.table("id int PRIMARY KEY DEFERRABLE, v text, w int")
    master.run("INSERT INTO t VALUES (1, 'a', 0), (2, 'b', 0)")
    assert sorted(master.logged("UPDATE t SET id = 3 - id")) == ["t i 1 v=b w=0", "t i 2 v=a w=0"]
    assert sorted(master.logged("UPDATE t SET id = id + 1")) == [
        "t d 1",
        "t i 2 v=b w=0",
        "t i 3 v=a w=0",
    ]
    assert master.logged("DELETE FROM t WHERE id = 2") == ["t d 2"]
    master.assert_exact()


def test_a_table_of_key_columns_alone_is_captured(master: Master) -> None:
    master.table("a int, b text, PRIMARY KEY (a, b)")
    assert master.logged("INSERT INTO t VALUES (1, 'x')") == ["t I 1,x"]
    assert master.logged("UPDATE t SET a = 1, b = 'x'") == []
    assert sorted(master.logged("UPDATE t SET b = 'y'")) == ["t D 1,x", "t I 1,y"]
    assert master.logged("DELETE FROM t") == ["t D 1,y"]
    master.assert_exact()


def test_generated_columns_are_left_to_the_slave_and_identity_columns_are_not(
    master: Master,
) -> None:
    master.table(
        "id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v int, "
        "double_ int GENERATED ALWAYS AS (v * 2) STORED, n int GENERATED BY DEFAULT AS IDENTITY"
    )
    assert master.logged("INSERT INTO t (v) VALUES (1), (2)") == ["t I 1 n=1 v=1", "t I 2 n=2 v=2"]
    assert master.logged("UPDATE t SET v = 5 WHERE id = 1") == ["t U 1 v=5"]
    master.assert_exact()


def test_a_generated_column_in_the_key_is_logged_with_the_key(master: Master) -> None:
    master.table("v int, w text, id int GENERATED ALWAYS AS (v * 2) STORED PRIMARY KEY")
    assert master.logged("INSERT INTO t VALUES (1, 'a')") == ["t I 2 v=1 w=a"]
    assert sorted(master.logged("UPDATE t SET v = 2")) == ["t D 2", "t I 4 v=2 w=a"]
    master.assert_exact()


def test_a_table_of_200_columns_is_captured(master: Master) -> None:
    master.table("id int PRIMARY KEY, " + ", ".join(f"c{n} text" for n in range(200)))
    values = ", ".join(f"'v{n}'" for n in range(200))
    assert len(master.logged(f"INSERT INTO t VALUES (1, {values})")[0].split()) == 203
    assert master.logged("UPDATE t SET c199 = 'x', c0 = NULL") == ["t U 1 c0=NULL c199=x"]
    master.run("DO $$BEGIN UPDATE t SET c1 = 'y'; UPDATE t SET c2 = 'z'; END$$")
    master.assert_exact()


def test_a_big_value_is_logged_only_when_it_changes(master: Master) -> None:
    master.table("id int PRIMARY KEY, big text, n int")
    master.run(
        "INSERT INTO t SELECT 1, string_agg(md5(n::text), '') FROM generate_series(1, 9999) n"
    )
    assert master.logged("UPDATE t SET n = 1") == ["t U 1 n=1"]
    assert master.logged("UPDATE t SET big = big || ''") == []
    (changed,) = master.logged("UPDATE t SET big = big || 'x'")
    assert len(changed) > 300_000
    master.assert_exact()


def test_copy_is_captured(master: Master) -> None:
    master.table("id int PRIMARY KEY, v text")
    master.writer.copy_in("COPY t FROM STDIN", io.StringIO("1\ta\n2\t\\N\n"))
    assert [str(change) for change in master.changes()] == ["t I 1 v=a", "t I 2 v=NULL"]
    master.assert_exact()


def test_on_conflict_do_update_logs_inserts_and_updates(master: Master) -> None:
    master.table("id int PRIMARY KEY, v text, w int")
    master.run("INSERT INTO t VALUES (1, 'a', 1)")
    statement = (
        "INSERT INTO t VALUES (1, 'b', 2), (2, 'c', 3) "
        "ON CONFLICT (id) DO UPDATE SET v = excluded.v"
    )
    assert {line.lower() for line in master.logged(statement)} == {"t i 2 v=c w=3", "t u 1 v=b"}
    master.assert_exact()


def test_on_conflict_that_moves_a_key_out_of_the_way_of_an_insert_is_exact(master: Master) -> None:
    master.table("id int PRIMARY KEY, v text")
    master.run("INSERT INTO t VALUES (1, 'old')")
    master.run(
        "INSERT INTO t VALUES (1, 'first'), (1, 'second') "
        "ON CONFLICT (id) DO UPDATE SET id = 2, v = t.v || '+' || excluded.v"
    )
    assert len(master.rows("public.t")) == 2
    master.assert_exact()


@pytest.mark.parametrize("update", ["v = s.v", "v = s.v, id = 21"])
def test_merge_is_captured(master: Master, update: str) -> None:
    if master.writer.connection.server_version < 150000:
        pytest.skip("MERGE came with PostgreSQL 15")
    master.table("id int PRIMARY KEY, v text")
    master.run("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    master.run(
        "MERGE INTO t USING (VALUES (1, 'x'), (2, NULL), (4, 'new'), (11, 'eleven'), (3, 'c')) "
        "s (id, v) ON t.id = s.id WHEN MATCHED AND s.v IS NULL THEN DELETE "
        f"WHEN MATCHED AND s.v <> t.v THEN UPDATE SET {update} "
        "WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)"
    )
    assert len(master.rows("public.t")) == 4
    master.assert_exact()


def test_rows_that_a_cascade_reaches_in_another_table_are_logged(master: Master) -> None:
    master.table("id int PRIMARY KEY, v text", name="a")
    master.table(
        "id int PRIMARY KEY, a int REFERENCES a ON UPDATE CASCADE ON DELETE CASCADE", name="b"
    )
    master.table(
        "id int PRIMARY KEY, a int DEFAULT 0 REFERENCES a ON UPDATE SET NULL ON DELETE SET DEFAULT",
        name="c",
    )
    master.run("INSERT INTO a VALUES (0, 'z'), (1, 'x'), (2, 'y')")
    master.run("INSERT INTO b VALUES (1, 1), (2, 2)", "INSERT INTO c VALUES (1, 1), (2, 2)")
    assert sorted(master.logged("UPDATE a SET id = 11 WHERE id = 1")) == [
        "a D 1",
        "a I 11 v=x",
        "b U 1 a=11",
        "c U 1 a=NULL",
    ]
    assert sorted(master.logged("DELETE FROM a WHERE id = 2")) == ["a D 2", "b D 2", "c U 2 a=0"]
    master.assert_exact()


def test_what_a_rolled_back_savepoint_wrote_is_not_in_the_log(master: Master) -> None:
    master.table("id int PRIMARY KEY, v text")
    logged = master.logged(
        "BEGIN",
        "INSERT INTO t VALUES (1, 'a')",
        "SAVEPOINT one",
        "INSERT INTO t VALUES (2, 'b')",
        "SAVEPOINT two",
        "UPDATE t SET v = 'c'",
        "ROLLBACK TO two",
        "RELEASE one",
        "SAVEPOINT three",
        "DELETE FROM t",
        "ROLLBACK TO three",
        "INSERT INTO t VALUES (3, 'd')",
        "COMMIT",
    )
    assert logged == ["t I 1 v=a", "t I 2 v=b", "t I 3 v=d"]
    master.assert_exact()


def test_a_rolled_back_transaction_leaves_nothing(master: Master) -> None:
    master.table("id int PRIMARY KEY")
    assert master.logged("BEGIN", "INSERT INTO t VALUES (1)", "TRUNCATE t", "ROLLBACK") == []
    with pytest.raises(psycopg2.errors.UniqueViolation):
        master.run("INSERT INTO t VALUES (1), (1)")
    assert master.logged("INSERT INTO t VALUES (1)") == ["t I 1"]
    master.assert_exact()


def test_the_rows_of_one_transaction_share_its_txid(master: Master) -> None:
    master.table("id int PRIMARY KEY")
    master.run("BEGIN")
    txid = master.writer.value("SELECT pg_current_xact_id()::text::bigint")
    master.run(
        "INSERT INTO t VALUES (1)", "SAVEPOINT s", "INSERT INTO t VALUES (2)", "DELETE FROM t"
    )
    master.run("DO $$BEGIN INSERT INTO t VALUES (3); EXCEPTION WHEN OTHERS THEN END$$", "COMMIT")
    assert {change.txid for change in master.changes()} == {txid}


def test_statements_of_a_plpgsql_block_are_logged_one_after_another(master: Master) -> None:
    master.table("id int PRIMARY KEY, v int")
    master.run(
        """DO $$BEGIN
            FOR i IN 1..5 LOOP
                INSERT INTO t VALUES (i, 0);
                UPDATE t SET v = v + i WHERE id <= i;
                UPDATE t SET id = id + 100 WHERE id = i AND i % 2 = 0;
                DELETE FROM t WHERE id = i - 2;
                INSERT INTO t VALUES (i - 2, -1) ON CONFLICT DO NOTHING;
            END LOOP;
        END$$"""
    )
    assert len(master.rows("public.t")) > 4
    master.assert_exact()


def test_statements_of_one_message_are_logged_one_after_another(master: Master) -> None:
    master.table("id int PRIMARY KEY, v int")
    master.run(
        "INSERT INTO t VALUES (1, 1), (2, 2); UPDATE t SET v = 5 WHERE id = 1; DELETE FROM t "
        "WHERE id = 2; INSERT INTO t VALUES (2, 9); UPDATE t SET id = 3 WHERE id = 2"
    )
    assert len(master.rows("public.t")) == 2
    master.assert_exact()


def test_exception_blocks_take_back_log_rows_and_only_those(master: Master) -> None:
    master.table("id int PRIMARY KEY, v int")
    master.run(
        """DO $$BEGIN
            INSERT INTO t VALUES (1, 1);
            FOR i IN 1..3 LOOP
                BEGIN
                    UPDATE t SET v = v + 10;
                    INSERT INTO t VALUES (i + 1, 0);
                    IF i = 2 THEN RAISE 'taken back'; END IF;
                    DELETE FROM t WHERE id = i;
                EXCEPTION WHEN raise_exception THEN
                    INSERT INTO t VALUES (99, i);
                END;
            END LOOP;
        END$$"""
    )
    assert len(master.rows("public.t")) == 3
    master.assert_exact()


def test_a_procedure_that_commits_is_captured_in_each_transaction(master: Master) -> None:
    master.table("id int PRIMARY KEY, v int")
    master.run(
        """CREATE PROCEDURE p() LANGUAGE plpgsql AS $$BEGIN
            INSERT INTO t VALUES (1, 1), (2, 2);
            COMMIT;
            UPDATE t SET v = 10 WHERE id = 1;
            ROLLBACK;
            UPDATE t SET v = 20 WHERE id = 2;
        END$$""",
        "CALL p()",
    )
    assert len({change.txid for change in master.changes()}) == 2
    master.assert_exact()


def test_what_rules_and_views_pass_on_is_captured(master: Master) -> None:
    master.table("id int PRIMARY KEY, v text", name="a")
    master.table("id int PRIMARY KEY, v text", name="b")
    master.run(
        "CREATE VIEW simple AS SELECT id, v FROM a",
        "CREATE RULE also AS ON INSERT TO a DO ALSO INSERT INTO b VALUES (new.id, new.v)",
        "CREATE RULE instead AS ON DELETE TO b "
        "DO INSTEAD UPDATE b SET v = 'kept' WHERE id = old.id",
        "CREATE VIEW joined AS SELECT a.id, a.v AS av, b.v AS bv FROM a JOIN b USING (id)",
        """CREATE FUNCTION write() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
            UPDATE a SET v = new.av WHERE id = new.id;
            UPDATE b SET v = new.bv WHERE id = new.id;
            RETURN new;
        END$$""",
        "CREATE TRIGGER write INSTEAD OF UPDATE ON joined FOR EACH ROW EXECUTE FUNCTION write()",
    )
    assert sorted(master.logged("INSERT INTO simple VALUES (1, 'x')")) == ["a I 1 v=x", "b I 1 v=x"]
    assert master.logged("DELETE FROM b") == ["b U 1 v=kept"]
    assert master.logged("UPDATE joined SET av = 'l', bv = 'r'") == ["a U 1 v=l", "b U 1 v=r"]
    master.assert_exact()


def test_before_triggers_that_change_or_suppress_rows_are_reflected(master: Master) -> None:
    master.table("id int PRIMARY KEY, v text")
    master.table("id int PRIMARY KEY, v text", name="other")
    master.run(
        """CREATE FUNCTION before() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
            IF TG_OP = 'DELETE' THEN
                RETURN CASE WHEN old.v <> 'kept' THEN old END;
            ELSIF new.v = 'suppressed' THEN
                RETURN NULL;
            ELSIF new.v = 'redirected' THEN
                INSERT INTO other VALUES (new.id, new.v);
                RETURN NULL;
            END IF;
            new.v := upper(new.v);
            RETURN new;
        END$$""",
        "CREATE TRIGGER b BEFORE INSERT OR UPDATE OR DELETE ON t "
        "FOR EACH ROW EXECUTE FUNCTION before()",
    )
    assert master.logged(
        "INSERT INTO t VALUES (1, 'a'), (2, 'suppressed'), (3, 'redirected'), (4, 'b')"
    ) == ["other I 3 v=redirected", "t I 1 v=A", "t I 4 v=B"]
    assert master.logged("UPDATE t SET v = 'suppressed'") == []
    assert master.logged("UPDATE t SET v = 'c' WHERE id = 1") == ["t U 1 v=C"]
    assert master.logged("UPDATE t SET v = 'c' WHERE id = 1") == []
    assert sorted(master.logged("DELETE FROM t")) == ["t D 1", "t D 4"]
    master.assert_exact()


def test_a_session_in_the_role_replica_is_not_captured(master: Master) -> None:
    master.table("id int PRIMARY KEY")
    assert master.logged("SET session_replication_role = replica", "INSERT INTO t VALUES (1)") == []
