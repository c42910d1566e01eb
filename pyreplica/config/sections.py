"""Sections of the configuration: frozen dataclasses that are the lists of their own settings.

A field's name is its key in the file; the field holds its default and, as metadata, its check.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, replace
from typing import Any, TypeVar

from pyreplica.config.yamltree import Check, Spot, suggest

_T = TypeVar("_T")


def checked(check: Check[Any]) -> dict[str, Check[Any]]:
    """Return the metadata of a field that is a key of the file."""
    return {"check": check}


def keys(section: type[Any]) -> list[Field[Any]]:
    """The fields of a dataclass that are keys of the file, in their order."""
    return [key for key in fields(section) if "check" in key.metadata]


def checks(section: type[Any]) -> dict[str, Check[Any]]:
    """The checks of all its keys."""
    return {key.name: key.metadata["check"] for key in keys(section)}


def required(section: type[Any]) -> list[str]:
    """The keys that must be in the file, because they have no default."""
    return [key.name for key in keys(section) if key.default is MISSING is key.default_factory]


def settings(
    spot: Spot, checks: Mapping[str, Check[Any]], required: Iterable[str] = ()
) -> dict[str, Any]:
    """Check a mapping of settings, and return those that are there.

    Args:
        spot: where it stands in the file.
        checks: the keys there are, with their checks.
        required: those of them that must be there.

    Raises:
        ConfigError: a key is unknown, missing, or its value is refused.
    """
    entries = spot.entries("a mapping of settings")
    for key, entry in entries.items():
        if key not in checks:
            entry.fail("unknown key", suggest(key, checks))
    for key in required:
        if key not in entries:
            path = f"{spot.path}.{key}" if spot.path else key
            replace(spot, path=path).fail("is missing")
    return {key: checks[key](entry) for key, entry in entries.items()}


def section(made: type[_T]) -> Check[_T]:
    """The check of a section: a mapping that becomes this dataclass."""

    def check(spot: Spot) -> _T:
        return made(**settings(spot, checks(made), required(made)))

    return check
