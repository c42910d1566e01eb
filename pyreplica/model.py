"""What the layers hand to each other: plain frozen values, without any database in them."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

SQL_VERSION = 3
"""The version of the installed SQL that this release works with (see replica_version)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A ``pg_snapshot``: which transactions had ended at a moment of the master.

    Source: PostgreSQL manual, "System Information Functions", pg_snapshot components.

    Args:
        xmin: every transaction below it had ended.
        xmax: no transaction from it on had ended.
        running: those between that had not.
    """

    xmin: int
    xmax: int
    running: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Snapshot:
        """Read PostgreSQL's text form, ``xmin:xmax:running,...``."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), tuple(int(x) for x in running.split(",") if x))

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"

    def sees(self, txid: int) -> bool:
        """Whether what that transaction did (if it committed) is visible."""
        return txid < self.xmin or (txid < self.xmax and txid not in self.running)

    @property
    def order(self) -> tuple[int, int, int]:
        """Snapshots of one server are totally ordered by this: later ones see more."""
        return (self.xmax, self.xmin, -len(self.running))


@dataclass(frozen=True, slots=True)
class Position:
    """A moment of the master.

    Args:
        snapshot: what was visible.
        log_id: where the sequence of the log's ids stood, for sizing; never a position by itself.
        at: the master's clock.
    """

    snapshot: Snapshot
    log_id: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position that a batch ended at.

    Args:
        batch: the batch's number, counted from the first one ever of the replication.
        position: the master's moment that the slave equals.
    """

    batch: int
    position: Position


@dataclass(frozen=True, slots=True)
class Identity:
    """Which database it is, whatever name or address it was reached by."""

    system: str
    database: str

    def __str__(self) -> str:
        return f"database {self.database} of system {self.system}"


@dataclass(frozen=True, slots=True)
class Server:
    """What a server is, as far as replication cares.

    Args:
        version: server_version_num.
        standby: it is in recovery and cannot be written.
        prepared_transactions: max_prepared_transactions.
        superuser: whether the session's role is one.
        role: the session's role.
        encoding: the database's encoding.
    """

    version: int
    standby: bool
    prepared_transactions: int
    superuser: bool
    role: str
    encoding: str


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The master's record of one slave (``replica_slave``).

    Args:
        dropped: when and why its log is not kept any more, for people; None while it is.
    """

    bit: int
    slave: Identity
    ready: bool
    cursor: Cursor
    dropped: str | None = None


@dataclass(frozen=True, slots=True)
class LogKept:
    """How much log the master keeps for a slave, and may keep at the most.

    Args:
        bytes: about how much the slave has not confirmed.
        age: seconds that the oldest change of it has waited; 0 when there is none.
        max_size: bytes; None for no limit.
        max_age: seconds; None for no limit.
        dropped: the slave was dropped; nothing is kept for it any more.
    """

    bytes: int
    age: float
    max_size: int | None
    max_age: float | None
    dropped: bool = False

    @property
    def used_size(self) -> float | None:
        """What part of the limit it is: 1 is all of it."""
        return None if self.max_size is None else self.bytes / self.max_size

    @property
    def used_age(self) -> float | None:
        """The same of the age."""
        return None if self.max_age is None else self.age / self.max_age

    @property
    def used(self) -> float | None:
        """The larger one; None where there is no limit."""
        return max((u for u in (self.used_size, self.used_age) if u is not None), default=None)


@dataclass(frozen=True, slots=True)
class Applied:
    """The slave's record of itself (``replica_cursor``)."""

    id: int
    master: Identity
    ready: bool
    made_schema: bool
    cursor: Cursor | None
    changes: int
    last_batch_changes: int
    applied_at: datetime | None


@dataclass(frozen=True, slots=True)
class TableCopy:
    """The slave's record of one table of the replication (``replica_copy``).

    Args:
        relid: its oid on the master.
        schema, name: what it was called when it was copied.
        state: "copying"; "joining": copied as of ``snapshot``, and to be brought to where the
            others are; "ready"; "removed": passed over.
        snapshot: of a joining table only.
        rows: how many were copied.
        problem: why it could not join.
    """

    relid: int
    schema: str
    name: str
    state: str
    snapshot: Snapshot | None
    rows: int | None
    problem: str | None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def being_added(self) -> bool:
        """Whether it is on its way into the replication."""
        return self.state in ("copying", "joining")


@dataclass(frozen=True, slots=True)
class CapturedTable:
    """A generation of a table that is captured on the master (``replica_table``).

    Args:
        relid: its oid on the master, which outlives its name.
        columns: those that are logged; generated ones are not.
        types: every column's type with its length, as SQL.
        definitions: of columns with types that users have made, what these are made of.
    """

    id: int
    relid: int
    schema: str
    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    partitioned: bool
    active: bool
    types: Mapping[str, str] = field(hash=False)
    definitions: Mapping[str, str] = field(hash=False, default_factory=dict)

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class SlaveColumn:
    """A column of a table on the slave.

    Args:
        type: the type's name without a length, as SQL.
        full_type: with its length.
        input: how text becomes a value of it, as SQL: what comes before the text and what after it.
        equal: the key index's equality as SQL, for key columns.
        identity_always: GENERATED ALWAYS AS IDENTITY; it can be inserted, not updated.
        required: NOT NULL and without a default.
        definition: of a type that users have made, what it is made of.
    """

    name: str
    type: str
    full_type: str
    input: tuple[str, str]
    equal: str | None
    generated: bool
    identity_always: bool
    required: bool
    definition: str | None = None


