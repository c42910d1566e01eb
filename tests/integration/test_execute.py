"""``pyreplica execute``: DDL scripts."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyreplica.config import ReplicationConfig
from tests.conftest import Databases
from tests.support import (
    assert_same,
    config_file,
    connect,
    copied,
    daemon,
    pyreplica,
    running,
    sql,
    value,
)


@dataclass(frozen=True)
class Shop:
    """A replication that is copied, and what the command line needs."""

    config: ReplicationConfig
    path: Path
    databases: Databases

    def script(self, text: str) -> Path:
        """A script in a file."""
        path = self.path.with_name("script.sql")
        path.write_text(text, encoding="utf-8")
        return path


@pytest.fixture
def shop(databases: Databases, tmp_path: Path) -> Shop:
    """Two tables with rows on both sides."""
    made = copied(
        databases,
        "CREATE TABLE public.item (id int PRIMARY KEY, name text, price int);"
        "CREATE TABLE public.stock (item int PRIMARY KEY, n int)",
    )
    sql(
        databases.master,
        "INSERT INTO public.item SELECT n, 'item ' || n, n FROM generate_series(1, 50) n",
    )
    return Shop(made, config_file(tmp_path, databases), databases)


MIGRATION = r"""
-- as people write migrations: everything at once, for psql
\set step 'first'
SET search_path = public;
ALTER TABLE item ADD COLUMN cents bigint, ADD COLUMN "by Whom" text DEFAULT current_user;
UPDATE item SET cents = price * 100 + (random() * 99)::int;
ALTER TABLE item ALTER COLUMN cents SET NOT NULL, DROP COLUMN price;
CREATE TABLE label (id serial PRIMARY KEY, item int REFERENCES item, text text DEFAULT 'a;b');
CREATE FUNCTION double(n int) RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN n * 2; END;$$;
DO $$BEGIN EXECUTE 'CREATE INDEX item_cents ON item (cents)'; END$$;
ALTER TABLE stock RENAME TO storage;
INSERT INTO storage SELECT id, double(id) FROM item;
\copy item (id, name, cents) FROM STDIN WITH (FORMAT csv)
1001,copied,5
1002,"copied, too",6
\.
SELECT :'step' || ' step is done';
"""


def test_a_migration_runs_on_both_sides(shop: Shop) -> None:
    with daemon(shop.path):
        done = pyreplica(shop.path, "execute", str(shop.script(MIGRATION)))
        assert done.stdout.splitlines() == [
            "first step is done",
            f"{shop.path.with_name('script.sql')}: run on the master, 6 statements for the slaves",
            "shop: run on the slave",
        ]
        sql(shop.databases.master, "UPDATE public.storage SET n = 1 WHERE item < 9")
        assert_same(shop.config)
    shape = (
        "SELECT array_agg(attname || format_type(atttypid, atttypmod) || attnotnull "
        "ORDER BY attrelid::regclass::text, attname) FROM pg_attribute "
        "WHERE attrelid::regclass::text IN ('public.item', 'public.label', 'public.storage') "
        "AND attnum > 0 AND NOT attisdropped"
    )
    assert value(shop.databases.slave, shape) == value(shop.databases.master, shape)
    assert value(shop.databases.slave, "SELECT count(*) FROM public.item") == 52
    assert value(shop.databases.slave, "SELECT public.double(4)") == 8
    assert value(shop.databases.slave, "SELECT to_regclass('public.item_cents') IS NOT NULL")


def test_a_reader_of_the_slave_sees_all_of_a_script_or_nothing(shop: Shop) -> None:
    script = shop.script(
        "ALTER TABLE public.item ADD state text; UPDATE public.item SET state = 'new';"
    )
    seen: set[object] = set()
    stop = threading.Event()

    def look() -> None:
        with connect(shop.databases.slave) as session:
            query = (
                "SELECT count(*) FILTER (WHERE to_jsonb(i) ? 'state'), "
                "count(*) FILTER (WHERE to_jsonb(i) ->> 'state' = 'new') FROM public.item i"
            )
            while not stop.is_set():
                seen.add(session.query(query)[0])

    with running(shop.config):
        assert_same(shop.config)
        reader = threading.Thread(target=look)
        reader.start()
        try:
            pyreplica(shop.path, "execute", str(script))
        finally:
            stop.set()
            reader.join()
    assert seen <= {(0, 0), (50, 50)}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "ALTER TABLE public.item ADD x int; ALTER TABLE public.nothing ADD x int;",
            "script.sql:1",
        ),
        (
            "DO $$BEGIN ALTER TABLE public.item ADD x int; UPDATE public.item SET x = 1; END$$;",
            "one statement does DDL and writes the replicated table public.item",
        ),
        (
            "DO $$BEGIN DELETE FROM public.item; ALTER TABLE public.item ADD x int; END$$;",
            "one statement does DDL and writes the replicated table public.item",
        ),
        ("CREATE INDEX CONCURRENTLY ON public.item (name);", "cannot run inside a transaction"),
        ("SELECT 'unfinished", "script.sql"),
    ],
)
def test_a_script_that_fails_changes_nothing(shop: Shop, script: str, words: str) -> None:
    before = value(shop.databases.master, "SELECT count(*) FROM pyreplica.replica_log")
    done = pyreplica(shop.path, "execute", str(shop.script(script)), code=1)
    assert words in done.stderr.splitlines()[0]
    assert "Nothing of the script was kept" in done.stderr
    assert value(shop.databases.master, "SELECT count(*) FROM pyreplica.replica_log") == before
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'public.item'::regclass"
    assert value(shop.databases.master, columns) == 3 + 6  # and the system's


def test_a_script_that_ends_its_transaction_is_told_so(shop: Shop) -> None:
    script = shop.script(
        "BEGIN; ALTER TABLE public.item ADD x int; COMMIT; CREATE VIEW v AS SELECT 1;"
    )
    done = pyreplica(shop.path, "execute", str(script), code=1)
    assert "the script has ended its transaction by itself" in done.stderr
    with running(shop.config):
        assert_same(shop.config)  # what was committed was sent
    columns = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'public.item'::regclass"
    assert value(shop.databases.slave, columns) == 4 + 6


def test_the_log_shows_what_is_sent(shop: Shop) -> None:
    pyreplica(
        shop.path,
        "execute",
        str(shop.script("CREATE VIEW public.v AS SELECT 1;")),
        "--timeout",
        "0",
    )
    with connect(shop.databases.master) as session:
        shown = session.query(
            "SELECT \"table\", op::text, row ->> 'sql' FROM pyreplica.changes WHERE op = 'S'"
        )
    assert shown == [(None, "S", "CREATE VIEW public.v AS SELECT 1;")]


def test_only_the_named_replications_run_it(shop: Shop) -> None:
    names = "UPDATE pyreplica.replica_log SET row = jsonb_set(row, '{replications}', '[\"other\"]')"
    done = pyreplica(
        shop.path,
        "execute",
        str(shop.script("CREATE VIEW public.v AS SELECT 1;")),
        "shop",
        "--timeout",
        "0",
    )
    assert "1 statement for the slaves" in done.stdout
    query = "SELECT row ->> 'replications' FROM pyreplica.replica_log WHERE op = 'S'"
    assert value(shop.databases.master, query) == '["shop"]'
    sql(shop.databases.master, names + " WHERE op = 'S'")
    with running(shop.config):
        assert_same(shop.config)
    assert value(shop.databases.slave, "SELECT to_regclass('public.v') IS NULL")


def test_a_slave_that_cannot_run_it_is_reported(shop: Shop) -> None:
    sql(shop.databases.slave, "CREATE VIEW public.v AS SELECT 2")
    with daemon(shop.path):
        script = shop.script("CREATE VIEW public.v AS SELECT 1;")
        done = pyreplica(shop.path, "execute", str(script), code=1)
        assert "the slave has not run it yet" in done.stderr
        assert 'relation "v" already exists' in done.stderr
        sql(shop.databases.slave, "DROP VIEW public.v")
        assert_same(shop.config)
    assert value(shop.databases.slave, "SELECT * FROM public.v") == 1


def test_without_a_daemon_it_says_that_it_will_be_run_later(shop: Shop) -> None:
    script = shop.script("ALTER TABLE public.item ADD x int DEFAULT 4;")
    done = pyreplica(shop.path, "execute", str(script), "--timeout", "2", code=4)
    assert "No daemon is at work" in done.stderr
    with daemon(shop.path):
        pyreplica(shop.path, "wait")
        assert_same(shop.config)


def test_what_cannot_be_executed_at_all(shop: Shop) -> None:
    missing = pyreplica(shop.path, "execute", "/nowhere.sql", code=2)
    assert missing.stderr.splitlines()[0] == "pyreplica: /nowhere.sql: there is no such file"
    nothing = pyreplica(shop.path, "execute", str(shop.script("UPDATE public.item SET price = 0;")))
    assert "there was no DDL in it" in nothing.stdout
    with running(shop.config):
        assert_same(shop.config)


def test_the_slave_stays_in_its_own_search_path(shop: Shop) -> None:
    script = shop.script(
        "SET search_path = public; SET standard_conforming_strings = off;\n"
        r"COMMENT ON TABLE item IS 'a\tb';"
    )
    with running(shop.config):
        pyreplica(shop.path, "execute", str(script))
        sql(shop.databases.master, "UPDATE public.item SET name = E'back\\\\slash'")
        assert_same(shop.config)
    comment = "SELECT obj_description('public.item'::regclass)"
    assert value(shop.databases.slave, comment) == "a\tb"
