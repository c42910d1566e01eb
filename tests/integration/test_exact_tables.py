"""Tables of every shape, from the master's rows to the slave's.

What SQL alone can tell is in the folder scenarios, see test_replication_traps.py; here is what
needs more than that: names, roles, and what only the slave has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from psycopg2.extensions import quote_ident

from pyreplica.config import ReplicationConfig
from pyreplica.errors import Refused
from pyreplica.replication.setup import install
from tests.conftest import Databases
from tests.integration.capture.oracle import Session
from tests.integration.capture.test_capture_names import NAMES
from tests.support import (
    assert_same,
    config,
    config_file,
    connect,
    copied,
    copy,
    daemon,
    pyreplica,
    running,
    sql,
    value,
)

# Names


def tables_called(session: Session) -> dict[str, str]:
    """Tables with hostile names for their schemas, columns, types, keys and themselves; by name."""
    made: dict[str, str] = {}
    for name in NAMES:
        quoted = quote_ident(name, session.connection)
        type_ = f'{quoted}."{"d" * 40}"'
        made[f"{quoted}.{quoted}"] = (
            f"CREATE SCHEMA {quoted}; CREATE DOMAIN {type_} AS numeric; "
            f"CREATE TABLE {quoted}.{quoted} ({quoted} integer, v {type_}, w text DEFAULT '', "
            f"CONSTRAINT {quoted} CHECK ({quoted} > 0), PRIMARY KEY ({quoted}), UNIQUE (v))"
        )
        made[f"public.{quoted}"] = (
            f"CREATE TABLE public.{quoted} (w text, k text, v {type_}, {quoted} {type_} UNIQUE, "
            f"PRIMARY KEY (k))"
        )
    return made


@pytest.mark.usefixtures("apply_path")
def test_names_of_any_kind_reach_the_slave(databases: Databases) -> None:
    with Session(databases.master) as session:
        tables = tables_called(session)
        made = copied(databases, "; ".join(tables.values()))
        for table, name in zip(tables, sorted(NAMES * 2, key=NAMES.index), strict=True):
            column = quote_ident(name, session.connection)
            schema = not table.startswith("public.")
            key, unique = (column, "v") if schema else ("k", column)
            session.run(
                f"INSERT INTO {table} ({key}, {unique}) VALUES (1, 1.0), (2, 2.0), (3, 3.0)",
                f"UPDATE {table} SET {unique} = 4 - {unique} WHERE {key}::integer = 2",
                "BEGIN",
                f"UPDATE {table} SET {unique} = -{unique}",
                f"UPDATE {table} SET {unique} = 4 + {unique}, w = '100%s \\ {{}} {{0}} %(x)s $1'",
                "COMMIT",
                f"UPDATE {table} SET {key} = 7 WHERE {key}::integer = 1",
                f"DELETE FROM {table} WHERE {key}::integer = 2",
            )
        with running(made) as running_:
            assert_same(made)
            for table in tables:
                session.run(f"UPDATE {table} SET w = NULL, v = 9 WHERE v < 2", f"TRUNCATE {table}")
            assert_same(made)
            assert running_.said("conflict") == []


# What only the slave has

MASTERS = """
CREATE TABLE public.plain (id integer PRIMARY KEY, v text);
CREATE TABLE public.swapped (id integer PRIMARY KEY, u integer UNIQUE, v text);
CREATE TABLE public.deferred (id integer PRIMARY KEY DEFERRABLE, u integer UNIQUE, v text);
CREATE TABLE public.touched (id integer PRIMARY KEY, n integer GENERATED ALWAYS AS IDENTITY,
    v text);
