"""A YAML file as a tree of values that know their place, and checks of such values.

The file is read as a tree of nodes and not as Python values, so that every error names the file,
the line and the path of the key. Values are never part of an error: any may hold a password.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NoReturn, TypeVar

import yaml

from pyreplica.errors import ConfigError

_T = TypeVar("_T")

_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|\$\{")
NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
_NUMBER = re.compile(r"0|[1-9][0-9_]{0,17}")
_QUANTITY = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[A-Za-z]+)")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}


@dataclass(frozen=True, slots=True)
class Spot:
    """A value in the file, with what an error about it has to say."""

    node: yaml.Node
    path: str
    line: int
    source: str
    environ: Mapping[str, str]

    def fail(self, problem: str, hint: str = "") -> NoReturn:
        """Raise the error that this value has a problem."""
        where = f"{self.source}:{self.line}" if self.line else self.source
        raise ConfigError(
            f"{self.path}: {problem}" if self.path else problem, where=where, hint=hint
        )

    def refuse(self, expected: str, hint: str = "") -> NoReturn:
        """Raise the error that something else was expected here."""
        self.fail(f"{'has no value; ' if self.is_a('null') else ''}expected {expected}", hint)

    def is_a(self, kind: str) -> bool:
        """Say whether YAML takes the value for a "str", "int", "null", "seq" or "map"."""
        return bool(self.node.tag == f"tag:yaml.org,2002:{kind}")

    def text(self, expected: str, hint: str = "") -> str:
        """Return the value as it is written; it must be text."""
        if not isinstance(self.node, yaml.ScalarNode) or not self.is_a("str"):
            self.refuse(expected, hint)
        return str(self.node.value)

    def items(self, expected: str) -> list[Spot]:
        """Return the items of the value; it must be a list."""
        if not isinstance(self.node, yaml.SequenceNode) or not self.is_a("seq"):
            self.refuse(expected)
        return [
            replace(self, node=item, path=f"{self.path}[{number}]", line=_line(item))
            for number, item in enumerate(self.node.value, start=1)
        ]

    def entries(self, expected: str) -> dict[str, Spot]:
        """Return the entries of the value; it must be a mapping, and no key may be there twice."""
        if not isinstance(self.node, yaml.MappingNode) or not self.is_a("map"):
            self.refuse(expected)
        found: dict[str, Spot] = {}
        for key, value in self.node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            # A key that is no plain word may be a value that slipped: it is not shown.
            shown = name if NAME.fullmatch(name) else "?"
            path = f"{self.path}.{shown}" if self.path else shown
            entry = replace(self, node=value, path=path, line=_line(key))
            if name in found:
                entry.fail(f"is there twice, first in line {found[name].line}")
            found[name] = entry
        return found

    def expand(self, text: str, quoted: Callable[[str], str] = str) -> str:
        """Replace each ${NAME} by that environment variable, and each $${ by a plain ${."""

        def value(match: re.Match[str]) -> str:
            if match[0] == "$${":
                return "${"
            name = match["name"]
            if name is None:
                self.fail("holds ${ without a name and }", "write $${ for a plain ${")
            if name not in self.environ:
                self.fail(f"the environment variable {name} is not set")
            return quoted(self.environ[name])

        return _VARIABLE.sub(value, text)


def without_variables(text: str) -> str:
    """What is left of a text without its variables."""
    return _VARIABLE.sub(lambda match: match[0] if match["name"] is None else "", text)


Check = Callable[[Spot], _T]


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def suggest(word: str, known: Iterable[str]) -> str:
    """Return a hint for somebody who wrote a word that is not among the known ones."""
    known = list(known)
    if close := difflib.get_close_matches(word, known, n=1):
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(known)}"


def one_of(values: Mapping[str, _T]) -> Check[_T]:
    *others, last = values
    expected = f"{', '.join(others)} or {last}"

    def check(spot: Spot) -> _T:
        text = spot.expand(spot.text(expected))
        if text not in values:
            spot.refuse(expected, suggest(text, values))
        return values[text]

    return check


def flag(spot: Spot) -> bool:
    """Read true or false."""
    text = spot.expand(spot.node.value if spot.is_a("bool") else spot.text("true or false"))
    # in quotes it is text, but a variable may hold it
    if text not in ("true", "false") or (not spot.is_a("bool") and text == spot.node.value):
        spot.refuse("true or false")
    return text == "true"


def whole(low: int, high: int) -> Check[int]:
    expected = f"a whole number from {low:,} to {high:,}"

    def check(spot: Spot) -> int:
        written = spot.node.value if spot.is_a("int") else spot.text(expected)
        text = spot.expand(written)
        # Digits in quotes are text, but a variable may hold a number.
        number = (spot.is_a("int") or text != written) and _NUMBER.fullmatch(text)
        if not number or not low <= int(text.replace("_", "")) <= high:
            spot.refuse(expected)
        return int(text.replace("_", ""))

    return check


def duration(low: str, high: str, example: str) -> Check[float]:
    expected = f"a duration from {low} to {high}, such as {example}"
    hint = f"a duration is a number and a unit: {', '.join(_SECONDS)}"

    def check(spot: Spot) -> float:
        text = spot.expand(spot.text(expected, hint))
        try:
            seconds = parse_duration(text)
        except ValueError:  # its words hold the value: it must not become the cause of ours
            seconds = -1.0
        if not parse_duration(low) <= seconds <= parse_duration(high):
            spot.refuse(expected, hint)
        return seconds

    return check


def parse_duration(text: str) -> float:
    """Read a duration: a number and its unit, as in postgresql.conf.

    Args:
        text: for instance "500ms", "1.5 s", "10min", "1h" or "1d".

    Returns:
        The duration in seconds.

    Raises:
        ValueError: the text is no such duration.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None or match["unit"] not in _SECONDS:
        raise ValueError(f"not a duration: {text}")
    return float(match["number"]) * _SECONDS[match["unit"]]


def size(low: str, high: str, example: str) -> Check[int]:
    expected = f"a size from {low} to {high}, such as {example}"
    hint = f"a size is a number and a unit: {', '.join(_BYTES)}"

    def check(spot: Spot) -> int:
        text = spot.expand(spot.text(expected, hint))
        try:
            number = parse_size(text)
        except ValueError:  # as for a duration
            number = -1
        if not parse_size(low) <= number <= parse_size(high):
            spot.refuse(expected, hint)
        return number

    return check


def parse_size(text: str) -> int:
    """Read a size: a number and its unit, as in postgresql.conf.

    Args:
        text: for instance "512kB", "1.5 GB" or "1TB".

    Returns:
        The size in bytes.

    Raises:
        ValueError: the text is no such size.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None or match["unit"] not in _BYTES:
        raise ValueError(f"not a size: {text}")
    return round(float(match["number"]) * _BYTES[match["unit"]])


def or_none(check: Check[_T]) -> Check[_T | None]:
    """The same, or the word none."""

    def checked(spot: Spot) -> _T | None:
        is_none = spot.is_a("str") and spot.expand(spot.node.value) == "none"
        return None if is_none else check(spot)

    return checked


def compose(text: str, source: str) -> yaml.Node | None:
    """Read the text as a tree of YAML nodes; None when there is nothing but comments."""
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        # The error's own text quotes lines of the file, and its words may quote an alias or a tag.
        words = ", ".join(filter(None, (error.context, error.problem)))
        problem = re.sub(r" '[^'\s]{2,}'", "", words)
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
    except yaml.reader.ReaderError as error:
        problem = "a character that YAML does not allow"
        line = text.count("\n", 0, error.position) + 1
    except RecursionError:
        problem = "too many levels"
        line = 0
    # Not raised from the error above: a traceback in the log would show those lines.
    where = f"{source}:{line}" if line else source
    raise ConfigError(f"cannot be read as YAML: {problem}", where=where)
