"""Texts of values as PostgreSQL prints them, as Python objects, and back.

A text that Python has no object for (a date before Christ, an interval with months, an array whose
bounds do not begin at 1) stays a text.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import uuid
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

_MOMENT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:([+-]\d\d)(?::(\d\d))?)?"
)
_TIME = re.compile(r"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?")
_INTERVAL = re.compile(
    r"(?:(?P<days>[+-]?\d+) days?)?(?:(?:^| )(?P<sign>[+-])?(?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d)"
    r"(?:\.(?P<fraction>\d{1,6}))?)?"
)
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_TOKEN = re.compile(r'\{|\}|,|"((?:[^"\\]|\\.)*)"|([^{},"]+)', re.DOTALL)


def decoded(text: str, type_: str) -> Any:
    """The object that a text stands for.

    Args:
        text: as the type's output function prints it, with the settings of PyReplica's sessions.
        type_: the column's type on the master, as SQL.
    """
    element = type_.removesuffix("[]")
    read = _READERS.get(re.sub(r"\([\d,]+\)", "", element))
    if read is None:
        return text
    try:
        return read(text) if element == type_ else _list(text, read)
    except (ValueError, OverflowError, InvalidOperation):
        return text


def encoded(value: Any, type_: str) -> str | None:
    """The text of an object, which the type's input function reads; None is NULL.

    Raises:
        TypeError: there is none for an object of that kind, or PostgreSQL has no such text.
    """
    if value is None:
        return None
    if re.fullmatch(r"jsonb?", type_):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, (list, tuple)):
        text = _array(value, type_.removesuffix("[]"))
    else:
        text = _one(value)
    if _NO_TEXT.search(text):
        raise TypeError("a str has a character that is none, 0 or half of a pair")
    return text


def _one(value: Any) -> str:
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, float):
        if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        return "NaN" if math.isnan(value) else repr(value)
    if isinstance(value, (bytes, bytearray)):
        return f"\\x{value.hex()}"
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return f"{value.days} days {value.seconds} seconds {value.microseconds} microseconds"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, (str, int, Decimal, uuid.UUID)):
        return str(value)
    raise TypeError(f"a {type(value).__name__} is no value of a column")


def _array(values: list[Any] | tuple[Any, ...], type_: str) -> str:
    parts = []
    for value in values:
        if isinstance(value, (list, tuple)) and not re.fullmatch(r"jsonb?", type_):
            parts.append(_array(value, type_))
            continue
        text = encoded(value, type_)
        if text is None:
            parts.append("NULL")
        else:
            escaped = text.replace("\\", "\\\\").replace('"', '\\"')
            parts.append(f'"{escaped}"')
    return "{" + ",".join(parts) + "}"


def _bool(text: str) -> bool:
    if text not in ("t", "f"):
        raise ValueError(text)
    return text == "t"


def _bytes(text: str) -> bytes:
    if not text.startswith("\\x"):
        raise ValueError(text)
    return bytes.fromhex(text[2:])


def _moment(text: str) -> datetime.datetime:
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise ValueError(text)
    *parts, fraction, hours, minutes = found.groups()
    zone = None
    if hours is not None:
        sign = -1 if hours.startswith("-") else 1
        offset = datetime.timedelta(hours=int(hours), minutes=sign * int(minutes or 0))
        zone = datetime.timezone(offset)
    year, month, day, hour, minute, second = map(int, parts)
    micro = int((fraction or "").ljust(6, "0"))
    return datetime.datetime(year, month, day, hour, minute, second, micro, zone)


def _date(text: str) -> datetime.date:
    if len(text) != len("2000-01-01"):
        raise ValueError(text)
    return datetime.date.fromisoformat(text)


def _time(text: str) -> datetime.time:
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(text)
    hour, minute, second, fraction = found.groups()
    micro = int((fraction or "").ljust(6, "0"))
    return datetime.time(int(hour), int(minute), int(second), micro)


def _interval(text: str) -> datetime.timedelta:
    found = _INTERVAL.fullmatch(text)
    if found is None or not text:
        raise ValueError(text)
    sign = -1 if found["sign"] == "-" else 1
    part = datetime.timedelta(
        hours=int(found["h"] or 0),
        minutes=int(found["m"] or 0),
        seconds=int(found["s"] or 0),
        microseconds=int((found["fraction"] or "").ljust(6, "0")),
    )
    return datetime.timedelta(days=int(found["days"] or 0)) + sign * part


def _list(text: str, read: Callable[[str], Any]) -> list[Any]:
    """The lists in an array's text; one with bounds of its own is refused."""
    stack: list[list[Any]] = [[]]
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(text)
        at = found.end()
        token, quoted, plain = found[0], found[1], found[2]
        if token == "{":
            stack.append([])
        elif token == "}":
            done = stack.pop()
            stack[-1].append(done)
        elif quoted is not None:
            stack[-1].append(read(re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)))
        elif plain is not None:
            stack[-1].append(None if plain.upper() == "NULL" else read(plain))
    if len(stack) != 1 or len(stack[0]) != 1 or not isinstance(stack[0][0], list):
        raise ValueError(text)
    return stack[0][0]


_READERS: dict[str, Callable[[str], Any]] = {
    "boolean": _bool,
    "smallint": int,
    "integer": int,
    "bigint": int,
    "real": float,
    "double precision": float,
    "numeric": Decimal,
    "text": str,
    "character varying": str,
    "character": str,
    "bytea": _bytes,
    "date": _date,
    "timestamp without time zone": _moment,
    "timestamp with time zone": _moment,
    "time without time zone": _time,
    "interval": _interval,
    "uuid": uuid.UUID,
    "json": json.loads,
    "jsonb": json.loads,
}
