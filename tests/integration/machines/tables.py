"""Random tables: their columns, keys, partitions and further unique keys, as SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from hypothesis import strategies as st

from tests.integration.machines.kinds import INTEGER, OF_KEYS, OTHERS, RANGE, TEXT, Kind

_T = TypeVar("_T")

SCHEMAS = ("app", '"App é"')

COLUMN_NAMES = (
    *("a", "b", "c", "d", "e", "key", "row", "old_rows", "new_rows", "touched", "here", "Select"),
    *("x y", "é", 'a "quote"', "it's", "%s", "%(key)s", "{key}", "back\\slash", "$1", "k1", "v1"),
    "ñ" * 31,
)
TABLE_NAMES = ("t", "u", "Orders", "order", "it's a 'table'", "%s", "o", "n", "m", "ü" * 31)


def choose(draw: st.DrawFn, options: Sequence[_T]) -> _T:
    """One of these."""
    return draw(st.sampled_from(options))


def one_in(draw: st.DrawFn, number: int) -> bool:
    """Whether something is done that is done once in so many times."""
    return draw(st.integers(0, number - 1)) == number - 1


def quoted(name: str) -> str:
    """A name as SQL."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: as SQL.
        required: whether it is NOT NULL or in the key.
        default: as SQL, or "".
        generated: the expression it is computed by, or "".
        identity: ALWAYS, BY DEFAULT or "".
    """

    name: str
    kind: Kind
    required: bool = False
    default: str = ""
    generated: str = ""
    identity: str = ""

    @property
    def definition(self) -> str:
        """As in CREATE TABLE."""
        return " ".join(
            [
                f"{self.name} {self.kind.type}",
                *(["NOT NULL"] if self.required and not self.identity else []),
                *([f"DEFAULT {self.default}"] if self.default else []),
                *([f"GENERATED ALWAYS AS ({self.generated}) STORED"] if self.generated else []),
                *([f"GENERATED {self.identity} AS IDENTITY"] if self.identity else []),
            ]
        )


@dataclass(frozen=True)
class Partitions:
    """How a table is partitioned.

    Attributes:
        by: the clause of CREATE TABLE.
        columns: the names of the columns it looks at.
        made: the statements that make the partitions.
        names: the partitions that can be written to.
    """

    by: str = ""
    columns: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unique:
    """A further unique key: the statement that makes it, with the columns it looks at."""

    statement: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: with its schema, as SQL.
        key: the names of the key's columns.
        deferrable: what follows the primary key.
        parent: the table it inherits from.
    """

    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    deferrable: str = ""
    partitions: Partitions = field(default_factory=Partitions)
    uniques: tuple[Unique, ...] = ()
    parent: str | None = None

    @property
    def key_columns(self) -> list[Column]:
        """The key's columns, in the key's order."""
        by_name = {column.name: column for column in self.columns}
        return [by_name[name] for name in self.key]

    @property
    def written(self) -> list[Column]:
        """The columns that a statement can give a value."""
        return [column for column in self.columns if not column.generated]

    @property
    def updated(self) -> list[Column]:
        """The columns that an UPDATE can give a value."""
        return [column for column in self.written if column.identity != "ALWAYS"]

    @property
    def is_deferrable(self) -> bool:
        """Whether a key of it is checked later than at once; ON CONFLICT is refused then."""
        return "DEFERRABLE" in " ".join([self.deferrable, *(u.statement for u in self.uniques)])

    def created(self) -> list[str]:
        """The statements that make it."""
        columns = [c.definition for c in self.columns]
        key = f"PRIMARY KEY ({', '.join(self.key)}) {self.deferrable}".strip()
        inherits = f" INHERITS ({self.parent})" if self.parent else ""
        return [
            f"CREATE TABLE {self.name} ({', '.join([*columns, key])}){inherits}"
            f"{self.partitions.by}",
            *self.partitions.made,
            *(unique.statement for unique in self.uniques),
        ]


