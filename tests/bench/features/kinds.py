"""PyReplica with one of its features at work; the rest as always, and the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tests.bench.ours import PyReplica
from tests.bench.system import execute
from tests.bench.workloads import TABLES

LAST_UPDATE = "last_update_wins"
"""What the way to merge is called by which the later change of a row counts."""
_SECRET = "the secret of the benchmark"
_TRANSFORM = """
def change(change):
    if change.table == "public.bench" and "t" in change.row:
        change.row["t"] = change.row["t"].upper()
    return change
"""
_ALL_BUT_TEXT = "id, n, f, b"


class Feature(PyReplica):
    """Two of the tables, bench and acc, are replicated with a feature.

    Attributes:
        what: what it does there, in a few words.
    """

    what: ClassVar[str]

    @property
    def version(self) -> str:
        """What the feature does there."""
        return self.what


class Plain(Feature):
    """None."""

    name = "plain"
    title = "without"
    what = "none of these; capture: plpython3u, two-phase commit"


class Merged(Feature):
    """Both databases may be written; only one is."""

    way: ClassVar[str]

    def begin(self) -> None:
        """Both ways; both sides have the same rows, none."""
        options: dict[str, Any] = {
            "both_ways": True,
            "merge": {f"public.{table}": self.way for table in ("bench", "acc")},
        }
        ways = {"bench": (self.master_dsn, self.slave_dsn)}
        ways["back"] = (self.slave_dsn, self.master_dsn)
        paths = []
        for name, (master, slave) in ways.items():
            # the way back is never at work: it takes no place for prepared transactions
            more = {"commit": "one-phase"} if name == "back" else {}
            tables = ("bench", "acc", "done")
            paths.append(self.configure(name, master, slave, tables, **options, **more))
        for step in (("install",), ("copy", "--no-rows")):
            for path in paths:
                self.command(path, *step)

    def empty(self, table: str) -> None:
        """Of the rows that are gone there are no versions either: it is as at the beginning."""
        super().empty(table)
        for dsn in (self.master_dsn, self.slave_dsn):
            forget = f"DELETE FROM pyreplica.replica_row WHERE relid = '{table}'::regclass"
            execute(dsn, forget, "VACUUM ANALYZE pyreplica.replica_row")


class LastUpdate(Merged):
    """The later change of a row counts."""

    name = "last-update"
    title = "merge, last update"
    way = LAST_UPDATE
    what = f"merge: {LAST_UPDATE}; without anything to be merged"


class Columns(Merged):
    """The later change of each column counts."""

    name = "merge-columns"
    title = "merge, columns"
    way = "columns"
    what = "merge: columns; without anything to be merged"


class Where(Feature):
    """A condition on the rows."""

    name = "where"
    title = "where"
    what = "filters: where: id > -1000000, which all rows fulfil"
    options: ClassVar[Mapping[str, object]] = {
        "filters": {
            "public.bench": {"where": "id > -1000000"},
            "public.acc": {"where": "aid > -1000000"},
        }
    }


class ChosenColumns(Feature):
    """Not all columns."""

    name = "columns"
    title = "columns"
    what = "filters: columns: all but the text"
    options: ClassVar[Mapping[str, object]] = {
        "filters": {
            "public.bench": {"columns": _ALL_BUT_TEXT.split(", ")},
            "public.acc": {"columns": ["aid", "bal"]},
        }
    }

    def same(self, table: str) -> tuple[str, str]:
        """The others are empty on the slave."""
        chosen = {"bench": _ALL_BUT_TEXT, "acc": "aid, bal"}.get(table)
        if chosen is None:
            return table, table
        text = {"bench": "t", "acc": "filler"}[table]
        return f"(SELECT {chosen}, NULL FROM {table})", f"(SELECT {chosen}, {text} FROM {table})"


class Forwarding(Feature):
    """The slave is the master of a further one; that is not applied meanwhile."""

    name = "forwarding"
    title = "forwarding"
    what = "the slave captures what it applies, for a slave of its own"

    def set_up(self, tables: Sequence[str]) -> None:
        """The further slave is a database of the slave's server."""
        super().set_up(tables)
        self.slave.create_database("leaf")
        leaf = self.slave.dsn("leaf")
        execute(leaf, TABLES)
        self.pause()
        onward: Path = self.configure("onward", self.slave_dsn, leaf, tables, forward=True)
        self.command(onward, "install")
        self.command(onward, "copy")
        self.resume()


class Mapped(Feature):
    """Other names, and the texts are hashed."""

    name = "map"
    title = "map, with masks"
    what = "map: another schema, another column, the text is hashed"
    options: ClassVar[Mapping[str, object]] = {
        "map": {
            "tables": {"public.bench": "archive.bench", "public.acc": "archive.acc"},
            "columns": {"public.bench": {"n": "number"}},
            "masks": {"public.bench": {"t": "hash"}, "public.acc": {"filler": "hash"}},
            "secret": _SECRET,
        }
    }

    def begin(self) -> None:
        """The slave's tables are there first."""
        execute(
            self.slave_dsn,
            "CREATE SCHEMA archive",
            "ALTER TABLE bench SET SCHEMA archive",
            "ALTER TABLE acc SET SCHEMA archive",
            "ALTER TABLE archive.bench RENAME n TO number",
        )
        super().begin()

    def same(self, table: str) -> tuple[str, str]:
        """The hashes are worked out here in another way."""
        if table == "bench":
            return f"(SELECT id, {_hash('t')}, n, f, b FROM bench)", "archive.bench"
        if table == "acc":
            return f"(SELECT aid, bal, {_hash('filler')} FROM acc)", "archive.acc"
        return table, table

    def empty(self, table: str) -> None:
        """It is called otherwise on the slave."""
        there = f"archive.{table}" if table in ("bench", "acc") else table
        for dsn, name in ((self.master_dsn, table), (self.slave_dsn, there)):
            execute(dsn, "SET session_replication_role = replica", f"TRUNCATE {name}")


class Transformed(Feature):
    """A function in Python is given each change."""

    name = "transform"
    title = "transform"
    what = "a function in Python changes one of the columns"

    def configure(
        self, name: str, master: str, slave: str, tables: Sequence[str], **options: object
    ) -> Path:
        """With the file of the function."""
        path = self.folder / "transform.py"
        path.write_text(_TRANSFORM)
        path.chmod(0o644)
        return super().configure(name, master, slave, tables, transform=str(path), **options)

    def same(self, table: str) -> tuple[str, str]:
        """The function's column is changed here, too."""
        rows = "(SELECT id, upper(t), n, f, b FROM bench)" if table == "bench" else table
        return rows, table


def _hash(column: str) -> str:
    """HMAC-SHA-256, as RFC 2104 defines it, of a key that is no longer than a block."""
    key = _SECRET.encode().ljust(64, b"\0")
    inner, outer = (bytes(byte ^ pad for byte in key).hex() for pad in (0x36, 0x5C))
    digest = f"sha256('\\x{inner}'::bytea || convert_to({column}, 'UTF8'))"
    return f"encode(sha256('\\x{outer}'::bytea || {digest}), 'hex')"


FEATURES: Mapping[str, type[Feature]] = {
    kind.name: kind
    for kind in (
        *(Plain, LastUpdate, Columns, Where, ChosenColumns),
        *(Forwarding, Mapped, Transformed),
    )
}
