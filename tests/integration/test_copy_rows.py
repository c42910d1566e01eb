"""In which form the rows of a table are copied, and that their values arrive unchanged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pytest

from pyreplica.database import Connection
from pyreplica.database import sql as sql_parts
from pyreplica.model import CapturedTable
from pyreplica.replication.rows import EXACT_IN_BINARY, move
from tests.conftest import Databases
from tests.support import connect, sql, value

VALUES: Mapping[str, Sequence[str]] = {
    "boolean": ("true", "false"),
    "bytea": (r"'\x'", r"'\x00ff5c0a'"),
    "bigint": ("-9223372036854775808", "9223372036854775807"),
    "smallint": ("-32768", "32767"),
    "integer": ("-2147483648", "2147483647"),
    "text": ("''", r"E'\\N'", r"E'tab\there\nline \\. ''quoted'' é 😀'"),
    "json": ("""'{"b" : 1, "a":  null, "b": "é"}'""", "'null'"),
    "real": ("'-0'", "'NaN'", "'-Infinity'", "1e-45", "3.4028235e38"),
    "double precision": ("'-0'", "'NaN'", "'Infinity'", "5e-324", "0.1", "1.7976931348623157e308"),
    "character(5)": ("'a'", "''"),
    "character varying(5)": ("'a  '", "''"),
    "date": ("'4713-01-01 BC'", "'infinity'", "'-infinity'", "'5874897-12-31'"),
    "timestamp": ("'4713-01-01 00:00:00 BC'", "'294276-12-31 23:59:59.999999'", "'infinity'"),
    "timestamptz": ("'4713-01-01 00:00:00+00 BC'", "'2020-03-29 02:30:00+02'", "'-infinity'"),
    "numeric": ("'NaN'", "1.10", "-0.000", "1e131", f"'{'9' * 200}.{'1' * 300}'", "1e-200"),
    "uuid": ("'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"),
    "jsonb": ("""'{"b": 1.10, "a": [null, "é"]}'""", "'null'"),
}
"""Of each type whose values go in binary form, the hardest."""


SELECT = sql_parts.SQL("SELECT * FROM public.t")


@pytest.fixture
def master(databases: Databases) -> Iterator[Connection]:
    """A session with the master."""
    with connect(databases.master) as session:
        yield session


@pytest.fixture
def slave(databases: Databases) -> Iterator[Connection]:
    """A session with the slave."""
    with connect(databases.slave) as session:
        yield session


def moved(databases: Databases, master: Connection, slave: Connection, *columns: str) -> str:
    """Move all rows of the table t; gives the statement that the slave has executed."""
    types = dict.fromkeys(columns, "")
    table = CapturedTable(1, 1, "public", "t", columns[:1], columns, False, True, types)
    told: list[int] = []
    (pid,) = slave.one("SELECT pg_backend_pid()")
    with master.transaction(), slave.transaction():
        rows = move(master, slave, table, False, told.append)
        last = f"SELECT query FROM pg_stat_activity WHERE pid = {pid}"
        statement = str(value(databases.slave, last))
    assert (rows,) == master.one("SELECT count(*) FROM public.t")
    assert sum(told) == rows
    assert "FROM STDIN" in statement
    return statement


def test_values_of_every_type_that_goes_in_binary_form_arrive_unchanged(
    databases: Databases, master: Connection, slave: Connection
) -> None:
    columns = [f"c{number}" for number in range(len(VALUES))]
    definitions = ", ".join(f"{c} {t}" for c, t in zip(columns, VALUES, strict=True))
    table = f"CREATE TABLE public.t (id integer PRIMARY KEY, {definitions})"
    sql(databases.master, table)
    sql(databases.slave, table)
    assert {*master.types(SELECT)} == EXACT_IN_BINARY
    rows = max(map(len, VALUES.values())) + 1  # the last one has nothing but NULL
    for row in range(rows):
        values = [those[row] if row < len(those) else "NULL" for those in VALUES.values()]
        sql(databases.master, f"INSERT INTO public.t VALUES ({row}, {', '.join(values)})")
    assert "FORMAT binary" in moved(databases, master, slave, "id", *columns)
    # as text, and bit by bit as it is stored
    stored = ", ".join(f"{c}::text, pg_column_size({c})" for c in columns)
    real, double = (columns[list(VALUES).index(t)] for t in ("real", "double precision"))
    query = (
        f"SELECT id, {stored}, float4send({real}), float8send({double}) FROM public.t ORDER BY 1"
    )
    found = master.query(query)
    assert len(found) == rows
    assert slave.query(query) == found


@pytest.mark.parametrize(
    ("theirs", "ours", "binary"),
    [
        ("integer", "integer", True),
        ("public.positive", "public.positive", True),
        ("public.positive", "integer", True),
        ("varchar(10)", "varchar(20)", True),
        ("integer", "bigint", False),
        ("varchar(10)", "text", False),
        ("integer[]", "integer[]", False),
        ("public.color", "public.color", False),
        ("xml", "xml", False),
        ("money", "money", False),
    ],
)
def test_what_is_not_the_same_on_both_sides_goes_as_text(
    databases: Databases,
    master: Connection,
    slave: Connection,
    theirs: str,
    ours: str,
    binary: bool,
) -> None:
    types = (
        "CREATE DOMAIN public.positive AS integer CHECK (value > 0); "
        "CREATE TYPE public.color AS ENUM ('1', '2')"
    )
    for side, type_ in ((databases.master, theirs), (databases.slave, ours)):
        sql(side, types, f"CREATE TABLE public.t (id integer PRIMARY KEY, v {type_})")
    literal = "'{1,2}'" if theirs.endswith("[]") else "'1'"
    sql(
        databases.master,
        f"INSERT INTO public.t SELECT i, {literal} FROM generate_series(1, 3000) i",
        "INSERT INTO public.t VALUES (0, NULL)",
    )
    statement = moved(databases, master, slave, "id", "v")
    assert ("FORMAT binary" in statement) is binary
    query = "SELECT id, v::text FROM public.t ORDER BY id"
    assert slave.query(query) == master.query(query)