@dataclass(frozen=True, slots=True)
class SlaveTable:
    """A table of the slave, as its statements need it.

    Args:
        has_key: there is a unique index on just the key columns.
        other_unique: there are further unique indexes or exclusion constraints.
        referenced_by: tables with foreign keys to it, schema.table.
        writable: the session's role may do all that applying needs.
        unlogged: it, or a partition of it, would be empty after a crash.
        rewritten: a rule makes something else of an INSERT, also in the daemon's session.
    """

    schema: str
    name: str
    partitioned: bool
    columns: Mapping[str, SlaveColumn]
    has_key: bool
    other_unique: bool
    referenced_by: tuple[str, ...]
    writable: bool
    unlogged: bool
    rewritten: bool

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class SequenceState:
    """Where a sequence stands: ``last_value``, and whether that was handed out already."""

    last_value: int
    is_called: bool


@dataclass(frozen=True, slots=True)
class SequenceColumn:
    """A column that a sequence of the master belongs to, or that has it in its default.

    Args:
        owned: the sequence belongs to the column, as that of a serial or identity column does.
        captured: changes of the table are logged.
    """

    schema: str
    table: str
    column: str
    owned: bool
    captured: bool


@dataclass(frozen=True, slots=True)
class MasterSequence:
    """A sequence of the master.

    Args:
        relid: its oid.
        type: its type, as SQL.
        columns: those that take their values from it.
        readable: the session's role may read it.
        state: where it stands; None when that cannot be read now.
    """

    relid: int
    schema: str
    name: str
    type: str
    minimum: int
    maximum: int
    increment: int
    readable: bool
    columns: tuple[SequenceColumn, ...]
    state: SequenceState | None

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class SlaveSequence:
    """A sequence of the slave that is to stand where one of the master does.

    Args:
        quoted: its name with its schema, as SQL.
        readable: the session's role may read it.
        settable: the session's role may call setval() for it.
    """

    schema: str
    name: str
    quoted: str
    minimum: int
    maximum: int
    increment: int
    readable: bool
    settable: bool

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class Change(NamedTuple):
    """A row of the log, as it is fetched. ``key``, ``row`` and ``old`` are text of jsonb objects.

    ``op`` is what it is, see docs/architecture.md; ``old`` is what an update has replaced, as far
    as the master has logged it.
    """

    id: int
    table: int
    op: str
    key: str
    row: str | None
    old: str | None = None


BARRIERS = frozenset("SFP")
"""Operations that concern whole tables or the schema: they are applied after all that came before
them, and before all that comes after them."""


@dataclass(frozen=True, slots=True)
class Script:
    """A DDL statement in the log.

    Args:
        sql: the statement, as it was sent to the master.
        tag: the command, for instance "ALTER TABLE".
        search_path: the schemas that names without one were looked for in.
        strings: the setting standard_conforming_strings that it was read under.
        asked: it was run by `pyreplica execute`, and not just by somebody on the master.
        replications: whose slaves run it; None for all.
    """

    sql: str
    tag: str
    search_path: str
    strings: str
    asked: bool
    replications: tuple[str, ...] | None

    @classmethod
    def parse(cls, row: str) -> Script:
        """Read what the log holds of it."""
        given = json.loads(row)
        names = given["replications"]
        return cls(
            given["sql"],
            given["tag"],
            given["search_path"],
            given["standard_conforming_strings"],
            given["by"] == "execute",
            None if names is None else tuple(names),
        )

    @property
    def adds_label(self) -> bool:
        """Whether it adds a label to an enum, which only later transactions can use."""
        adds = re.search(r"\bADD\s+VALUE\b", self.sql, re.IGNORECASE)
        return self.tag == "ALTER TYPE" and adds is not None

    @property
    def line(self) -> str:
        """The beginning of the statement, on one line, for messages."""
        words = " ".join(self.sql.split())
        return words if len(words) <= 120 else f"{words[:117]}..."


class State(enum.Enum):
    """What a replication is doing."""

    CONNECTING = "connecting"
    CATCHING_UP = "catching up"
    WAITING = "waiting"
    FAILED = "failed"
    STOPPED = "stopped"


class Step(enum.Enum):
    """The points of a batch between which a crash is survived; see docs/protocol.md."""

    FETCHED = "fetched"
    PREPARED = "prepared"
    CONFIRMED = "confirmed"
    COMMITTED = "committed"
    RECOVERED = "recovered"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class Status:
    """One replication at one moment; what the loop publishes and everything that shows it reads."""

    replication: str
    state: State
    batch: int = 0
    changes: int = 0
    error: str | None = None
