"""The settings of a replication."""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from pyreplica.config import dsn
from pyreplica.config.filters import Filters, filters
from pyreplica.config.mapping import mapping
from pyreplica.config.merging import Merge, merges
from pyreplica.config.policies import OnError, Policies, policies
from pyreplica.config.pythonfile import PythonFile, python_file
from pyreplica.config.sections import checked, checks, keys, required, settings
from pyreplica.config.yamltree import (
    Spot,
    duration,
    flag,
    one_of,
    or_none,
    size,
    whole,
)
from pyreplica.model import Map, TableFilter


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


def _transform(spot: Spot) -> PythonFile:
    return python_file(spot, "the absolute path of a file, such as /etc/pyreplica/shop.py, or none")


class CommitMode(enum.Enum):
    """How a batch is committed on the slave."""

    TWO_PHASE = "two-phase"
    """Prepared on the slave, recorded on the master, then committed on the slave."""
    ONE_PHASE = "one-phase"
    """Committed on the slave, then recorded on the master; for slaves that cannot prepare."""


@dataclass(frozen=True, slots=True, repr=False)
class ReplicationConfig:
    """The settings of one replication.

    Attributes:
        name: the replication's name.
        master: the master's libpq connection string; it may hold a password.
        slave: the slave's libpq connection string; it may hold a password.
        tables: patterns of the tables to replicate, None for every captured table.
        filters: which rows and columns of tables the slave gets, where that is not all.
        capture: the language of the capture triggers, "plpython3u" or "plpgsql"; None for what the
            master has. ``pyreplica install`` sees to it.
        map: what the master's tables are called on the slave, and what is masked.
        transform: a file in Python through which all changes go; None for none.
        commit: how a batch is committed.
        ddl: whether DDL on replicated schemas is run on the slave, too. What
            ``pyreplica execute`` runs always is.
        forward: whether the slave also gets what other replications have applied to the master.
        guard: whether writing the replicated tables on the slave is refused to all but the daemon.
        both_ways: whether the slave is written, too, and is the master of a replication back.
        merge: the tables that both may change, and how they come to the same rows again.
        batch_rows: the number of rows a batch is cut at while catching up.
        copy_workers: how many tables the initial copy copies at a time.
        keepalive: the longest silent wait on an idle master, in seconds.
        connect_timeout: the longest wait for a connection, in seconds.
        peer_timeout: how long a server may be silent before it is asked whether it is still at
            work, and given up when it does not say so, in seconds.
        in_doubt_alert: how old a batch in doubt may become before the daemon warns, in seconds.
        lag_alert: how far the slave may be behind before that is told, in seconds; None for never.
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
    master: str = field(metadata=checked(_connection_string))
    slave: str = field(metadata=checked(_connection_string))
    tables: tuple[str, ...] | None = field(default=None, metadata=checked(_patterns))
    filters: Filters = field(default=(), metadata=checked(filters))
    map: Map = field(default=Map(), metadata=checked(mapping))
    transform: PythonFile | None = field(default=None, metadata=checked(or_none(_transform)))
    capture: str | None = field(
        default=None,
        metadata=checked(
            one_of({"as-installed": None, "plpython3u": "plpython3u", "plpgsql": "plpgsql"})
        ),
    )
    commit: CommitMode = field(
        default=CommitMode.TWO_PHASE,
        metadata=checked(one_of({mode.value: mode for mode in CommitMode})),
    )
    ddl: bool = field(default=False, metadata=checked(one_of({"ignore": False, "replicate": True})))
    forward: bool = field(default=False, metadata=checked(flag))
    guard: bool = field(default=False, metadata=checked(flag))
    both_ways: bool = field(default=False, metadata=checked(flag))
    merge: tuple[Merge, ...] = field(default=(), metadata=checked(merges))
    batch_rows: int = field(default=200_000, metadata=checked(whole(1, 10_000_000)))
    copy_workers: int = field(default=4, metadata=checked(whole(1, 64)))
    keepalive: float = field(default=60.0, metadata=checked(duration("1s", "1d", "60s")))
    connect_timeout: float = field(default=10.0, metadata=checked(duration("1s", "1h", "10s")))
    peer_timeout: float = field(default=60.0, metadata=checked(duration("1s", "1d", "60s")))
    in_doubt_alert: float = field(default=600.0, metadata=checked(duration("1s", "365d", "10min")))
    lag_alert: float | None = field(
        default=300.0, metadata=checked(or_none(duration("1s", "365d", "5min, or none")))
    )
    max_log_size: int | None = field(
        default=None, metadata=checked(or_none(size("1MB", "1024TB", "20GB, or none")))
    )
    max_log_age: float | None = field(
        default=None, metadata=checked(or_none(duration("1min", "3650d", "7d, or none")))
    )
    on_error: OnError = field(
        default=OnError.STOP, metadata=checked(one_of({way.value: way for way in OnError}))
    )
    conflicts: Policies = field(default=Policies(), metadata=checked(policies))
    keep_conflicts: float = field(
        default=7 * 86400.0, metadata=checked(duration("1h", "3650d", "7d"))
    )
    retry_first: float = field(default=0.5, metadata=checked(duration("1ms", "1d", "500ms")))
    retry_max: float = field(default=30.0, metadata=checked(duration("1ms", "1d", "30s")))

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

    def filter_of(self, schema: str, table: str) -> TableFilter:
        """What the slave is to get of a table.

        Args:
            schema: the schema's name, without quotes.
            table: the table's name, without quotes.
        """
        for in_schema, name, found in self.filters:
            if (in_schema, name) == (schema, table):
                return found
        return TableFilter()

    def __repr__(self) -> str:
        shown = {setting.name: getattr(self, setting.name) for setting in fields(self)}
        shown |= {"master": dsn.redact(self.master), "slave": dsn.redact(self.slave)}
        settings = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"{type(self).__name__}({settings})"


_CHECKS = checks(ReplicationConfig)
_REQUIRED = required(ReplicationConfig)
_DEFAULTS = {key.name: key.default for key in keys(ReplicationConfig) if key.default is not MISSING}


def defaults(spot: Spot) -> dict[str, Any]:
    """Check the settings that replications have which do not say otherwise."""
    found = settings(spot, {key: _CHECKS[key] for key in _DEFAULTS})
    if found.keys() >= {"retry_first", "retry_max"}:
        _check_retries(spot, found)
    return found


def replication(name: str, spot: Spot, defaults: Mapping[str, Any]) -> ReplicationConfig:
    """Check the settings of one replication.

    Args:
        name: its name.
        spot: where its settings stand.
        defaults: what it has where it does not say otherwise.
    """
    found = {**_DEFAULTS, **defaults, **settings(spot, _CHECKS, _REQUIRED)}
    _check_retries(spot, found)
    _check_map(spot, found)
    _check_filters(spot, found)
    _check_both_ways(spot, found)
    _check_conflicts(spot, found)
    return ReplicationConfig(name, **found)


def _check_retries(spot: Spot, found: Mapping[str, Any]) -> None:
    if found["retry_first"] > found["retry_max"]:
        entries = spot.entries("")
        entry = entries.get("retry_first") or entries.get("retry_max") or spot
        first, longest = found["retry_first"], found["retry_max"]
        entry.fail(f"retry_first ({first:g} s) must not be longer than retry_max ({longest:g} s)")


def _check_map(spot: Spot, found: Mapping[str, Any]) -> None:
    if found["map"] and found["ddl"]:
        entries = spot.entries("")
        entry = entries.get("map") or entries.get("ddl") or spot
        entry.fail(
            "`map:` and `ddl: replicate` do not go together",
            "DDL names the master's tables: alter the slave's by hand, and leave `ddl: ignore`",
        )


def _check_filters(spot: Spot, found: Mapping[str, Any]) -> None:
    for schema, table, wanted in found["filters"]:
        if wanted.python is not None and found["capture"] == "plpgsql":
            entries = spot.entries("")
            entry = entries.get("capture") or entries.get("filters") or spot
            entry.fail(
                f"the filter of {schema}.{table} is in Python, which needs `capture: plpython3u`",
                "write the condition in SQL, `where:`, or leave `capture` out",
            )


def _check_both_ways(spot: Spot, found: Mapping[str, Any]) -> None:
    entries = spot.entries("")
    if found["merge"] and not found["both_ways"]:
        entries.get("merge", spot).fail(
            "tables are merged only where both databases are written", "Add `both_ways: true`."
        )
    for other in ("map", "transform", "forward"):
        if found["merge"] and found[other]:
            entries.get(other, entries.get("merge", spot)).fail(
                f"`{other}:` and `merge:` do not go together",
                "All nodes have the same rows of a merged table, and get them from each other.",
            )
    if found["guard"] and found["both_ways"]:
        entries.get("guard", spot).fail(
            "the slave cannot be guarded against writes with `both_ways: true`",
            "Leave one of them out.",
        )


def _check_conflicts(spot: Spot, found: Mapping[str, Any]) -> None:
    asked = found["conflicts"].asked
    if asked and found["transform"] is None:
        spot.entries("").get("conflicts", spot).fail(
            f"{asked[0]} is to be settled by a transform, and there is none",
            "Name the file with the function conflict() in `transform:`, or choose another policy.",
        )


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
