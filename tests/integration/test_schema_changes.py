"""DDL on the master that changes rows, or that the slave runs as well."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.errors import PyReplicaError
from tests.conftest import Databases
from tests.support import (
    assert_same,
    blocked,
    config,
    connect,
    copied,
    eventually,
    running,
    sql,
    value,
)

both_paths = pytest.mark.usefixtures("apply_path")

PARTITIONED = """
    CREATE TABLE public.sale (id int, day date, note text, PRIMARY KEY (id, day))
        PARTITION BY RANGE (day);
    CREATE TABLE public.sale_2023 PARTITION OF public.sale
        FOR VALUES FROM ('2023-01-01') TO ('2024-01-01');
    CREATE TABLE public.sale_2024 PARTITION OF public.sale
        FOR VALUES FROM ('2024-01-01') TO ('2025-01-01') PARTITION BY LIST (id);
    CREATE TABLE public.sale_2024_odd PARTITION OF public.sale_2024 FOR VALUES IN (1, 3, 5, 7);
    CREATE TABLE public.sale_2024_rest PARTITION OF public.sale_2024 DEFAULT;
    CREATE TABLE public.sale_rest PARTITION OF public.sale DEFAULT;
"""
WHOLE = "CREATE TABLE public.sale (note text, day date, id int, PRIMARY KEY (id, day))"
DEFAULT = "FROM pg_attrdef WHERE adrelid = 'public.item'::regclass"
SALES = """
    INSERT INTO public.sale SELECT n, date '2022-06-01' + n * 100, 'note ' || n
    FROM generate_series(1, 20) n
"""


@pytest.fixture(params=["partitioned alike", "not partitioned"])
def sales(request: pytest.FixtureRequest, databases: Databases) -> ReplicationConfig:
    """A partitioned table with rows everywhere; the slave's is partitioned, or is not."""
    slave = PARTITIONED if request.param == "partitioned alike" else WHOLE
    made = copied(databases, PARTITIONED, slave=slave)
    sql(databases.master, SALES)
    return made


def rows(dsn: str, table: str = "public.sale") -> int:
    """How many rows a table has."""
    return int(value(dsn, f"SELECT count(*) FROM {table}"))


# Partitions that come and go with their rows


@both_paths
def test_the_rows_of_a_partition_come_and_go_with_it(
    sales: ReplicationConfig, databases: Databases
) -> None:
    with running(sales):
        assert_same(sales)
        for statement in (
            "ALTER TABLE public.sale DETACH PARTITION public.sale_2023",
            "UPDATE public.sale_2023 SET note = 'seen by nobody', id = id + 100",
            "ALTER TABLE public.sale ATTACH PARTITION public.sale_2023 "
            "FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')",
            "UPDATE public.sale SET note = note || '!'",
            "ALTER TABLE public.sale DETACH PARTITION public.sale_2024",
            "DELETE FROM public.sale_2024_odd WHERE id = 7; "
            "ALTER TABLE public.sale ATTACH PARTITION public.sale_2024 "
            "FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')",
            "DROP TABLE public.sale_2024_rest",
            "BEGIN; UPDATE public.sale SET note = 'late'; DROP TABLE public.sale_2023; COMMIT",
            "DROP TABLE public.sale_rest",
        ):
            before = rows(databases.slave)
            sql(databases.master, statement)
            assert_same(sales)
            assert rows(databases.slave) == rows(databases.master), statement
            assert rows(databases.slave) != before or "UPDATE" in statement, statement


def test_a_partition_is_detached_concurrently(databases: Databases) -> None:
    # PostgreSQL wants a table without a default partition for that
    tables = "CREATE TABLE public.t (id int PRIMARY KEY) PARTITION BY RANGE (id);" + "".join(
        f"CREATE TABLE public.t{n} PARTITION OF public.t FOR VALUES FROM ({n}0) TO ({n + 1}0);"
        for n in range(3)
    )
    made = copied(databases, tables)
    sql(databases.master, "INSERT INTO public.t SELECT generate_series(0, 29)")
    with running(made):
        assert_same(made)
        sql(databases.master, "ALTER TABLE public.t DETACH PARTITION public.t1 CONCURRENTLY")
        assert_same(made)
        assert rows(databases.slave, "public.t") == 20


