"""Checks the mapping of a replication: names, constants, masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

import yaml

from pyreplica.config.sections import settings
from pyreplica.config.yamltree import Check, Spot, suggest
from pyreplica.model import Map, Mask, MaskKind
from pyreplica.model.mapping import Name

_T = TypeVar("_T")

SHORTEST_SECRET = 16
"""Characters; with fewer the secret itself could be found by trying."""


def mapping(spot: Spot) -> Map:
    """Check the mapping of a replication."""
    found = settings(spot, _CHECKS)
    secret: str = found.pop("secret", "")
    made = Map(**found)
    entries = spot.entries("")
    hashed = any(m.kind is MaskKind.HASH for masks in made.masks.values() for m in masks.values())
    if hashed and not secret:
        entries["masks"].fail(
            "a column is masked by a hash, and there is no secret",
            "add `secret: ${NAME}` beside it: without one, values could be found by trying",
        )
    if secret and not hashed:
        entries["secret"].fail("is of use only where a column is masked by a hash")
    made = replace(
        made,
        masks={
            one: {
                column: replace(mask, text=secret) if mask.kind is MaskKind.HASH else mask
                for column, mask in masks.items()
            }
            for one, masks in made.masks.items()
        },
    )
    for one, constants in made.constants.items():
        columns = made.columns.get(one, {})
        twice = sorted({*constants} & {*columns.values()})
        if twice:
            entries["constants"].fail(
                f"{'.'.join(one)}: column {twice[0]} is a constant, and `columns:` maps another "
                "column to it"
            )
    _check_names(entries, made)
    return made


def _check_names(entries: Mapping[str, Spot], made: Map) -> None:
    """Refuse two tables of one name on the slave, of which nothing tells the rows apart."""
    for other, one in made.mixed(made.tables):
        entries["tables"].fail(
            f"{'.'.join(other)} and {'.'.join(one)} would be the same table",
            "name another one, or tell their rows apart with `constants:`: a column of both that "
            "has a value for each",
        )


def _table(spot: Spot, text: str) -> Name:
    schema, _, table = text.partition(".")
    if not schema or not table:
        spot.fail("expected a table, schema.table")
    if '"' in text:
        spot.fail("names are written without quotes, in the case PostgreSQL stores")
    if any(wildcard in text for wildcard in "*?"):
        spot.fail("expected the name of one table; there are no patterns here")
    return schema, table


def _identifier(spot: Spot) -> str:
    expected = "a name, as PostgreSQL stores it"
    text = spot.expand(spot.text(expected))
    if not text or '"' in text:
        spot.refuse(expected, "names are written without quotes")
    return text


def _schemas(spot: Spot) -> dict[str, str]:
    entries = spot.entries("a mapping of schemas, such as {public: shop}")
    return {name: _identifier(entry) for name, entry in entries.items()}


def _tables(spot: Spot) -> dict[Name, Name]:
    entries = spot.entries("a mapping of tables, such as {public.a: archive.b}")
    return {
        _table(entry, name): _table(entry, _identifier(entry)) for name, entry in entries.items()
    }


def _by_table(expected: str, check: Check[_T]) -> Callable[[Spot], dict[Name, dict[str, _T]]]:
    def checked(spot: Spot) -> dict[Name, dict[str, _T]]:
        found = {}
        for name, entry in spot.entries(f"a mapping of tables, such as {expected}").items():
            columns = entry.entries(f"a mapping of columns, as in {expected}")
            found[_table(entry, name)] = {column: check(one) for column, one in columns.items()}
        return found

    return checked


def _columns(spot: Spot) -> dict[Name, dict[str, str]]:
    found = _by_table("{public.a: {price: amount}}", _identifier)(spot)
    for one, columns in found.items():
        names = list(columns.values())
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            spot.fail(f"{'.'.join(one)}: two columns would be called {twice[0]}")
    return found


def _text(spot: Spot) -> str:
    if not isinstance(spot.node, yaml.ScalarNode) or spot.is_a("null"):
        spot.refuse("a value", "it is written as PostgreSQL reads it")
    return spot.expand(str(spot.node.value))


def _mask(spot: Spot) -> Mask:
    expected = "hash, null, or {constant: VALUE}"
    if spot.is_a("null"):
        return Mask(MaskKind.NULL)
    if spot.is_a("map"):
        entries = spot.entries(expected)
        for name, entry in entries.items():
            if name != MaskKind.CONSTANT.value:
                entry.fail("unknown mask", suggest(name, [MaskKind.CONSTANT.value]))
        if not entries:
            spot.refuse(expected)
        return Mask(MaskKind.CONSTANT, _text(entries[MaskKind.CONSTANT.value]))
    known = [MaskKind.HASH.value, MaskKind.NULL.value]
    text = spot.expand(spot.text(expected))
    if text not in known:
        spot.refuse(expected, suggest(text, known))
    return Mask(MaskKind(text))


def _secret(spot: Spot) -> str:
    expected = f"at least {SHORTEST_SECRET} characters that nobody can guess, such as ${{NAME}}"
    text = spot.expand(spot.text(expected))
    if len(text) < SHORTEST_SECRET:
        spot.refuse(expected)
    return text


_CHECKS = {
    "schemas": _schemas,
    "tables": _tables,
    "columns": _columns,
    "constants": _by_table("{public.a: {source: paris}}", _text),
    "masks": _by_table("{public.customer: {email: hash}}", _mask),
    "secret": _secret,
}
