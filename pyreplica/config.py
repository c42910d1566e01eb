"""The configuration: a YAML file, checked strictly, becomes frozen dataclasses.

The dataclasses below are the list of settings: a field's name is its key in the file, and the field
holds its default and its check. The file is read as a tree of nodes and not as Python values, so
that every error names the file, the line and the path of the key (``replications.shop.master``).
Values are never part of an error, for any of them may hold a password.
"""

from __future__ import annotations

import difflib
import enum
import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

import yaml

from pyreplica import dsn
from pyreplica.errors import ConfigError

_T = TypeVar("_T")

_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|\$\{")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}")
_NUMBER = re.compile(r"0|[1-9][0-9_]{0,17}")
_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[a-z]+)")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class _Spot:
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

    def items(self, expected: str) -> list[_Spot]:
        """Return the items of the value; it must be a list."""
        if not isinstance(self.node, yaml.SequenceNode) or not self.is_a("seq"):
            self.refuse(expected)
        return [
            replace(self, node=item, path=f"{self.path}[{number}]", line=_line(item))
            for number, item in enumerate(self.node.value, start=1)
        ]

    def entries(self, expected: str) -> dict[str, _Spot]:
        """Return the entries of the value; it must be a mapping, and no key may be there twice."""
        if not isinstance(self.node, yaml.MappingNode) or not self.is_a("map"):
            self.refuse(expected)
        found: dict[str, _Spot] = {}
        for key, value in self.node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            # A key that is no plain word may be a value that slipped: it is not shown.
            shown = name if _NAME.fullmatch(name) else "?"
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


_Check = Callable[[_Spot], _T]


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _suggest(word: str, known: Iterable[str]) -> str:
    """Return a hint for somebody who wrote a word that is not among the known ones."""
    known = list(known)
    if close := difflib.get_close_matches(word, known, n=1):
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(known)}"


def _one_of(values: Mapping[str, _T]) -> _Check[_T]:
    *others, last = values
    expected = f"{', '.join(others)} or {last}"

    def check(spot: _Spot) -> _T:
        text = spot.expand(spot.text(expected))
        if text not in values:
            spot.refuse(expected, _suggest(text, values))
        return values[text]

    return check


def _whole(low: int, high: int) -> _Check[int]:
    expected = f"a whole number from {low:,} to {high:,}"

    def check(spot: _Spot) -> int:
        written = spot.node.value if spot.is_a("int") else spot.text(expected)
        text = spot.expand(written)
        # Digits in quotes are text, but a variable may hold a number.
        number = (spot.is_a("int") or text != written) and _NUMBER.fullmatch(text)
        if not number or not low <= int(text.replace("_", "")) <= high:
            spot.refuse(expected)
        return int(text.replace("_", ""))

    return check


def _duration(low: str, high: str, example: str) -> _Check[float]:
    expected = f"a duration from {low} to {high}, such as {example}"
    hint = f"a duration is a number and a unit: {', '.join(_SECONDS)}"

    def check(spot: _Spot) -> float:
        text = spot.expand(spot.text(expected, hint))
        try:
            seconds = parse_duration(text)
        except ValueError:  # its words hold the value: it must not become the cause of ours
            seconds = -1.0
        if not parse_duration(low) <= seconds <= parse_duration(high):
            spot.refuse(expected, hint)
        return seconds

    return check


def _connection_string(spot: _Spot) -> str:
    expected = "a libpq connection string or URI, such as host=db1 dbname=shop user=pyreplica"
    text = dsn.fill(spot.text(expected), spot.expand)
    if not dsn.is_dsn(text):
        spot.refuse(expected, "a bare database name is not accepted: write dbname=NAME")
    return text


def _patterns(spot: _Spot) -> tuple[str, ...]:
    items = spot.items('a list of patterns, such as ["public.*"]')
    if not items:
        spot.refuse("at least one pattern", "without this key every captured table is replicated")
    return tuple(_pattern(item) for item in items)


def _pattern(spot: _Spot) -> str:
    expected = "a pattern schema.table, such as public.*"
    text = spot.expand(spot.text(expected))
    schema, _, table = text.partition(".")
    if not schema or not table:
        spot.refuse(expected)
    if '"' in text:
        spot.refuse(expected, "names are written without quotes, in the case PostgreSQL stores")
    return text