@both_paths
def test_a_partition_is_exchanged_for_another_in_one_transaction(
    sales: ReplicationConfig, databases: Databases
) -> None:
    sql(
        databases.master,
        "CREATE TABLE public.fresh (LIKE public.sale INCLUDING INDEXES);"
        "INSERT INTO public.fresh SELECT id + 1000, day, 'fresh' FROM public.sale_2023",
    )
    with running(sales):
        sql(
            databases.master,
            "BEGIN; ALTER TABLE public.sale DETACH PARTITION public.sale_2023; "
            "ALTER TABLE public.sale ATTACH PARTITION public.fresh "
            "FOR VALUES FROM ('2023-01-01') TO ('2024-01-01'); "
            "UPDATE public.sale SET note = note || ' and sold' WHERE id > 1000; COMMIT",
        )
        assert_same(sales)
        assert rows(databases.slave) == 20


def test_dropping_the_schema_of_partitions_drops_their_rows(
    sales: ReplicationConfig, databases: Databases
) -> None:
    sql(
        databases.master,
        "CREATE SCHEMA old; CREATE TABLE old.sale_2022 (LIKE public.sale INCLUDING INDEXES)",
        "WITH moved AS (DELETE FROM public.sale_rest WHERE day < '2023-01-01' RETURNING *) "
        "INSERT INTO old.sale_2022 TABLE moved",
        "ALTER TABLE public.sale ATTACH PARTITION old.sale_2022 "
        "FOR VALUES FROM ('2022-01-01') TO ('2023-01-01')",
    )
    with running(sales):
        assert_same(sales)
        assert rows(databases.slave) == 20
        sql(databases.master, "DROP SCHEMA old CASCADE")
        assert_same(sales)
        assert rows(databases.slave) == rows(databases.master) < 20


def test_a_partition_by_hash_with_its_rows_cannot_be_dropped_unread(databases: Databases) -> None:
    tables = "CREATE TABLE public.t (id int PRIMARY KEY) PARTITION BY HASH (id);" + "".join(
        f"CREATE TABLE public.t{n} PARTITION OF public.t "
        f"FOR VALUES WITH (MODULUS 2, REMAINDER {n});"
        for n in range(2)
    )
    made = copied(databases, tables)
    sql(databases.master, "INSERT INTO public.t SELECT generate_series(1, 50)")
    with pytest.raises(PyReplicaError) as refused:
        sql(databases.master, "DROP TABLE public.t1")
    assert "partition public.t1 of the replicated table public.t cannot be dropped" in (
        refused.value.what
    )
    assert "ALTER TABLE public.t DETACH PARTITION public.t1" in refused.value.hint
    with running(made):
        sql(databases.master, "ALTER TABLE public.t DETACH PARTITION public.t1")
        sql(databases.master, "DROP TABLE public.t1")
        assert_same(made)
        assert 0 < rows(databases.slave, "public.t") < 50
        sql(databases.master, "DROP TABLE public.t")  # with what is under it


def test_attaching_rows_in_an_old_snapshot_is_refused(
    sales: ReplicationConfig, databases: Databases
) -> None:
    sql(databases.master, "ALTER TABLE public.sale DETACH PARTITION public.sale_2023")
    with connect(databases.master) as session:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        with pytest.raises(PyReplicaError, match="cannot be attached or detached in a REPEATABLE"):
            session.execute(
                "ALTER TABLE public.sale ATTACH PARTITION public.sale_2023 "
                "FOR VALUES FROM ('2023-01-01') TO ('2024-01-01')"
            )
    with running(sales):
        assert_same(sales)


# Values that ALTER TABLE computes

ALTERATIONS = [
    # on the master, and what the slave's administrator thought would do
    ("ADD tax int DEFAULT 19", "ADD tax int"),
    ("ADD tax int", "ADD tax int DEFAULT 7"),
    ("ADD made timestamptz DEFAULT now()", "ADD made timestamptz NOT NULL DEFAULT now()"),
    ("ADD lot double precision DEFAULT random()", "ADD lot double precision DEFAULT random()"),
    ("ALTER price TYPE int USING price * 100", "ALTER price TYPE int"),
    ("ALTER id TYPE bigint USING id + 50", "ALTER id TYPE bigint"),
    ("ALTER at TYPE timestamptz USING at AT TIME ZONE 'EST'", "ALTER at TYPE timestamptz"),
]


@both_paths
def test_the_slave_ends_up_with_the_values_that_the_master_computed(databases: Databases) -> None:
    made = copied(
        databases,
        "".join(
            f"CREATE TABLE public.item{n} (id int PRIMARY KEY, name text, price numeric, "
            "at timestamp DEFAULT '2020-02-02 02:02');"
            for n in range(len(ALTERATIONS))
        ),
    )
    with running(made) as daemon:
        for n in range(len(ALTERATIONS)):
            fill = (
                f"INSERT INTO public.item{n} SELECT n, 'item ' || n, n FROM generate_series(1, 9) n"
            )
            sql(databases.master, fill)
        assert_same(made)
        for n, (master, slave) in enumerate(ALTERATIONS):
            sql(databases.slave, f"ALTER TABLE public.item{n} {slave}")
            sql(databases.master, f"ALTER TABLE public.item{n} {master}")
            sql(databases.master, f"UPDATE public.item{n} SET name = 'changed' WHERE price > 5")
        assert_same(made)
        assert not daemon.said("ERROR")


