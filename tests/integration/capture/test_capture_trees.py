"""Partitioned tables log under their root's name; tables that inherit log under their own."""

from __future__ import annotations

import pytest

from tests.integration.capture.oracle import Master

# Partitioned tables


@pytest.fixture
def tree(master: Master) -> Master:
    """The table t of two levels: t_1 (ids below 100), t_2 with t_2a (below 200) and t_2b."""
    master.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text, w int) PARTITION BY RANGE (id)",
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (0) TO (100)",
        # columns in another order than the root's, and one that is gone
        "CREATE TABLE t_2 (gone int, w int, id int NOT NULL, v text) PARTITION BY RANGE (id)",
        "ALTER TABLE t_2 DROP gone",
        "ALTER TABLE t ATTACH PARTITION t_2 FOR VALUES FROM (100) TO (300)",
        "CREATE TABLE t_2a PARTITION OF t_2 FOR VALUES FROM (100) TO (200)",
        "CREATE TABLE t_2b (v text, w int, id int NOT NULL)",
        "ALTER TABLE t_2 ATTACH PARTITION t_2b FOR VALUES FROM (200) TO (300)",
    )
    master.add("public.t")
    master.run("INSERT INTO t SELECT n * 50, 'v' || n, n FROM generate_series(0, 5) n")
    return master


def test_a_partitioned_table_logs_under_its_own_name(tree: Master) -> None:
    assert {change.table for change in tree.changes()} == {"t"}
    assert tree.logged("UPDATE t SET v = 'x' WHERE id = 50") == ["t U 50 v=x"]
    assert tree.logged("DELETE FROM t WHERE id = 250") == ["t D 250"]
    tree.assert_exact()


def test_a_partition_addressed_itself_logs_under_the_roots_name(tree: Master) -> None:
    assert tree.logged("INSERT INTO t_1 VALUES (1, 'a', 2)") == ["t I 1 v=a w=2"]
    assert tree.logged("INSERT INTO t_2 (id, v) VALUES (101, 'b')") == ["t I 101 v=b w=NULL"]
    assert tree.logged("INSERT INTO t_2b VALUES ('c', 3, 201)") == ["t I 201 v=c w=3"]
    assert tree.logged("UPDATE t_2b SET w = 4 WHERE id = 201") == ["t U 201 w=4"]
    assert sorted(tree.logged("UPDATE t_2 SET id = id + 101 WHERE id = 101")) == [
        "t D 101",
        "t I 202 v=b w=NULL",
    ]
    assert tree.logged("DELETE FROM t_2a WHERE id = 150") == ["t D 150"]
    tree.assert_exact()


def test_rows_that_move_between_partitions_are_logged(tree: Master) -> None:
    assert sorted(tree.logged("UPDATE t SET id = 260 WHERE id = 50")) == [
        "t D 50",
        "t I 260 v=v1 w=1",
    ]
    assert sorted(tree.logged("UPDATE t_2 SET id = id - 95, v = 'm' WHERE id = 200")) == [
        "t D 200",
        "t I 105 v=m w=4",
    ]
    tree.run("UPDATE t SET id = 299 - id WHERE id BETWEEN 10 AND 290")
    tree.assert_exact()


def test_triggers_on_partitions_that_write_to_the_tree(tree: Master) -> None:
    tree.run(
        """CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
            IF pg_trigger_depth() = 1 THEN
                UPDATE t SET w = w + 100 WHERE id = new.id;
                UPDATE t_2a SET v = v || '!' WHERE id = 150;
                INSERT INTO t_2b VALUES ('nested', 1, 299) ON CONFLICT DO NOTHING;
            END IF;
            RETURN new;
        END$$""",
        "CREATE TRIGGER z AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "INSERT INTO t VALUES (20, 'new', 0), (120, 'new', 0), (220, 'new', 0)",
        "UPDATE t SET v = upper(v) WHERE id < 120",
        "UPDATE t_2 SET id = id + 1 WHERE id = 220",
        "INSERT INTO t_1 VALUES (21, 'x', 0) ON CONFLICT (id) DO UPDATE SET v = 'y'",
    )
    tree.assert_exact()


def test_truncating_the_root_is_one_truncate(tree: Master) -> None:
    assert set(tree.logged("TRUNCATE t")) == {"t T"}
    tree.assert_exact()


@pytest.mark.parametrize("partition", ["t_1", "t_2", "t_2a", "t_2b"])
def test_truncating_a_partition_deletes_its_rows_only(tree: Master, partition: str) -> None:
    kept = len(tree.rows("public.t")) - len(tree.rows(f"public.{partition}"))
    assert {line[:3] for line in tree.logged(f"TRUNCATE {partition}")} == {"t d"}
    assert len(tree.rows("public.t")) == kept
    tree.assert_exact()


