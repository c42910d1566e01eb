"""Every type arrives to the byte, as a column and as the key, whatever the writing session has set.

One replication serves all of these tests. Its databases have hostile settings of their own, so that
nothing here depends on a default.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

import psycopg2
import pytest

from pyreplica.database import Connection
from pyreplica.demo.cluster import Cluster
from pyreplica.errors import DatabaseError, PyReplicaError
from pyreplica.master import log
from pyreplica.replication.setup import install
from pyreplica.replication.wait import wait
from pyreplica.slave import inserts, unstaged
from tests import typevalues
from tests.conftest import Databases
from tests.support import LIMIT, Running, config, connect, copy, running, value

_NO_KEYS = """
json json[] jsonpath xml point line lseg box box[] path polygon circle pg_snapshot txid_snapshot xid
cid refcursor aclitem ext.lquery ext.ltxtquery ext.query_int
"""
NO_KEYS = frozenset(_NO_KEYS.split())
"""Types that have no order, so that PostgreSQL makes no primary key of them."""

_NO_COLUMNS = """
gtsvector pg_brin_bloom_summary pg_brin_minmax_multi_summary pg_dependencies pg_mcv_list
pg_ndistinct pg_node_tree
"""
NO_COLUMNS = frozenset(_NO_COLUMNS.split())
"""Types whose input function takes no value at all."""

_NO_BINARY_OUTPUT = """
aclitem ext.ean13 ext.isbn ext.isbn13 ext.ismn ext.ismn13 ext.issn ext.issn13 ext.upc ext.seg
ext.query_int
"""
_WITH_AN_OID = """
regclass regproc regprocedure regoper regoperator regtype regrole regnamespace regcollation
regconfig regdictionary mine.class
mine.mood[] mine.moods mine.pair[] mine.nested mine.nested[] mine.word[] mine.moments
mine.moment_range[] ext.citext[] ext.ltree[]
"""
"""Their binary form has the oid of what they name, or of their elements' or fields' type. That is
another one in each database."""

TEXT_ALONE = frozenset([*_NO_BINARY_OUTPUT.split(), *_WITH_AN_OID.split(), "xml"])
"""Types that are compared as text alone; of xml see `stored`: sent, it has another header."""

HOSTILE = {
    "DateStyle": "German, DMY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kolkata",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "xmlbinary": "hex",
    "xmloption": "document",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "search_path": "evil, pg_catalog, mine, ext, public",
    "client_encoding": "LATIN1",
}

_ORDERS = ("MDY", "DMY", "YMD")
SETTINGS = [
    *(f"DateStyle={style}, {o}" for style in ("ISO", "SQL", "Postgres", "German") for o in _ORDERS),
    *(f"IntervalStyle={s}" for s in ("postgres", "postgres_verbose", "sql_standard", "iso_8601")),
    *(
        f"TimeZone={zone}"
        for zone in ("UTC", "America/St_Johns", "Europe/Dublin", "Pacific/Apia", "Odd-14:59")
    ),
    *(f"extra_float_digits={digits}" for digits in (-15, -1, 0, 1, 3)),
    *(f"bytea_output={form}" for form in ("hex", "escape")),
    *(f"client_encoding={encoding}" for encoding in ("UTF8", "LATIN1", "SQL_ASCII")),
    "lc_monetary=C",
    "search_path=evil, pg_catalog, mine, ext, public",
    "search_path=",
    "standard_conforming_strings=on",
    "standard_conforming_strings=off",
    "xmlbinary=hex",
    "xmloption=document",
    "array_nulls=off",
    "quote_all_identifiers=on",
]
"""What a writer may have set, each upon the databases' own defaults."""

