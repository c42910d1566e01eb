"""`masks:` what is masked never gets to the slave, by whatever way it goes, and arrives masked."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.config.policies import OnError
from pyreplica.database import sql as parts
from pyreplica.database.masks import masked_object, masked_old, masked_old_text, masked_text
from pyreplica.model import Mask, MaskKind
from pyreplica.replication.compare import compare
from pyreplica.replication.conflicts import listed
from pyreplica.replication.repair import repair
from tests.conftest import Databases
from tests.support import assert_same, connect, connected, copied, running, sql, value
from tests.typevalues import TYPES, VALUES, given

SECRET = "a secret that nobody can guess"
TABLE = """
    CREATE TABLE public.customer (id integer PRIMARY KEY, email text, phone text, name text, n int)
"""
ROWS = """;
    INSERT INTO public.customer
    SELECT i, 'hidden-mail' || i, 'hidden-phone', 'hidden-name', i FROM generate_series(1, 9) i
"""
MASKS = {"public.customer": {"email": "hash", "phone": "null", "name": {"constant": "(none)"}}}
MAP: dict[str, Any] = {"masks": MASKS, "secret": SECRET}


def hashed(text: str) -> str:
    """What the slave has in the place of a text."""
    return hmac.new(SECRET.encode(), text.encode(), hashlib.sha256).hexdigest()


def masked(databases: Databases, **options: Any) -> ReplicationConfig:
    """A replication of a table that is masked, copied."""
    return copied(databases, TABLE + ROWS, slave=TABLE, map=MAP, **options)


def assert_nothing_hidden_is_seen(databases: Databases) -> None:
    """Look at every table of the slave, those of PyReplica among them."""
    query = (
        "SELECT string_agg(format('SELECT %L, r::text FROM %I.%I r', c.oid::regclass, n.nspname, "
        "c.relname), ' UNION ALL ') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind = 'r' AND n.nspname IN ('public', 'pyreplica')"
    )
    with connect(databases.slave) as session:
        (union,) = session.one(query)
        found = session.query(f"SELECT * FROM ({union}) t(name, r) WHERE r LIKE '%hidden%'")
    assert found == []


def slave_row(databases: Databases, id_: int) -> tuple[Any, ...]:
    with connect(databases.slave) as session:
        return session.one(f"SELECT email, phone, name FROM public.customer WHERE id = {id_}")


@pytest.mark.usefixtures("apply_path")
def test_what_is_masked_arrives_masked_by_every_kind_of_change(databases: Databases) -> None:
    made = masked(databases)
    assert slave_row(databases, 1) == (hashed("hidden-mail1"), None, "(none)")
    with running(made):
        sql(
            databases.master,
            "BEGIN",
            "INSERT INTO public.customer VALUES (10, 'hidden ä☃', 'hidden', NULL)",
            "INSERT INTO public.customer VALUES (11)",
            "UPDATE public.customer SET email = 'hidden too', phone = 'hidden' WHERE id = 1",
            "UPDATE public.customer SET phone = 'hidden again', name = 'hidden 2' WHERE id = 2",
            "UPDATE public.customer SET id = 30 WHERE id = 3",
            "UPDATE public.customer SET n = 0 WHERE id = 4",
            "DELETE FROM public.customer WHERE id = 5",
            "COMMIT",
        )
        assert_same(made)
        assert listed(made, settled_too=True) == []
        # the first change of a row whose values the slave has masked meets what it should
        sql(databases.master, "UPDATE public.customer SET email = 'hidden more' WHERE id = 1")
        assert_same(made)
    assert listed(made, settled_too=True) == []
    assert slave_row(databases, 10) == (hashed("hidden ä☃"), None, "(none)")
    assert slave_row(databases, 11) == (None, None, "(none)")
    assert slave_row(databases, 1) == (hashed("hidden more"), None, "(none)")
    assert slave_row(databases, 30)[0] == hashed("hidden-mail3")
    assert_nothing_hidden_is_seen(databases)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO public.customer SELECT i, 'hidden' || i, 'hidden', 'hidden', 0 "
        "FROM generate_series(10, 3000) i",
        "UPDATE public.customer SET email = 'hidden' || id",
        "DELETE FROM public.customer WHERE id > 10",
    ],
)
def test_large_batches_of_one_kind_are_masked(databases: Databases, statement: str) -> None:
    made = masked(databases)
    with running(made):
        if not statement.startswith("INSERT"):
            sql(
                databases.master,
                "INSERT INTO public.customer SELECT i, 'hidden' || -i, 'hidden', 'hidden', 0 "
                "FROM generate_series(10, 3000) i",
            )
            assert_same(made)
        sql(databases.master, statement)
        assert_same(made)
    assert_nothing_hidden_is_seen(databases)
    assert listed(made, settled_too=True) == []


@pytest.mark.usefixtures("apply_path")
def test_what_is_written_down_of_a_conflict_is_masked(databases: Databases) -> None:
    made = replace(masked(databases), on_error=OnError.QUARANTINE)
    sql(
        databases.slave,
        "DELETE FROM public.customer WHERE id = 1",
        "UPDATE public.customer SET email = 'another' WHERE id = 2",
        "ALTER TABLE public.customer ADD CHECK (n < 100)",
    )
    with running(made) as daemon:
        sql(
            databases.master,
            "BEGIN",
            "UPDATE public.customer SET name = 'hidden x' WHERE id = 1",
            "UPDATE public.customer SET email = 'hidden x' WHERE id = 2",
            "INSERT INTO public.customer VALUES (10, 'hidden x', 'hidden x', 'hidden x', 100)",
            "COMMIT",
        )
        daemon.until_said("cannot be applied and wait")
        daemon.until_asleep()
    met = {one.conflict: one for one in listed(made, settled_too=True)}
    assert met.keys() == {"update_missing", "update_differs", None}
    assert met["update_differs"].old == {"email": hashed("hidden-mail2")}
    waiting = met[None].row
    assert waiting is not None
    assert waiting["email"] == hashed("hidden x")
    assert (waiting["phone"], waiting["name"]) == (None, "(none)")
    assert_nothing_hidden_is_seen(databases)


KEYED = """
    CREATE TABLE public.visit (email {type}, at integer, v text, PRIMARY KEY (email, at))
