"""Large values: what passes, what is refused and how, and what is not sent a second time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg2
import pytest

from pyreplica import sqlfiles
from pyreplica.demo.cluster import Cluster
from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.support import (
    LIMIT,
    assert_same,
    connect,
    copied,
    copy,
    running,
    sql,
    value,
)

MB = 1_000_000

MOST = 268_435_455
"""So many bytes of text a jsonb object holds."""

_FINGERPRINT = "SELECT id, length(t), md5(t), length(b), md5(b) FROM public.large ORDER BY id"


def fingerprints(dsn: str) -> list[tuple[object, ...]]:
    """Length and md5 of the values of the table `large`."""
    with connect(dsn) as session:
        return session.query(_FINGERPRINT)


def test_values_of_100_mb_pass_through_the_copy_and_the_log(databases: Databases) -> None:
    text = f"repeat('0123456789abcde\u00e9', {100 * MB // 17 + 1})"
    binary = f"decode(repeat('00ff5c0a', {25 * MB}), 'hex')"
    made = copied(
        databases,
        "CREATE TABLE public.large (id int PRIMARY KEY, n int, t text, b bytea); "
        "ALTER TABLE public.large ALTER b SET STORAGE EXTERNAL, ALTER t SET STORAGE EXTERNAL",
    )
    sql(databases.master, f"INSERT INTO public.large VALUES (1, 0, {text}, '')")
    copy(made, truncate=True)
    with running(made):
        sql(databases.master, f"INSERT INTO public.large VALUES (2, 0, '', {binary})")
        wait(made, 2 * LIMIT)
        sql(databases.master, "UPDATE public.large SET t = t || 'x', id = 3 WHERE id = 1")
        wait(made, 2 * LIMIT)
    found = fingerprints(databases.slave)
    assert found == fingerprints(databases.master)
    assert [row[0] for row in found] == [2, 3]


@pytest.fixture(scope="module")
def shop(master_cluster: Cluster) -> Iterator[str]:
    """A master with a captured table `public.large`, and no slave."""
    name = "exact_values"
    master_cluster.start()
    master_cluster.create_database(name)
    master_cluster.psql("-q", "-f", str(sqlfiles.path("master-install.sql")), dbname=name)
    dsn = master_cluster.dsn(name)
    sql(
        dsn,
        "CREATE TABLE public.large (id int PRIMARY KEY, t text, b bytea)",
        "SELECT pyreplica.add_table('public.large')",
    )
    yield dsn
    master_cluster.start()
    master_cluster.drop_database(name)


class Said:
    """What a server says of an error."""

    def __init__(self, error: psycopg2.Error) -> None:
        said = error.diag
        self.sqlstate = said.sqlstate
        self.message = said.message_primary or ""
        self.detail = said.message_detail or ""
        self.hint = said.message_hint or ""
        self.context = said.context or ""


def error_of(dsn: str, *statements: str) -> Said:
    """What the last statement fails with."""
    with closing(psycopg2.connect(dsn)) as session, session.cursor() as cursor:
        session.autocommit = True
        for statement in statements[:-1]:
            cursor.execute(statement)
        with pytest.raises(psycopg2.Error) as caught:
            cursor.execute(statements[-1])
    return Said(caught.value)


@pytest.mark.parametrize(
    ("columns", "values", "original"),
    [
        ("t", f"repeat('x', {MOST})", "total size of jsonb object elements exceeds the maximum"),
        ("b", f"convert_to(repeat('x', {540 * MB}), 'UTF8')", "invalid memory alloc request size"),
        ("t", f"repeat(chr(1), {155 * MB})", "the row takes 1085000020 bytes when it is printed"),
    ],
    ids=["more than jsonb holds", "more than can be allocated", "more than can be read again"],
)
def test_a_row_that_is_too_large_for_the_log_is_refused_by_name(
    shop: str, columns: str, values: str, original: str
) -> None:
    said = error_of(shop, f"INSERT INTO public.large (id, {columns}) VALUES (1, {values})")
    assert said.sqlstate == "54000"
    assert "a row of table public.large is too large to be replicated" in said.message
    assert str(MOST) in said.detail
    assert original in said.detail
    assert "SELECT pyreplica.remove_table('public.large')" in said.hint
    assert value(shop, "SELECT count(*) FROM public.large") == 0


@pytest.mark.parametrize("sqlstate", ["40001", "XX000", "53200", "57014", "P0001"])
def test_other_errors_in_the_capture_stay_what_they_are(shop: str, sqlstate: str) -> None:
    with connect(shop) as admin:
        admin.execute(
            "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN "
            f"RAISE 'no' USING errcode = '{sqlstate}', detail = 'so', hint = 'try'; END$$; "
            "CREATE TRIGGER fail BEFORE INSERT ON pyreplica.replica_log_0 "
            "FOR EACH ROW EXECUTE FUNCTION public.fail()"
        )
        try:
            said = error_of(shop, "INSERT INTO public.large VALUES (1)")
        finally:
            admin.execute("DROP FUNCTION public.fail CASCADE")
    assert said.sqlstate == sqlstate
    assert said.message.split(": ")[1:] == ["no"]
    assert (said.detail, said.hint) == ("so", "try")
    assert "plpy.execute(plan)" in said.context


def test_a_lock_timeout_in_the_capture_stays_one(shop: str) -> None:
    with closing(psycopg2.connect(shop)) as writer, writer.cursor() as cursor:
        cursor.execute("INSERT INTO public.large VALUES (1)")  # its statements are prepared now
        writer.rollback()
        cursor.execute("SET lock_timeout = '1ms'")
        with connect(shop) as admin, admin.transaction():
            admin.execute("LOCK TABLE pyreplica.replica_log IN EXCLUSIVE MODE")
            with pytest.raises(psycopg2.Error) as caught:
                cursor.execute("INSERT INTO public.large VALUES (1)")
    said = Said(caught.value)
    assert said.sqlstate == "55P03"
    assert "canceling statement due to lock timeout" in said.message
    assert "plpy.execute(plan)" in said.context


def test_a_serialization_failure_in_the_capture_stays_one(shop: str) -> None:
    """Another transaction has read what the capture writes, and written what this one has read."""
    with closing(psycopg2.connect(shop)) as writer, writer.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        cursor.execute("SELECT * FROM pyreplica.replica_tick")
        with connect(shop) as other, other.transaction("BEGIN ISOLATION LEVEL SERIALIZABLE"):
            other.query("SELECT * FROM pyreplica.replica_log")
            other.query("SELECT pyreplica.tick()")
        with pytest.raises(psycopg2.Error) as caught:
            cursor.execute("INSERT INTO public.large VALUES (1)")
    said = Said(caught.value)
    assert said.sqlstate == "40001"
    assert "could not serialize access due to read/write dependencies" in said.message
    assert "The transaction might succeed if retried." in said.hint
    assert "plpy.execute(plan)" in said.context


LARGE = {
    "t text": "x",
    "v varchar(10000000)": "x",
    "c char(9000)": "x",
    "b bytea": "convert_to(x, 'UTF8')",
    "j jsonb": "to_jsonb(x)",
    "a text[]": "ARRAY[x]",
    "d public.letters": "x",
    "m public.marks": "x",
}
"""Columns, and what fills them with more than a page holds."""


def test_large_values_that_are_not_changed_are_neither_logged_nor_written_again(
    databases: Databases, apply_path: str
) -> None:
    external = ", ".join(f"ALTER {column.split()[0]} SET STORAGE EXTERNAL" for column in LARGE)
    made = copied(
        databases,
        "CREATE DOMAIN public.letters AS varchar(10000000) CHECK (value <> ''); "
        "CREATE DOMAIN public.marks AS text; "
        f"CREATE TABLE public.large (id int PRIMARY KEY, n int, {', '.join(LARGE)}); "
        f"ALTER TABLE public.large {external}; "
        f"INSERT INTO public.large SELECT i, 0, {', '.join(LARGE.values())} "
        "FROM generate_series(1, 3) i, repeat('0123456789', 900) x",
    )
    before = chunks(databases.slave)
    assert len(before) == 3 * len(LARGE)
    with running(made):
        sql(
            databases.master,
            "UPDATE public.large SET n = n + 1",
            # two sets of columns in one batch
            "BEGIN; UPDATE public.large SET n = n + 1 WHERE id < 3; "
            "UPDATE public.large SET t = 'short' WHERE id = 3; COMMIT",
        )
        logged = "SELECT max(pg_column_size(row)) FROM pyreplica.replica_log"
        assert value(databases.master, logged) < 100
        assert_same(made)
    after = chunks(databases.slave)
    assert after < before
    assert len(before - after) == 1


def chunks(dsn: str) -> set[int]:
    """The ids of the large values of the table `large`; one that is written again gets a new id."""
    with connect(dsn) as session:
        (toast,) = session.one(
            "SELECT reltoastrelid::regclass::text FROM pg_class "
            "WHERE oid = 'public.large'::regclass"
        )
        found = session.query(f"SELECT DISTINCT chunk_id::bigint FROM {toast}")
        return {chunk for (chunk,) in found}
