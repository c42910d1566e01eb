"""Random statements on random tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from tests.integration.machines.tables import Column, Table, choose, one_in

CAUGHT = " OR ".join(
    (
        *("integrity_constraint_violation", "data_exception", "cardinality_violation"),
        *("triggered_data_change_violation", "feature_not_supported", "generated_always"),
        *("object_in_use", "invalid_column_reference"),
    )
)
"""What statements fail with for reasons of their own, for the handlers of PL/pgSQL."""

VOLATILE = "app.write_something()"
"""A function that writes, and answers true."""


@dataclass(frozen=True)
class Statements:
    """Makes statements on some tables.

    Args:
        draw: hypothesis's.
        tables: what they may write.
        version: the server's server_version_num.
    """

    draw: st.DrawFn
    tables: Sequence[Table]
    version: int = 150000

    def any(self) -> str:
        """A statement as an application sends it; with data of COPY, after a line break."""
        return self._one_of(
            *[self.insert, self.update, self.delete] * 4,
            *[self.upsert, self.swap, self.writing_with, self.calling] * 2,
            *(self.block, self.insert_select, self.update_from, self.delete_using),
            *(self.copy, self.truncate),
            *([self.merge] if self.version >= 150000 else []),
        )

    def nested(self) -> str:
        """A statement for a function, a trigger or a rule."""
        return self._one_of(
            *[self.insert, self.update, self.delete] * 2, self.upsert, self.writing_with
        )

    def of_same_row(self, table: Table) -> str:
        """A statement for a trigger for each row, on the very row that it is fired for."""
        same = " AND ".join(f"{name} = coalesce(new.{name}, old.{name})" for name in table.key)
        columns = table.written
        names = ", ".join(c.name for c in columns)
        taken_back = (
            ", ".join(f"{c.name} = coalesce(old.{c.name}, new.{c.name})" for c in table.updated)
            or f"{table.key[0]} = DEFAULT"
        )
        overriding = "OVERRIDING SYSTEM VALUE" if "ALWAYS" in str(columns) else ""
        return self._one_text(
            f"UPDATE {table.name} SET {self._assigned(table)} WHERE {same}",
            f"UPDATE {table.name} SET {self._assigned(table)} WHERE {same}",
            f"UPDATE {table.name} SET {taken_back} WHERE {same}",
            f"DELETE FROM {table.name} WHERE {same}",
            f"INSERT INTO {table.name} ({names}) {overriding} "
            f"SELECT {', '.join(f'old.{c.name}' for c in columns)} WHERE old IS NOT NULL",
        )

    def plain(self, table: Table) -> str:
        """A statement on that table for a rule, which allows only simple ones."""
        return self._one_of(
            lambda: self.insert(table), lambda: self.update(table), lambda: self.delete(table)
        )

    # Inserting

    def insert(self, table: Table | None = None) -> str:
        """INSERT, mostly so that rows that are there do no harm."""
        table = table or self._table()
        statement = self._new_rows(table)
        if table.is_deferrable or one_in(self.draw, 3):
            return statement
        return f"{statement} ON CONFLICT DO NOTHING"

    def _new_rows(self, table: Table) -> str:
        """INSERT of one to three rows."""
        columns = self._inserted(table)
        rows = ", ".join(
            "(" + ", ".join(self._value(c) for c in columns) + ")"
            for _ in range(choose(self.draw, (1, 1, 2, 3)))
        )
        return f"{self._into(table, columns)} VALUES {rows}"

    def insert_select(self) -> str:
        """INSERT of rows that are there, with another value in a key column."""
        table = self._table()
        changed = choose(self.draw, table.key_columns)
        columns = table.written
        values = ", ".join(self._value(c) if c is changed else c.name for c in columns)
        return (
            f"{self._into(table, columns)} SELECT {values} FROM {self._target(table)} "
            f"WHERE {self._condition(table)}{self._one_text('', ' ON CONFLICT DO NOTHING')}"
        )

    def upsert(self) -> str:
        """INSERT ON CONFLICT, both ways."""
        table = self._table()
        if table.is_deferrable:
            return self.insert(table)
        key, assigned = ", ".join(table.key), self._assigned(table, "excluded")
        action = self._one_text(
            "DO NOTHING", f"({key}) DO NOTHING", f"({key}) DO UPDATE SET {assigned}"
        )
        return f"{self._new_rows(table)} ON CONFLICT {action}"

    def copy(self) -> str:
        """COPY FROM STDIN."""
        table = self._table()
        columns = [c for c in self._inserted(table) if c.identity != "ALWAYS"] or table.written
        rows = "\n".join(
            "\t".join(self._copied(c) for c in columns) for _ in range(choose(self.draw, (1, 2, 3)))
        )
        names = ", ".join(c.name for c in columns)
        return f"COPY {self._target(table)} ({names}) FROM STDIN\n{rows}\n"

    # Updating

    def update(self, table: Table | None = None) -> str:
        """UPDATE of one column or two."""
        table = table or self._table()
        return (
            f"UPDATE {self._target(table)} SET {self._assigned(table)} "
            f"WHERE {self._condition(table)}"
        )

    def swap(self) -> str:
        """UPDATE in which two rows exchange a value."""
        table = self._table()
        columns = [c for c in table.updated if c.kind.sorts]
        if not columns:
            return self.update(table)
        column = choose(self.draw, columns)
        one, two = (choose(self.draw, column.kind.values) for _ in range(2))
        return (
            f"UPDATE {self._target(table)} SET {column.name} = CASE {column.name} "
            f"WHEN {one} THEN {two} WHEN {two} THEN {one} END "
            f"WHERE {column.name} IN ({one}, {two})"
        )

    def update_from(self) -> str:
        """UPDATE with another table."""
        table, other = self._table(), self._table()
        return (
            f"UPDATE {self._target(table)} t SET {self._assigned(table, 't')} "
            f"FROM {other.name} f WHERE {self._condition(table, 't')}"
        )

    def calling(self) -> str:
        """UPDATE, INSERT or DELETE with a function that writes."""
        table = self._table()
        columns = table.written
        return self._one_text(
            f"UPDATE {self._target(table)} SET {self._assigned(table)} WHERE {VOLATILE}",
            f"DELETE FROM {self._target(table)} WHERE {VOLATILE} AND {self._condition(table)}",
            f"{self._into(table, columns)} SELECT {', '.join(self._value(c) for c in columns)} "
            f"WHERE {VOLATILE}",
        )

    def merge(self) -> str:
        """MERGE that inserts, updates and deletes."""
        table = self._table()
        key = choose(self.draw, table.key_columns)
        columns = [c for c in table.written if c.identity != "ALWAYS"] or table.written
        values = ", ".join("s.x" if c is key else self._value(c) for c in columns)
        given = sorted({choose(self.draw, key.kind.values) for _ in range(3)})
        update = f"UPDATE SET {self._assigned(table, 't')}" if table.updated else "DO NOTHING"
        matched = self._one_text("DELETE", update, "DO NOTHING")
        return (
            f"MERGE INTO {self._target(table)} t USING (VALUES ({'), ('.join(given)})) s(x) "
            f"ON t.{key.name} = s.x WHEN MATCHED AND {self._condition(table, 't')} THEN {matched} "
            f"WHEN MATCHED THEN {update} WHEN NOT MATCHED THEN "
            f"INSERT ({', '.join(c.name for c in columns)}) VALUES ({values})"
        )

    # Deleting

    def delete(self, table: Table | None = None) -> str:
        """DELETE."""
        table = table or self._table()
        return f"DELETE FROM {self._target(table)} WHERE {self._condition(table)}"

    def delete_using(self) -> str:
        """DELETE with another table."""
        table, other = self._table(), self._table()
        return (
            f"DELETE FROM {self._target(table)} t USING {other.name} f "
            f"WHERE {self._condition(table, 't')}"
        )

    def truncate(self) -> str:
        """TRUNCATE of one or several tables, or of a partition."""
        names = {self._target(self._table()) for _ in range(choose(self.draw, (1, 1, 2)))}
        return (
            f"TRUNCATE {', '.join(sorted(names))}"
            f"{self._one_text('', ' RESTART IDENTITY')}{self._one_text(' CASCADE', '')}"
        )

    # Several in one

    def writing_with(self) -> str:
        """A statement with another one in WITH."""
        table = self._table()
        columns = table.written
        names = ", ".join(c.name for c in columns)
        moved = ", ".join(self._value(c) if one_in(self.draw, 3) else c.name for c in columns)
        update = f"{self.update(table)} RETURNING *"
        return self._one_text(
            f"WITH d AS ({self.delete(table)} RETURNING *) "
            f"{self._into(table, columns)} SELECT {moved} FROM d",
            f"WITH u AS ({update}) {self._into(table, columns)} SELECT {names} FROM u "
            "ON CONFLICT DO NOTHING",
            f"WITH u AS ({update}) {self.delete()}",
            f"WITH u AS ({update}) {self.update()}",
            f"WITH i AS ({self.insert()} RETURNING *) {self.update()}",
        )

    def block(self) -> str:
        """PL/pgSQL with handlers of exceptions, each a subtransaction."""
        parts = [self.nested() for _ in range(choose(self.draw, (2, 3)))]
        caught = (
            f"BEGIN {part}; {self._one_text('', 'RAISE division_by_zero;')} "
            f"EXCEPTION WHEN {CAUGHT} THEN NULL; END;"
            for part in parts
        )
        return f"DO $do$BEGIN {' '.join(caught)} END$do$"

    # Parts

    def _one_of(self, *makers: Callable[[], str]) -> str:
        return choose(self.draw, makers)()

    def _one_text(self, *texts: str) -> str:
        return choose(self.draw, texts)

    def _table(self) -> Table:
        return choose(self.draw, self.tables)

    def _target(self, table: Table) -> str:
        """The table, or one of its partitions."""
        if table.partitions.names and one_in(self.draw, 4):
            return choose(self.draw, table.partitions.names)
        return table.name

    def _into(self, table: Table, columns: Sequence[Column]) -> str:
        overriding = any(c.identity == "ALWAYS" for c in columns)
        return (
            f"INSERT INTO {self._target(table)} ({', '.join(c.name for c in columns)})"
            f"{' OVERRIDING SYSTEM VALUE' if overriding else ''}"
        )

    def _inserted(self, table: Table) -> list[Column]:
        """The columns of an INSERT: mostly all, sometimes those alone that have to be there."""
        if one_in(self.draw, 4):
            columns = [c for c in table.written if c.required and not (c.default or c.identity)]
            if columns:
                return columns
        return table.written

    def _value(self, column: Column) -> str:
        values = column.kind.values
        return choose(self.draw, values if column.required else (*values, "NULL"))

    def _copied(self, column: Column) -> str:
        """A value as COPY reads it."""
        texts = [text.replace("\\", "\\\\") for text in column.kind.texts]
        return choose(self.draw, texts if column.required else (*texts, "\\N"))

    def _condition(self, table: Table, alias: str = "") -> str:
        column = choose(self.draw, table.key_columns)
        other = choose(self.draw, table.columns)
        name, other_name = (f"{alias}.{c.name}" if alias else c.name for c in (column, other))
        one, two = (choose(self.draw, column.kind.values) for _ in range(2))
        conditions = [
            f"{name} = {one}",
            f"{name} IN ({one}, {two})",
            f"{name} <> {one}",
            "true",
            "true",
            f"{other_name} IS NULL",
        ]
        if other.kind.sorts:
            conditions.append(f"{other_name} = {choose(self.draw, other.kind.values)}")
        return choose(self.draw, conditions)

    def _assigned(self, table: Table, alias: str = "") -> str:
        """What follows SET."""
        columns = table.updated
        if not columns:
            return f"{table.key[0]} = DEFAULT"
        chosen = [choose(self.draw, columns)]
        chosen += [c for c in [choose(self.draw, columns)] if c not in chosen]
        return ", ".join(f"{c.name} = {self._new(table, c, alias)}" for c in chosen)

    def _new(self, table: Table, column: Column, alias: str) -> str:
        prefix = f"{alias}." if alias else ""
        same = [f"{prefix}{c.name}" for c in table.columns if c.kind == column.kind]
        new = [self._value(column), self._value(column), choose(self.draw, same)]
        if column.default:
            new.append("DEFAULT")
        if column.kind.is_number:
            new += [f"{prefix}{column.name} + 1", f"- {prefix}{column.name}"]
        return choose(self.draw, new)


def filling(table: Table) -> list[str]:
    """INSERTs of one row each, of which some will do."""
    written = table.written
    rows = (
        [
            "NULL" if not c.required and row % 2 else c.kind.values[(row + n) % len(c.kind.values)]
            for n, c in enumerate(written, 1)
        ]
        for row in range(6)
    )
    names = ", ".join(c.name for c in written)
    return [
        f"INSERT INTO {table.name} ({names}) OVERRIDING SYSTEM VALUE VALUES ({', '.join(row)})"
        for row in rows
    ]


@st.composite
def statements(draw: st.DrawFn, tables: Sequence[Table], version: int) -> str:
    """A statement of any sort on one of the tables."""
    return Statements(draw, tables, version).any()
