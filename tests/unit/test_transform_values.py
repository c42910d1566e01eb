"""Values as Python objects, and their texts again."""

from __future__ import annotations

import datetime
import math
import uuid
from decimal import Decimal
from typing import Any

import pytest

from pyreplica.transform.row import Row, texts_of
from pyreplica.transform.values import decoded, encoded

UTC = datetime.timezone.utc
OBJECTS: list[tuple[str, str, Any]] = [
    ("integer", "-7", -7),
    ("bigint", "9223372036854775807", 9223372036854775807),
    ("numeric(10,2)", "1.50", Decimal("1.50")),
    ("numeric", "1E+10", Decimal("1E+10")),
    ("double precision", "-Infinity", -math.inf),
    ("real", "1e-45", 1e-45),
    ("boolean", "t", True),
    ("boolean", "f", False),
    ("text", "", ""),
    ("character varying(5)", " a ", " a "),
    ("bytea", "\\x00ff", b"\x00\xff"),
    ("date", "2026-02-28", datetime.date(2026, 2, 28)),
    (
        "timestamp without time zone",
        "2026-02-28 01:02:03.4",
        datetime.datetime.fromisoformat("2026-02-28 01:02:03.400"),
    ),
    (
        "timestamp with time zone",
        "2026-02-28 01:02:03+00",
        datetime.datetime(2026, 2, 28, 1, 2, 3, tzinfo=UTC),
    ),
    ("time without time zone", "23:59:59.000001", datetime.time(23, 59, 59, 1)),
    ("interval", "3 days -00:00:01.5", datetime.timedelta(days=3, seconds=-1.5)),
    ("interval", "-1 days", datetime.timedelta(days=-1)),
    ("interval", "00:00:00", datetime.timedelta()),
    ("uuid", str(uuid.UUID(int=7)), uuid.UUID(int=7)),
    ("jsonb", '{"a": [1, null]}', {"a": [1, None]}),
    ("integer[]", "{1,NULL,3}", [1, None, 3]),
    ("integer[]", "{}", []),
    (
        "text[]",
        '{a,"b \\"c\\" \\\\","NULL","",{}}'.replace(",{}", ""),
        ["a", 'b "c" \\', "NULL", ""],
    ),
    ("text[]", "{{a,b},{c,NULL}}", [["a", "b"], ["c", None]]),
    (
        "timestamp with time zone[]",
        '{"2026-01-01 00:00:00+00"}',
        [datetime.datetime(2026, 1, 1, tzinfo=UTC)],
    ),
]


@pytest.mark.parametrize(("type_", "text", "value"), OBJECTS)
def test_a_text_is_an_object_and_the_object_a_text_that_means_the_same(
    type_: str, text: str, value: Any
) -> None:
    assert decoded(text, type_) == value
    assert type(decoded(text, type_)) is type(value)
    printed = encoded(value, type_)
    assert printed is not None
    if not isinstance(value, datetime.timedelta):
        assert decoded(printed.replace("T", " "), type_) == value or isinstance(value, bytes)


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        ("date", "infinity"),
        ("date", "0044-03-15 BC"),
        ("date", "10000-01-01"),
        ("timestamp with time zone", "0044-03-15 00:00:00+00 BC"),
        ("time without time zone", "24:00:00"),
        ("interval", "1 mon"),
        ("interval", "1 year 2 mons 3 days"),
        ("integer[]", "[0:1]={1,2}"),
        ("point", "(1,2)"),
        ("mine.mood", "it's ok"),
    ],
)
def test_a_text_that_python_has_no_object_for_stays_a_text(type_: str, text: str) -> None:
    assert decoded(text, type_) == text


def test_what_is_left_alone_keeps_its_text() -> None:
    types = {"n": "numeric", "f": "real", "j": "jsonb", "a": "integer[]", "t": "text"}
    texts = {"n": "1.500", "f": "1e+10", "j": '{"a" : 1.10}', "a": "{ 1 }", "t": None}
    row = Row(texts, types)
    assert (row["n"], row["f"], row["j"], row["a"], row["t"]) == (
        Decimal("1.5"),
        1e10,
        {"a": 1.1},
        [1],
        None,
    )
    assert row.texts(types) == texts
    row["j"]["a"] = 2
    row["n"] = Decimal("2.50")
    row["new"] = "x"
    del row["f"]
    assert row.texts(types) == {
        "n": "2.50",
        "j": '{"a": 2}',
        "a": "{ 1 }",
        "t": None,
        "new": "x",
    }
    assert row["n"] == Decimal("2.50")
    assert texts_of({"n": None, "t": "x"}, types) == {"n": None, "t": "x"}


def test_an_object_that_is_no_value_is_refused() -> None:
    with pytest.raises(TypeError, match="a set is no value of a column"):
        encoded({1}, "integer")