CREATE TABLE public.parent (id integer PRIMARY KEY, v text);
CREATE TABLE public.child (PRIMARY KEY (id)) INHERITS (public.parent);
CREATE TABLE public.numbers (id numeric PRIMARY KEY DEFERRABLE, v text);
"""
SLAVES = """
CREATE TABLE public.plain (own text DEFAULT 'own', v text, id integer PRIMARY KEY,
    twice integer GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE public.swapped (u integer UNIQUE, own text DEFAULT 'own', id integer PRIMARY KEY,
    serial integer GENERATED ALWAYS AS IDENTITY, v text);
CREATE TABLE public.deferred (id integer PRIMARY KEY, own text NOT NULL DEFAULT 'own', v text,
    u integer UNIQUE, length integer GENERATED ALWAYS AS (length(v)) STORED);
CREATE TABLE public.touched (id integer PRIMARY KEY, n integer GENERATED ALWAYS AS IDENTITY,
    own text UNIQUE DEFAULT md5(random()::text), v text, at timestamptz DEFAULT now());
CREATE TABLE public.parent (id integer PRIMARY KEY, own text DEFAULT 'own', v text);
CREATE TABLE public.child (PRIMARY KEY (id)) INHERITS (public.parent);
CREATE TABLE public.numbers (id numeric PRIMARY KEY, v text, own text DEFAULT 'own');
"""
TABLES = ("plain", "swapped", "deferred", "touched", "parent", "child", "numbers")


@pytest.mark.usefixtures("apply_path")
def test_what_only_the_slave_has_in_a_row_survives_updates(databases: Databases) -> None:
    """Also where a row is logged anew as a whole, or taken out and put back."""
    made = copied(
        databases,
        MASTERS
        + "; ".join(
            f"INSERT INTO public.{table} ({columns}) SELECT {values} FROM generate_series(1, 6) i"
            for table, columns, values in (
                ("plain", "id, v", "i, 'row'"),
                ("swapped", "id, u, v", "i, i, 'row'"),
                ("deferred", "id, u, v", "i, i, 'row'"),
                ("touched", "id, v", "i, 'row'"),
                ("parent", "id, v", "i, 'parent'"),
                ("child", "id, v", "i, 'child'"),
                ("numbers", "id, v", "i + 0.10, 'row'"),
            )
        ),
        slave=SLAVES,
    )
    sql(
        databases.master,
        "CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
        "UPDATE public.touched SET v = v || '+' WHERE id = new.id AND v NOT LIKE '%+'; "
        "RETURN NULL; END$$",
        "CREATE TRIGGER touch AFTER INSERT OR UPDATE ON public.touched FOR EACH ROW "
        "EXECUTE FUNCTION public.touch()",
    )
    for table in TABLES:
        sql(databases.slave, f"UPDATE ONLY public.{table} SET own = 'kept ' || id")
    with running(made) as daemon:
        sql(
            databases.master,
            "UPDATE public.plain SET v = 'x'",
            "BEGIN; UPDATE public.swapped SET u = NULL WHERE id = 1; "
            "UPDATE public.swapped SET u = 1 WHERE id = 2; "
            "UPDATE public.swapped SET u = 2, v = 'swapped' WHERE id = 1; COMMIT",
            "UPDATE public.deferred SET v = 'longer'",
            "UPDATE public.deferred SET id = 7 - id",
            "BEGIN; UPDATE public.deferred SET u = -u; "
            "UPDATE public.deferred SET u = 7 + u; COMMIT",
            "UPDATE public.touched SET v = 'touched'",
            "UPDATE public.touched SET n = DEFAULT, v = 'twice' WHERE id < 4",
            "UPDATE public.parent SET v = v || '!'",
            "UPDATE public.numbers SET v = 'x'",
            "UPDATE public.numbers SET id = id + 0.00, v = 'y' WHERE id < 3",
            "INSERT INTO public.deferred VALUES (9, 9, 'new')",
            "BEGIN; INSERT INTO public.parent VALUES (9, 'new'); "
            "UPDATE public.parent SET v = 'newer' WHERE id = 9; COMMIT",
        )
        assert_same(made)
        assert daemon.said("conflict") == []
    with connect(databases.slave) as slave:
        for table in TABLES:
            kept = slave.query(f"SELECT id, own FROM ONLY public.{table} ORDER BY id")
            expected = {"numbers": 6, "deferred": 7, "parent": 7}.get(table, 6)
            assert len(kept) == expected
            for id_, own in kept:
                assert own == ("own" if id_ == 9 else f"kept {id_}"), (table, id_, own)
        assert slave.one("SELECT count(*) FROM public.plain WHERE twice <> id * 2") == (0,)
        assert slave.one("SELECT count(*) FROM public.deferred WHERE length <> length(v)") == (0,)


# What the slave computes itself


@pytest.mark.usefixtures("apply_path")
def test_generated_columns_are_the_slaves_own_also_in_keys(databases: Databases) -> None:
    made = copied(
        databases,
        """
        CREATE TABLE public.t (a integer, k text GENERATED ALWAYS AS ('k' || a::text) STORED,
            g integer GENERATED ALWAYS AS (a * 2) STORED, v text, PRIMARY KEY (k));
        CREATE TABLE public.pair (a integer, b integer, v text,
            k integer GENERATED ALWAYS AS (a + b) STORED, PRIMARY KEY (k, a));
        CREATE TABLE public.less (id integer PRIMARY KEY,
            g integer GENERATED ALWAYS AS (id) STORED)
        """,
        slave="""
        CREATE TABLE public.t (v text, a integer, g text GENERATED ALWAYS AS ('other ' || a) STORED,
            k text GENERATED ALWAYS AS ('k' || a::text) STORED, PRIMARY KEY (k));
        CREATE TABLE public.pair (a integer, b integer, k integer, v text, PRIMARY KEY (k, a));
        CREATE TABLE public.less (id integer PRIMARY KEY)
        """,
    )
    with running(made) as running_:
        sql(
            databases.master,
            "INSERT INTO public.t (a, v) SELECT i, 'row' FROM generate_series(1, 5) i",
            "UPDATE public.t SET v = 'x' WHERE a < 3",
            "UPDATE public.t SET a = a + 10, v = 'moved' WHERE a > 3",
            "DELETE FROM public.t WHERE k = 'k1'",
            "INSERT INTO public.pair SELECT i, i, 'row' FROM generate_series(1, 5) i",
            "UPDATE public.pair SET b = b + 100 WHERE a < 3",
            "UPDATE public.pair SET v = 'x'",
            "UPDATE public.pair SET a = a + 1, b = b - 1 WHERE a = 5",
            "INSERT INTO public.less VALUES (1), (2)",
            "UPDATE public.less SET id = 3 WHERE id = 1",
        )
        assert_same(made)
        assert running_.said("conflict") == []
    with connect(databases.slave) as slave:
        assert slave.query("SELECT a, k, g FROM public.t ORDER BY a") == [
            (2, "k2", "other 2"),
            (3, "k3", "other 3"),
            (14, "k14", "other 14"),
            (15, "k15", "other 15"),
        ]
        assert slave.one("SELECT count(*) FROM public.pair WHERE k <> a + b") == (0,)


@pytest.mark.parametrize(
    ("master", "slave", "says"),
    [
        ("g integer", "g integer GENERATED ALWAYS AS (id) STORED", "generated on the slave only"),
        ("g integer GENERATED ALWAYS AS (id) STORED", "g integer", "generated on the master only"),
        (
            "n integer, UNIQUE (n)",
            "n integer GENERATED ALWAYS AS (id) STORED, UNIQUE (n)",
            "generated on the slave only",
        ),
    ],
)
def test_a_column_that_only_one_side_generates_is_refused_by_name(
    databases: Databases, master: str, slave: str, says: str
) -> None:
    table = "CREATE TABLE public.t (id integer PRIMARY KEY, {})"
    with pytest.raises(Refused, match=f"column [gn] of table public.t is {says}"):
        copied(databases, table.format(master), slave=table.format(slave))


# Row-level security


@pytest.fixture
def roles(databases: Databases) -> Iterator[tuple[str, str]]:
    """A writer of the master, and a role for the daemon that is no superuser."""
    writer, daemon_ = f"writer_{os.getpid()}", f"daemon_{os.getpid()}"
    servers = (databases.master_cluster, databases.slave_cluster)
    for server in servers:
        sql(
            server.dsn(),
            f"CREATE ROLE {writer} LOGIN",
            f"CREATE ROLE {daemon_} LOGIN BYPASSRLS",
            f"GRANT SET ON PARAMETER session_replication_role TO {daemon_}",
        )
    yield writer, daemon_
    for server in servers:
        for role in (writer, daemon_):
            sql(
                server.dsn(databases.name),
                f"REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}",
            )
            sql(server.dsn(), f"DROP OWNED BY {role}", f"DROP ROLE {role}")


SECURED = """
CREATE TABLE public.note (id integer PRIMARY KEY, owner text, v text);
CREATE TABLE public.touched (id integer PRIMARY KEY, owner text, v text);
ALTER TABLE public.note ENABLE ROW LEVEL SECURITY;
ALTER TABLE public.touched ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY see ON public.note FOR SELECT USING (owner IN (current_user, 'shared'));
CREATE POLICY add ON public.note FOR INSERT WITH CHECK (true);
CREATE POLICY change ON public.note FOR UPDATE USING (owner = current_user)
    WITH CHECK (owner <> 'nobody');
CREATE POLICY remove ON public.note FOR DELETE USING (owner = current_user);
CREATE POLICY see ON public.touched FOR SELECT USING (owner IN (current_user, 'shared'));
CREATE POLICY add ON public.touched FOR INSERT WITH CHECK (true);
CREATE POLICY change ON public.touched USING (owner = current_user) WITH CHECK (owner <> 'nobody');
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
    UPDATE public.touched SET v = v || '+' WHERE id = new.id AND v NOT LIKE '%+';
    RETURN NULL;
END$$;
CREATE TRIGGER touch AFTER INSERT OR UPDATE ON public.touched FOR EACH ROW
    EXECUTE FUNCTION public.touch();
"""
# harsher on the slave: nobody sees a row
HIDDEN = SECURED.replace("USING (owner", "USING (false AND owner")


def as_role(made: ReplicationConfig, databases: Databases, role: str) -> ReplicationConfig:
    """The same replication by a role with the least rights."""
    rights = [
        f"GRANT USAGE, CREATE ON SCHEMA pyreplica TO {role}",
        *(
            f"GRANT ALL ON ALL {things} IN SCHEMA pyreplica TO {role}"
            for things in ("TABLES", "SEQUENCES", "FUNCTIONS")
        ),
        f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO {role}",
    ]
    for dsn in (databases.master, databases.slave):
        sql(dsn, *rights)
    master = databases.master_cluster.dsn(databases.name, user=role)
    slave = databases.slave_cluster.dsn(databases.name, user=role)
    return replace(made, master=master, slave=slave)


@pytest.mark.usefixtures("apply_path")
@pytest.mark.parametrize("by", ["superuser", "bypassrls"])
def test_row_level_security_hides_nothing_from_the_slave(
    databases: Databases, roles: tuple[str, str], by: str
) -> None:
    writer, plain = roles
    rows = "; ".join(
        f"INSERT INTO public.{table} SELECT i, CASE WHEN i % 2 = 0 THEN '{writer}' "
        "ELSE 'other' END, 'row' FROM generate_series(1, 10) i"
        for table in ("note", "touched")
    )
    sql(databases.master, SECURED, f"ALTER TABLE public.touched OWNER TO {writer}", rows)
    sql(databases.slave, HIDDEN)
    made = config(databases)
    install(made)
    if by == "bypassrls":
        made = as_role(made, databases, plain)
    sql(databases.master, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {writer}")
    copy(made)
    with (
        running(made) as running_,
        Session(databases.master_cluster.dsn(databases.name, user=writer)) as session,
    ):
        for table in ("note", "touched"):
            session.run(
                f"INSERT INTO public.{table} VALUES (20, '{writer}', 'mine'), "
                "(21, 'other', 'at once out of sight')",
                f"UPDATE public.{table} SET v = 'all that I see'",
                f"UPDATE public.{table} SET owner = 'shared', v = 'given away' WHERE id IN (2, 4)",
                f"UPDATE public.{table} SET id = id + 100 WHERE id < 9",
                f"DELETE FROM public.{table} WHERE id > 100",
            )
            assert len(session.run(f"SELECT * FROM public.{table}")) == 4
        assert_same(made)
        assert running_.said("conflict") == []
    for table in ("note", "touched"):
        assert value(databases.slave, f"SELECT count(*) FROM public.{table}") == 10
        kept = f"SELECT count(*) FROM public.{table} WHERE owner = 'other' AND v LIKE 'row%'"
        assert value(databases.slave, kept) == 5


def test_a_daemon_that_row_level_security_on_the_slave_would_hinder_stops_and_says_so(
    databases: Databases, roles: tuple[str, str]
) -> None:
    _, plain = roles
    sql(databases.master, SECURED)
    sql(databases.slave, HIDDEN)
    made = config(databases)
    install(made)
    made = as_role(made, databases, plain)
    copy(made)
    sql(databases.slave_cluster.dsn(), f"ALTER ROLE {plain} NOBYPASSRLS")
    with running(made) as running_:
        sql(databases.master, "INSERT INTO public.note VALUES (1, 'x', 'x')")
        running_.until_said('query would be affected by row-level security policy for table "note"')
        sql(databases.slave_cluster.dsn(), f"ALTER ROLE {plain} BYPASSRLS")
        assert_same(made)


# What is left out


KEPT_OUT = (
    "CREATE EXTENSION file_fdw",
    "CREATE SERVER files FOREIGN DATA WRAPPER file_fdw",
    "CREATE TABLE public.t (id integer PRIMARY KEY, v text)",
    "CREATE UNLOGGED TABLE public.fleeting (id integer PRIMARY KEY)",
    "CREATE TABLE public.keyless (id integer)",
    "CREATE FOREIGN TABLE public.far (id integer) SERVER files OPTIONS (filename '/dev/null')",
    "CREATE VIEW public.seen AS SELECT * FROM public.t",
    "CREATE MATERIALIZED VIEW public.kept AS SELECT * FROM public.t",
    "INSERT INTO public.t VALUES (1, 'row')",
)
REASONS = {
    "fleeting": "it is unlogged",
    "keyless": "it has no primary key",
    "far": "it is a foreign table",
}


def test_what_cannot_be_replicated_is_left_out_by_name_and_nothing_else_is(
    databases: Databases, tmp_path: Path
) -> None:
    path = config_file(tmp_path, databases)
    with connect(databases.master) as session:
        for statement in KEPT_OUT:
            session.execute(statement)
        session.execute("CREATE TEMP TABLE passing (id integer PRIMARY KEY)")
        before = pyreplica(path, "check", code=None).stdout
        installed = pyreplica(path, "install").stdout
        for name, reason in REASONS.items():
            assert f"public.{name}: note: will not be replicated: {reason}" in before
            assert f"public.{name}: not added: {reason}" in installed
        for name in ("passing", "seen", "kept"):
            assert name not in before
            assert name not in installed
        pyreplica(path, "copy", "--schema")
        after = pyreplica(path, "check").stdout
        assert "public.t: ok: is captured" in after
        with daemon(path):
            session.execute("INSERT INTO passing VALUES (1)")
            session.execute("INSERT INTO public.fleeting VALUES (1)")
            session.execute("INSERT INTO public.keyless VALUES (1)")
            session.execute("INSERT INTO public.seen VALUES (2, 'through the view')")
            session.execute("REFRESH MATERIALIZED VIEW public.kept")
            assert_same(config(databases))
        log = "SELECT DISTINCT tab FROM pyreplica.replica_log"
        assert len(session.query(log)) == 1
    assert rows_of(databases.slave, "t") == 2
    assert rows_of(databases.slave, "fleeting") == 0
    assert rows_of(databases.slave, "keyless") == 0


def rows_of(dsn: str, table: str) -> int:
    return int(value(dsn, f"SELECT count(*) FROM public.{table}"))