@both_paths
def test_a_slave_without_the_new_column_waits_for_it_and_loses_nothing(
    databases: Databases,
) -> None:
    made = copied(databases, "CREATE TABLE public.item (id int PRIMARY KEY, name text)")
    with running(made) as daemon:
        sql(databases.master, "INSERT INTO public.item VALUES (1, 'a')")
        assert_same(made)
        sql(
            databases.master,
            "ALTER TABLE public.item ADD price int DEFAULT 3",
            "INSERT INTO public.item VALUES (2, 'b', 5)",
        )
        daemon.until_said("table public.item on the slave has no column price")
        sql(databases.slave, "ALTER TABLE public.item ADD price int")
        assert_same(made)


# DDL that the slave runs


@pytest.fixture
def following(databases: Databases) -> Iterator[ReplicationConfig]:
    """The same, and the slave runs the master's DDL."""
    made = copied(
        databases,
        "CREATE TABLE public.item (id int PRIMARY KEY, name text, price numeric); "
        "CREATE TYPE public.mood AS ENUM ('good')",
        ddl="replicate",
    )
    sql(
        databases.master,
        "INSERT INTO public.item SELECT n, 'item ' || n, n FROM generate_series(1, 10) n",
    )
    with running(made) as daemon:
        assert_same(made)
        daemon.until_asleep()
        yield made


def columns(dsn: str, table: str = "public.item") -> list[tuple[str, str]]:
    """A table's columns and their types."""
    query = (
        "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute "
        f"WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY 1"
    )
    with connect(dsn) as session:
        return [(str(name), str(type_)) for name, type_ in session.query(query)]


@both_paths
def test_ordinary_ddl_takes_its_place_among_the_rows(
    following: ReplicationConfig, databases: Databases
) -> None:
    with connect(databases.master) as session:
        for statement in (
            "BEGIN",
            "UPDATE public.item SET price = 1.5 WHERE id < 4",
            "ALTER TABLE public.item ADD made timestamptz NOT NULL DEFAULT clock_timestamp()",
            "INSERT INTO public.item VALUES (11, 'new', 2)",
            "ALTER TABLE public.item RENAME name TO title",
            "UPDATE public.item SET title = 'renamed' WHERE id = 11",
            "ALTER TABLE public.item DROP price",
            "ALTER TABLE public.item ALTER id TYPE bigint",
            "CREATE INDEX item_title ON public.item (title)",
            "COMMENT ON TABLE public.item IS 'what is; sold'",
            "ALTER TABLE public.item RENAME TO thing",
            "INSERT INTO public.thing VALUES (12, 'of another name')",
            "COMMIT",
            "ALTER TYPE public.mood ADD VALUE 'bad'",
            "ALTER TABLE public.thing ADD mood public.mood DEFAULT 'good'",
            "UPDATE public.thing SET mood = 'bad' WHERE id = 12",
            "SET search_path = public",
            "ALTER TABLE thing SET (fillfactor = 50)",
        ):
            session.execute(statement)
    assert_same(following)
    assert columns(databases.slave, "public.thing") == columns(databases.master, "public.thing")
    assert value(databases.slave, "SELECT obj_description('public.thing'::regclass)") == (
        "what is; sold"
    )
    assert value(databases.slave, "SELECT to_regclass('public.item_title') IS NOT NULL")
    assert (
        value(
            databases.slave,
            "SELECT reloptions::text FROM pg_class WHERE oid = 'public.thing'::regclass",
        )
        == "{fillfactor=50}"
    )


def test_what_is_not_for_the_slave_stays_on_the_master(
    following: ReplicationConfig, databases: Databases
) -> None:
    with connect(databases.master) as session:
        session.execute("SET client_min_messages = warning")
        for statement in (
            "CREATE TEMP TABLE scratch (id int)",
            "ALTER TABLE scratch ADD x int",
            "DROP TABLE scratch",
            "CREATE SCHEMA elsewhere",
            "CREATE TABLE elsewhere.t (id int)",
            "CREATE TABLE public.made_by_query AS SELECT 1 AS x",
            "CREATE INDEX CONCURRENTLY item_name ON public.item (name)",
            "DO 'BEGIN CREATE VIEW public.v AS SELECT 1; END'",
            "CREATE VIEW public.w AS SELECT 1; UPDATE public.item SET price = 9",
            "SET session_replication_role = replica",
            "CREATE VIEW public.x AS SELECT 1",
        ):
            session.execute(statement)
        warnings = " ".join(session.notices())
    assert warnings.count("is not sent to PyReplica's slaves") == 3
    assert_same(following)
    for name in ("elsewhere.t", "public.made_by_query", "public.item_name", "public.v", "public.w"):
        assert value(databases.slave, f"SELECT to_regclass('{name}') IS NULL"), name