def parse_duration(text: str) -> float:
    """Read a duration: a number and its unit, as in postgresql.conf.

    Args:
        text: for instance "500ms", "1.5 s", "10min", "1h" or "1d".

    Returns:
        The duration in seconds.

    Raises:
        ValueError: the text is no such duration.
    """
    match = _DURATION.fullmatch(text)
    if match is None or match["unit"] not in _SECONDS:
        raise ValueError(f"not a duration: {text}")
    return float(match["number"]) * _SECONDS[match["unit"]]


class CommitMode(enum.Enum):
    """How a batch is committed on the slave."""

    TWO_PHASE = "two-phase"
    """Prepared on the slave, recorded on the master, then committed on the slave."""
    ONE_PHASE = "one-phase"
    """Committed on the slave, then recorded on the master; for slaves that cannot prepare."""


def _checked(check: _Check[Any]) -> dict[str, _Check[Any]]:
    """Return the metadata of a field that is a key of the file."""
    return {"check": check}


@dataclass(frozen=True, slots=True, repr=False)
class ReplicationConfig:
    """The settings of one replication.

    Attributes:
        name: the replication's name.
        master: the master's libpq connection string; it may hold a password.
        slave: the slave's libpq connection string; it may hold a password.
        tables: patterns of the tables to replicate, None for every captured table.
        commit: how a batch is committed.
        batch_rows: the number of rows a batch is cut at while catching up.
        copy_workers: how many tables the initial copy copies at a time.
        keepalive: the longest silent wait on an idle master, in seconds.
        connect_timeout: the longest wait for a connection, in seconds.
        retry_first: the first delay before connecting again, in seconds.
        retry_max: the longest delay before connecting again, in seconds.
    """

    name: str
    master: str = field(metadata=_checked(_connection_string))
    slave: str = field(metadata=_checked(_connection_string))
    tables: tuple[str, ...] | None = field(default=None, metadata=_checked(_patterns))
    commit: CommitMode = field(
        default=CommitMode.TWO_PHASE,
        metadata=_checked(_one_of({mode.value: mode for mode in CommitMode})),
    )
    batch_rows: int = field(default=50_000, metadata=_checked(_whole(1, 10_000_000)))
    copy_workers: int = field(default=4, metadata=_checked(_whole(1, 64)))
    keepalive: float = field(default=60.0, metadata=_checked(_duration("1s", "1d", "60s")))
    connect_timeout: float = field(default=10.0, metadata=_checked(_duration("1s", "1h", "10s")))
    retry_first: float = field(default=0.5, metadata=_checked(_duration("1ms", "1d", "500ms")))
    retry_max: float = field(default=30.0, metadata=_checked(_duration("1ms", "1d", "30s")))

    def includes(self, schema: str, table: str) -> bool:
        """Say whether a table is among those to replicate.

        Args:
            schema: the schema's name, without quotes.
            table: the table's name, without quotes.
        """
        return self.tables is None or any(
            in_schema.fullmatch(schema) and in_table.fullmatch(table)
            for in_schema, in_table in map(_matchers, self.tables)
        )

    def __repr__(self) -> str:
        shown = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        shown |= {"master": dsn.redact(self.master), "slave": dsn.redact(self.slave)}
        settings = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"{type(self).__name__}({settings})"


@dataclass(frozen=True, slots=True)
class Config:
    """A configuration that was checked.

    Attributes:
        source: where it was read, for messages.
        replications: the replications by name, in the order of the file.
        log_level: "debug", "info", "warning" or "error".
    """

    source: str
    replications: Mapping[str, ReplicationConfig]
    log_level: str = "info"

    def select(self, names: Sequence[str]) -> tuple[ReplicationConfig, ...]:
        """Return the replications of these names, each once.

        Args:
            names: the names; none means all.

        Raises:
            ConfigError: there is no replication of that name.
        """
        for name in names:
            if name not in self.replications:
                raise ConfigError(
                    f"there is no replication named {name}",
                    where=self.source,
                    hint=f"known: {', '.join(self.replications)}",
                )
        return tuple(self.replications[name] for name in dict.fromkeys(names or self.replications))


