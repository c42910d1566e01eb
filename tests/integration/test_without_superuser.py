"""A master that an ordinary role has installed: no plpython3u, no event triggers; nothing lost."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.database import Connection, errorcodes
from pyreplica.errors import DatabaseError, PyReplicaError
from pyreplica.master import Master
from pyreplica.replication import filters
from pyreplica.replication.check import check
from pyreplica.replication.repair import repair
from pyreplica.replication.setup import install
from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.integration.cli_support import rows
from tests.support import (
    Running,
    assert_same,
    config,
    config_file,
    connect,
    copy,
    eventually,
    pyreplica,
    rotated,
    running,
    sql,
    value,
)

_numbers = itertools.count(1)

TABLES = """
CREATE TABLE public.item (id integer PRIMARY KEY, name text, at timestamptz, price float8);
CREATE TABLE public.parts (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE public.parts_0 PARTITION OF public.parts FOR VALUES FROM (0) TO (100);
CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM (100) TO (200);
CREATE TABLE public.hashed (id integer PRIMARY KEY, v text) PARTITION BY HASH (id);
CREATE TABLE public.hashed_0 PARTITION OF public.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.hashed_1 PARTITION OF public.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
"""
ROWS = """
INSERT INTO public.item SELECT i, 'row ' || i, now(), i / 3.0 FROM generate_series(1, 20) i;
INSERT INTO public.parts SELECT i, 'row ' || i FROM generate_series(1, 199, 7) i;
INSERT INTO public.hashed SELECT i, 'row ' || i FROM generate_series(1, 20) i;
"""


class Owner:
    """Databases whose master has been given to an ordinary role, which owns its tables.

    Attributes:
        role: that role.
        databases: the master as that role reaches it; the slave's superuser.
        superuser: the master as its superuser reaches it.
    """

    def __init__(self, databases: Databases, role: str) -> None:
        self.role = role
        self.superuser = databases.master
        self.databases = Databases(
            databases.master_cluster.dsn(databases.name, user=role),
            databases.slave,
            databases.name,
            databases.master_cluster,
            databases.slave_cluster,
        )
        self.master = self.databases.master
        self.slave = self.databases.slave

    def config(self, **options: Any) -> ReplicationConfig:
        """The replication."""
        return config(self.databases, **{"capture": "plpgsql", **options})

    def file(self, folder: Path, **options: Any) -> Path:
        """The same in a file."""
        return config_file(folder, self.databases, **{"capture": "plpgsql", **options})

    def session(self) -> Connection:
        """A session of the role on the master."""
        return connect(self.master)

    def script(self, name: str, *options: str) -> tuple[int, str]:
        """Run a script of sql/ on the master as the role; gives the exit code and what it said."""
        done = self.databases.master_cluster.psql(
            *("-q", "-d", self.master, *options, "-f", str(sqlfiles.path(name))), check=False
        )
        return done.returncode, done.stdout + done.stderr


def new_role(databases: Databases, kind: str) -> str:
    role = f"{kind}_{os.getpid()}_{next(_numbers)}"
    databases.master_cluster.psql("-qc", f"CREATE ROLE {role} LOGIN", dbname=databases.name)
    return role


@pytest.fixture
def owner(databases: Databases) -> Iterator[Owner]:
    """An ordinary role that may create in the database, with tables of its own."""
    role = new_role(databases, "owner")
    sql(
        databases.master,
        f"GRANT CREATE ON DATABASE {databases.name} TO {role}",
        f"GRANT CREATE ON SCHEMA public TO {role}",
    )
    made = Owner(databases, role)
    sql(made.master, TABLES, ROWS)
    sql(made.slave, TABLES)
    yield made
    databases.master_cluster.start()
    _drop(databases, role)


def _drop(databases: Databases, role: str) -> None:
    psql = databases.master_cluster.psql
    psql("-qc", f"REASSIGN OWNED BY {role} TO postgres", dbname=databases.name)
    psql("-qc", f"DROP OWNED BY {role}", "-c", f"DROP ROLE {role}", dbname=databases.name)


@pytest.fixture
def made(owner: Owner) -> ReplicationConfig:
    """A replication that the role has installed and copied; it looks at the tables often."""
    replication = owner.config(keepalive="1s")
    install(replication)
    copy(replication)
    return replication


def brought_in_line(daemon: Running, table: str) -> None:
    """Wait until the daemon has followed DDL on a table."""
    daemon.until_said(f"table {table}: ")
    daemon.until_said("its capture was brought in line")


# Installing


def test_nothing_that_takes_a_superuser_is_made(owner: Owner, tmp_path: Path) -> None:
    path = owner.file(tmp_path)
    assert "problem" not in [
        line.split(": ")[1]
        for line in pyreplica(path, "check", code=1).stdout.splitlines()
        if "superuser" in line or "plpython3u" in line
    ]
    said = pyreplica(path, "install").stdout
    assert "there are no event triggers, which only superusers can make" in said
    assert "public.item: added, key (id)" in said
    assert rows(owner.master, "SELECT extname::text FROM pg_extension") == [("plpgsql",)]
    assert rows(owner.master, "SELECT evtname::text FROM pg_event_trigger") == []
    languages = (
        "SELECT DISTINCT l.lanname::text FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang "
        "WHERE p.pronamespace = 'pyreplica'::regnamespace ORDER BY 1"
    )
    assert rows(owner.master, languages) == [("plpgsql",), ("sql",)]
    owners = (
        "SELECT DISTINCT proowner::regrole::text FROM pg_proc "
        "WHERE pronamespace = 'pyreplica'::regnamespace"
    )
    assert rows(owner.master, owners) == [(owner.role,)]
    pyreplica(path, "copy")
    shown = pyreplica(path, "check").stdout
    assert "master: note: there are no event triggers" in shown
    assert "no problems found" in shown
    # and again, and away
    assert "public.item: is added already" in pyreplica(path, "install").stdout
    pyreplica(path, "uninstall")
    assert rows(owner.master, "SELECT FROM pg_namespace WHERE nspname = 'pyreplica'") == []
    assert rows(owner.master, "SELECT FROM pg_trigger WHERE tgname LIKE 'pyreplica%'") == []
    sql(owner.master, "INSERT INTO public.item VALUES (100)")


def test_capture_in_plpython3u_is_refused_with_the_cure(owner: Owner) -> None:
    for options in ({"capture": "plpython3u"}, {"capture": "as-installed"}):
        with pytest.raises(PyReplicaError, match="it is no superuser") as refused:
            install(owner.config(**options))
        assert "`capture: plpgsql`" in refused.value.hint
    install(owner.config())
    for options in ({"capture": "plpython3u"}, {}):
        if options:
            with pytest.raises(PyReplicaError, match="it is no superuser"):
                install(owner.config(**options))
        else:
            install(owner.config(capture="as-installed"))  # what the master has
    with pytest.raises(DatabaseError, match="without the language plpython3u") as refused_too:
        sql(owner.master, "SELECT pyreplica.set_capture('plpython3u')")
    assert "Have a superuser run" in refused_too.value.hint


def test_the_script_says_what_is_missing_and_works_in_psql(owner: Owner) -> None:
    code, said = owner.script("master-install.sql")
    assert code == 3
    assert "PGOPTIONS='-c pyreplica.capture=plpgsql'" in said
    with owner.session() as session:
        session.execute("SET pyreplica.capture = 'plpgsql'")
        session.execute(sqlfiles.script("master-install.sql"))
    sql(owner.master, "SELECT pyreplica.add_all_tables()", "DELETE FROM public.item WHERE id = 1")
    assert value(owner.master, "SELECT count(*) FROM pyreplica.replica_log") == 1
    code, said = owner.script("master-uninstall.sql")
    assert (code, said) == (0, ""), said


def test_without_create_on_the_database_it_is_refused(owner: Owner) -> None:
    sql(owner.superuser, f"REVOKE CREATE ON DATABASE {owner.databases.name} FROM {owner.role}")
    with pytest.raises(PyReplicaError, match="may not create a schema") as refused:
        install(owner.config())
    assert refused.value.hint.startswith("GRANT CREATE ON DATABASE")


def test_a_superuser_does_not_take_over_what_an_ordinary_role_could_change(owner: Owner) -> None:
    """Who owns the schema decides what the capture does, with the rights of who has installed."""
    sql(owner.master, "CREATE SCHEMA pyreplica")
    as_superuser = config(
        Databases(
            owner.superuser,
            owner.slave,
            owner.databases.name,
            owner.databases.master_cluster,
            owner.databases.slave_cluster,
        )
    )
    for _ in range(2):
        with pytest.raises(PyReplicaError, match=f"belongs to role {owner.role}") as refused:
            install(as_superuser)
        assert "ALTER SCHEMA pyreplica OWNER TO" in refused.value.hint
        install(owner.config())  # its own


def test_tables_of_others_and_rows_that_are_hidden_are_refused_by_name(owner: Owner) -> None:
    other = new_role(owner.databases, "other")
    sql(
        owner.superuser,
        "CREATE TABLE public.foreign_one (id integer PRIMARY KEY)",
        f"ALTER TABLE public.foreign_one OWNER TO {other}",
    )
    sql(
        owner.master,
        "CREATE TABLE public.hidden (id integer PRIMARY KEY)",
        "ALTER TABLE public.hidden ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE public.hidden FORCE ROW LEVEL SECURITY",
    )
    said = {line.text.split(":")[0]: line for line in install(owner.config())}
    assert f"belongs to role {other}" in said["public.foreign_one"].text
    assert f"OWNER TO {owner.role}" in said["public.foreign_one"].text
    assert "NO FORCE ROW LEVEL SECURITY" in said["public.hidden"].text
    assert said["public.foreign_one"].refused
    assert said["public.hidden"].refused
    _drop(owner.databases, other)


# Living


def test_the_daemon_lives_its_whole_life(owner: Owner, tmp_path: Path) -> None:
    made = owner.config(max_log_size="1GB")
    install(made)
    copy(made)
    writer = new_role(owner.databases, "writer")
    sql(owner.master, f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.item TO {writer}")
    with running(made) as daemon:
        daemon.until_asleep()
        as_writer = owner.databases.master_cluster.dsn(owner.databases.name, user=writer)
        sql(
            as_writer,
            "SET DateStyle = 'German'; SET extra_float_digits = 0; "
            "INSERT INTO public.item VALUES (50, 'by a writer', now(), 1/3.0)",
            "UPDATE public.item SET price = price / 7, at = '2020-01-01' WHERE id % 2 = 0",
            "DELETE FROM public.item WHERE id = 3",
        )
        for attack in ("SELECT * FROM pyreplica.replica_log", "SELECT pyreplica.refresh()"):
            with pytest.raises(DatabaseError) as refused:
                sql(as_writer, attack)
            assert refused.value.sqlstate == errorcodes.INSUFFICIENT_PRIVILEGE
        sql(
            owner.master,
            "UPDATE public.parts SET id = id + 100 WHERE id < 50",
            "TRUNCATE public.parts_1",
            "INSERT INTO public.item SELECT i, 'bulk' FROM generate_series(1000, 9000) i",
            "UPDATE public.item SET name = 'more' WHERE id >= 1000",
        )
        assert_same(made)
        sql(owner.slave, "DELETE FROM public.item WHERE id = 2000")
        path = owner.file(tmp_path, max_log_size="1GB")
        assert "DIFFERS" in pyreplica(path, "compare", code=3).stdout
        pyreplica(path, "repair", "--yes")
        assert_same(made)
        assert rotated(owner.master)
    assert value(owner.master, "SELECT max_log_size > 0 FROM pyreplica.replica_slave")
    _drop(owner.databases, writer)


# DDL that nobody sees


def test_ddl_that_is_followed_in_its_transaction_loses_nothing(
    owner: Owner, made: ReplicationConfig
) -> None:
    """What docs/limits.md says to do."""
    for dsn in (owner.slave, owner.master):
        sql(
            dsn,
            "BEGIN; ALTER TABLE public.item ADD COLUMN added integer DEFAULT 7; CREATE TABLE "
            "public.parts_2 PARTITION OF public.parts FOR VALUES FROM (200) TO (300); "
            + ("SELECT pyreplica.refresh(); COMMIT" if dsn == owner.master else "COMMIT"),
        )
    with running(made) as daemon:
        sql(
            owner.master,
            "UPDATE public.item SET added = id WHERE id < 5",
            "INSERT INTO public.parts_2 VALUES (250, 'direct')",
            "BEGIN; DROP TABLE public.parts_0; SELECT pyreplica.refresh(); COMMIT",
            "BEGIN; ALTER TABLE public.item DROP COLUMN price; SELECT pyreplica.refresh(); COMMIT",
            "INSERT INTO public.item VALUES (60, 'x', now(), 8)",
        )
        assert_same(made)
        assert not daemon.said("brought in line")
    assert value(owner.slave, "SELECT sum(added) FROM public.item WHERE id < 5") == 10


def test_a_new_column_arrives_with_what_was_written_before_it_was_noticed(
    owner: Owner, made: ReplicationConfig
) -> None:
    for dsn in (owner.master, owner.slave):
        sql(dsn, "ALTER TABLE public.item ADD COLUMN added integer DEFAULT 7")
    sql(
        owner.master,
        "UPDATE public.item SET added = id WHERE id % 2 = 0",
        "INSERT INTO public.item (id, added) VALUES (70, 71)",
    )
    with running(made) as daemon:
        brought_in_line(daemon, "public.item")
        assert_same(made)
    assert value(owner.slave, "SELECT added FROM public.item WHERE id = 70") == 71


def test_the_daemon_looks_again_and_again(owner: Owner, made: ReplicationConfig) -> None:
    with running(made) as daemon:
        daemon.until_asleep()
        for dsn in (owner.slave, owner.master):
            sql(dsn, "ALTER TABLE public.item ADD COLUMN added integer")
        sql(owner.master, "UPDATE public.item SET added = 3 * id")
        brought_in_line(daemon, "public.item")
        assert_same(made)
    assert value(owner.slave, "SELECT count(added) FROM public.item") == 20


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE public.item DROP COLUMN price",
        "ALTER TABLE public.item RENAME COLUMN price TO cost",
    ],
)
def test_a_column_that_is_gone_fails_its_writers_until_that_is_noticed(
    owner: Owner, made: ReplicationConfig, ddl: str
) -> None:
    """Rather that than a change that is not captured."""
    for dsn in (owner.slave, owner.master):
        sql(dsn, ddl)
    with pytest.raises(DatabaseError, match="price does not exist"):
        sql(owner.master, "UPDATE public.item SET name = 'lost?'")
    with running(made) as daemon:
        brought_in_line(daemon, "public.item")
        sql(owner.master, "UPDATE public.item SET name = 'captured' WHERE id < 10")
        assert_same(made)
    assert value(owner.slave, "SELECT count(*) FROM public.item WHERE name = 'captured'") == 9


def test_a_column_of_another_type_is_logged_anew(owner: Owner, made: ReplicationConfig) -> None:
    alter = "ALTER TABLE public.item ALTER name TYPE integer USING length(name)"
    for dsn in (owner.slave, owner.master):
        sql(dsn, alter)
    sql(owner.slave, "UPDATE public.item SET name = -1")
    with pytest.raises(DatabaseError, match="cannot be matched"):
        sql(owner.master, "UPDATE public.item SET name = 99 WHERE id = 5")
    with running(made) as daemon:
        brought_in_line(daemon, "public.item")
        sql(owner.master, "UPDATE public.item SET name = 99 WHERE id = 5")
        assert_same(made)


@pytest.mark.parametrize("how", ["dropped", "disabled"])
def test_rows_that_were_written_without_triggers_are_logged_anew(
    owner: Owner, made: ReplicationConfig, how: str
) -> None:
    sql(
        owner.master,
        *(
            ("DROP TRIGGER pyreplica_update ON public.item",)
            if how == "dropped"
            else ("ALTER TABLE public.item DISABLE TRIGGER pyreplica_update",)
        ),
        "UPDATE public.item SET name = 'unseen' WHERE id > 10",
    )
    with running(made) as daemon:
        brought_in_line(daemon, "public.item")
        sql(owner.master, "UPDATE public.item SET name = 'seen' WHERE id = 1")
        assert_same(made)
    assert value(owner.slave, "SELECT count(*) FROM public.item WHERE name = 'unseen'") == 10


def test_partitions_that_come_and_go_unseen_leave_nothing_wrong(
    owner: Owner, made: ReplicationConfig
) -> None:
    sql(owner.slave, "CREATE TABLE public.parts_rest PARTITION OF public.parts DEFAULT")
    sql(
        owner.master,
        "CREATE TABLE public.parts_2 PARTITION OF public.parts FOR VALUES FROM (200) TO (300)",
        "INSERT INTO public.parts SELECT i, 'captured' FROM generate_series(200, 220) i",
        "DELETE FROM public.parts_2 WHERE id > 210",  # unseen
        "INSERT INTO public.parts_2 VALUES (290, 'unseen')",
        "DROP TABLE public.parts_0",
        "CREATE TABLE public.parts_again PARTITION OF public.parts FOR VALUES FROM (0) TO (50)",
        "INSERT INTO public.parts VALUES (10, 'in the place of one that was dropped')",
        "ALTER TABLE public.parts DETACH PARTITION public.parts_1",
        "INSERT INTO public.parts_1 VALUES (199, 'no part of it any more') ON CONFLICT DO NOTHING",
        "CREATE TABLE public.parts_3 PARTITION OF public.parts FOR VALUES FROM (100) TO (200)",
        "INSERT INTO public.parts VALUES (150, 'the same place'), (199, 'too')",
    )
    with running(made) as daemon:
        brought_in_line(daemon, "public.parts")
        sql(owner.master, "UPDATE public.parts SET v = v || '!'")
        assert_same(made)
        sql(owner.master, "INSERT INTO public.parts_1 VALUES (101, 'not captured')")
        assert_same(made)


def test_of_a_partition_by_hash_the_whole_table_is_logged_anew(
    owner: Owner, made: ReplicationConfig
) -> None:
    sql(
        owner.master,
        "ALTER TABLE public.hashed DETACH PARTITION public.hashed_0",
        "INSERT INTO public.hashed_1 SELECT id + 1000, v FROM public.hashed_1 "
        "WHERE satisfies_hash_partition('public.hashed'::regclass, 2, 1, id + 1000)",
    )
    with running(made) as daemon:
        brought_in_line(daemon, "public.hashed")
        assert_same(made)


def test_ddl_is_followed_while_the_slave_is_away(owner: Owner, made: ReplicationConfig) -> None:
    owner.databases.slave_cluster.stop("immediate")
    with running(made) as daemon:
        daemon.until(lambda: daemon.failing, "the slave is not missed")
        sql(owner.master, "ALTER TABLE public.item ADD COLUMN added integer")
        brought_in_line(daemon, "public.item")
        owner.databases.slave_cluster.start()
        sql(owner.slave, "ALTER TABLE public.item ADD COLUMN added integer")
        sql(owner.master, "UPDATE public.item SET added = 1")
        assert_same(made)


def test_ddl_cannot_be_sent_to_the_slave(
    owner: Owner, made: ReplicationConfig, tmp_path: Path
) -> None:
    script = tmp_path / "script.sql"
    script.write_text("ALTER TABLE public.item ADD COLUMN added integer;\n")
    with running(made) as daemon:
        daemon.until_asleep()
        shown = pyreplica(owner.file(tmp_path), "execute", str(script), code=1).stderr
        assert "DDL cannot be sent to the slaves: there are no event triggers" in shown
        assert_same(made)
    with running(owner.config(ddl="replicate")) as daemon:
        assert "`ddl: replicate` is not possible" in daemon.until_said("ERROR")


def test_a_table_that_is_locked_is_waited_for_and_said(
    owner: Owner, made: ReplicationConfig
) -> None:
    for dsn in (owner.slave, owner.master):
        sql(dsn, "ALTER TABLE public.item ADD COLUMN added integer")
    with owner.session() as reader:
        reader.execute("BEGIN; SELECT FROM public.item LIMIT 1")
        with running(made) as daemon:
            line = daemon.until_said("table public.item: it was altered")
            assert "could not be brought in line" in line
            assert "lock timeout" in line
            sql(owner.master, "UPDATE public.parts SET v = 'goes on'")
            eventually(
                lambda: value(owner.slave, "SELECT bool_and(v = 'goes on') FROM public.parts")
            )
            reader.execute("COMMIT")
            brought_in_line(daemon, "public.item")
            assert_same(made)


def test_check_names_what_was_not_followed_and_what_cannot_be(
    owner: Owner, made: ReplicationConfig, tmp_path: Path
) -> None:
    path = owner.file(tmp_path)
    for dsn in (owner.slave, owner.master):
        sql(dsn, "ALTER TABLE public.item ADD COLUMN added integer")
    sql(
        owner.master,
        "ALTER TABLE public.hashed ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE public.hashed FORCE ROW LEVEL SECURITY",
    )
    shown = pyreplica(path, "check", code=1).stdout
    assert "public.item: problem: its capture has not followed DDL: it was altered" in shown
    assert "public.hashed: problem: is captured, and should not be any more: row-level" in shown
    sql(owner.master, "SELECT pyreplica.refresh()")
    assert "public.item: problem" not in pyreplica(path, "check", code=1).stdout
    with running(made) as daemon:
        assert "row-level security" in daemon.until_said("table public.hashed is captured, and")
        sql(owner.master, "ALTER TABLE public.hashed NO FORCE ROW LEVEL SECURITY")
        assert_same(made)
    assert "no problems found" in pyreplica(path, "check").stdout


def test_rows_that_are_hidden_from_the_capture_fail_its_writers(
    owner: Owner, made: ReplicationConfig
) -> None:
    """A row that is logged as it stands is looked up; hidden, it would be taken for gone."""
    sql(
        owner.master,
        "ALTER TABLE public.item ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE public.item FORCE ROW LEVEL SECURITY",
        "CREATE POLICY all_but ON public.item FOR ALL USING (true)",
    )
    twice = "DO $$BEGIN UPDATE public.item SET name = 'a'; UPDATE public.item SET name = 'b'; END$$"
    with pytest.raises(DatabaseError, match="row-level security"):
        sql(owner.master, twice)


def test_functions_of_others_do_not_get_the_installers_rights(owner: Owner) -> None:
    """PostgreSQL computes calls of immutable functions while it plans, see docs/security.md."""
    other = new_role(owner.databases, "other")
    sql(
        owner.superuser,
        f"CREATE SCHEMA theirs AUTHORIZATION {other}",
        f"GRANT USAGE ON SCHEMA theirs TO {owner.role}",
    )
    as_other = owner.databases.master_cluster.dsn(owner.databases.name, user=other)
    function = "FUNCTION {}.f(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1'"
    sql(as_other, f"CREATE {function.format('theirs')}")
    sql(
        owner.master,
        f"CREATE {function.format('public')}",
        "CREATE INDEX ON public.item (public.f(id))",  # its own
        "CREATE INDEX ON public.parts (theirs.f(id))",
    )
    said = {line.text.split(":")[0]: line for line in install(owner.config())}
    assert not said["public.item"].refused
    assert said["public.parts"].refused
    assert f"of role {other}, which would get the rights" in said["public.parts"].text
    sql(owner.master, "DROP INDEX public.parts_f_idx")
    _drop(owner.databases, other)


# Filters


CUSTOMER = """
CREATE TABLE public.customer (id integer PRIMARY KEY, name text, region text, secret text);
"""
FILTERS = {
    "public.customer": {"where": "region = 'eu'", "columns": ["id", "name", "region"]},
    "public.item": {"where": "price > 1.5"},
    "public.parts": {"where": "id % 2 = 0"},
}


def filtered_rows(owner: Owner) -> None:
    """The slave has just the rows and columns that the filters let through."""
    for table, columns, where in (
        ("customer", "id, name, region", "region = 'eu'"),
        ("item", "*", "price > 1.5"),
        ("parts", "*", "id % 2 = 0"),
    ):
        wanted = rows(
            owner.master, f"SELECT {columns} FROM public.{table} WHERE {where} ORDER BY 1"
        )
        assert rows(owner.slave, f"SELECT {columns} FROM public.{table} ORDER BY 1") == wanted, (
            table
        )
    assert value(owner.slave, "SELECT count(secret) FROM public.customer") == 0


@pytest.fixture
def made_with_filters(owner: Owner) -> ReplicationConfig:
    """A replication with filters that the role has set and copied; it looks at the tables often."""
    customers = "INSERT INTO public.customer VALUES (1, 'a', 'eu', 's'), (2, 'b', 'us', 's')"
    sql(owner.master, CUSTOMER, customers)
    sql(owner.slave, CUSTOMER)
    replication = owner.config(keepalive="1s", filters=FILTERS)
    said = [line.text for line in install(replication) if ": filtered: where" in line.text]
    assert len(said) == len(FILTERS)
    copy(replication)
    filtered_rows(owner)
    return replication


def test_filters_are_set_and_lived_with(owner: Owner, made_with_filters: ReplicationConfig) -> None:
    made = made_with_filters
    assert [one.text for one in check(made) if one.level == "problem"] == []
    writer = new_role(owner.databases, "writer")
    for table in ("customer", "item", "parts"):
        sql(owner.master, f"GRANT SELECT, INSERT, UPDATE, DELETE ON public.{table} TO {writer}")
    as_writer = owner.databases.master_cluster.dsn(owner.databases.name, user=writer)
    with running(made) as daemon:
        for statement in (
            "INSERT INTO public.customer VALUES (3, 'c', 'eu', 'hidden'), (4, 'd', 'us', 'hidden')",
            "UPDATE public.customer SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END",
            "UPDATE public.customer SET secret = 'hidden too'",
            "UPDATE public.customer SET id = id + 10, name = 'moved'",
            "UPDATE public.item SET price = price / 2",
            "UPDATE public.parts SET id = id + 1",
            "UPDATE public.parts SET v = 'updated'",
            "DELETE FROM public.parts WHERE id % 3 = 0",
            "INSERT INTO public.item "
            "SELECT i, 'bulk', now(), i % 5 FROM generate_series(100, 4000) i",
            "DELETE FROM public.customer WHERE region = 'eu'",
        ):
            sql(as_writer, statement)
            wait(made, 30)
            filtered_rows(owner)
        sql(owner.master, "TRUNCATE public.parts_1")
        assert_same(made)
        filtered_rows(owner)
        # the slave has one too few and one that is not for it
        extra = "INSERT INTO public.item (id, price) VALUES (5000, 9)"
        sql(owner.slave, "DELETE FROM public.item WHERE id = 104", extra)
        (found,) = [one for one in repair(made, apply=True) if one.table == "public.item"]
        assert (found.state, found.insert, found.delete) == ("repaired", 1, 1)
        assert_same(made)
        filtered_rows(owner)
        assert daemon.error is None
    assert value(owner.slave, "SELECT count(*) FROM pyreplica.replica_conflict") == 0
    _drop(owner.databases, writer)


def test_ddl_that_nobody_sees_leaves_filtered_tables_right(
    owner: Owner, made_with_filters: ReplicationConfig
) -> None:
    made = made_with_filters
    with running(made) as daemon:
        daemon.until_asleep()
        # a column more, another type, rows without triggers, partitions that come and go
        for dsn in (owner.slave, owner.master):
            sql(dsn, "ALTER TABLE public.item ADD COLUMN added integer DEFAULT 7")
        sql(owner.master, "UPDATE public.item SET added = id, price = price + 0.3")
        brought_in_line(daemon, "public.item")
        assert_same(made)
        sql(
            owner.master,
            "ALTER TABLE public.customer DISABLE TRIGGER ALL; "
            "UPDATE public.customer SET region = CASE region WHEN 'eu' THEN 'us' ELSE 'eu' END",
        )
        brought_in_line(daemon, "public.customer")
        assert_same(made)
        filtered_rows_of_customer = "SELECT id, name, region FROM public.customer"
        assert rows(owner.slave, filtered_rows_of_customer) == [(2, "b", "eu")]
        sql(
            owner.master,
            "DROP TABLE public.parts_0",
            "CREATE TABLE public.parts_2 PARTITION OF public.parts FOR VALUES FROM (200) TO (300)",
            "INSERT INTO public.parts_2 SELECT i, 'new' FROM generate_series(200, 220) i",
        )
        sql(
            owner.slave,
            "CREATE TABLE public.parts_2 PARTITION OF public.parts FOR VALUES FROM (200) TO (300)",
        )
        brought_in_line(daemon, "public.parts")
        assert_same(made)
        filtered_rows(owner)


@pytest.mark.parametrize(
    ("ddl", "back", "fails"),
    [
        ("DROP COLUMN region", "ADD COLUMN region text DEFAULT 'eu'", True),
        ("RENAME COLUMN region TO area", "RENAME COLUMN area TO region", True),
        ("ALTER COLUMN region TYPE integer USING 1", None, True),
        # with these there is still an answer
        ("ALTER COLUMN region TYPE varchar", "ALTER COLUMN region TYPE text", False),
        ("DROP COLUMN name", "ADD COLUMN name text", False),
    ],
)
def test_ddl_on_what_a_filter_names_is_told_and_fails_writers_where_it_has_no_answer(
    owner: Owner, made_with_filters: ReplicationConfig, ddl: str, back: str | None, fails: bool
) -> None:
    """No event trigger refuses the DDL, so it is noticed when it is done."""
    made = made_with_filters
    write = "UPDATE public.customer SET secret = 'x', id = id + 20"
    sql(owner.master, f"ALTER TABLE public.customer {ddl}")
    with running(made) as daemon:
        daemon.until_said("the filter of replication shop names its column")
        if fails:
            with pytest.raises(DatabaseError):
                sql(owner.master, write)
        else:
            sql(owner.master, write)
        problems = [one.text for one in check(made) if one.level == "problem"]
        assert any("the filter of replication shop names its column" in one for one in problems)
        if back is None:
            return
        sql(owner.master, f"ALTER TABLE public.customer {back}", "SELECT pyreplica.refresh()")
        sql(owner.master, write)
        assert_same(made)
        filtered_rows(owner)


def test_setting_a_filter_takes_a_temporary_table_and_no_superuser(owner: Owner) -> None:
    sql(owner.superuser, f"REVOKE TEMPORARY ON DATABASE {owner.databases.name} FROM PUBLIC")
    sql(owner.master, CUSTOMER)
    sql(owner.slave, CUSTOMER)
    made = owner.config(filters={"public.customer": FILTERS["public.customer"]})
    (line,) = [line for line in install(made) if line.refused]
    assert "permission denied to create temporary tables" in line.text
    assert "GRANT TEMPORARY ON DATABASE" in line.text
    sql(owner.superuser, f"GRANT TEMPORARY ON DATABASE {owner.databases.name} TO {owner.role}")
    install(made)
    copy(made)
    python = owner.config(
        capture="as-installed", filters={"public.item": {"python": 'new["price"] is None'}}
    )
    with pytest.raises(PyReplicaError, match=r"is in Python, and role .* is no superuser"):
        set_filter(python, "public.item")


def set_filter(made: ReplicationConfig, table: str) -> None:
    """As `pyreplica install` does it."""
    schema, _, name = table.partition(".")
    with closing(Master(made)) as master:
        filters.set_filter(made, master, schema, name)