@st.composite
def tables(draw: st.DrawFn, number: int) -> Table:
    """A table; the number tells it from others of its schema."""
    names = [quoted(n) for n in draw(st.permutations(COLUMN_NAMES))]
    keys = [_key_column(draw, names.pop()) for _ in range(choose(draw, (1, 1, 1, 2, 2, 3)))]
    if len(keys) == 1 and keys[0].kind.type in ("smallint", "integer", "bigint"):
        identity = choose(draw, ("", "", "ALWAYS", "BY DEFAULT"))
        keys[0] = replace(keys[0], identity=identity, default="" if identity else keys[0].default)
    others = [_other_column(draw, names.pop()) for _ in range(draw(st.integers(0, 4)))]
    if one_in(draw, 4):
        others += _generated(draw, names.pop(), [*keys, *others])
    table = Table(
        name=f"{choose(draw, SCHEMAS)}.{quoted(TABLE_NAMES[number % len(TABLE_NAMES)])}",
        columns=tuple(draw(st.permutations([*keys, *others]))),
        key=tuple(column.name for column in keys),
        deferrable=choose(draw, ("", "", "", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED")),
    )
    if one_in(draw, 3):
        table = replace(table, partitions=partitions(draw, table, f"{number}"))
    return replace(table, uniques=_uniques(draw, table))


def _key_column(draw: st.DrawFn, name: str) -> Column:
    kind = choose(draw, (INTEGER, choose(draw, OF_KEYS)))
    default = choose(draw, ("", "", choose(draw, kind.values)))
    return Column(name, kind, required=True, default=default)


def _other_column(draw: st.DrawFn, name: str) -> Column:
    kind = choose(draw, (INTEGER, TEXT, choose(draw, OF_KEYS), choose(draw, OTHERS)))
    default = choose(draw, ("", "", choose(draw, kind.values)))
    return Column(name, kind, required=one_in(draw, 6), default=default)


def _generated(draw: st.DrawFn, name: str, columns: Sequence[Column]) -> list[Column]:
    numbers = [c for c in columns if c.kind.type == "integer"]
    if not numbers:
        return []
    column = choose(draw, numbers)
    return [Column(name, INTEGER, generated=f"{column.name} # 1")]


def partitions(draw: st.DrawFn, table: Table, mark: str) -> Partitions:
    """A way to partition a table by columns of its key, in one level or two.

    Args:
        mark: tells the partitions' names from those of others.
    """
    column = choose(draw, table.key_columns)
    below = choose(draw, (None, *table.key_columns))
    by, bounds = _bounds(draw, column)
    schema = choose(draw, SCHEMAS)
    made: list[str] = []
    names: list[str] = []
    for number, bound in enumerate(bounds):
        name = f"{schema}.{quoted(f'part {mark}.{number}')}"
        names.append(name)
        if number == 0 and below is not None:
            by_below, bounds_below = _bounds(draw, below)
            made.append(f"CREATE TABLE {name} PARTITION OF {table.name} {bound}{by_below}")
            for leaf, bound_below in enumerate(bounds_below):
                leaf_name = f"{schema}.{quoted(f'part {mark}.{number}.{leaf}')}"
                made.append(f"CREATE TABLE {leaf_name} PARTITION OF {name} {bound_below}")
                names.append(leaf_name)
        elif number == 1 and not any(c.identity for c in table.columns) and one_in(draw, 3):
            # attached, with its columns in another order
            columns = ", ".join(c.definition for c in reversed(table.columns))
            made += [
                f"CREATE TABLE {name} ({columns})",
                f"ALTER TABLE {table.name} ATTACH PARTITION {name} {bound}",
            ]
        else:
            made.append(f"CREATE TABLE {name} PARTITION OF {table.name} {bound}")
    columns_ = (column.name, *([] if below is None else [below.name]))
    return Partitions(by, columns_, tuple(made), tuple(names))


def _bounds(draw: st.DrawFn, column: Column) -> tuple[str, list[str]]:
    """The clause PARTITION BY, and those of the partitions."""
    methods = ["RANGE", "LIST", *(["HASH"] if column.kind.hashes else [])]
    method = choose(draw, methods)
    value = choose(draw, column.kind.values)
    bounds = {
        "RANGE": [f"FOR VALUES FROM (MINVALUE) TO ({value})", "DEFAULT"],
        "LIST": [f"FOR VALUES IN ({value})", "DEFAULT"],
        "HASH": [f"FOR VALUES WITH (MODULUS 2, REMAINDER {i})" for i in (0, 1)],
    }[method]
    return f" PARTITION BY {method} ({column.name})", bounds


def _uniques(draw: st.DrawFn, table: Table) -> tuple[Unique, ...]:
    candidates = [c for c in table.columns if c.kind.sorts and "kinds.long" not in str(c.kind.more)]
    if not candidates or not one_in(draw, 2):
        return ()
    return tuple(_unique(draw, table, candidates) for _ in range(draw(st.integers(1, 2))))


def _unique(draw: st.DrawFn, table: Table, candidates: Sequence[Column]) -> Unique:
    column = choose(draw, candidates)
    names = list(dict.fromkeys([column.name, *table.partitions.columns]))
    if not table.partitions.by and one_in(draw, 4):
        names.append(choose(draw, candidates).name)
        names = list(dict.fromkeys(names))
    listed = ", ".join(names)
    deferrable = choose(draw, ("", "", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"))
    where = f"WHERE ({column.name} <> {choose(draw, column.kind.values)})"
    forms = [
        f"ALTER TABLE {table.name} ADD UNIQUE ({listed}) {deferrable}",
        f"CREATE UNIQUE INDEX ON {table.name} ({listed})",
        f"CREATE UNIQUE INDEX ON {table.name} ({listed}) {where}",
    ]
    if not table.partitions.by:
        equal = "OPERATOR(kinds.=)" if "citext" in column.kind.type else "="
        how = "gist ({} WITH &&)" if column.kind is RANGE else f"btree ({{}} WITH {equal})"
        forms += [
            f"ALTER TABLE {table.name} ADD EXCLUDE USING {how.format(column.name)} {deferrable}",
            f"ALTER TABLE {table.name} ADD EXCLUDE USING {how.format(column.name)} {where}",
        ]
        if column.kind.type in ("text", "integer"):
            forms.append(f"CREATE UNIQUE INDEX ON {table.name} (md5({column.name}::text))")
    return Unique(choose(draw, forms).strip(), tuple(names))
