"""`guard: true`: nobody but the daemon writes the replicated tables on the slave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.database import Connection, errorcodes
from pyreplica.errors import DatabaseError
from pyreplica.replication.setup import uninstall
from tests.conftest import Databases
from tests.support import (
    assert_same,
    config,
    config_file,
    connect,
    copied,
    copy,
    pyreplica,
    running,
    sql,
    value,
)

TABLE = (
    "CREATE TABLE public.t (id integer PRIMARY KEY, v text);"
    "INSERT INTO public.t SELECT i, 'first' FROM generate_series(1, 5) i"
)
GUARDS = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'pyreplica\\_guard%'"
READ_ONLY = "25006"


@pytest.fixture
def somebody(databases: Databases) -> Iterator[Connection]:
    """A session of an application on the slave."""
    with connect(databases.slave) as session:
        yield session


def refusal(session: Connection, statement: str) -> DatabaseError:
    """The error of a statement that the guard refuses."""
    with pytest.raises(DatabaseError) as caught:
        session.execute(statement)
    session.rollback()
    assert caught.value.sqlstate == READ_ONLY, caught.value.line
    return caught.value


def guarded(databases: Databases) -> int:
    """How many guards there are on the slave."""
    return int(value(databases.slave, GUARDS))


def test_every_way_to_write_is_refused_but_to_the_daemon(
    databases: Databases, somebody: Connection
) -> None:
    made = copied(databases, TABLE, guard=True)
    somebody.execute("INSERT INTO public.t VALUES (100, 'before the daemon')")
    somebody.execute("DELETE FROM public.t WHERE id = 100")
    with running(made) as daemon_:
        daemon_.until_asleep()
        error = refusal(somebody, "INSERT INTO public.t VALUES (6, 'x')")
        assert error.what == (
            "table public.t is replicated by PyReplica and cannot be written on the slave"
        )
        assert error.details.startswith("DETAIL: It is guarded in replication shop.")
        for words in ("pyreplica uninstall", "slave-uninstall.sql", "guard: false"):
            assert words in error.hint
        somebody.execute("CREATE VIEW public.w AS SELECT * FROM public.t")
        for statement in (
            "UPDATE public.t SET v = 'x'",
            "UPDATE public.t SET v = 'x' WHERE false",
            "DELETE FROM public.t",
            "TRUNCATE public.t",
            "INSERT INTO public.t VALUES (1, 'x') ON CONFLICT DO NOTHING",
            "WITH d AS (DELETE FROM public.t RETURNING *) SELECT count(*) FROM d",
            "UPDATE public.w SET v = 'x'",
            "MERGE INTO public.t USING (VALUES (1)) s(id) ON t.id = s.id WHEN MATCHED THEN DELETE",
            "COPY public.t FROM PROGRAM 'echo 7'",
        ):
            refusal(somebody, statement)
        # what does not write is free
        somebody.execute("BEGIN; SELECT FROM public.t FOR UPDATE; COMMIT")
        somebody.execute("CREATE INDEX ON public.t (v)")
        sql(
            databases.master,
            "INSERT INTO public.t VALUES (6, 'x')",
            "UPDATE public.t SET v = 'y' WHERE id < 3",
            "DELETE FROM public.t WHERE id = 4",
        )
        assert_same(made)
        sql(databases.master, "TRUNCATE public.t", "INSERT INTO public.t VALUES (1, 'again')")
        assert_same(made)
        assert daemon_.error is None


def test_an_ordinary_role_with_all_grants_is_refused_and_needs_no_right_on_our_schema(
    databases: Databases,
) -> None:
    made = copied(databases, TABLE, guard=True)
    sql(
        databases.slave,
        "DROP ROLE IF EXISTS guarded_writer",
        "CREATE ROLE guarded_writer",
        "GRANT ALL ON public.t TO guarded_writer",
    )
    with running(made) as daemon_:
        daemon_.until_asleep()
        with connect(databases.slave) as writer:
            writer.execute("SET ROLE guarded_writer")
            refusal(writer, "DELETE FROM public.t")
            with pytest.raises(DatabaseError, match="permission denied"):
                writer.execute("SET session_replication_role = replica")
    sql(databases.slave, "DROP OWNED BY guarded_writer", "DROP ROLE guarded_writer")


def test_a_superuser_gets_past_it_by_the_replication_role(
    databases: Databases, somebody: Connection
) -> None:
    made = copied(databases, TABLE, guard=True)
    with running(made) as daemon_:
        daemon_.until_asleep()
        somebody.execute("SET session_replication_role = replica")
        somebody.execute("DELETE FROM public.t WHERE id = 1")
        somebody.execute("RESET session_replication_role")
        refusal(somebody, "DELETE FROM public.t WHERE id = 2")


def test_it_goes_when_the_configuration_does_not_want_it_any_more(
    databases: Databases, somebody: Connection
) -> None:
    copied(databases, TABLE, guard=True)
    for wanted in (True, False, True):
        with running(config(databases, guard=wanted)) as daemon_:
            daemon_.until_asleep()
            assert guarded(databases) == wanted
    # without the daemon it stays
    refusal(somebody, "DELETE FROM public.t")
    sql(databases.slave, "ALTER TABLE public.t DISABLE TRIGGER pyreplica_guard_1")
    somebody.execute("UPDATE public.t SET v = v")
    with running(config(databases, guard=True)) as daemon_:
        daemon_.until_asleep()
        refusal(somebody, "DELETE FROM public.t")


@pytest.mark.parametrize("how", ["uninstall", "script", "script of a database that is both"])
def test_uninstalling_takes_it_away(databases: Databases, somebody: Connection, how: str) -> None:
    made = copied(databases, TABLE, guard=True)
    with running(made) as daemon_:
        daemon_.until_asleep()
    refusal(somebody, "DELETE FROM public.t")
    if how == "uninstall":
        uninstall(made)
    else:
        if how != "script":
            meant = "SELECT set_config('pyreplica.both', 'on', false);"
            sql(databases.slave, meant + sqlfiles.script("master-install.sql"))
        sql(databases.slave, sqlfiles.script("slave-uninstall.sql"))
    assert guarded(databases) == 0
    somebody.execute("DELETE FROM public.t")


PARTITIONED = (
    "CREATE TABLE public.p (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);"
    "CREATE TABLE public.p_1 PARTITION OF public.p FOR VALUES FROM (0) TO (10);"
    "INSERT INTO public.p SELECT i, 'first' FROM generate_series(1, 5) i;"
)


def test_partitions_are_guarded_and_new_ones_at_once(
    databases: Databases, somebody: Connection
) -> None:
    made = copied(databases, PARTITIONED, guard=True)
    with running(made) as daemon_:
        daemon_.until_asleep()
        for table in ("p", "p_1"):
            for statement in ("DELETE FROM {}", "TRUNCATE {}", "INSERT INTO {} VALUES (9, 'x')"):
                refusal(somebody, statement.format(f"public.{table}"))
        # nobody has told the daemon
        sql(
            databases.slave,
            "CREATE TABLE public.p_2 PARTITION OF public.p FOR VALUES FROM (10) TO (20)",
        )
        refusal(somebody, "INSERT INTO public.p_2 VALUES (11, 'x')")
        sql(
            databases.master,
            "CREATE TABLE public.p_2 PARTITION OF public.p FOR VALUES FROM (10) TO (20)",
            "INSERT INTO public.p VALUES (11, 'x')",
            "UPDATE public.p SET id = 12 WHERE id = 5",
        )
        assert_same(made)
    with running(made) as daemon_:
        daemon_.until_asleep()
        refusal(somebody, "TRUNCATE public.p_2")
    with running(config(databases)) as daemon_:
        daemon_.until_asleep()
        assert guarded(databases) == 0


def test_what_comes_through_a_parent_is_refused_and_the_parents_own_rows_are_free(
    databases: Databases, somebody: Connection
) -> None:
    made = copied(
        databases,
        TABLE,
        slave="CREATE TABLE public.parent (id integer, v text);"
        "CREATE TABLE public.t (PRIMARY KEY (id)) INHERITS (public.parent);",
        guard=True,
    )
    with running(made) as daemon_:
        daemon_.until_asleep()
        somebody.execute("INSERT INTO public.parent VALUES (77, 'own')")
        somebody.execute("UPDATE public.parent SET v = 'x' WHERE id = 77")
        for statement in (
            "UPDATE public.parent SET v = 'x'",
            "DELETE FROM public.parent WHERE id = 3",
            "TRUNCATE public.parent",
        ):
            assert "public.t" in refusal(somebody, statement).what
        sql(databases.master, "UPDATE public.t SET v = 'y'")
        assert_same(made)


def test_a_table_that_is_a_partition_on_the_slave_alone_is_guarded(
    databases: Databases, somebody: Connection
) -> None:
    made = copied(
        databases,
        TABLE,
        slave="CREATE TABLE public.root (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);"
        "CREATE TABLE public.t PARTITION OF public.root FOR VALUES FROM (0) TO (1000);"
        "CREATE TABLE public.own PARTITION OF public.root DEFAULT",
        guard=True,
    )
    with running(made) as daemon_:
        daemon_.until_asleep()
        refusal(somebody, "INSERT INTO public.root VALUES (7, 'x')")
        somebody.execute("INSERT INTO public.root VALUES (7000, 'x')")
        sql(databases.master, "INSERT INTO public.t VALUES (7, 'x')")
        assert_same(made)


def test_what_triggers_and_foreign_keys_do_to_a_guarded_table_is_refused(
    databases: Databases, somebody: Connection
) -> None:
    made = copied(databases, TABLE, guard=True)
    sql(
        databases.slave,
        "CREATE TABLE public.own (id integer PRIMARY KEY)",
        "INSERT INTO public.own SELECT generate_series(1, 5)",
        "CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN UPDATE public.t SET v = 'touched'; RETURN NULL; END$$",
        "CREATE TRIGGER touch AFTER INSERT ON public.own EXECUTE FUNCTION public.touch()",
        # what a cascade would do on the master is in the log
        "ALTER TABLE public.t ADD FOREIGN KEY (id) REFERENCES public.own ON DELETE CASCADE",
    )
    with running(made) as daemon_:
        daemon_.until_asleep()
        refusal(somebody, "INSERT INTO public.own VALUES (6)")
        refusal(somebody, "DELETE FROM public.own WHERE id = 2")
        assert value(databases.slave, "SELECT count(*) FROM public.own") == 5


def test_a_trigger_that_is_always_on_writes_guarded_tables_while_the_daemon_applies(
    databases: Databases,
) -> None:
    tables = TABLE + "; CREATE TABLE public.u (id integer PRIMARY KEY, v text)"
    made = copied(databases, tables, guard=True)
    sql(
        databases.slave,
        "CREATE FUNCTION public.mirror() RETURNS trigger LANGUAGE plpgsql AS "
        "$$BEGIN INSERT INTO public.u VALUES (NEW.id, NEW.v); RETURN NULL; END$$",
        "CREATE TRIGGER mirror AFTER INSERT ON public.t FOR EACH ROW "
        "EXECUTE FUNCTION public.mirror()",
        "ALTER TABLE public.t ENABLE ALWAYS TRIGGER mirror",
    )
    with running(made) as daemon_:
        daemon_.until_asleep()
        sql(databases.master, "INSERT INTO public.t VALUES (6, 'x')")
        daemon_.until(daemon_.batches, "no batch")
    assert value(databases.slave, "SELECT v FROM public.u WHERE id = 6") == "x"


def test_it_follows_tables_that_join_and_go(databases: Databases, tmp_path: Path) -> None:
    made = copied(databases, TABLE, guard=True)
    path = config_file(tmp_path, databases, guard=True)
    new = "CREATE TABLE public.new (id integer PRIMARY KEY)"
    sql(databases.master, new)
    sql(databases.slave, new)
    with running(made) as daemon_, connect(databases.slave) as somebody:
        daemon_.until_asleep()
        somebody.execute("INSERT INTO public.new VALUES (1)")
        pyreplica(path, "add-table", "shop", "public.new", "--truncate", "--timeout", "30s")
        daemon_.until_said("table public.new is in step")
        daemon_.until_asleep()
        refusal(somebody, "INSERT INTO public.new VALUES (1)")
        pyreplica(path, "remove-table", "shop", "public.new")
        daemon_.until(lambda: guarded(databases) == 1, "it stays", timeout=10)
        somebody.execute("INSERT INTO public.new VALUES (1)")


def test_it_follows_ddl_of_the_master(databases: Databases, tmp_path: Path) -> None:
    made = copied(databases, PARTITIONED, guard=True, ddl="replicate")
    with running(made) as daemon_, connect(databases.slave) as somebody:
        daemon_.until_asleep()
        sql(
            databases.master,
            "CREATE TABLE public.p_2 PARTITION OF public.p FOR VALUES FROM (10) TO (20)",
            "INSERT INTO public.p VALUES (11, 'x')",
            "ALTER TABLE public.p RENAME TO q",
            "ALTER TABLE public.q DETACH PARTITION public.p_1",
            "INSERT INTO public.q VALUES (12, 'x')",
        )
        assert_same(made)
        daemon_.until_asleep()
        refusal(somebody, "TRUNCATE public.p_2")
        refusal(somebody, "DELETE FROM public.q")
        # no part of the replicated table any more
        somebody.execute("DELETE FROM public.p_1")


def test_a_table_that_somebody_has_locked_is_guarded_when_he_lets_go(
    databases: Databases,
) -> None:
    made = copied(databases, TABLE, guard=True, keepalive="1s")
    with connect(databases.slave) as somebody:
        somebody.execute("BEGIN; LOCK TABLE public.t IN ROW EXCLUSIVE MODE")
        with running(made) as daemon_:
            line = daemon_.until_said("the guard of public.t cannot be set")
            assert line.startswith("WARNING")
            assert "at the latest after 1 s" in line
            daemon_.until_asleep()
            assert guarded(databases) == 0
            # the replication goes on meanwhile
            sql(databases.master, "INSERT INTO public.t VALUES (6, 'x')")
            assert_same(made)
            somebody.execute("COMMIT")
            daemon_.until(lambda: guarded(databases) == 1, "no guard", timeout=20)
            refusal(somebody, "DELETE FROM public.t")


def test_a_role_that_does_not_own_the_table_is_told_what_it_needs(databases: Databases) -> None:
    made = copied(databases, TABLE, guard=True)
    rights: Callable[..., None] = lambda *statements: sql(databases.slave, *statements)  # noqa: E731
    rights(
        "DROP ROLE IF EXISTS guard_role",
        "CREATE ROLE guard_role LOGIN",
        "GRANT SET ON PARAMETER session_replication_role TO guard_role",
        "GRANT USAGE ON SCHEMA pyreplica TO guard_role",
        "GRANT ALL ON ALL TABLES IN SCHEMA pyreplica TO guard_role",
        "GRANT ALL ON ALL FUNCTIONS IN SCHEMA pyreplica TO guard_role",
        "ALTER TABLE pyreplica.stage_1 OWNER TO guard_role",
        "ALTER TABLE pyreplica.net_1 OWNER TO guard_role",
        "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON public.t TO guard_role",
    )
    slave = databases.slave_cluster.dsn(databases.name, user="guard_role")
    other = Databases(
        databases.master, slave, databases.name, databases.master_cluster, databases.slave_cluster
    )
    weak: ReplicationConfig = config(other, guard=True)
    try:
        with running(weak) as daemon_:
            line = daemon_.until_said("permission denied for table t")
            assert "must own the table or be superuser" in line
            rights("GRANT TRIGGER ON public.t TO guard_role")
            daemon_.until_asleep()
            assert guarded(databases) == 1
    finally:
        rights(
            "DROP OWNED BY guard_role",
            "REVOKE SET ON PARAMETER session_replication_role FROM guard_role",
            "DROP ROLE guard_role",
        )
    assert made.guard


def test_a_new_copy_passes_the_guard(databases: Databases) -> None:
    made = copied(databases, TABLE, guard=True)
    with running(made) as daemon_:
        daemon_.until_asleep()
    sql(databases.master, "UPDATE public.t SET v = 'anew'")
    copy(made, truncate=True)
    with running(made):
        assert_same(made)
    assert guarded(databases) == 1
    assert errorcodes.READ_ONLY_SQL_TRANSACTION == READ_ONLY