@pytest.mark.parametrize(
    "statement", ["TRUNCATE t_1, t, t_2", "TRUNCATE t, t_2a", "TRUNCATE t_2, t_1"]
)
def test_truncating_partitions_and_the_root_together(tree: Master, statement: str) -> None:
    tree.run("BEGIN", "UPDATE t SET w = 9", statement, "INSERT INTO t VALUES (5, 'n', 5)", "COMMIT")
    assert len(tree.rows("public.t")) == 1
    tree.assert_exact()


def test_truncating_a_partition_after_the_root_in_one_transaction(tree: Master) -> None:
    tree.run("BEGIN", "TRUNCATE t", "INSERT INTO t_1 VALUES (7, 'a', 1)", "TRUNCATE t_1", "COMMIT")
    assert tree.rows("public.t") == []
    tree.assert_exact()
    tree.run("BEGIN", "TRUNCATE t", "TRUNCATE t_1", "INSERT INTO t_1 VALUES (7, 'a', 1)", "COMMIT")
    tree.assert_exact()


def test_an_attached_partition_is_captured_from_then_on(tree: Master) -> None:
    tree.run("CREATE TABLE t_3 (w int, id int PRIMARY KEY, v text)")
    assert tree.logged("INSERT INTO t_3 VALUES (1, 301, 'before')", "DELETE FROM t_3") == []
    tree.run("ALTER TABLE t ATTACH PARTITION t_3 FOR VALUES FROM (300) TO (400)")
    assert tree.logged("INSERT INTO t VALUES (302, 'a', 2)") == ["t I 302 v=a w=2"]
    assert tree.logged("INSERT INTO t_3 VALUES (3, 303, 'b')") == ["t I 303 v=b w=3"]
    tree.assert_exact()


def test_a_new_partition_leaves_the_others_and_their_writers_in_peace(tree: Master) -> None:
    triggers = "SELECT oid FROM pg_trigger WHERE tgname ~ 'pyreplica' ORDER BY oid"
    generations = "SELECT id FROM pyreplica.replica_table"
    before = tree.reader.run(triggers), tree.reader.run(generations)
    writer = tree.session()
    writer.run("BEGIN", "UPDATE t SET v = 'x'")
    tree.run(
        "CREATE TABLE t_3 (LIKE t)",
        "SET lock_timeout = '10s'",
        "ALTER TABLE t ATTACH PARTITION t_3 FOR VALUES FROM (300) TO (400)",
    )
    writer.run("INSERT INTO t VALUES (301, 'y', 1)", "COMMIT")
    assert set(before[0]) < set(tree.reader.run(triggers))
    assert before[1] == tree.reader.run(generations)
    tree.assert_exact()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE t_3 PARTITION OF t FOR VALUES FROM (300) TO (400)",
        "CREATE SCHEMA s CREATE TABLE t_3 PARTITION OF public.t FOR VALUES FROM (300) TO (400)",
        "DO 'BEGIN CREATE TABLE t_3 PARTITION OF t FOR VALUES FROM (300) TO (400); END'",
        "CREATE TABLE t_3 PARTITION OF t DEFAULT",
    ],
)
def test_a_partition_is_captured_however_it_was_made(tree: Master, statement: str) -> None:
    tree.run(statement, "SET search_path = public, s")
    assert tree.logged("INSERT INTO t_3 VALUES (301, 'a', 2)") == ["t I 301 v=a w=2"]
    tree.assert_exact()


def test_a_detached_partition_is_captured_no_more(tree: Master) -> None:
    tree.run("ALTER TABLE t DETACH PARTITION t_2")
    for statement in (
        "INSERT INTO t_2 (id) VALUES (110)",
        "UPDATE t_2a SET v = 'x'",
        "DELETE FROM t_2b",
        "TRUNCATE t_2",
    ):
        assert tree.logged(statement) == []
    assert tree.logged("INSERT INTO t_1 VALUES (1, 'a', 1)") == ["t I 1 v=a w=1"]


def test_a_partition_detached_without_a_lock_is_captured_no_more(tree: Master) -> None:
    if tree.writer.connection.server_version < 140000:
        pytest.skip("DETACH CONCURRENTLY came with PostgreSQL 14")
    tree.run("ALTER TABLE t DETACH PARTITION t_1 CONCURRENTLY")
    assert tree.logged("INSERT INTO t_1 VALUES (1, 'a', 1)") == []
    assert tree.logged("INSERT INTO t_2 (id) VALUES (110)") == ["t I 110 v=NULL w=NULL"]


