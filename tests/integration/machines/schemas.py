"""Random schemas: some tables that know of one another, and the slave's variation of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from tests.integration.machines.statements import CAUGHT, Statements
from tests.integration.machines.tables import (
    SCHEMAS,
    Column,
    Partitions,
    Table,
    choose,
    one_in,
    partitions,
    quoted,
    tables,
)

ACTIONS = ("NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT")
ONLY_HERE = '"only here"'
"""A column that only the slave has."""
WIDER = {
    "smallint": "integer",
    "integer": "bigint",
    "bigint": "numeric",
    "character varying(12)": "character varying(40)",
}
"""Types of the slave that hold all of the master's, and print it the same."""


@dataclass(frozen=True)
class Schema:
    """Two databases to be.

    Attributes:
        tables: what is replicated, as it is on the master.
        on_slave: the same tables as they are on the slave.
        master: statements that make all of the master's.
        slave: statements that make all of the slave's.
        programs: the texts of triggers, functions and rules, which name columns.
    """

    tables: tuple[Table, ...]
    on_slave: tuple[Table, ...]
    master: tuple[str, ...]
    slave: tuple[str, ...]
    programs: tuple[str, ...]

    def __repr__(self) -> str:
        return "Schema(...)"


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    """A schema of one to four tables."""
    made = [draw(tables(number)) for number in range(choose(draw, (1, 1, 2, 2, 3)))]
    keys: list[str] = []
    for number in range(choose(draw, (0, 0, 1, 1, 2))):
        referring = choose(draw, range(len(made)))
        found = _foreign_key(draw, made[referring], choose(draw, made), number)
        if found is not None:
            made[referring], statement = found
            keys.append(statement)
    on_slave = [_variation(draw, table, f"of slave {n}") for n, table in enumerate(made)]
    if one_in(draw, 4):
        heir = _heir(draw, choose(draw, made))
        if heir is not None:
            made.append(heir)
            parent = next(t for t in on_slave if t.name == heir.parent)
            inherits = parent in made and one_in(draw, 2)
            on_slave.append(heir if inherits else replace(heir, parent=None))
    programs = _programs(draw, made)
    here = [f"CREATE SCHEMA {name}" for name in SCHEMAS]
    slave_keys = keys if one_in(draw, 2) and _fit(made, on_slave) else []
    return Schema(
        tuple(made),
        tuple(on_slave),
        (*here, *(s for t in made for s in t.created()), *keys, *programs),
        (*here, *(s for t in on_slave for s in t.created()), *slave_keys),
        tuple(programs),
    )


def _foreign_key(
    draw: st.DrawFn, referring: Table, referred: Table, number: int
) -> tuple[Table, str] | None:
    """A table with columns that refer to another one, or to itself; and the constraint."""
    if referred.deferrable or "ATTACH" in " ".join(referring.partitions.made):
        # PostgreSQL refuses the one; a partition of the other has its columns already
        return None
    columns = tuple(
        Column(
            quoted(f"ref {number}.{n}"),
            column.kind,
            default=choose(draw, ("", choose(draw, column.kind.values))),
        )
        for n, column in enumerate(referred.key_columns)
    )
    statement = (
        f"ALTER TABLE {referring.name} ADD FOREIGN KEY ({', '.join(c.name for c in columns)}) "
        f"REFERENCES {referred.name} ({', '.join(referred.key)}) "
        f"ON UPDATE {choose(draw, ACTIONS)} ON DELETE {choose(draw, ACTIONS)} "
        f"{choose(draw, ('', '', 'DEFERRABLE', 'DEFERRABLE INITIALLY DEFERRED'))}"
    )
    return replace(referring, columns=(*referring.columns, *columns)), statement.strip()


def _heir(draw: st.DrawFn, parent: Table) -> Table | None:
    """A table that inherits from another one, with a column more."""
    if parent.partitions.by or any(c.generated for c in parent.columns):
        return None  # PostgreSQL refuses both
    own = Column('"of its own"', choose(draw, parent.key_columns).kind)
    return Table(
        name=f"{choose(draw, SCHEMAS)}.{quoted('heir')}",
        columns=(*parent.columns, own),
        key=parent.key,
        deferrable=choose(draw, ("", "", "DEFERRABLE")),
        parent=parent.name,
    )


def _variation(draw: st.DrawFn, table: Table, mark: str) -> Table:
    """The table as it is on the slave: the same, or in another order, partitioned otherwise, ..."""
    if one_in(draw, 2):
        return table
    columns = [replace(c, identity="" if one_in(draw, 3) else c.identity) for c in table.columns]
    if one_in(draw, 3):
        columns = list(draw(st.permutations(columns)))
    if one_in(draw, 3):
        text = choose(draw, table.columns).kind
        columns.append(Column(ONLY_HERE, text, default=text.values[0]))
    if one_in(draw, 4):
        columns = [
            replace(c, kind=replace(c.kind, type=WIDER.get(c.kind.type, c.kind.type)))
            if c.name not in table.key and not c.generated and not c.default
            else c
            for c in columns
        ]
    varied = replace(table, columns=tuple(columns), partitions=Partitions())
    if one_in(draw, 2):
        varied = replace(varied, partitions=partitions(draw, varied, mark))
    of_partitions = set(varied.partitions.columns)
    kept = [
        u
        for u in table.uniques
        if of_partitions <= set(u.columns)
        and not (of_partitions and ("EXCLUDE" in u.statement or "md5" in u.statement))
    ]
    return replace(varied, uniques=tuple(kept if one_in(draw, 2) else kept[:1]))


