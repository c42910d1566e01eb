"""What a slave gets in the place of masked values: as SQL, and the same in Python.

Large batches and copies are masked by the master's server, small batches by this process, before
anything goes to the slave.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping

from psycopg2 import sql

from pyreplica.model import Mask, MaskKind

_BLOCK = 64
"""Bytes of a block of SHA-256."""

Masks = Mapping[str, Mask]
"""The masks of a table, by the master's names of the columns."""


def masked(mask: Mask | None, text: sql.Composable) -> sql.Composable:
    """The expression that masks another one, of type text.

    The hash is HMAC (RFC 2104) with the functions that every server has.
    """
    if mask is None:
        return text
    if mask.kind is MaskKind.NULL:
        return sql.SQL("NULL::text")
    if mask.kind is MaskKind.CONSTANT:
        return sql.SQL("{}::text").format(sql.Literal(mask.text))
    key = mask.text.encode()
    if len(key) > _BLOCK:
        key = hashlib.sha256(key).digest()
    key = key.ljust(_BLOCK, b"\0")
    outer, inner = (bytes(byte ^ pad for byte in key) for pad in (0x5C, 0x36))
    return sql.SQL("encode(sha256({} || sha256({} || convert_to({}, 'UTF8'))), 'hex')").format(
        sql.Literal(outer), sql.Literal(inner), text
    )


def masked_object(masks: Masks, object_: sql.Composable) -> sql.Composable:
    """The expression that masks the values of a jsonb object which are there."""
    parts = [object_]
    for column, mask in masks.items():
        name = sql.Literal(column)
        value = masked(mask, sql.SQL("({} ->> {})").format(object_, name))
        parts.append(
            sql.SQL(
                "CASE WHEN {} ? {} THEN jsonb_build_object({}, {}) ELSE '{{}}'::jsonb END"
            ).format(object_, name, name, value)
        )
    return sql.SQL("({})").format(sql.SQL(" || ").join(parts))


def masked_old(masks: Masks, object_: sql.Composable) -> sql.Composable:
    """The same of what an update has replaced: only of what is hashed anything can be told."""
    hashes = {c: mask for c, mask in masks.items() if mask.kind is MaskKind.HASH}
    others = [column for column in masks if column not in hashes]
    return sql.SQL("({} - {}::text[])").format(masked_object(hashes, object_), sql.Literal(others))


def masked_text(masks: Masks, text: str) -> str:
    """The text of a jsonb object, masked as :func:`masked_object` does."""
    values: dict[str, str | None] = json.loads(text)
    for column, mask in masks.items():
        if column in values:
            values[column] = _value(mask, values[column])
    return json.dumps(values, ensure_ascii=False)


def masked_old_text(masks: Masks, text: str) -> str:
    """The same as :func:`masked_old` does."""
    values: dict[str, str | None] = json.loads(text)
    for column, mask in masks.items():
        if column in values and mask.kind is MaskKind.HASH:
            values[column] = _value(mask, values[column])
        else:
            values.pop(column, None)
    return json.dumps(values, ensure_ascii=False)


def _value(mask: Mask, value: str | None) -> str | None:
    if mask.kind is MaskKind.NULL:
        return None
    if mask.kind is MaskKind.CONSTANT:
        return mask.text
    if value is None:
        return None
    return hmac.new(mask.text.encode(), value.encode(), hashlib.sha256).hexdigest()
