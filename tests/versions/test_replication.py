"""What replication promises, with a master and a slave of two versions."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pyreplica.database import Connection
from pyreplica.errors import DatabaseError
from pyreplica.replication.compare import compare
from pyreplica.replication.setup import install, uninstall
from tests import typevalues
from tests.support import (
    LIMIT,
    assert_same,
    config,
    config_file,
    connect,
    connected,
    copied,
    copy,
    daemon,
    pyreplica,
    running,
    sql,
    value,
)
from tests.versions.conftest import Pair

TABLES = """
CREATE TABLE public.t (id integer PRIMARY KEY, u integer UNIQUE, v text, at timestamptz,
    n numeric, doc jsonb, twice integer GENERATED ALWAYS AS (id * 2) STORED);
CREATE TABLE public.parts (id integer, region text, v text, PRIMARY KEY (id, region))
    PARTITION BY LIST (region);
CREATE TABLE public.parts_n PARTITION OF public.parts FOR VALUES IN ('n');
CREATE TABLE public.parts_s PARTITION OF public.parts FOR VALUES IN ('s');
CREATE SEQUENCE public.ticket;
"""
ROWS = """
INSERT INTO public.t (id, u, v) SELECT i, i * 10, 'row ' || i FROM generate_series(1, 50) i;
INSERT INTO public.parts SELECT i, CASE WHEN i % 2 = 0 THEN 'n' ELSE 's' END, 'row'
    FROM generate_series(1, 50) i;