def test_a_foreign_key_on_a_partition_cascades_into_the_log(tree: Master) -> None:
    tree.run(
        "CREATE TABLE p (id int PRIMARY KEY)",
        "INSERT INTO p VALUES (0), (1), (2), (3), (4), (5)",
        "ALTER TABLE t ADD up int",
        "ALTER TABLE t_1 ADD FOREIGN KEY (w) REFERENCES p ON UPDATE CASCADE ON DELETE SET NULL",
        "ALTER TABLE t_1 ADD FOREIGN KEY (up) REFERENCES p ON UPDATE CASCADE ON DELETE SET NULL",
        "UPDATE t_1 SET up = w",
    )
    tree.run("UPDATE p SET id = 11 WHERE id = 1")
    rows = {row["id"]: row for row in tree.rows("public.t")}
    assert (rows["50"]["w"], rows["50"]["up"]) == ("11", "11")
    tree.run("UPDATE p SET id = id + 10", "DELETE FROM p WHERE id = 21")
    last = {change.key["id"]: change.row for change in tree.changes() if change.key and change.row}
    assert last["50"] is not None
    assert (last["50"].get("w"), last["50"].get("up")) == (None, None)


# Plain inheritance


@pytest.fixture
def family(master: Master) -> Master:
    """The table a, b which inherits from it, and c which inherits from b; all captured."""
    master.run(
        "CREATE TABLE a (id int PRIMARY KEY, v text)",
        "CREATE TABLE b (w int, PRIMARY KEY (id)) INHERITS (a)",
        "CREATE TABLE c (x int, PRIMARY KEY (id)) INHERITS (b)",
    )
    master.add("public.a", "public.b", "public.c")
    master.run(
        "INSERT INTO a VALUES (1, 'a1'), (2, 'a2'), (3, 'a3')",
        "INSERT INTO b VALUES (2, 'b2', 0), (3, 'b3', 0), (4, 'b4', 0)",
        "INSERT INTO c VALUES (3, 'c3', 0, 0), (4, 'c4', 0, 0), (5, 'c5', 0, 0)",
    )
    return master


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE a SET v = v || '!'",
        "UPDATE a SET v = 'x' WHERE id = 3",
        "UPDATE a SET id = id + 10 WHERE id IN (3, 4)",
        "UPDATE a SET v = v",
        "DELETE FROM a WHERE id = 3",
        "DELETE FROM a",
        "UPDATE b SET w = 5, v = 'w' WHERE id >= 3",
        "DELETE FROM b WHERE id = 4",
        "UPDATE c SET x = 1",
        "UPDATE ONLY a SET v = 'only'",
        "UPDATE ONLY b SET id = id + 10",
        "DELETE FROM ONLY a WHERE id > 1",
        "INSERT INTO a VALUES (4, 'a4'), (5, 'a5')",
        "INSERT INTO b VALUES (3, 'x', 0) ON CONFLICT (id) DO UPDATE SET v = 'conflict'",
        "TRUNCATE a",
        "TRUNCATE ONLY a",
        "TRUNCATE b",
        "TRUNCATE ONLY b, c",
        "WITH d AS (DELETE FROM a WHERE id = 3 RETURNING id) "
        "INSERT INTO c SELECT max(id) + 50 FROM d",
        "WITH d AS (DELETE FROM ONLY a WHERE id = 2 RETURNING *) UPDATE b SET v = d.v FROM d",
    ],
)
def test_a_statement_on_a_family_of_tables(family: Master, statement: str) -> None:
    family.run(statement)
    family.assert_exact()
    family.run("UPDATE a SET v = 'later'", "DELETE FROM b WHERE id % 2 = 1")
    family.assert_exact()


def test_triggers_across_a_family_of_tables(family: Master) -> None:
    family.run(
        """CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
            IF pg_trigger_depth() = 1 THEN
                UPDATE b SET w = w + 1 WHERE id = old.id;
                UPDATE a SET v = v || '+' WHERE id = old.id + 1;
                DELETE FROM ONLY a WHERE id = old.id - 2;
                INSERT INTO c VALUES (old.id + 100, 'n', 0, 0) ON CONFLICT DO NOTHING;
            END IF;
            RETURN NULL;
        END$$""",
        "CREATE TRIGGER z AFTER UPDATE OR DELETE ON a FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE TRIGGER z AFTER UPDATE OR DELETE ON b FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE TRIGGER z AFTER UPDATE OR DELETE ON c FOR EACH ROW EXECUTE FUNCTION f()",
        "UPDATE a SET v = 'x' WHERE id <= 3",
        "UPDATE c SET id = 7 WHERE id = 5",
        "DELETE FROM b WHERE id = 4",
    )
    family.assert_exact()


@pytest.mark.parametrize("kind", ["", "TEMP", "UNLOGGED"])
def test_the_rows_of_a_child_that_is_not_captured_stay_out_of_its_parents_log(
    master: Master, kind: str
) -> None:
    master.table("id int PRIMARY KEY, v text", name="a")
    master.run(f"CREATE {kind} TABLE b (PRIMARY KEY (id)) INHERITS (a)")
    master.run("INSERT INTO a VALUES (1, 'a'), (2, 'a')", "INSERT INTO b VALUES (2, 'b'), (3, 'b')")
    for statement in (
        "UPDATE a SET v = v || id",
        "UPDATE a SET id = id + 10 WHERE id > 1",
        "DELETE FROM a WHERE id = 13",
        "UPDATE a SET v = 'x'",
        "DELETE FROM a",
    ):
        master.run(statement)
        master.assert_exact()


