"""The SQL of an older release is upgraded in place: with a full log, under writers and daemons."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.errors import DatabaseError, NotInstalled, PyReplicaError, Unreachable
from pyreplica.model import SQL_VERSION, Step
from pyreplica.replication.setup import install
from tests.conftest import Databases
from tests.support import (
    Running,
    assert_same,
    config,
    config_file,
    connect,
    copied,
    daemon,
    eventually,
    prepared,
    running,
    sql,
    value,
)

OLD = Path(__file__).parents[1] / "upgrades"

TABLES = """
CREATE TABLE public.plain (id integer PRIMARY KEY, v text, n numeric DEFAULT 0);
CREATE TABLE public.composite (a text, b date, v text, PRIMARY KEY (a, b));
CREATE TABLE public.parts (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE public.parts_1 PARTITION OF public.parts FOR VALUES FROM (0) TO (100);
CREATE TABLE public.parts_2 PARTITION OF public.parts FOR VALUES FROM (100) TO (200);
CREATE TABLE public.parts_3 PARTITION OF public.parts FOR VALUES FROM (200) TO (1000000);
CREATE TABLE public.parent (id integer PRIMARY KEY, v text);
CREATE TABLE public.child (PRIMARY KEY (id)) INHERITS (public.parent);
CREATE TABLE public.emptied (id integer PRIMARY KEY);
CREATE TABLE public.keyless (id integer);
"""
"""On both sides; `keyless` cannot be replicated."""
REPLICATED = [
    "public.plain",
    "public.composite",
    "public.parts",
    "public.parent",
    "public.child",
    "public.emptied",
]

HISTORY = [
    "INSERT INTO public.plain SELECT i, 'v' || i FROM generate_series(10, 40) i",
    "UPDATE public.plain SET v = 'long ' || repeat('x', 3000) WHERE id < 20",
    "UPDATE public.plain SET id = id + 100 WHERE id > 30",
    "DELETE FROM public.plain WHERE id = 25",
    "INSERT INTO public.composite SELECT 'a' || i, '2020-01-01', 'x' FROM generate_series(1, 9) i",
    "INSERT INTO public.parts SELECT i, 'p' FROM generate_series(50, 250, 10) i",
    "UPDATE public.parts SET id = 199 WHERE id = 50",
    "INSERT INTO public.parent SELECT i, 'parent' FROM generate_series(1, 5) i",
    "INSERT INTO public.child SELECT i, 'child' FROM generate_series(6, 9) i",
    "UPDATE public.parent SET v = 'both' WHERE id > 3",
    "CREATE FUNCTION public.again() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
    "UPDATE public.composite SET v = 'twice' WHERE a = NEW.a; RETURN NULL; END$$",
    "CREATE TRIGGER again AFTER UPDATE ON public.composite FOR EACH ROW "
    "WHEN (NEW.v = 'once') EXECUTE FUNCTION public.again()",
    "UPDATE public.composite SET v = 'once' WHERE a < 'a4'",
    "INSERT INTO public.emptied VALUES (1)",
    "TRUNCATE public.emptied",
    "INSERT INTO public.emptied VALUES (2)",
    "ALTER TABLE public.parts DETACH PARTITION public.parts_2",
    "DROP TABLE public.parts_1",
    "ALTER TABLE public.plain ADD COLUMN added text DEFAULT 'filled'",
    "INSERT INTO public.keyless VALUES (1)",
]
"""What fills the log with each kind of change: I, U, D, T, i, u, d, F, P, S."""


@pytest.fixture
def old(request: pytest.FixtureRequest, databases: Databases) -> ReplicationConfig:
    """A replication as a release with that version of the SQL has left it, with a full log."""
    folder = OLD / str(getattr(request, "param", "2"))
    for cluster, side in ((databases.master_cluster, "master"), (databases.slave_cluster, "slave")):
        cluster.psql("-q", "-f", str(folder / f"{side}-install.sql"), dbname=databases.name)
    for dsn in (databases.master, databases.slave):
        sql(dsn, TABLES)
    sql(databases.master, "SELECT pyreplica.add_all_tables()")
    with connect(databases.master) as master, connect(databases.slave) as slave:
        identity = (
            "SELECT system_identifier::text, current_database()::text FROM pg_control_system()"
        )
        at = master.one(
            "INSERT INTO pyreplica.replica_slave (replication, bit, slave_system, slave_database, "
            "state, batch, log_id, ddl) VALUES ('shop', 1, %s, %s, 'ready', 1, 1, true) "
            "RETURNING snapshot::text, log_id, snapshot_at",
            slave.one(identity),
        )
        slave.execute(
            "INSERT INTO pyreplica.replica_cursor (replication, master_system, master_database, "
            "state, batch, snapshot, log_id, snapshot_at) "
            "VALUES ('shop', %s, %s, 'ready', 1, %s, %s, %s)",
            (*master.one(identity), *at),
        )
        # as that release has made them
        slave.execute(
            'CREATE UNLOGGED TABLE pyreplica.stage_1 (id bigint, tab integer, op "char", '
            'key text COLLATE "C", row jsonb); CREATE UNLOGGED TABLE pyreplica.net_1 '
            '(tab integer, kind "char", key text COLLATE "C", row jsonb)'
        )
        for table in master.query(
            "SELECT relid::bigint, schema_name, table_name FROM pyreplica.replica_table "
            "WHERE active"
        ):
            slave.execute(
                "INSERT INTO pyreplica.replica_copy (replication, master_relid, schema_name, "
                "table_name, state) VALUES ('shop', %s, %s, %s, 'ready')",
                table,
            )
    return config(databases, tables=REPLICATED, ddl="replicate", retry_first="10ms")


def fill(databases: Databases) -> None:
    """Write the history, and see that every kind of change is in the log."""
    sql(databases.master, *HISTORY)
    kinds = value(
        databases.master,
        "SELECT string_agg(DISTINCT op::text, '' ORDER BY op::text) FROM pyreplica.replica_log",
    )
    assert sorted(kinds) == sorted("IUDTiudFPS")


def in_doubt(databases: Databases, *, confirmed: bool) -> None:
    """Batch 2 with its one row is prepared on the slave, as the older daemon does it."""
    sql(databases.master, "INSERT INTO public.plain VALUES (1, 'in doubt')")
    with connect(databases.master) as master, connect(databases.slave) as slave:
        here = master.one("SELECT pg_current_snapshot()::text")
        oid = slave.one("SELECT oid FROM pg_database WHERE datname = current_database()")[0]
        slave.execute(
            "BEGIN; TRUNCATE pyreplica.net_1; SELECT count(*) FROM pyreplica.stage_1;"
            "INSERT INTO public.plain VALUES (1, 'in doubt');"
            f"SELECT pyreplica.move_cursor('shop', 2, '{here[0]}', 2, now(), 1, 0);"
            f"PREPARE TRANSACTION 'pyreplica:shop:{oid}:2'"
        )
        if confirmed:
            master.execute(
                "UPDATE pyreplica.replica_slave SET batch = 2, snapshot = %s, log_id = 2", here
            )


class Writers:
    """Sessions that write all the time, each rows of its own; none of them may fail."""

    def __init__(self, dsn: str) -> None:
        self.errors: list[BaseException] = []
        self.rounds = [0] * 4
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(dsn, number))
            for number in range(len(self.rounds))
        ]

    def _write(self, dsn: str, number: int) -> None:
        level = ("READ COMMITTED", "REPEATABLE READ")[number % 2]
        try:
            with connect(dsn) as session:
                for i in itertools.count(1000 + number * 100_000):
                    if self._stop.is_set():
                        return
                    session.execute(f"BEGIN ISOLATION LEVEL {level}")
                    for statement in (
                        f"INSERT INTO public.plain VALUES ({i}, 'w')",
                        f"INSERT INTO public.parts VALUES ({i}, 'w')",
                        f"UPDATE public.plain SET v = 'w2' WHERE id IN ({i}, {i - 1})",
                        f"SAVEPOINT s; DELETE FROM public.parts WHERE id = {i}; ROLLBACK TO s",
                        f"UPDATE public.parts SET id = {i + 50_000} WHERE id = {i}",
                        f"DELETE FROM public.plain WHERE id = {i - 5}",
                        f"INSERT INTO public.child VALUES ({i}, 'w')",
                        f"INSERT INTO public.composite VALUES ('{i}', '2020-01-01', 'w')",
                    ):
                        session.execute(statement)
                    if number == 3 and i % 10 == 0:
                        # DDL among rows looks at PyReplica's other tables
                        session.execute(f"COMMENT ON TABLE public.plain IS '{i}'")
                        session.execute("ALTER TABLE public.emptied SET (fillfactor = 90)")
                    session.execute("COMMIT")
                    self.rounds[number] += 1
        except BaseException as error:
            self.errors.append(error)

    def more(self) -> None:
        """Wait until each has done some more."""
        before = list(self.rounds)
        eventually(
            lambda: self.errors or all(a > b + 2 for a, b in zip(self.rounds, before, strict=True)),
            "the writers stand still",
        )
        assert not self.errors, self.errors

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


class OldDaemon:
    """What a daemon of the older release does to the master; until it is sent away."""

    def __init__(self, dsn: str) -> None:
        self.error: BaseException | None = None
        self._dsn = dsn
        self.ready = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            with connect(self._dsn) as session:
                session.execute(
                    "SELECT pg_advisory_lock(hashtext('pyreplica'), hashtext('shop')); "
                    "LISTEN pyreplica"
                )
                while True:
                    session.execute("SELECT pyreplica.rotate_log(0)")
                    session.execute("SELECT count(*) FROM pyreplica.replica_log")
                    session.execute("UPDATE pyreplica.replica_slave SET log_id = log_id")
                    session.execute("SELECT pyreplica.set_doorbell(1, true)")
                    self.ready.set()
        except PyReplicaError as error:
            self.error = error

    def __enter__(self) -> OldDaemon:
        self._thread.start()
        assert self.ready.wait(30)
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.join(60)


@pytest.mark.parametrize(
    ("old", "confirmed"),
    [("2", False), ("2", True), ("3", True), ("4", False), ("4", True)],
    indirect=["old"],
)
def test_the_sql_is_upgraded_under_writers_and_an_older_daemon_and_nothing_is_lost(
    databases: Databases, old: ReplicationConfig, confirmed: bool
) -> None:
    in_doubt(databases, confirmed=confirmed)
    fill(databases)
    with ExitStack() as stack:
        opened = stack.enter_context(connect(databases.master))
        opened.execute("BEGIN; INSERT INTO public.plain VALUES (2, 'open')")
        writers = stack.enter_context(Writers(databases.master))
        writers.more()
        before = stack.enter_context(OldDaemon(databases.master))
        upgraded = threading.Thread(target=lambda: install(old))
        upgraded.start()
        tried = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND wait_event = 'PgSleep'"
        )
        eventually(lambda: value(databases.master, tried), "the upgrade does not wait")
        # nobody who writes waits for the transaction that the upgrade waits for
        writers.more()
        opened.execute("UPDATE public.parts SET v = 'open'; COMMIT")
        upgraded.join(60)
        assert not upgraded.is_alive()
        for dsn in (databases.master, databases.slave):
            assert value(dsn, "SELECT version FROM pyreplica.replica_version") == SQL_VERSION
        eventually(lambda: before.error, "the older daemon goes on")
        assert isinstance(before.error, Unreachable)
        writers.more()
        with running(old) as daemon_:
            daemon_.until_said(f"batch 2 was {'' if confirmed else 'not '}confirmed")
            writers.more()
            stack.pop_all().close()
            assert not writers.errors, writers.errors
            assert_same(old, timeout=60)
            assert value(databases.slave, "SELECT v FROM public.plain WHERE id = 2") == "open"
            # a session of now, and large batches, which need the new staging tables
            sql(
                databases.master,
                "UPDATE public.plain SET v = 'end'",
                "INSERT INTO public.composite "
                "SELECT 'z' || i, '2021-01-01', '' FROM generate_series(1, 3000) i",
                "DELETE FROM public.parts",
                "SELECT pyreplica.rotate_log(0)",
            )
            assert_same(old, timeout=60)
            assert daemon_.error is None
    assert prepared(databases) == []


CATALOG = """
SELECT 'column', attrelid::regclass::text, attname || ' ' || format_type(atttypid, atttypmod)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
WHERE c.relnamespace = 'pyreplica'::regnamespace AND a.attnum > 0 AND c.relname !~ '^(stage|net)_'
UNION ALL SELECT 'function', oid::regprocedure::text, md5(prosrc) || coalesce(proconfig::text, '')
    || coalesce(obj_description(oid, 'pg_proc'), '')
FROM pg_proc WHERE pronamespace = 'pyreplica'::regnamespace
UNION ALL SELECT 'constraint', conrelid::regclass::text, pg_get_constraintdef(oid)
FROM pg_constraint WHERE connamespace = 'pyreplica'::regnamespace
UNION ALL SELECT 'trigger', tgrelid::regclass::text, concat(tgname, tgenabled)
FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
WHERE c.relnamespace = 'pyreplica'::regnamespace AND NOT tgisinternal
UNION ALL SELECT 'event trigger', evtname::text, concat(evtevent, evtenabled, evttags)
FROM pg_event_trigger
"""


@pytest.mark.parametrize("old", ["2", "3", "4"], indirect=True)
def test_what_was_upgraded_is_what_would_have_been_installed(
    databases: Databases, old: ReplicationConfig
) -> None:
    def catalogs() -> Iterator[list[tuple[str, ...]]]:
        for dsn in (databases.master, databases.slave):
            with connect(dsn) as session:
                yield sorted(session.query(CATALOG))

    install(old)
    upgraded = list(catalogs())
    for cluster, side in ((databases.master_cluster, "master"), (databases.slave_cluster, "slave")):
        cluster.psql("-q", "-f", f"sql/{side}-uninstall.sql", dbname=databases.name)
        cluster.psql("-q", "-f", f"sql/{side}-install.sql", dbname=databases.name)
    for here, fresh in zip(upgraded, catalogs(), strict=True):
        assert here == fresh


def test_an_upgrade_that_cannot_have_the_log_names_who_has_it_and_changes_nothing(
    databases: Databases, old: ReplicationConfig
) -> None:
    before = value(databases.master, "SELECT version FROM pyreplica.replica_version")
    with connect(databases.master) as opened:
        opened.execute("BEGIN; INSERT INTO public.plain VALUES (1, 'open')")
        (pid,) = opened.one("SELECT pg_backend_pid()")
        with pytest.raises(DatabaseError, match="could not be locked for the upgrade") as caught:
            install(old)
        assert f"Processes that have it locked: {pid}" in caught.value.details
        assert "Run it again" in caught.value.hint
        opened.execute("COMMIT")
    assert value(databases.master, "SELECT version FROM pyreplica.replica_version") == before
    install(old)
    with running(old):
        assert_same(old)


# A daemon that meets another version


def test_a_daemon_of_a_newer_release_says_what_to_do(
    databases: Databases, old: ReplicationConfig, tmp_path: Path
) -> None:
    path = config_file(tmp_path, databases)
    before = value(databases.master, "SELECT version FROM pyreplica.replica_version")
    with daemon(path) as started:
        assert started.process.wait(30) == 1
    assert (
        f"shop: master: the installed SQL has version {before}, this release needs {SQL_VERSION} "
        "(Run `pyreplica install` of this release" in started.log
    )
    install(old)
    with running(old):
        assert_same(old)


@pytest.mark.parametrize("commit", ["two-phase", "one-phase"])
@pytest.mark.parametrize("side", ["master", "slave"])
@pytest.mark.usefixtures("apply_path")
def test_a_daemon_under_which_the_sql_is_upgraded_stops_with_the_batch_at_hand(
    databases: Databases, side: str, commit: str
) -> None:
    """It is sent away; where it could not be, it notices when it moves its cursor or confirms."""
    made = copied(databases, "CREATE TABLE public.t (id integer PRIMARY KEY)", commit=commit)
    dsn = databases.master if side == "master" else databases.slave
    newer = (
        f"UPDATE pyreplica.replica_version SET version = {SQL_VERSION + 1} WHERE side = '{side}'"
    )
    fetched: list[Running] = []

    def hook(step: Step, batch: int) -> None:
        if step is Step.FETCHED and not fetched:
            fetched.append(daemon_)
            sql(dsn, newer)

    with running(made, hook) as daemon_:
        daemon_.until_asleep()
        sql(databases.master, "INSERT INTO public.t VALUES (1)")
        daemon_.until(lambda: daemon_.error, "it goes on")
    assert isinstance(daemon_.error, NotInstalled)
    assert f"the installed SQL has version {SQL_VERSION + 1}" in daemon_.error.line
    assert not daemon_.batches()
    query = "SELECT batch FROM pyreplica.replica_slave"
    assert value(databases.master, query) == 1
    sql(dsn, newer.replace(str(SQL_VERSION + 1), str(SQL_VERSION)))
    with running(made):
        assert_same(made)