def load(path: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Read a configuration file.

    Args:
        path: the file.
        environ: the environment variables that the file may use.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("is not a text file in UTF-8", where=str(path)) from error
    except OSError as error:
        raise ConfigError(
            f"cannot be read: {error.strerror}",
            where=str(path),
            hint="pyreplica/contrib/pyreplica.yaml is a sample to start from",
        ) from error
    return parse(text, str(path), environ)


def parse(text: str, source: str, environ: Mapping[str, str]) -> Config:
    """_Check a configuration.

    Args:
        text: the YAML text.
        source: where the text is from, for messages.
        environ: the environment variables that the text may use.

    Raises:
        ConfigError: something in the text is wrong.
    """
    node = _compose(text, source)
    if node is None or node.tag == "tag:yaml.org,2002:null":
        raise ConfigError("is empty; expected replications and their settings", where=source)
    root = _settings(_Spot(node, "", 0, source, environ), _ROOT, required=["replications"])
    spots, defaults = root.pop("replications"), root.pop("defaults", {})
    replications = {name: _replication(name, spot, defaults) for name, spot in spots.items()}
    return Config(source, MappingProxyType(replications), **root)


_KEYS = [setting for setting in fields(ReplicationConfig) if "check" in setting.metadata]
_CHECKS: Mapping[str, _Check[Any]] = {key.name: key.metadata["check"] for key in _KEYS}
_REQUIRED = [key.name for key in _KEYS if key.default is MISSING]
_DEFAULTS = {key.name: key.default for key in _KEYS if key.default is not MISSING}


def _settings(
    spot: _Spot, checks: Mapping[str, _Check[Any]], required: Iterable[str] = ()
) -> dict[str, Any]:
    """_Check a mapping of settings, and return those that are there."""
    entries = spot.entries("a mapping of settings")
    for key, entry in entries.items():
        if key not in checks:
            entry.fail("unknown key", _suggest(key, checks))
    for key in required:
        if key not in entries:
            path = f"{spot.path}.{key}" if spot.path else key
            replace(spot, path=path).fail("is missing")
    return {key: checks[key](entry) for key, entry in entries.items()}


def _defaults(spot: _Spot) -> dict[str, Any]:
    settings = _settings(spot, {key: _CHECKS[key] for key in _DEFAULTS})
    if settings.keys() >= {"retry_first", "retry_max"}:
        _check_retries(spot, settings)
    return settings


def _by_name(spot: _Spot) -> dict[str, _Spot]:
    """_Check the names of the replications; their settings wait until the defaults are known."""
    entries = spot.entries("a mapping of names to replications")
    if not entries:
        spot.refuse("at least one replication")
    for name, entry in entries.items():
        if not _NAME.fullmatch(name):
            entry.fail("expected a name of 1 to 63 letters, digits, _ and -")
    return entries


def _replication(name: str, spot: _Spot, defaults: Mapping[str, Any]) -> ReplicationConfig:
    settings = {**_DEFAULTS, **defaults, **_settings(spot, _CHECKS, required=_REQUIRED)}
    _check_retries(spot, settings)
    return ReplicationConfig(name, **settings)


def _check_retries(spot: _Spot, settings: Mapping[str, Any]) -> None:
    if settings["retry_first"] > settings["retry_max"]:
        entries = spot.entries("")
        entry = entries.get("retry_first") or entries.get("retry_max") or spot
        first, longest = settings["retry_first"], settings["retry_max"]
        entry.fail(f"retry_first ({first:g} s) must not be longer than retry_max ({longest:g} s)")


_ROOT: Mapping[str, _Check[Any]] = {
    "replications": _by_name,
    "defaults": _defaults,
    "log_level": _one_of({level: level for level in ("debug", "info", "warning", "error")}),
}


def _compose(text: str, source: str) -> yaml.Node | None:
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


@functools.lru_cache(maxsize=1024)
def _matchers(pattern: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Compile a pattern: what the schema's and what the table's name must look like."""
    schema, _, table = pattern.partition(".")
    return _wildcards(schema), _wildcards(table)


def _wildcards(pattern: str) -> re.Pattern[str]:
    # Not fnmatch: brackets are no wildcards here, a name may hold them.
    special = {"*": ".*", "?": "."}
    regex = "".join(special.get(char) or re.escape(char) for char in pattern)
    return re.compile(regex, re.DOTALL)
