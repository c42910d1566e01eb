"""The text in the log is the types' own, whatever the writing session has set."""

from __future__ import annotations

import pytest

from tests.integration.capture.oracle import Master, Session
from tests.typevalues import MULTIRANGES, TYPES, VALUES, given, printed

HOSTILE = {
    "DateStyle": "German, DMY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Kolkata",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "xmlbinary": "hex",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "row_security": "off",
    "enable_hashjoin": "off",
    "enable_nestloop": "off",
    "jit": "off",  # joins that are switched off look dear enough to be compiled
    "search_path": "mine, public",
}


@pytest.fixture
def hostile(master: Master) -> Session:
    """A session with settings that change how values print."""
    master.run(*TYPES)
    return master.session(**HOSTILE)


def test_values_of_every_type_are_logged_as_their_types_print_them(
    master: Master, hostile: Session
) -> None:
    values = dict(VALUES)
    if master.writer.connection.server_version >= 140000:
        values |= MULTIRANGES
    columns = {f"c{n}": type_ for n, type_ in enumerate(values)}
    master.table(
        "id int PRIMARY KEY, " + ", ".join(f"{name} {type_}" for name, type_ in columns.items())
    )
    # the settings change how values are read, too: they are written down by another session
    master.run("CREATE TABLE source (LIKE t)")
    for row in range(max(len(of_type) for of_type in values.values())):
        written = [f"$v${given(of_type[row % len(of_type)])}$v$" for of_type in values.values()]
        master.run(f"INSERT INTO source VALUES ({row}, {', '.join(written)})")

    hostile.run("INSERT INTO public.t SELECT * FROM public.source")
    logged = {int(it.key["id"] or 0): it.row or {} for it in master.changes() if it.key}
    for name, type_ in columns.items():
        found = [(type_, logged[row][name]) for row, _ in enumerate(values[type_])]
        assert found == [(type_, printed(value)) for value in values[type_]]
    master.assert_exact()
    # each column of the updated row in turn; all of them; and the same once more, restated
    names = ", ".join(columns)
    update = (
        f"UPDATE public.t SET ({names}) = (SELECT {names} FROM public.source s "
        "WHERE s.id = (t.id + 1) % 3)"
    )
    for name in columns:
        hostile.run(update.replace(names, name))
    master.assert_exact()
    hostile.run(f"DO $do$BEGIN {update}; {update}; END$do$", "DELETE FROM public.t WHERE id = 1")
    hostile.run("UPDATE public.t SET id = -id")
    master.assert_exact()


def test_the_settings_that_matter_for_a_type_are_known(master: Master, hostile: Session) -> None:
    """A function in PL/pgSQL pins no others: each costs its writers something."""
    values = dict(VALUES)
    if master.writer.connection.server_version >= 140000:
        values |= MULTIRANGES
    settings = dict(master.run("SELECT name, value FROM pyreplica.print_settings()"))
    pinned = master.session(**settings, search_path="pg_catalog, pg_temp")
    hostile.run("SET search_path = pg_catalog, pg_temp")
    query = "SELECT array_agg(pg_catalog.format('%s', v) ORDER BY n) FROM public.source"
    for type_, of_type in values.items():
        rows = ", ".join(f"($v${given(value)}$v$)" for value in of_type)
        master.run(f"CREATE TABLE source (n int GENERATED ALWAYS AS IDENTITY, v {type_})")
        master.run(f"INSERT INTO source (v) VALUES {rows}")
        names = master.writer.value(
            "SELECT pyreplica.settings_of(atttypid) FROM pg_attribute "
            "WHERE attrelid = 'source'::regclass AND attname = 'v'"
        )
        hostile.run(*(f"SET {name} = '{settings[name]}'" for name in names))
        assert (type_, hostile.value(query)) == (type_, pinned.value(query))
        hostile.run(
            *(
                f"SET {name} = '{HOSTILE[name]}'" if name in HOSTILE else f"RESET {name}"
                for name in names
            )
        )
        master.run("DROP TABLE source")


def test_a_row_of_nulls_is_logged_as_such(master: Master, hostile: Session) -> None:
    columns = ", ".join(f"c{n} {type_}" for n, type_ in enumerate(VALUES))
    master.table(f"id int PRIMARY KEY, {columns}")
    hostile.run("INSERT INTO public.t (id) VALUES (1)")
    (change,) = master.changes()
    assert change.row == {f"c{n}": None for n in range(len(VALUES))}


