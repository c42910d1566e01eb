"""Tables, as either side has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from pyreplica.model.mapping import TableMap
from pyreplica.model.positions import Snapshot


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
        slave_relid: its oid on the slave when it was copied; None when it is not known.
    """

    relid: int
    schema: str
    name: str
    state: str
    snapshot: Snapshot | None
    rows: int | None
    problem: str | None
    slave_relid: int | None = None

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
        where: the condition for the rows that the slave gets, as the master has understood it.
        hidden: columns that the slave does not get; they are in none of the above.
        merged: its changes are versions of rows, which are merged with the slave's.
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
    where: str | None = None
    hidden: tuple[str, ...] = ()
    merged: bool = False

    def projected(self, columns: Collection[str] | None) -> CapturedTable:
        """The same with these columns and the key's alone; with all of them when it is None."""
        if columns is None:
            return self
        kept = {*self.key, *columns}
        return replace(
            self,
            columns=tuple(c for c in self.columns if c in kept),
            types={c: type_ for c, type_ in self.types.items() if c in kept},
            definitions={c: made_of for c, made_of in self.definitions.items() if c in kept},
            hidden=tuple(c for c in self.types if c not in kept),
        )

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
        logged: what the master, and so the log, calls it; None for one that only the slave has,
            where a column of the master that goes elsewhere is called like it, and for a constant.
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
    logged: str | None = None


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
        relid: its oid.
        map: what the configuration makes of the master's table.
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
    relid: int
    map: TableMap

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def logged(self) -> dict[str, SlaveColumn]:
        """The columns by what the log calls them."""
        return {c.logged: c for c in self.columns.values() if c.logged is not None}


@dataclass(frozen=True, slots=True)
class TablePart:
    """Something of a table that is made after its rows are there.

    Args:
        kind: "key" (also an exclusion constraint), "index", "statistics" or "foreign key".
        table_schema, table: what it belongs to; a partition has its own.
        schema, name: its own.
        relid: the oid on the master of what it belongs to.
        partitioned: whether that is partitioned.
        root: its oid, or that of the partitioned table of which it is a partition.
        referenced: of a foreign key, the root of the table that it refers to.
    """

    kind: str
    table_schema: str
    table: str
    schema: str
    name: str
    relid: int
    partitioned: bool
    root: int
    referenced: int | None

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of {self.table_schema}.{self.table}"
