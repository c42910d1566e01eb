"""The configuration: a YAML file, checked strictly, becomes frozen dataclasses.

The dataclasses below are the list of settings: a field's name is its key in the file, and the field
holds its default and its check.
"""

from __future__ import annotations

import enum
import functools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pyreplica import dsn
from pyreplica.errors import ConfigError
from pyreplica.policies import OnError, Policies, policies
from pyreplica.yamltree import (
    NAME,
    Check,
    Spot,
    compose,
    duration,
    flag,
    one_of,
    or_none,
    parse_duration,
    parse_size,
    size,
    suggest,
    whole,
)

__all__ = [
    "CommitMode",
    "Config",
    "ReplicationConfig",
    "load",
    "parse",
    "parse_duration",
    "parse_size",
]


def _connection_string(spot: Spot) -> str:
    expected = "a libpq connection string or URI, such as host=db1 dbname=shop user=pyreplica"
    text = dsn.fill(spot.text(expected), spot.expand)
    if not dsn.is_dsn(text):
        spot.refuse(expected, "a bare database name is not accepted: write dbname=NAME")
    return text


def _patterns(spot: Spot) -> tuple[str, ...]:
    items = spot.items('a list of patterns, such as ["public.*"]')
    if not items:
        spot.refuse("at least one pattern", "without this key every captured table is replicated")
    return tuple(_pattern(item) for item in items)


def _pattern(spot: Spot) -> str:
    expected = "a pattern schema.table, such as public.*"
    text = spot.expand(spot.text(expected))
    schema, _, table = text.partition(".")
    if not schema or not table:
        spot.refuse(expected)
    if '"' in text:
        spot.refuse(expected, "names are written without quotes, in the case PostgreSQL stores")
    return text


class CommitMode(enum.Enum):
    """How a batch is committed on the slave."""

    TWO_PHASE = "two-phase"
    """Prepared on the slave, recorded on the master, then committed on the slave."""
    ONE_PHASE = "one-phase"
    """Committed on the slave, then recorded on the master; for slaves that cannot prepare."""