# type of the key, a value, another one; where both are equal to PostgreSQL, their text differs
KEYS = [
    ("numeric", "1.0", "1.00"),
    ("float8", "0", "-0"),
    ("float4", "0.1", "NaN"),
    ("char(5)", "a", "a b"),
    ("varchar(5)", "a", "a "),
    ("name", "a", "A"),
    ("interval", "1 day", "24 hours"),
    ("timestamptz", "2024-02-03 04:05:06.789+00", "infinity"),
    ("timestamp", "2024-02-03 04:05:06", "-infinity"),
    ("date", "2024-02-03", "0044-03-15 BC"),
    ("timetz", "01:00+00", "02:00+01"),
    ("bytea", "\\x00ff5c27", "\\x"),
    ("money", "12.34", "-12.34"),
    ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("boolean", "t", "f"),
    ("inet", "10.0.0.1/8", "10.0.0.1"),
    ("varbit", "", "0"),
    ("jsonb", '{"a":1.0}', '{"a":1.00}'),
    ("numeric[]", "{1.0}", "{1.00}"),
    ("int[]", "{1}", "[0:0]={1}"),
    ("numrange", "[1.0,2)", "[1.00,2)"),
    ("text", "日本", "'\"\\"),
    ("text COLLATE mine.ignoring_case", "a", "A"),
    ("mine.word COLLATE mine.ignoring_case", "a", "A"),
    ("mine.mood", "it's ok", "so so"),
    ("mine.pair", "(a,0,)", "(a,-0,)"),
    ("mine.short", "a", "b"),
    ("mine.moment", "2024-02-03 04:05:06.789+00", "infinity"),
]
CITEXT_KEYS = [("citext", "A", "a"), ("citext_domain", "A", "a"), ("citext[]", "{A}", "{a}")]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[0])
def test_keys_of_every_type_are_told_apart_by_their_text(
    master: Master, hostile: Session, key: tuple[str, str, str]
) -> None:
    assert_key_is_exact(master, hostile, *key)


@pytest.mark.parametrize("key", CITEXT_KEYS, ids=lambda key: key[0])
def test_keys_of_citext_are_told_apart_by_their_text(
    master: Master, hostile: Session, key: tuple[str, str, str]
) -> None:
    need_extension(master, "citext")
    master.run("CREATE DOMAIN mine.citext_domain AS citext")
    assert_key_is_exact(master, hostile, *key)


def assert_key_is_exact(master: Master, hostile: Session, type_: str, one: str, two: str) -> None:
    """Write rows under two keys in every way."""
    master.run("SET search_path = mine, public")
    master.table(f"v int, k {type_} PRIMARY KEY", name="mine.t")
    master.run("CREATE TABLE source AS SELECT * FROM mine.t")
    master.run(f"INSERT INTO source VALUES (1, $v${one}$v$), (2, $v${two}$v$)")
    hostile.run(
        "INSERT INTO t SELECT * FROM source WHERE v = 1",
        "UPDATE t SET v = 5",
        "UPDATE t SET k = s.k FROM source s WHERE s.v = 2",
    )
    assert "".join(change.op for change in master.changes()) in ("IUDI", "IUID")
    master.assert_exact()
    # the same, restated
    hostile.run(
        """DO $$BEGIN
            UPDATE t SET v = 6;
            UPDATE t SET k = s.k FROM source s WHERE s.v = 1;
            UPDATE t SET k = s.k, v = 7 FROM source s WHERE s.v = 2;
        END$$"""
    )
    master.assert_exact()
    hostile.run("DELETE FROM t", "INSERT INTO t SELECT * FROM source WHERE v = 1")
    hostile.run("TRUNCATE t", "INSERT INTO t SELECT * FROM source WHERE v = 1")
    master.assert_exact()


def test_values_of_extensions_types_survive(master: Master, hostile: Session) -> None:
    need_extension(master, "hstore")
    need_extension(master, "citext")
    master.table("id citext PRIMARY KEY, h hstore, c citext[]")
    hostile.run("INSERT INTO t VALUES ('Ab', 'a=>NULL, \"b c\"=>\"NULL\"', '{A,b}')")
    assert master.changes()[0].row == {"h": '"a"=>NULL, "b c"=>"NULL"', "c": "{A,b}"}
    hostile.run("UPDATE t SET h = h || 'x=>y', c = '{a,b}'", "UPDATE t SET id = 'aB'")
    master.assert_exact()


def need_extension(master: Master, name: str) -> None:
    """Make an extension of postgresql-contrib, or skip the test."""
    if not master.run(f"SELECT 1 FROM pg_available_extensions WHERE name = '{name}'"):
        pytest.skip(f"this PostgreSQL has no {name}")
    master.run(f"CREATE EXTENSION {name} SCHEMA public")
