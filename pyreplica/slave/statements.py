"""The statements that apply net changes to one table, made from what master and slave say of it.

A statement takes its changes from a FROM item ``c`` with the columns ``key``, ``row`` and ``old``
(jsonb objects whose values are text): array parameters for a small batch, the staging tables for a
large one. The slave's table is ``t``.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Sequence

from pyreplica.database import sql
from pyreplica.errors import ApplyError
from pyreplica.model import CapturedTable, SlaveColumn, SlaveTable

Part = sql.Composable

GONE = "???"
"""What PostgreSQL calls a type that has been dropped since: only rows of the past have it."""


class TableStatements:
    """The statements for one generation of a captured table.

    Args:
        captured: the table as it is on the master.
        table: the table as it is on the slave.

    Raises:
        ApplyError: the slave's table cannot take the master's rows; the message names the column.
    """

    def __init__(self, captured: CapturedTable, table: SlaveTable) -> None:
        problem = misfit(captured, table)
        if problem is not None:
            what, hint = problem
            raise ApplyError(what, table=str(captured), key="", hint=hint)
        self.captured = captured
        self.table = table
        self.name = sql.Identifier(table.schema, table.name)
        self._plain = False
        self._only = sql.SQL("" if table.partitioned else "ONLY ")
        self._key = [table.columns[name] for name in captured.key]
        self._others = [
            table.columns[name]
            for name in captured.columns
            if name not in captured.key and not table.columns[name].generated
        ]

    def with_plain_keys(self) -> TableStatements:
        """The same, but sources have the key's values in columns ``k1``, ``k2``, ... and no key."""
        one = copy.copy(self)
        one._plain = True
        return one

    @property
    def _written(self) -> list[tuple[str, SlaveColumn]]:
        """The columns of an INSERT, and where their values come from."""
        key = [("key", c) for c in self._key if not c.generated]
        return key + [("row", c) for c in self._others]

    def updates_identity(self, columns: Iterable[str]) -> bool:
        """Whether one of these is GENERATED ALWAYS AS IDENTITY, which UPDATE refuses to set."""
        return any(c.identity_always and c.name in columns for c in self._others)

    @property
    def sets_identity(self) -> bool:
        """Whether updates that set all columns set one that UPDATE refuses to."""
        return self.updates_identity(c.name for c in self._others)

    @property
    def updates(self) -> bool:
        """Whether there is any column that an update may set."""
        return bool(self._others)

    @property
    def has_own(self) -> bool:
        """Whether the slave's table has columns whose values the master does not know."""
        known = {*self.captured.key, *self.captured.columns}
        return any(c.name not in known and not c.generated for c in self.table.columns.values())

    def delete(self, source: Part) -> Part:
        """DELETE of the rows with the keys of the source."""
        return sql.SQL("DELETE FROM {}{} t USING {} c WHERE {}").format(
            self._only, self.name, source, self.same_key()
        )

    def update(
        self, source: Part, columns: Sequence[str] | None = None, was: Part | None = None
    ) -> Part:
        """UPDATE of the given columns, or of whichever columns each change has.

        Args:
            was: a further condition, as :meth:`as_it_was` gives it.
        """
        if columns is None:
            assignments = [
                sql.SQL("{0} = CASE WHEN c.row ? {1} THEN {2} ELSE t.{0} END").format(
                    sql.Identifier(column.name), sql.Literal(column.name), _value("row", column)
                )
                for column in self._others
            ]
        else:
            assignments = [
                sql.SQL("{} = {}").format(
                    sql.Identifier(name), _value("row", self.table.columns[name])
                )
                for name in columns
            ]
        return sql.SQL("UPDATE {}{} t SET {} FROM {} c WHERE {}").format(
            self._only, self.name, sql.SQL(", ").join(assignments), source, self._where(was)
        )

    def insert(self, source: Part) -> Part:
        """INSERT of the rows of the source."""
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} c").format(
            self.name,
            sql.SQL(", ").join(sql.Identifier(c.name) for _, c in self._written),
            sql.SQL(", ").join(_value(source_, c) for source_, c in self._written),
            source,
        )

    def copy_in(self) -> Part:
        """COPY FROM of rows that :meth:`copied_out` gives; it does the same as :meth:`insert`."""
        return sql.SQL("COPY {} ({}) FROM STDIN").format(
            self.name, sql.SQL(", ").join(sql.Identifier(c.name) for _, c in self._written)
        )

    def copied_out(self) -> Part:
        """What a query for that has to select, as text, on the master."""
        return sql.SQL(", ").join(_text(source, c) for source, c in self._written)

    def key_out(self) -> list[Part]:
        """The key's values, for a query on the master."""
        return [_text("key", c) for c in self._key]

    def insert_missing(self, source: Part) -> Part:
        """INSERT of those rows of the source whose keys are not there."""
        return sql.SQL("{} WHERE NOT EXISTS (SELECT FROM {}{} t WHERE {})").format(
            self.insert(source), self._only, self.name, self.same_key()
        )

    def insert_whole(self, source: Part) -> Part:
        """INSERT of rows of the source that also have what only the slave has in them."""
        columns = [c for c in self.table.columns.values() if not c.generated]
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} c").format(
            self.name,
            sql.SQL(", ").join(sql.Identifier(c.name) for c in columns),
            sql.SQL(", ").join(_value("key" if c in self._key else "row", c) for c in columns),
            source,
        )

    def reinsert(self, source: Part, was: Part | None = None) -> Part:
        """UPDATE by taking the rows out and putting them back merged with their changes.

        For values of another unique key that change hands between rows: one UPDATE would meet the
        old holder. The ORDER BY has all rows taken out before the first is put back. Also for
        identity columns that cannot be updated. What only the slave has in a row stays.
        """
        return sql.SQL("WITH {} {}").format(*self.reinsert_parts(source, was))

    def reinsert_parts(self, source: Part, was: Part | None = None) -> tuple[Part, Part]:
        """The same as what stands in its WITH, and the INSERT."""
        columns = [c for c in self.table.columns.values() if not c.generated]
        taken = sql.SQL(
            "taken AS (DELETE FROM {rows} t USING {source} c WHERE {same} "
            "RETURNING t.*, c.row AS pyreplica_row, c.key AS pyreplica_key)"
        ).format(rows=self.rows, source=source, same=self._where(was))
        insert = sql.SQL(
            "INSERT INTO {name} ({columns}) OVERRIDING SYSTEM VALUE "
            "SELECT {values} FROM (SELECT * FROM taken ORDER BY pyreplica_key) c"
        ).format(
            name=self.name,
            columns=sql.SQL(", ").join(sql.Identifier(c.name) for c in columns),
            values=sql.SQL(", ").join(
                _value("pyreplica_key", c)
                if c in self._key
                else sql.SQL("CASE WHEN c.pyreplica_row ? {} THEN {} ELSE c.{} END").format(
                    sql.Literal(c.name), _value("pyreplica_row", c), sql.Identifier(c.name)
                )
                for c in columns
            ),
        )
        return taken, insert

    def fill(self, row: str) -> Part:
        """UPDATE that gives all rows the values that the master's rows got with a new column.

        Args:
            row: text of a jsonb object.
        """
        columns = [self.table.columns[name] for name in json.loads(row)]
        names = [sql.Identifier(c.name) for c in columns]
        return sql.SQL(
            "UPDATE {only}{name} t SET {assignments} FROM (SELECT {row}::jsonb AS row OFFSET 0) c "
            "WHERE record_image_ne(ROW({old}), ROW({new}))"
        ).format(
            only=self._only,
            name=self.name,
            row=sql.Literal(row),
            assignments=sql.SQL(", ").join(
                sql.SQL("{} = {}").format(name, _value("row", c))
                for name, c in zip(names, columns, strict=True)
            ),
            old=sql.SQL(", ").join(sql.SQL("t.{}").format(name) for name in names),
            new=sql.SQL(", ").join(_value("row", c) for c in columns),
        )

    def delete_where(self, condition: str) -> Part:
        """DELETE of the rows that were in a partition of the master.

        Args:
            condition: the partition's constraint, as PostgreSQL writes it.
        """
        delete = sql.SQL("DELETE FROM {}{} WHERE ").format(self._only, self.name)
        return delete + sql.SQL(condition)

    # What the slave has

    @property
    def rows(self) -> Part:
        """The table's own rows, as a FROM item."""
        return self._only + self.name

    def slave_row(self, longest: int | None = None) -> Part:
        """An object of the values of the slave's row as text; NULL where there is none.

        Args:
            longest: characters at which a value is cut.
        """
        columns = [c for c in self.table.columns.values() if not c.generated]
        values = [_printed(c) for c in columns]
        if longest is not None:
            values = [sql.SQL("left({}, {})").format(v, sql.Literal(longest)) for v in values]
        return sql.SQL(
            "CASE WHEN t.tableoid IS NOT NULL THEN jsonb_object(ARRAY[{}], ARRAY[{}]::text[]) END"
        ).format(
            sql.SQL(", ").join(sql.Literal(c.name) for c in columns), sql.SQL(", ").join(values)
        )

    def as_it_was(self, columns: Sequence[str] | None) -> Part:
        """The condition that the slave's row has what the change says the master's row had.

        It is held against the text that the type prints: values that are equal and not the same
        differ.

        Args:
            columns: those that the changes tell of; None: whichever each does.
        """
        known = [c for c in self._others if columns is None or c.name in columns]
        conditions = [
            sql.SQL("{} COLLATE {} IS NOT DISTINCT FROM c.old ->> {}").format(
                _printed(c), sql.Identifier("C"), sql.Literal(c.name)
            )
            for c in known
        ]
        if columns is None:
            conditions = [
                sql.SQL("((c.old ? {}) IS NOT TRUE OR {})").format(sql.Literal(c.name), condition)
                for c, condition in zip(known, conditions, strict=True)
            ]
        return sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true")

    def reading(self, source: Part) -> Part:
        """A query that fails where a value of the source is none of the slave's column."""
        values = [_value("key", c) for c in self._key]
        values += [
            sql.SQL("CASE WHEN c.row ? {} THEN {} END").format(
                sql.Literal(c.name), _value("row", c)
            )
            for c in self._others
        ]
        return sql.SQL("SELECT count(ROW({})) FROM {} c").format(sql.SQL(", ").join(values), source)

    def _where(self, was: Part | None) -> Part:
        same = self.same_key()
        return same if was is None else sql.SQL("{} AND {}").format(same, was)

    def same_key(self) -> Part:
        """The condition that a row of the slave and a change have the same key."""
        return sql.SQL(" AND ").join(
            sql.SQL("t.{} {} {}").format(
                sql.Identifier(c.name),
                sql.SQL(c.equal or "="),
                _read(c, sql.Identifier("c", f"k{number}")) if self._plain else _value("key", c),
            )
            for number, c in enumerate(self._key, 1)
        )