def _fit(made: Sequence[Table], on_slave: Sequence[Table]) -> bool:
    """Whether the master's foreign keys can be on the slave as well."""
    return all(
        {c.name: c.kind.type for c in table.columns}.items()
        <= {c.name: c.kind.type for c in other.columns}.items()
        for table, other in zip(made, on_slave, strict=True)
    )


def _programs(draw: st.DrawFn, made: Sequence[Table]) -> list[str]:
    """The function that statements call, triggers and rules; on the master alone."""
    statements = Statements(draw, made)
    programs = [
        "CREATE FUNCTION app.write_something() RETURNS boolean LANGUAGE plpgsql AS "
        f"$f$BEGIN {statements.plain(choose(draw, made))}; RETURN true; END$f$"
    ]
    for number in range(choose(draw, (0, 1, 1, 2, 2, 3))):
        programs += choose(draw, (_after, _after, _after, _before, _deferred, _rule))(
            statements, choose(draw, made), number
        )
    return programs


def _after(statements: Statements, table: Table, number: int) -> list[str]:
    """A trigger that writes after rows or statements, here or in another table."""
    draw = statements.draw
    target = choose(draw, (table.name, *table.partitions.names))
    level = choose(draw, ("ROW", "ROW", "STATEMENT"))
    event = choose(draw, ("INSERT", "UPDATE", "DELETE", "INSERT OR UPDATE OR DELETE"))
    name = choose(draw, ("a", "z")) + f"fter_{number}"
    does = statements.of_same_row(table) if level == "ROW" and one_in(draw, 2) else None
    return [
        _writing(statements, name, does or statements.nested()),
        f"CREATE TRIGGER {name} AFTER {event} ON {target} FOR EACH {level} "
        f"EXECUTE FUNCTION app.{name}()",
    ]


def _deferred(statements: Statements, table: Table, number: int) -> list[str]:
    """A trigger that writes when its transaction commits."""
    event = choose(statements.draw, ("INSERT", "UPDATE", "DELETE"))
    return [
        _writing(
            statements,
            f"deferred_{number}",
            choose(statements.draw, (statements.nested(), statements.of_same_row(table))),
        ),
        f"CREATE CONSTRAINT TRIGGER deferred_{number} AFTER {event} ON {table.name} "
        f"DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.deferred_{number}()",
    ]


def _writing(statements: Statements, name: str, does: str) -> str:
    """The function of a trigger that does a statement; it fails with it, or goes on.

    What it does fires it again: that ends at a depth, or, where it is deferred and so never nested,
    after some times in a transaction.
    """
    caught = choose(statements.draw, (CAUGHT, "division_by_zero"))
    times = "coalesce(nullif(current_setting('app.times', true), '')::integer, 0)"
    return (
        f"CREATE FUNCTION app.{name}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$f$BEGIN IF pg_trigger_depth() < 3 AND {times} < 20 THEN "
        f"PERFORM set_config('app.times', ({times} + 1)::text, true); {does}; END IF; RETURN NULL; "
        f"EXCEPTION WHEN {caught} THEN RETURN NULL; END$f$"
    )


def _before(statements: Statements, table: Table, number: int) -> list[str]:
    """A trigger that changes or drops rows, or writes, before they are written."""
    draw = statements.draw
    column = choose(draw, table.updated or table.columns)
    of_key = choose(draw, table.key_columns)
    value = choose(draw, column.kind.values)
    does = choose(
        draw,
        (
            f"new.{column.name} := {value};",
            f"IF new.{of_key.name} = {choose(draw, of_key.kind.values)} THEN RETURN NULL; END IF;",
            f"IF pg_trigger_depth() < 2 THEN {statements.nested()}; END IF;",
        ),
    )
    event = choose(draw, ("INSERT", "UPDATE", "INSERT OR UPDATE"))
    return [
        f"CREATE FUNCTION app.before_{number}() RETURNS trigger LANGUAGE plpgsql AS "
        f"$f$BEGIN {does} RETURN new; END$f$",
        f"CREATE TRIGGER before_{number} BEFORE {event} ON {table.name} FOR EACH ROW "
        f"EXECUTE FUNCTION app.before_{number}()",
    ]


def _rule(statements: Statements, table: Table, number: int) -> list[str]:
    """A rule that has something else done, or something more."""
    draw = statements.draw
    others = [t for t in statements.tables if t is not table]
    if not others:
        return []  # it would call itself for ever
    # rules on one table alone, and none back
    if table is not statements.tables[0]:
        return []
    event = choose(draw, ("INSERT", "UPDATE", "DELETE"))
    how = choose(draw, ("ALSO", "INSTEAD"))
    return [
        f"CREATE RULE rule_{number} AS ON {event} TO {table.name} DO {how} "
        f"{statements.plain(choose(draw, others))}"
    ]


def named(programs: Sequence[str], column: Column) -> bool:
    """Whether a program names a column."""
    return any(column.name in program for program in programs)