# Everything that the capture and the daemon use, once more under the same name and doing harm.
EVIL = (
    "CREATE SCHEMA evil",
    "CREATE FUNCTION evil.harm(text) RETURNS text LANGUAGE plpgsql AS "
    "$$BEGIN RAISE 'evil.harm() was called'; END$$",
    "CREATE FUNCTION evil.harm(text, text) RETURNS text LANGUAGE sql AS $$SELECT evil.harm($1)$$",
    "CREATE FUNCTION evil.harm(jsonb, text) RETURNS text LANGUAGE sql AS $$SELECT evil.harm($2)$$",
    "CREATE FUNCTION evil.equal(text, text) RETURNS boolean LANGUAGE sql AS "
    "$$SELECT evil.harm($1) IS NULL$$",
    *(
        f"CREATE FUNCTION evil.{function} LANGUAGE sql AS $$SELECT evil.harm('')::{result}$$"
        for function, result in (
            ("jsonb_object(text[], text[]) RETURNS pg_catalog.jsonb", "pg_catalog.jsonb"),
            ("unnest(pg_catalog.jsonb[]) RETURNS pg_catalog.text", "pg_catalog.text"),
            ("current_setting(text, boolean) RETURNS pg_catalog.text", "pg_catalog.text"),
            ("nextval(regclass) RETURNS bigint", "bigint"),
        )
    ),
    "CREATE OPERATOR evil.= (leftarg = text, rightarg = text, function = evil.equal)",
    "CREATE OPERATOR evil.->> (leftarg = jsonb, rightarg = text, function = evil.harm)",
    "CREATE OPERATOR evil.|| (leftarg = text, rightarg = text, function = evil.harm)",
    "CREATE DOMAIN evil.text AS pg_catalog.text CHECK (false)",
    "CREATE DOMAIN evil.jsonb AS pg_catalog.jsonb CHECK (false)",
    "CREATE DOMAIN evil.int4 AS pg_catalog.int4 CHECK (false)",
    # casts from and to text that do something else than the types' own input and output
    *(
        statement
        for number, type_ in enumerate(
            ("mine.mood", "mine.mood[]", "mine.pair", "mine.text_range", "mine.nested", "ext.ltree")
        )
        for statement in (
            f"CREATE FUNCTION evil.from_text_{number}(pg_catalog.text) RETURNS {type_} "
            f"LANGUAGE sql AS 'SELECT NULL::{type_}'",
            f"CREATE CAST (pg_catalog.text AS {type_}) WITH FUNCTION evil.from_text_{number} "
            "AS IMPLICIT",
            f"CREATE FUNCTION evil.to_text_{number}({type_}) RETURNS pg_catalog.text "
            "LANGUAGE sql AS $$SELECT 'something else'$$",
            f"CREATE CAST ({type_} AS pg_catalog.text) WITH FUNCTION evil.to_text_{number}",
        )
    ),
)