"""


def knows(session: Connection, name: str, one: typevalues.Value | None = None) -> bool:
    """Whether a server has a type, and takes a value for it."""
    value = None if one is None else typevalues.given(one)
    try:
        session.query(f"SELECT CAST(%s::text AS {name}) IS NULL", (value,))
    except DatabaseError:
        return False
    return True


def test_a_replication_lives_its_whole_life(pair: Pair, tmp_path: Path) -> None:
    """install, copy --schema, statements of every kind, DDL on both sides, repair, uninstall."""
    sql(pair.databases.master, TABLES, ROWS)
    if not pair.dumps:
        sql(pair.databases.slave, TABLES)
    made = config(pair.databases)
    install(made)
    copy(made, schema=pair.dumps)
    path = config_file(tmp_path, pair.databases)
    assert "no problems found" in pyreplica(path, "check").stdout
    with connected(made):
        sql(
            pair.databases.master,
            "INSERT INTO public.t VALUES (100, 1, 'new', now(), 1.10, '{\"a\": null}')",
            "UPDATE public.t SET v = repeat('long ', 1000), n = id / 3.0 WHERE id % 3 = 0",
            "UPDATE public.t SET id = id + 1000 WHERE id < 5",
            "BEGIN; UPDATE public.t SET u = NULL WHERE id = 10; UPDATE public.t SET u = 100 WHERE "
            "id = 11; UPDATE public.t SET u = 110 WHERE id = 10; COMMIT",
            "DELETE FROM public.t WHERE id BETWEEN 20 AND 30",
            "UPDATE public.parts SET region = 's' WHERE id % 4 = 0",
            "TRUNCATE public.parts_n",
            "INSERT INTO public.parts VALUES (1, 'n', 'again')",
            "SELECT nextval('public.ticket'), nextval('public.ticket')",
        )
        assert_same(made)
        for dsn in (pair.databases.slave, pair.databases.master):
            sql(dsn, "ALTER TABLE public.t ADD COLUMN added text DEFAULT 'filled'")
            sql(dsn, "CREATE TABLE public.parts_e PARTITION OF public.parts FOR VALUES IN ('e')")
        sql(
            pair.databases.master,
            "UPDATE public.t SET added = 'set' WHERE id > 40",
            "INSERT INTO public.parts_e VALUES (7, 'e', 'into the partition')",
            "ALTER TABLE public.parts DETACH PARTITION public.parts_s",
        )
        assert_same(made)
        sql(pair.databases.slave, "DELETE FROM public.t WHERE id = 41")
        assert [it.table for it in compare(made, timeout=LIMIT) if not it.equal] == ["public.t"]
        pyreplica(path, "repair", "--yes")
        assert_same(made)
    assert value(pair.databases.slave, "SELECT last_value FROM public.ticket") == 2
    uninstall(made)
    for dsn in (pair.databases.master, pair.databases.slave):
        assert value(dsn, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pyreplica'") == 0


def test_ddl_and_large_batches(pair: Pair) -> None:
    """DDL that is sent, transactions of tens of thousands of rows, and a backlog of them."""
    made = copied(pair.databases, TABLES + ROWS, ddl="replicate")
    with connected(made):
        sql(
            pair.databases.master,
            "ALTER TABLE public.t ADD COLUMN added integer DEFAULT 3",
            "UPDATE public.t SET added = 4 WHERE id = 1",
            "CREATE INDEX t_v ON public.t (md5(v))",
            "ALTER TABLE public.t DROP COLUMN doc",
            "ALTER TABLE public.t ALTER v TYPE varchar(6000)",
            "UPDATE public.t SET v = 'after' WHERE id = 2",
        )
        assert_same(made)
    assert value(pair.databases.slave, "SELECT added FROM public.t WHERE id = 1") == 4
    assert value(pair.databases.slave, "SELECT to_regclass('public.t_v') IS NOT NULL")
    sql(
        pair.databases.master,
        "INSERT INTO public.t (id, v, n) SELECT i, 'bulk', i / 7.0 FROM generate_series(1000, "
        "20000) i",
        "UPDATE public.t SET v = 'changed', at = now() WHERE id > 5000",
        "DELETE FROM public.t WHERE id % 10 = 0",
        "INSERT INTO public.parts SELECT i, 'n', 'bulk' FROM generate_series(1000, 9000) i",
    )
    with running(made):
        assert_same(made)
        sql(
            pair.databases.master,
            "BEGIN; TRUNCATE public.parts; INSERT INTO public.parts SELECT i, 's', 'after' FROM "
            "generate_series(1, 5000) i; COMMIT",
        )
        assert_same(made)


def test_values_of_every_type_arrive_exactly(pair: Pair) -> None:
    """All that both versions take: before 14 there are no multiranges, for instance."""
    with connect(pair.databases.master) as master, connect(pair.databases.slave) as slave:
        for session in (master, slave):
            session.execute("SET search_path = public")
            for made in typevalues.TYPES:
                session.execute(made)
        values = {
            name: [one for one in some if knows(master, name, one) and knows(slave, name, one)]
            for name, some in {**typevalues.VALUES, **typevalues.MULTIRANGES}.items()
            if knows(master, name) and knows(slave, name)
        }
    if pair.master >= 15 > pair.slave:
        del values['"char"']  # docs/versions.md
    assert len(values) >= 100
    columns = ", ".join(f"c{number} {name}" for number, name in enumerate(values))
    replication = copied(
        pair.databases, f"CREATE TABLE public.v (id integer PRIMARY KEY, {columns})"
    )
    with running(replication), connect(pair.databases.master) as master:
        master.execute("SET DateStyle = 'SQL, DMY'; SET IntervalStyle = sql_standard")
        for number, (name, some) in enumerate(values.items()):
            master.execute(
                f"INSERT INTO public.v (id, c{number}) SELECT {number * 1000} + i, v::{name} "
                "FROM unnest(%s::text[]) WITH ORDINALITY u(v, i)",
                ([typevalues.given(one) for one in some],),
            )
        assert_same(replication)


@pytest.mark.parametrize("commit", ["two-phase", "one-phase"])
def test_crashes_of_all_three_lose_nothing(pair: Pair, tmp_path: Path, commit: str) -> None:
    """Writers go on; the slave, the daemon and the master are killed one after the other."""
    made = copied(pair.databases, TABLES, commit=commit, retry_first="10ms", retry_max="200ms")
    path = config_file(
        tmp_path, pair.databases, commit=commit, retry_first="10ms", retry_max="200ms"
    )
    ended = threading.Event()

    def write() -> None:
        number = 0
        with connect(pair.databases.master) as session:
            while not ended.is_set():
                number += 1
                session.execute(
                    "BEGIN; INSERT INTO public.t (id, v) VALUES (%(n)s, 'x'); UPDATE public.t SET "
                    "v = v || 'y' WHERE id = %(n)s - 1; COMMIT",
                    {"n": number},
                )

    with daemon(path) as first:
        first.until_said("connected, at batch")
        writer = threading.Thread(target=write)
        writer.start()
        try:
            pair.databases.slave_cluster.stop("immediate")
            pair.databases.slave_cluster.start()
            first.kill()
        finally:
            ended.set()
            writer.join()
    with daemon(path) as second:
        second.until_said("connected, at batch")
        pair.databases.master_cluster.stop("immediate")
        pair.databases.master_cluster.start()
        sql(pair.databases.master, "INSERT INTO public.t (id, v) VALUES (-1, 'last')")
        assert_same(made)