def _checked(check: Check[Any]) -> dict[str, Check[Any]]:
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
        capture: the language of the capture triggers, "plpython3u" or "plpgsql"; None for what the
            master has. ``pyreplica install`` sees to it.
        commit: how a batch is committed.
        ddl: whether DDL on replicated schemas is run on the slave, too. What
            ``pyreplica execute`` runs always is.
        guard: whether writing the replicated tables on the slave is refused to all but the daemon.
        batch_rows: the number of rows a batch is cut at while catching up.
        copy_workers: how many tables the initial copy copies at a time.
        keepalive: the longest silent wait on an idle master, in seconds.
        connect_timeout: the longest wait for a connection, in seconds.
        peer_timeout: how long a server may be silent before it is asked whether it is still at
            work, and given up when it does not say so, in seconds.
        in_doubt_alert: how old a batch in doubt may become before the daemon warns, in seconds.
        max_log_size: how much log the master keeps for the slave at the most, in bytes; None for
            no limit. Past it the slave is dropped.
        max_log_age: how long a change waits in the log at the most, in seconds; the same.
        on_error: what happens when a change cannot be applied.
        conflicts: what happens when a change meets another row than the master had.
        keep_conflicts: how long settled conflicts can be looked up, in seconds.
        retry_first: the first delay before connecting again, in seconds.
        retry_max: the longest delay before connecting again, in seconds.
    """

    name: str
    master: str = field(metadata=_checked(_connection_string))
    slave: str = field(metadata=_checked(_connection_string))
    tables: tuple[str, ...] | None = field(default=None, metadata=_checked(_patterns))
    capture: str | None = field(
        default=None,
        metadata=_checked(
            one_of({"as-installed": None, "plpython3u": "plpython3u", "plpgsql": "plpgsql"})
        ),
    )
    commit: CommitMode = field(
        default=CommitMode.TWO_PHASE,
        metadata=_checked(one_of({mode.value: mode for mode in CommitMode})),
    )
    ddl: bool = field(
        default=False, metadata=_checked(one_of({"ignore": False, "replicate": True}))
    )
    guard: bool = field(default=False, metadata=_checked(flag))
    batch_rows: int = field(default=200_000, metadata=_checked(whole(1, 10_000_000)))
    copy_workers: int = field(default=4, metadata=_checked(whole(1, 64)))
    keepalive: float = field(default=60.0, metadata=_checked(duration("1s", "1d", "60s")))
    connect_timeout: float = field(default=10.0, metadata=_checked(duration("1s", "1h", "10s")))
    peer_timeout: float = field(default=60.0, metadata=_checked(duration("1s", "1d", "60s")))
    in_doubt_alert: float = field(default=600.0, metadata=_checked(duration("1s", "365d", "10min")))
    max_log_size: int | None = field(
        default=None, metadata=_checked(or_none(size("1MB", "1024TB", "20GB, or none")))
    )
    max_log_age: float | None = field(
        default=None, metadata=_checked(or_none(duration("1min", "3650d", "7d, or none")))
    )
    on_error: OnError = field(
        default=OnError.STOP, metadata=_checked(one_of({way.value: way for way in OnError}))
    )
    conflicts: Policies = field(default=Policies(), metadata=_checked(policies))
    keep_conflicts: float = field(
        default=7 * 86400.0, metadata=_checked(duration("1h", "3650d", "7d"))
    )
    retry_first: float = field(default=0.5, metadata=_checked(duration("1ms", "1d", "500ms")))
    retry_max: float = field(default=30.0, metadata=_checked(duration("1ms", "1d", "30s")))

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
    """Check a configuration.

    Args:
        text: the YAML text.
        source: where the text is from, for messages.
        environ: the environment variables that the text may use.

    Raises:
        ConfigError: something in the text is wrong.
    """
    node = compose(text, source)
    if node is None or node.tag == "tag:yaml.org,2002:null":
        raise ConfigError("is empty; expected replications and their settings", where=source)
    root = _settings(Spot(node, "", 0, source, environ), _ROOT, required=["replications"])
    spots, defaults = root.pop("replications"), root.pop("defaults", {})
    replications = {name: _replication(name, spot, defaults) for name, spot in spots.items()}
    return Config(source, MappingProxyType(replications), **root)


_KEYS = [setting for setting in fields(ReplicationConfig) if "check" in setting.metadata]
_CHECKS: Mapping[str, Check[Any]] = {key.name: key.metadata["check"] for key in _KEYS}
_REQUIRED = [key.name for key in _KEYS if key.default is MISSING]
_DEFAULTS = {key.name: key.default for key in _KEYS if key.default is not MISSING}


def _settings(
    spot: Spot, checks: Mapping[str, Check[Any]], required: Iterable[str] = ()
) -> dict[str, Any]:
    """Check a mapping of settings, and return those that are there."""
    entries = spot.entries("a mapping of settings")
    for key, entry in entries.items():
        if key not in checks:
            entry.fail("unknown key", suggest(key, checks))
    for key in required:
        if key not in entries:
            path = f"{spot.path}.{key}" if spot.path else key
            replace(spot, path=path).fail("is missing")
    return {key: checks[key](entry) for key, entry in entries.items()}


def _defaults(spot: Spot) -> dict[str, Any]:
    settings = _settings(spot, {key: _CHECKS[key] for key in _DEFAULTS})
    if settings.keys() >= {"retry_first", "retry_max"}:
        _check_retries(spot, settings)
    return settings


def _by_name(spot: Spot) -> dict[str, Spot]:
    """_Check the names of the replications; their settings wait until the defaults are known."""
    entries = spot.entries("a mapping of names to replications")
    if not entries:
        spot.refuse("at least one replication")
    for name, entry in entries.items():
        if not NAME.fullmatch(name):
            entry.fail("expected a name of 1 to 63 letters, digits, _ and -")
    return entries


def _replication(name: str, spot: Spot, defaults: Mapping[str, Any]) -> ReplicationConfig:
    settings = {**_DEFAULTS, **defaults, **_settings(spot, _CHECKS, required=_REQUIRED)}
    _check_retries(spot, settings)
    return ReplicationConfig(name, **settings)


def _check_retries(spot: Spot, settings: Mapping[str, Any]) -> None:
    if settings["retry_first"] > settings["retry_max"]:
        entries = spot.entries("")
        entry = entries.get("retry_first") or entries.get("retry_max") or spot
        first, longest = settings["retry_first"], settings["retry_max"]
        entry.fail(f"retry_first ({first:g} s) must not be longer than retry_max ({longest:g} s)")


_ROOT: Mapping[str, Check[Any]] = {
    "replications": _by_name,
    "defaults": _defaults,
    "log_level": one_of({level: level for level in ("debug", "info", "warning", "error")}),
}


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
