"""The statements that apply net changes to one table, made from what master and slave say of it.

A statement takes its changes from a FROM item ``c`` with the columns ``key``, ``row`` and ``old``
(jsonb objects whose values are text): array parameters for a small batch, the staging tables for a
large one. The slave's table is ``t``.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence

from pyreplica.database import sql
from pyreplica.database.masks import Masks, masked
from pyreplica.errors import ApplyError
from pyreplica.model import CapturedTable, SlaveColumn, SlaveTable
from pyreplica.slave.misfit import misfit
from pyreplica.slave.own import constant, own

Part = sql.Composable


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
        self._logged = logged = table.logged
        self._key = [logged[name] for name in captured.key]
        self._others = [
            logged[name]
            for name in captured.columns
            if name not in captured.key and not logged[name].generated
        ]
        self._constants = [(table.columns[c], text) for c, text in table.map.constants.items()]

    def with_plain_keys(self) -> TableStatements:
        """The same, but sources have the key's values in columns ``k1``, ``k2``, ... and no key."""
        one = copy.copy(self)
        one._plain = True
        return one

    @property
    def _written(self) -> list[tuple[str, SlaveColumn]]:
        """The logged columns of an INSERT, and where their values come from."""
        key = [("key", c) for c in self._key if not c.generated]
        return key + [("row", c) for c in self._others]

    @property
    def _into(self) -> Part:
        """The columns of an INSERT: those, and the constants."""
        columns = [c for _, c in self._written] + [c for c, _ in self._constants]
        return sql.SQL(", ").join(sql.Identifier(c.name) for c in columns)

    def updates_identity(self, columns: Iterable[str]) -> bool:
        """Whether one of these is GENERATED ALWAYS AS IDENTITY, which UPDATE refuses to set."""
        set_ = {*columns}
        return any(c.identity_always and c.logged in set_ for c in self._others)

    @property
    def sets_identity(self) -> bool:
        """Whether updates that set all columns set one that UPDATE refuses to."""
        return any(c.identity_always for c in self._others)

    @property
    def updates(self) -> bool:
        """Whether there is any column that an update may set."""
        return bool(self._others)

    @property
    def has_own(self) -> bool:
        """Whether the slave's table has columns whose values the master does not know."""
        return any(self._is_own(c) and not c.generated for c in self.table.columns.values())

    @property
    def masks(self) -> Masks:
        """What is masked of it."""
        return self.table.map.masks

    @property
    def key_masked(self) -> bool:
        """Whether the log's keys are not the master's."""
        return not self.masks.keys().isdisjoint(self.captured.key)

    def _is_own(self, column: SlaveColumn) -> bool:
        """Whether only the slave has a column."""
        known = {*self.captured.key, *self.captured.columns}
        return column.logged not in known and column.name not in self.table.map.constants

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
                    sql.Identifier(column.name), sql.Literal(column.logged), _value("row", column)
                )
                for column in self._others
            ]
        else:
            assignments = [
                sql.SQL("{} = {}").format(sql.Identifier(column.name), _value("row", column))
                for column in (self._logged[name] for name in columns)
            ]
        return sql.SQL("UPDATE {}{} t SET {} FROM {} c WHERE {}").format(
            self._only, self.name, sql.SQL(", ").join(assignments), source, self._where(was)
        )

    def insert(self, source: Part) -> Part:
        """INSERT of the rows of the source."""
        values = [_value(source_, c) for source_, c in self._written]
        values += [constant(c, text) for c, text in self._constants]
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} c").format(
            self.name, self._into, sql.SQL(", ").join(values), source
        )

    def copy_in(self) -> Part:
        """COPY FROM of rows that :meth:`copied_out` gives; it does the same as :meth:`insert`."""
        return sql.SQL("COPY {} ({}) FROM STDIN").format(self.name, self._into)

    def copied_out(self) -> Part:
        """What a query for that has to select, as text, on the master."""
        values = [self._masked(source, c) for source, c in self._written]
        values += [sql.SQL("{}::text").format(sql.Literal(text)) for _, text in self._constants]
        return sql.SQL(", ").join(values)

    def key_out(self) -> list[Part]:
        """The key's values, for a query on the master."""
        return [self._masked("key", c) for c in self._key]

    def _masked(self, source: str, column: SlaveColumn) -> Part:
        """The text of a value, as the slave may see it."""
        return masked(self.masks.get(column.logged or ""), _text(source, column))

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
            sql.SQL(", ").join(
                _value("key", c) if c in self._key else _read(c, _of("row", self._whole_name(c)))
                for c in columns
            ),
            source,
        )

    def _whole_name(self, column: SlaveColumn) -> str:
        """What a column is called in the whole row of :meth:`insert_whole`.

        Columns that only the slave has may be called like one of the master's: not if they are
        longer than any name.
        """
        known = {*self.captured.key, *self.captured.columns}
        if column.logged in known:
            return column.logged
        return f"{'the slave has it: ':.<64}{column.name}"

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
                else sql.SQL("c.{}").format(sql.Identifier(c.name))
                if c.logged is None
                else sql.SQL("CASE WHEN c.pyreplica_row ? {} THEN {} ELSE c.{} END").format(
                    sql.Literal(c.logged), _value("pyreplica_row", c), sql.Identifier(c.name)
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
        columns = [self._logged[name] for name in json.loads(row)]
        names = [sql.Identifier(c.name) for c in columns]
        return sql.SQL(
            "UPDATE {only}{name} t SET {assignments} FROM (SELECT {row}::jsonb AS row OFFSET 0) c "
            "WHERE {own}record_image_ne(ROW({old}), ROW({new}))"
        ).format(
            own=self._and_own(),
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
        delete = sql.SQL("DELETE FROM {}{} t WHERE {}").format(
            self._only, self.name, self._and_own()
        )
        if not self.table.map.columns:
            return delete + sql.SQL("({})").format(sql.SQL(condition))
        # it names the master's columns
        row = sql.SQL(", ").join(
            sql.SQL("t.{} AS {}").format(sql.Identifier(c.name), sql.Identifier(str(c.logged)))
            for c in (*self._key, *self._others)
        )
        return delete + sql.SQL("EXISTS (SELECT FROM (SELECT {}) m WHERE {})").format(
            row, sql.SQL(condition)
        )

    def _and_own(self) -> Part:
        """The conditions that a row is this replication's, each with its AND."""
        return sql.SQL("").join(sql.SQL("{} AND ").format(one) for one in own(self.table))

    # What the slave has

    @property
    def rows(self) -> Part:
        """The table's own rows, as a FROM item."""
        return self._only + self.name

    def slave_row(self, longest: int | None = None) -> Part:
        """An object of the values of the slave's row as text; NULL where there is none.

        Args:
            longest: characters at which a value is cut, for people, with the slave's names; None
                for a whole row, to be merged with changes.
        """
        columns = [c for c in self.table.columns.values() if not c.generated]
        values = [_printed(c) for c in columns]
        names = [c.name for c in columns]
        if longest is not None:
            values = [sql.SQL("left({}, {})").format(v, sql.Literal(longest)) for v in values]
        else:
            names = [self._whole_name(c) for c in columns]
        return sql.SQL(
            "CASE WHEN t.tableoid IS NOT NULL THEN jsonb_object(ARRAY[{}], ARRAY[{}]::text[]) END"
        ).format(sql.SQL(", ").join(map(sql.Literal, names)), sql.SQL(", ").join(values))

    def logged_row(self) -> Part:
        """An object of the values of the slave's row as the log has them; NULL if there is none."""
        if not self._others:
            return sql.SQL("CASE WHEN t.tableoid IS NOT NULL THEN '{}'::jsonb END")
        return sql.SQL(
            "CASE WHEN t.tableoid IS NOT NULL THEN jsonb_object(ARRAY[{}], ARRAY[{}]::text[]) END"
        ).format(
            sql.SQL(", ").join(sql.Literal(c.logged) for c in self._others),
            sql.SQL(", ").join(_printed(c) for c in self._others),
        )

    def as_it_was(self, columns: Sequence[str] | None) -> Part:
        """The condition that the slave's row has what the change says the master's row had.

        It is held against the text that the type prints: values that are equal and not the same
        differ.

        Args:
            columns: those that the changes tell of; None: whichever each does.
        """
        known = [c for c in self._others if columns is None or c.logged in columns]
        conditions = [
            sql.SQL("{} COLLATE {} IS NOT DISTINCT FROM c.old ->> {}").format(
                _printed(c), sql.Identifier("C"), sql.Literal(c.logged)
            )
            for c in known
        ]
        if columns is None:
            conditions = [
                sql.SQL("((c.old ? {}) IS NOT TRUE OR {})").format(sql.Literal(c.logged), condition)
                for c, condition in zip(known, conditions, strict=True)
            ]
        return sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("true")

    def reading(self, source: Part) -> Part:
        """A query that fails where a value of the source is none of the slave's column."""
        values = [_value("key", c) for c in self._key]
        values += [
            sql.SQL("CASE WHEN c.row ? {} THEN {} END").format(
                sql.Literal(c.logged), _value("row", c)
            )
            for c in self._others
        ]
        return sql.SQL("SELECT count(ROW({})) FROM {} c").format(sql.SQL(", ").join(values), source)

    def _where(self, was: Part | None) -> Part:
        same = self.same_key()
        return same if was is None else sql.SQL("{} AND {}").format(same, was)

    def same_key(self) -> Part:
        """The condition that a row of the slave and a change have the same key.

        Where several masters are gathered in the table, only this one's rows have any of its keys.
        """
        conditions = [
            sql.SQL("t.{} {} {}").format(
                sql.Identifier(c.name),
                sql.SQL(c.equal or "="),
                _read(c, sql.Identifier("c", f"k{number}")) if self._plain else _value("key", c),
            )
            for number, c in enumerate(self._key, 1)
        ]
        return sql.SQL(" AND ").join([*conditions, *own(self.table)])


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
    return _of(source, str(column.logged))


def _of(source: str, name: str) -> Part:
    return sql.SQL("(c.{} ->> {})").format(sql.SQL(source), sql.Literal(name))


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