def test_nobody_but_whom_superusers_let_sends_ddl(
    following: ReplicationConfig, databases: Databases
) -> None:
    role = f"owner_{databases.name[-12:]}"
    alter = f"SET ROLE {role}; ALTER TABLE public.item ALTER price SET DEFAULT"
    sql(
        databases.master,
        f"CREATE ROLE {role}; ALTER TABLE public.item OWNER TO {role}; "
        f"GRANT ALL ON SCHEMA public TO {role}",
    )
    try:
        sql(databases.master, f"{alter} 3; RESET ROLE; GRANT USAGE ON SCHEMA pyreplica TO {role}")
        sql(databases.master, f"{alter} 4")
        assert_same(following)
        assert value(databases.slave, f"SELECT count(*) {DEFAULT}") == 0
        sql(
            databases.master,
            f"GRANT EXECUTE ON FUNCTION pyreplica.announce(text, text, text, text) TO {role}",
        )
        sql(
            databases.master,
            f"SET ROLE {role}",
            "ALTER TABLE public.item ALTER price SET DEFAULT 5",
        )
        assert_same(following)
        default = f"SELECT pg_get_expr(adbin, adrelid) {DEFAULT}"
        assert value(databases.slave, default) == "5"
    finally:
        sql(databases.master, f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


@both_paths
def test_ddl_that_fails_on_the_slave_is_named_and_tried_until_it_can_be_done(
    following: ReplicationConfig, databases: Databases
) -> None:
    sql(databases.slave, "ALTER TABLE public.item ADD extra int")
    sql(
        databases.master,
        "UPDATE public.item SET name = 'before'",
        "ALTER TABLE public.item ADD extra int DEFAULT 8",
        "UPDATE public.item SET name = 'after'",
    )

    def error() -> str:
        query = "SELECT coalesce(max(last_error), '') FROM pyreplica.replica_status"
        return str(value(databases.slave, query))

    eventually(lambda: "cannot run the DDL of the master" in error(), "the error is not recorded")
    assert "ALTER TABLE public.item ADD extra int DEFAULT 8" in error()
    assert 'column "extra" of relation "item" already exists' in error()
    sql(databases.slave, "ALTER TABLE public.item DROP extra")
    assert_same(following)


def test_a_slave_that_does_not_follow_ddl_passes_it_over(databases: Databases) -> None:
    made = copied(databases, "CREATE TABLE public.item (id int PRIMARY KEY, name text)")
    other = config(databases, ddl="replicate")
    sql(databases.master, "UPDATE pyreplica.replica_slave SET ddl = true")  # as for another slave
    with running(made):
        sql(databases.master, "ALTER TABLE public.item ALTER name SET DEFAULT 'x'")
        sql(databases.master, "INSERT INTO public.item VALUES (1)")
        assert_same(made)
    assert value(databases.slave, f"SELECT count(*) {DEFAULT}") == 0
    assert other.ddl
    assert not made.ddl


def test_a_deadlock_with_a_reader_of_the_slave_is_survived(databases: Databases) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.first (id int PRIMARY KEY);"
        "CREATE TABLE public.second (id int PRIMARY KEY)",
        ddl="replicate",
    )
    # the reader would find the deadlock after a minute, the daemon does at once
    sql(databases.slave, f"ALTER DATABASE {databases.name} SET deadlock_timeout = '1min'")
    with connect(databases.slave) as reader:
        sql(databases.slave, f"ALTER DATABASE {databases.name} SET deadlock_timeout = '3s'")
        with running(made) as daemon:
            daemon.until_asleep()
            reader.execute("BEGIN; LOCK TABLE public.second IN ACCESS SHARE MODE")
            with connect(databases.master) as session:
                for statement in (
                    "BEGIN",
                    "ALTER TABLE public.first ADD one int",
                    "ALTER TABLE public.second ADD two int",
                    "COMMIT",
                ):
                    session.execute(statement)
            eventually(blocked(databases.slave), "the daemon does not wait")
            reader.execute("SELECT count(*) FROM public.first")
            daemon.until_said("deadlock detected")
            reader.execute("COMMIT")
            assert_same(made)
    assert columns(databases.slave, "public.second") == columns(databases.master, "public.second")