"""


@pytest.mark.usefixtures("apply_path")
def test_a_key_that_is_hashed_stays_a_key(databases: Databases) -> None:
    made = copied(
        databases,
        KEYED.format(type="text")
        + "; INSERT INTO public.visit SELECT 'hidden' || i, i, 'v' FROM generate_series(1, 9) i",
        slave=KEYED.format(type="varchar(64)"),
        map={"masks": {"public.visit": {"email": "hash"}}, "secret": SECRET},
    )
    with running(made) as daemon:
        sql(
            databases.master,
            "BEGIN",
            "INSERT INTO public.visit VALUES ('hidden10', 10, 'v')",
            "UPDATE public.visit SET v = 'changed' WHERE email = 'hidden1'",
            "UPDATE public.visit SET email = 'hidden20' WHERE email = 'hidden2'",
            "DELETE FROM public.visit WHERE email = 'hidden3'",
            "COMMIT",
        )
        daemon.until(daemon.batches, "no batch")
        daemon.until_asleep()
        (result,) = compare(made)
        assert result.problem is not None
        assert "its key is masked" in result.problem
    query = "SELECT email, at, v FROM public.visit"
    with connect(databases.master) as there, connect(databases.slave) as here:
        wanted = [(hashed(email), at, v) for email, at, v in there.query(query)]
        assert sorted(here.query(query)) == sorted(wanted)
    assert_nothing_hidden_is_seen(databases)


def test_a_row_of_a_hashed_key_that_is_missing_stops_instead_of_asking_for_another(
    databases: Databases,
) -> None:
    made = copied(
        databases,
        KEYED.format(type="text") + "; INSERT INTO public.visit VALUES ('hidden', 1, 'v')",
        slave=KEYED.format(type="text"),
        map={"masks": {"public.visit": {"email": "hash"}}, "secret": SECRET},
        conflicts={"update_missing": "apply"},
    )
    sql(databases.slave, "DELETE FROM public.visit")
    with running(made) as daemon:
        sql(databases.master, "UPDATE public.visit SET v = 'new'")
        daemon.until_said("conflict update_missing")
    assert_nothing_hidden_is_seen(databases)


def test_a_masked_column_that_is_renamed_stays_masked(databases: Databases) -> None:
    made = masked(databases)
    sql(databases.master, "ALTER TABLE public.customer RENAME email TO mail")
    sql(databases.slave, "ALTER TABLE public.customer RENAME email TO mail")
    with running(made):
        sql(
            databases.master,
            "UPDATE public.customer SET mail = 'hidden other' WHERE id = 1",
            "INSERT INTO public.customer SELECT i, 'hidden' || i FROM generate_series(100, 2000) i",
        )
        assert_same(made)
    assert_nothing_hidden_is_seen(databases)


def test_a_masked_table_that_is_renamed_stays_masked(databases: Databases) -> None:
    made = masked(databases)
    for dsn in (databases.master, databases.slave):
        sql(dsn, "ALTER TABLE public.customer RENAME TO client")
    with running(made):
        sql(
            databases.master,
            "UPDATE public.client SET email = 'hidden other' WHERE id = 1",
            "INSERT INTO public.client SELECT i, 'hidden' || i FROM generate_series(100, 2000) i",
        )
        assert_same(made)
    assert_nothing_hidden_is_seen(databases)


def test_a_new_column_that_is_masked_is_filled_masked(databases: Databases) -> None:
    made = masked(databases)
    masks = {**made.map.masks["public", "customer"], "extra": Mask(MaskKind.HASH, SECRET)}
    sql(databases.slave, "ALTER TABLE public.customer ADD extra text")
    sql(databases.master, "ALTER TABLE public.customer ADD extra text DEFAULT 'hidden'")
    now = replace(made, map=replace(made.map, masks={("public", "customer"): masks}))
    with running(now):
        assert_same(now)
    assert value(databases.slave, "SELECT DISTINCT extra FROM public.customer") == hashed("hidden")


def test_damage_in_a_hashed_column_is_found_and_repaired(databases: Databases) -> None:
    made = masked(databases)
    with connected(made):
        sql(databases.slave, "UPDATE public.customer SET email = 'damaged' WHERE id = 1")
        (found,) = repair(made, apply=True)
        assert (found.update, found.state) == (1, "repaired")
    assert_nothing_hidden_is_seen(databases)
    assert slave_row(databases, 1)[0] == hashed("hidden-mail1")


TYPED = [name for name in VALUES if "[]" not in name]


@pytest.mark.usefixtures("apply_path")
def test_a_hash_of_any_type_is_that_of_the_text_in_the_log_and_in_the_copy(
    databases: Databases,
) -> None:
    # compare reads the table itself, as the copy does; the changes come from the log
    columns = [f"c{number}" for number in range(len(TYPED))]
    rows: list[str] = []
    for turn in range(3):
        values = [_literal(VALUES[type_][turn % len(VALUES[type_])], type_) for type_ in TYPED]
        rows.append(f"({turn}, {', '.join(values)})")
    types = ", ".join(f"{c} {t}" for c, t in zip(columns, TYPED, strict=True))
    insert = "INSERT INTO public.t VALUES " + ", ".join(rows)
    made = copied(
        databases,
        ";".join((*TYPES, f"CREATE TABLE public.t (id integer PRIMARY KEY, {types})", insert)),
        slave=f"CREATE TABLE public.t (id integer PRIMARY KEY, {' text, '.join(columns)} text)",
        map={"masks": {"public.t": dict.fromkeys(columns, "hash")}, "secret": SECRET},
    )
    with running(made):
        sql(
            databases.master,
            insert.replace("VALUES (0,", "VALUES (10,")
            .replace("(1, ", "(11, ")
            .replace("(2, ", "(12, "),
        )
        assert_same(made)


def _literal(value_: Any, type_: str) -> str:
    return "'" + given(value_).replace("'", "''") + f"'::{type_}"


OBJECTS: Sequence[str] = (
    '{"a": "x", "b": "y"}',
    '{"a": null, "bb": "\\u0001\\n\\"\\\\ä☃😀\\u007f"}',
    '{"b": "", "a": "", "zz": null}',
    "{}",
)
ALL_MASKS = {
    "a": Mask(MaskKind.HASH, "k" * 100),
    "b": Mask(MaskKind.NULL),
    "bb": Mask(MaskKind.HASH, "short"),
    "zz": Mask(MaskKind.CONSTANT, "it's \\ ☃"),
}


def test_small_batches_are_masked_to_the_byte_like_large_ones(databases: Databases) -> None:
    with connect(databases.master) as session:
        for text in OBJECTS:
            object_ = parts.SQL("{}::jsonb").format(parts.Literal(text))
            (printed,) = session.one(parts.SQL("SELECT {}::text").format(object_))
            for in_sql, in_python in ((masked_object, masked_text), (masked_old, masked_old_text)):
                (result,) = session.one(
                    parts.SQL("SELECT {}::text").format(in_sql(ALL_MASKS, object_))
                )
                assert result == in_python(ALL_MASKS, printed)