@dataclass(frozen=True)
class Exact:
    """A running replication of a table with a column of each type, and one with each as its key.

    Attributes:
        values: the types and their values.
        keys: the types that can be a key; type n of ``values`` is the key of the table k<n>.
        copied: what differed after the initial copy.
        replication: the replication, in a thread.
        master, slave: sessions with pinned settings.
    """

    databases: Databases
    values: Mapping[str, list[str]]
    keys: Mapping[int, str]
    copied: list[str]
    replication: Running
    master: Connection
    slave: Connection

    @property
    def rows(self) -> int:
        """How many rows the tables `source` and `plain` have: one for each value."""
        return max(len(values) for values in self.values.values())

    @contextmanager
    def writer(self, **settings: str) -> Iterator[psycopg2.extensions.cursor]:
        """A session of an application, in autocommit mode, with these settings."""
        with closing(psycopg2.connect(self.databases.master)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for name, value in settings.items():
                    cursor.execute("SELECT pg_catalog.set_config(%s, %s, false)", (name, value))
                yield cursor

    def differences(self) -> list[str]:
        """What differs between the tables `plain`, once the slave is in step: type and values."""
        wait(self.replication.config, LIMIT / 2)
        return differences(self.master, self.slave, "plain", list(self.values))

    def key_differences(self) -> list[str]:
        """What differs between the tables k0, k1, ... once the slave is in step."""
        wait(self.replication.config, LIMIT / 2)
        found = [keyed(side, self.keys) for side in (self.master, self.slave)]
        return [f"{a[0]}: {a} on the master, {b} on the slave" for a, b in compared(*found)]


@pytest.fixture(scope="module")
def exact(master_cluster: Cluster, slave_cluster: Cluster) -> Iterator[Exact]:
    """The replication, copied with all the values, and running."""
    name = "exact_types"
    with ExitStack() as stack:
        for cluster in (master_cluster, slave_cluster):
            cluster.start()
            cluster.create_database(name)
            stack.callback(cluster.drop_database, name)
            stack.callback(cluster.start)
        databases = Databases(
            master_cluster.dsn(name), slave_cluster.dsn(name), name, master_cluster, slave_cluster
        )
        master, slave = (
            stack.enter_context(connect(dsn)) for dsn in (databases.master, databases.slave)
        )
        values = known_types(master)
        for side in (master, slave):
            make(side, name, values)
        keys = make_keys(master, slave, values)
        fill(master, values)
        made = config(databases)
        install(made)
        copy(made)
        copied = differences(master, slave, "plain", list(values))
        replication = stack.enter_context(running(made))
        yield Exact(databases, values, keys, copied, replication, master, slave)


def known_types(session: Connection) -> dict[str, list[str]]:
    """All types that this PostgreSQL has, with the values as they are written."""
    values = dict(typevalues.VALUES)
    (version,) = session.one("SELECT current_setting('server_version_num')::int")
    if version >= 140000:
        values |= typevalues.MULTIRANGES
    available = session.query("SELECT name FROM pg_available_extensions")
    missing = set(typevalues.EXTENSIONS) - {name for (name,) in available}
    if not missing:
        values |= typevalues.EXTENSION_VALUES
    return {type_: typevalues.written(given) for type_, given in values.items()}


def make(side: Connection, name: str, values: Mapping[str, list[str]]) -> None:
    """The types, the tables `plain` and `source`, and the hostile settings of one database."""
    for statement in typevalues.TYPES:
        side.execute(statement)
    side.execute("CREATE SCHEMA ext")
    if any(type_.startswith("ext.") for type_ in values):
        for extension in typevalues.EXTENSIONS:
            side.execute(f"CREATE EXTENSION {extension} SCHEMA ext")
    columns = ", ".join(f"c{n} {type_}" for n, type_ in enumerate(values))
    side.execute(f"CREATE TABLE public.plain (id int PRIMARY KEY, {columns})")
    for statement in EVIL:
        side.execute(statement)
    for setting, wanted in HOSTILE.items():
        listed = wanted if setting == "search_path" else f"'{wanted}'"
        side.execute(f"ALTER DATABASE {name} SET {setting} = {listed}")


def make_keys(
    master: Connection, slave: Connection, values: Mapping[str, list[str]]
) -> dict[int, str]:
    """The tables k0, k1, ... whose keys are of type 0, 1, ..., where there can be such a key."""
    keys = {}
    for n, type_ in enumerate(values):
        # the key is not the first column, and something precedes it that is gone
        table = (
            f"CREATE TABLE public.k{n} (gone int, id int, note text, k {type_} PRIMARY KEY); "
            f"ALTER TABLE public.k{n} DROP COLUMN gone"
        )
        try:
            with master.transaction():
                master.execute(f"{table}; SELECT FROM public.k{n} ORDER BY k")
        except DatabaseError as error:
            if "operator" not in error.what:
                raise
            continue
        slave.execute(table)
        keys[n] = type_
    return keys


def fill(master: Connection, values: Mapping[str, list[str]]) -> None:
    """Row r of the tables `source` and `plain` has value r of each type; row -1 is all NULL."""
    rows = max(len(given) for given in values.values())
    master.execute("CREATE UNLOGGED TABLE public.source (LIKE public.plain)")
    master.execute("INSERT INTO public.source (id) VALUES (-1)")
    for row in range(rows):
        given = [f"$v${texts[row % len(texts)]}$v$" for texts in values.values()]
        master.execute(f"INSERT INTO public.source VALUES ({row}, {', '.join(given)})")
    master.execute("INSERT INTO public.plain SELECT * FROM public.source")


def differences(master: Connection, slave: Connection, table: str, types: list[str]) -> list[str]:
    """What differs between two tables: the row, the type and both values."""
    found = []
    for form in (printed, stored):
        for ours, theirs in compared(form(master, table, types), form(slave, table, types)):
            found += [
                f"{types[n - 1]}: row {ours[0]!r}: {a[:200]!r} on the master, {b[:200]!r} on the "
                f"slave ({form.__name__})"
                for n, (a, b) in enumerate(zip(ours, theirs, strict=True))
                if a != b
            ]
    return found


def compared(ours: list[list[str]], theirs: list[list[str]]) -> list[tuple[list[str], list[str]]]:
    """The rows that differ, of the same number of rows."""
    assert [row[0] for row in ours] == [row[0] for row in theirs]
    return [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]


def printed(side: Connection, table: str, types: list[str]) -> list[list[str]]:
    """The id and all columns of a table as their output functions print them."""
    columns = ", ".join(f"c{n}" for n, _ in enumerate(types))
    buffer = io.BytesIO()
    side.copy_out(
        f"COPY (SELECT id, {columns} FROM public.{table} ORDER BY id) TO STDOUT", buffer.write
    )
    return [line.split("\t") for line in buffer.getvalue().decode().splitlines()]


def stored(side: Connection, table: str, types: list[str]) -> list[list[str]]:
    """The same in binary, where that is the same in two databases; xml as its stored text."""
    columns = ", ".join(
        f"XMLSERIALIZE(CONTENT c{n} AS text)"
        if type_ == "xml"
        else "NULL"
        if type_ in TEXT_ALONE
        else f"c{n}"
        for n, type_ in enumerate(types)
    )
    buffer = io.BytesIO()
    side.copy_out(
        f"COPY (SELECT id, {columns} FROM public.{table} ORDER BY id) TO STDOUT (FORMAT binary)",
        buffer.write,
    )
    return binary_rows(buffer.getvalue())


def binary_rows(data: bytes) -> list[list[str]]:
    """The fields of a binary COPY in hexadecimal (see the manual's chapter on COPY)."""
    rows = []
    position = 19
    while (count := struct.unpack_from("!h", data, position)[0]) != -1:
        position += 2
        row = []
        for _ in range(count):
            (length,) = struct.unpack_from("!i", data, position)
            position += 4
            row.append("NULL" if length < 0 else data[position : position + length].hex())
            position += max(length, 0)
        rows.append(row)
    return rows


def keyed(side: Connection, keys: Mapping[int, str]) -> list[list[str]]:
    """The rows of all the tables k0, k1, ...: type, id, note, key as text and in binary."""
    parts = []
    for n, type_ in keys.items():
        send = "NULL" if type_ in TEXT_ALONE else "ROW(k)"
        parts.append(
            f"SELECT $t${type_}$t$, id, note, ROW(k)::text, "
            # without the type's oid, which differs from server to server
            f"CASE WHEN {send} IS NULL THEN '' "
            f"ELSE encode(substr(record_send({send}), 9), 'hex') END "
            f"FROM public.k{n}"
        )
    return [list(row) for row in side.query(" UNION ALL ".join(parts) + " ORDER BY 1, 2")]


def test_every_type_that_can_be_a_column_is_among_the_values(exact: Exact) -> None:
    of_columns = (
        "SELECT format_type(t.oid, NULL) FROM pg_type t "
        "WHERE t.typnamespace IN ('pg_catalog'::regnamespace, 'ext'::regnamespace) "
        "AND t.typtype IN ('b', 'r', 'm') AND t.typcategory <> 'A' "
    )
    listed = "SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attnum > 0 AND "
    left_out = exact.master.query(
        f"{of_columns} EXCEPT {listed} attrelid = 'public.plain'::regclass"
    )
    helpers = {name for (name,) in left_out if re.match(r"ext\.(.*_gkey|.*_gist|ghstore)", name)}
    assert {name for (name,) in left_out} - helpers == NO_COLUMNS


def test_every_type_that_has_an_order_is_among_the_keys(exact: Exact) -> None:
    assert set(exact.values) - set(exact.keys.values()) == NO_KEYS & set(exact.values)


def test_the_initial_copy_is_exact(exact: Exact) -> None:
    assert exact.copied == []


@pytest.mark.parametrize("setting", SETTINGS)
def test_values_are_the_same_whatever_the_writer_has_set(exact: Exact, setting: str) -> None:
    name, _, value = setting.partition("=")
    with exact.writer(**{name: value}) as write:
        replace_and_update_all(exact, write)
        assert exact.differences() == []


def test_values_are_the_same_with_a_monetary_locale_of_another_country(exact: Exact) -> None:
    locales = exact.master.query(
        "SELECT collcollate FROM pg_collation WHERE collprovider = 'c' AND collcollate ~ '_'"
    )
    if not locales:
        pytest.skip("the servers know no locale but C")
    with exact.writer(lc_monetary=locales[0][0]) as write:
        replace_and_update_all(exact, write)
        assert exact.differences() == []


def replace_and_update_all(exact: Exact, write: psycopg2.extensions.cursor) -> None:
    """Write all rows of `plain` again, and update each value to the next one of its type."""
    write.execute("DELETE FROM public.plain")
    write.execute("INSERT INTO public.plain SELECT * FROM public.source")
    wait(exact.replication.config, LIMIT / 2)
    write.execute(to_next(exact, range(len(exact.values))))


def to_next(exact: Exact, columns: range) -> str:
    """UPDATE of these columns of all rows to the next values."""
    names = ", ".join(f"c{n}" for n in columns)
    return (
        f"UPDATE public.plain p SET ({names}) = (SELECT {names} FROM public.source s "
        f"WHERE s.id = (p.id + 1) % {exact.rows}) WHERE p.id >= 0"
    )


@pytest.mark.parametrize("fewest", [1, 1_000_000], ids=["copied", "staged"])
def test_many_new_rows_are_the_same(
    exact: Exact, fewest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[int] = []
    refused: list[str] = []

    def copy(self: inserts.Inserts, target: Connection) -> int:
        try:
            copied.append(original(self, target))
        except PyReplicaError as error:
            refused.append(f"{error.line} {error.details}")
            raise
        return copied[-1]

    original = inserts.Inserts.copy
    monkeypatch.setattr(inserts.Inserts, "copy", copy)
    monkeypatch.setattr(inserts, "FEWEST_ROWS", fewest)
    monkeypatch.setattr(unstaged, "LEAST_PART", 1_000_000)
    monkeypatch.setattr(log, "FETCH_ROWS", 1)
    tables = {"plain": "SELECT * FROM public.source"}
    for n, type_ in exact.keys.items():
        # NaN is no more and no less than anything in a cube: whether its index lets another one in
        # is a matter of the order in which they come
        rows_ = 1 if type_ == "ext.cube" else len(exact.values[type_])
        tables[f"k{n}"] = (
            f"SELECT id, 'new', c{n} FROM public.source WHERE id BETWEEN 0 AND {rows_ - 1} "
            "ON CONFLICT DO NOTHING"
        )
    with exact.writer() as write:
        for table in tables:
            write.execute(f"DELETE FROM public.{table}")
        wait(exact.replication.config, LIMIT / 2)
        write.execute(
            "; ".join(f"INSERT INTO public.{table} {rows}" for table, rows in tables.items())
        )
        assert exact.differences() == []
        assert exact.key_differences() == []
        rows = sum(value(exact.databases.slave, f"SELECT count(*) FROM public.{t}") for t in tables)
        for n in exact.keys:
            write.execute(f"DELETE FROM public.k{n}")
    assert refused == []
    assert sum(copied) == (rows if fewest == 1 else 0)
    assert rows > len(tables)


def test_each_column_is_updated_from_every_value_to_the_next(exact: Exact, apply_path: str) -> None:
    with exact.writer() as write:
        replace_and_update_all(exact, write)
        for n, _ in enumerate(exact.values):
            write.execute(to_next(exact, range(n, n + 1)))
        assert exact.differences() == []
        for _ in range(exact.rows):
            write.execute(to_next(exact, range(len(exact.values))))
            assert exact.differences() == []


def test_each_column_is_set_to_null_and_back(exact: Exact, apply_path: str) -> None:
    with exact.writer() as write:
        replace_and_update_all(exact, write)
        names = ", ".join(f"c{n}" for n, _ in enumerate(exact.values))
        update = (
            f"UPDATE public.plain p SET ({names}) = (SELECT {names} FROM public.source s "
            "WHERE s.id = {})"
        )
        write.execute(update.format("-1"))
        assert exact.differences() == []
        write.execute(update.format("p.id"))
        assert exact.differences() == []
        write.execute("DELETE FROM public.plain WHERE id < 3")
        assert exact.differences() == []


def test_keys_of_every_type_are_told_apart_by_their_bytes(exact: Exact, apply_path: str) -> None:
    """Insert, update, change of the key to the next value and back to the first, delete."""
    with exact.writer() as write:
        for step in range(exact.rows + 1):
            for n, type_ in exact.keys.items():
                values = len(exact.values[type_])
                if step <= values:
                    for statement in key_statements(n, step, values):
                        write.execute(statement)
            assert exact.key_differences() == []
        for n in exact.keys:
            write.execute(f"DELETE FROM public.k{n}")
        assert exact.key_differences() == []


def key_statements(n: int, step: int, values: int) -> list[str]:
    """What is done to the table k<n>: a row with the first value, then to each next value."""
    key = f"(SELECT c{n} FROM public.source WHERE id = {step % values})"
    if step == 0:
        return [f"INSERT INTO public.k{n} VALUES (1, 'x', {key})"]
    change = [
        f"UPDATE public.k{n} SET note = 'step {step}'",
        f"UPDATE public.k{n} SET k = {key}",
        f"UPDATE public.k{n} SET id = {step}",
    ]
    if step % 2:
        return change
    # one message: what the second and third statement log is restated
    return ["; ".join(change)]


def test_keys_that_come_and_go_within_a_batch_are_told_apart(exact: Exact, apply_path: str) -> None:
    with exact.writer() as write:
        write.execute("BEGIN")
        for n, type_ in exact.keys.items():
            values = len(exact.values[type_])
            for step in (0, 1, 2, 3):
                key = f"(SELECT c{n} FROM public.source WHERE id = {step % values})"
                write.execute(f"DELETE FROM public.k{n}")
                write.execute(f"INSERT INTO public.k{n} VALUES ({step}, 'x', {key})")
                write.execute(f"UPDATE public.k{n} SET note = 'step {step}'")
        write.execute("COMMIT")
        assert exact.key_differences() == []
        for n in exact.keys:
            write.execute(f"DELETE FROM public.k{n}")