def _value(source: str, column: SlaveColumn) -> Part:
    """The column's value out of the jsonb object, read as the type's input function reads it.

    With the column's length, so that one which an UPDATE leaves alone is not written anew for being
    measured; no value is cut by that, see misfit().
    """
    return _read(column, _text(source, column))


def _read(column: SlaveColumn, text: Part) -> Part:
    before, after = column.input
    return sql.SQL("{}{}{}").format(sql.SQL(before), text, sql.SQL(after))


def _text(source: str, column: SlaveColumn) -> Part:
    return sql.SQL("(c.{} ->> {})").format(sql.SQL(source), sql.Literal(column.name))


def _printed(column: SlaveColumn) -> Part:
    """The column's value as the master logs it: as the type's output function prints it."""
    name = sql.SQL("t.{}").format(sql.Identifier(column.name))
    if column.type == "text":
        return name
    if column.type == "xml":
        # its output function leaves the encoding out of the XML declaration
        return sql.SQL("XMLSERIALIZE(CONTENT {} AS text)").format(name)
    # concat() prints with the output function, and NULL as nothing; a composite of NULLs is none
    return sql.SQL("CASE WHEN {0} IS DISTINCT FROM NULL THEN concat({0}) END").format(name)


def misfit(captured: CapturedTable, table: SlaveTable | None) -> tuple[str, str] | None:
    """Why the slave's table cannot take the master's rows, with the cure; None when it can."""
    if table is None:
        return (
            f"the slave has no table {captured}",
            "Create it on the slave, or leave it out of `tables:`.",
        )
    if table.unlogged:
        return (
            f"table {captured} on the slave is unlogged, a crash would empty it unnoticed",
            f"Change it on the slave: ALTER TABLE {captured} SET LOGGED",
        )
    missing = [c for c in (*captured.key, *captured.columns) if c not in table.columns]
    if missing:
        return (
            f"table {captured} on the slave has no column {missing[0]}",
            f"Add it on the slave: ALTER TABLE {captured} ADD COLUMN {missing[0]} ...",
        )
    generated = [c for c in captured.columns if table.columns[c].generated]
    if generated:
        return (
            f"column {generated[0]} of table {captured} is generated on the slave only",
            "Make it a plain column on the slave, or generated on the master as well.",
        )
    logged = {*captured.key, *captured.columns}
    plain = [
        c.name
        for c in table.columns.values()
        if c.name in captured.types and c.name not in logged and not c.generated
    ]
    if plain:
        return (
            f"column {plain[0]} of table {captured} is generated on the master only",
            "Its values are not sent. Make it generated on the slave as well, or drop it there.",
        )
    for name in dict.fromkeys((*captured.key, *captured.columns)):
        theirs, ours = captured.types[name], table.columns[name].full_type
        if theirs == ours and theirs != GONE:
            made_of = captured.definitions.get(name), table.columns[name].definition
            if made_of[0] != made_of[1]:
                return (
                    f"column {name} of table {captured} is {theirs} on both sides, but that is not "
                    f"the same type: on the master {made_of[0]}; on the slave {made_of[1]}",
                    "Make the type on the slave like the master's.",
                )
        elif not _keeps(theirs, ours, table.columns[name].type):
            return (
                f"column {name} of table {captured} is {theirs} on the master and {ours} on the "
                "slave, which could not hold every value unchanged",
                f"Change it on the slave: ALTER TABLE {captured} ALTER COLUMN {name} TYPE {theirs}",
            )
    if not table.has_key:
        return (
            f"table {captured} on the slave has no unique key on ({', '.join(captured.key)})",
            f"Add it on the slave: ALTER TABLE {captured} ADD PRIMARY KEY "
            f"({', '.join(captured.key)})",
        )
    extra = [
        c.name
        for c in table.columns.values()
        if c.required and not c.generated and c.name not in (*captured.key, *captured.columns)
    ]
    if extra:
        return (
            f"column {extra[0]} of table {captured} is on the slave only, NOT NULL and has no "
            "default",
            f"Give it a default: ALTER TABLE {captured} ALTER COLUMN {extra[0]} SET DEFAULT ...",
        )
    return None


_WIDER = {
    "smallint": {"integer", "bigint", "numeric"},
    "integer": {"bigint", "numeric"},
    "bigint": {"numeric"},
    "character varying": {"text"},
    "text": {"character varying"},
}
"""Types without a length that hold every value of another one, and print it the same."""


def _keeps(theirs: str, ours: str, ours_without_length: str) -> bool:
    """Whether a column of the slave keeps every value of the master's column as it is."""
    if theirs in (ours, GONE):
        return True
    # a name that needs quotes may have parentheses of its own, and no length
    base = theirs if '"' in theirs else re.sub(r"\([\d,]+\)", "", theirs)
    if ours != ours_without_length:
        # with a length of its own: at most a longer varchar does
        varchar = r"character varying\((\d+)\)"
        shorter, longer = re.fullmatch(varchar, theirs), re.fullmatch(varchar, ours)
        return shorter is not None and longer is not None and int(shorter[1]) <= int(longer[1])
    return base == ours or ours in _WIDER.get(base, ())