def test_a_child_that_is_added_later_or_made_later_is_told_from_its_parent(master: Master) -> None:
    master.table("id int PRIMARY KEY, v text", name="a")
    master.run("INSERT INTO a VALUES (1, 'a')", "CREATE TABLE b (PRIMARY KEY (id)) INHERITS (a)")
    master.add("public.b")
    master.run("INSERT INTO b VALUES (1, 'b'), (2, 'b')", "UPDATE a SET v = v || '!'")
    master.run("CREATE TABLE c (id int PRIMARY KEY, v text)", "ALTER TABLE c INHERIT b")
    master.add("public.c")
    master.run("INSERT INTO c VALUES (2, 'c'), (3, 'c')", "UPDATE a SET v = v || '?' WHERE id > 1")
    master.assert_exact()
    master.run("ALTER TABLE c NO INHERIT b", "UPDATE a SET v = 'a'", "UPDATE c SET v = 'c'")
    master.run("DROP TABLE b", "DELETE FROM a", "DELETE FROM c WHERE id = 2")
    master.assert_exact()


def test_a_table_is_captured_only_together_with_those_it_inherits_from(master: Master) -> None:
    master.run(
        "CREATE TABLE z (id int PRIMARY KEY, v text)",
        "CREATE TABLE y (PRIMARY KEY (id)) INHERITS (z)",
        "CREATE TABLE x (PRIMARY KEY (id)) INHERITS (y)",
    )
    ask = master.reader.value
    assert ask("SELECT pyreplica.add_table('public.x')").startswith(
        "public.x: not added: it inherits from public."
    )
    # a statement on the parent would go unnoticed
    assert master.logged("INSERT INTO x VALUES (1)", "UPDATE z SET v = 'x'") == []
    rows = master.reader.run("SELECT pyreplica.add_all_tables('public')")
    assert [row[0].split(":")[:2] for row in rows] == [
        [f"public.{name}", " added, key (id)"] for name in "zyx"
    ]
    assert ask("SELECT pyreplica.remove_table('public.z')").startswith("public.z: not removed: ")
    for name in "xyz":
        removed = ask(f"SELECT pyreplica.remove_table('public.{name}')")
        assert removed.startswith(f"public.{name}: removed")
    assert master.logged("UPDATE z SET v = 'x'", "TRUNCATE z") == []


@pytest.mark.parametrize(
    "more", ["", "WHEN MATCHED THEN DELETE", "WHEN NOT MATCHED THEN INSERT VALUES (50, 5)"]
)
@pytest.mark.parametrize(
    "way",
    [
        "{}",
        "DO $$BEGIN {}; END$$",
        "CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS $$BEGIN {}; END$$; SELECT f()",
        "CREATE PROCEDURE f() LANGUAGE sql AS $$ {} $$; CALL f()",
        "PREPARE p AS {}; EXECUTE p",
    ],
    ids=["plain", "in a block", "in PL/pgSQL", "in SQL", "prepared"],
)
def test_merge_that_moves_a_row_to_another_partition(master: Master, way: str, more: str) -> None:
    master.table("id int PRIMARY KEY, v int) PARTITION BY RANGE (id")
    master.run(
        "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (MINVALUE) TO (10) PARTITION BY LIST (id)",
        "CREATE TABLE t_1_1 PARTITION OF t_1 FOR VALUES IN (1, 5)",
        "CREATE TABLE t_1_rest PARTITION OF t_1 DEFAULT",
        "CREATE TABLE t_2 PARTITION OF t DEFAULT",
        "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (5, 5)",
    )
    merge = (
        "MERGE INTO {} t USING (VALUES (1), (3), (7)) s(x) ON t.id = s.x "
        f"WHEN MATCHED AND s.x = 1 THEN UPDATE SET id = {{}} {more}"
    )
    master.run(way.format(merge.format("t", 11)))
    master.assert_exact()
    master.run(
        "INSERT INTO t VALUES (1, 1), (3, 4) ON CONFLICT DO NOTHING",
        "DELETE FROM t WHERE id = 50",
        merge.format("t_1", 4).replace("50", "8"),  # within one partition's own
    )
    master.assert_exact()
    # the settings of a MERGE are over with it
    assert master.logged("INSERT INTO t VALUES (70, 7)", "UPDATE t SET id = 9 WHERE id = 70") == [
        "t I 70 v=7",
        "t D 70",
        "t I 9 v=7",
    ]
