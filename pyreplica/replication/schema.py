"""Carries the master's schema over with pg_dump and pg_restore, without what is PyReplica's own."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pyreplica.errors import PyReplicaError
from pyreplica.master import Master
from pyreplica.master.parts import table_parts
from pyreplica.model import TablePart
from pyreplica.replication.programs import program, run_program
from pyreplica.replication.scripts import (
    Entry,
    Statements,
    contents,
    statements,
    use_list,
)

TIME_LIMIT = 3600.0
"""Seconds that pg_dump or pg_restore of a schema may take; there are no rows yet."""

_OURS = re.compile(
    r"""^\d+;\ \d+\ \d+\ (
        SCHEMA\ -\ pyreplica\ |
        COMMENT\ -\ SCHEMA\ pyreplica\ |
        ACL\ -\ SCHEMA\ pyreplica\ |
        TRIGGER\ .*\ pyreplica_(insert|update|delete|(before_)?truncate)\ |
        TRIGGER\ .*\ pyreplica_(before_merge|z_after_merge|before_move|after_move)\ |
        TRIGGER\ .*\ pyreplica_guard_(rows_)?\d+\ |
        EVENT\ TRIGGER\ -\ pyreplica_(announce|announce_drop|ddl|drop|rewrite)\ |
        COMMENT\ -\ EVENT\ TRIGGER\ pyreplica_
    )""",
    re.VERBOSE,
)
_HINT = "Carry the schema over by hand and copy without --schema."
_LANGUAGE = re.compile(r"^\d+; \d+ \d+ (COMMENT - )?EXTENSION -? ?plpython3u ")


ATTACHMENT = "attachment"
"""The kind of a part that makes a partition's index belong to that of its partitioned table."""
_ATTACHMENT = re.compile(r"^\d+; 0 0 INDEX ATTACH ")


@dataclass(frozen=True, slots=True)
class MadeLater:
    """A part of a copied table, and the statements that make it."""

    part: TablePart
    sql: str


@dataclass(frozen=True, slots=True)
class AfterRows:
    """What is made after the rows.

    Attributes:
        parts: of the copied tables, in an order in which they can be made.
        rest: everything else of the schema, to be made after these: what it is, and how.
    """

    parts: Sequence[MadeLater]
    rest: Sequence[tuple[Entry, str]]


NOTHING = AfterRows((), ())


@dataclass(frozen=True, slots=True)
class SchemaDump:
    """A dump of the master's schema that waits to be restored.

    Attributes:
        folder: where the archive is, and room for lists.
        entries: what is to be restored of it.
    """

    folder: Path
    entries: Sequence[Entry]
    where: str
    version: int
    peer_timeout: float

    def restore(self, dsn: str) -> None:
        """Restore what comes before the rows into the slave, all of it or nothing."""
        run_program(
            [
                *self._restoring("pre-data", self.entries),
                "--exit-on-error",
                "--single-transaction",
                "--dbname",
            ],
            where=self.where,
            time_limit=TIME_LIMIT,
            hint=_HINT,
            dsn=dsn,
            peer_timeout=self.peer_timeout,
            arguments=[_archive(self.folder)],
        )

    def after_rows(self, master: Master, relids: Collection[int]) -> AfterRows:
        """What comes after the rows.

        Args:
            master: a session that reads the dump's snapshot.
            relids: the oids of the copied tables on the master.
        """
        written = run_program(
            [*self._restoring("post-data", self.entries), "--list", _archive(self.folder)],
            where=self.where,
            time_limit=TIME_LIMIT,
            hint=_HINT,
        ).stdout
        entries = contents(written)
        found = table_parts(master.connection, {e.id: (e.catalog, e.oid) for e in entries})
        of_copied = {
            id_: part
            for id_, part in found.items()
            if part.root in relids and (part.referenced is None or part.referenced in relids)
        }
        read = self._statements(entries)
        parts = _in_order(read, of_copied, entries)
        listed = {e.id: e for e in entries}
        rest = [(listed[one.id], one.sql) for one in read if one.id not in parts]
        return AfterRows(list(parts.values()), rest)

    def _statements(self, entries: Sequence[Entry]) -> list[Statements]:
        """What makes these entries, which all come after the rows."""
        script = Path(self.folder, "script.sql")
        run_program(
            [
                *self._restoring("post-data", entries),
                "--verbose",
                f"--file={script}",
                _archive(self.folder),
            ],
            where=self.where,
            time_limit=TIME_LIMIT,
            hint=_HINT,
        )
        read = statements(script.read_text(encoding="utf-8"))
        if sorted(one.id for one in read) != sorted(entry.id for entry in entries):
            raise PyReplicaError(
                "pg_restore does not write what its list of the schema says",
                where=self.where,
                hint=_HINT,
            )
        return read

    def _restoring(self, section: str, entries: Sequence[Entry]) -> list[str | Path]:
        chosen = Path(self.folder, "contents.list")
        chosen.write_text(use_list(entries), encoding="utf-8")
        return [
            program("pg_restore", self.version),
            "--no-owner",
            "--no-privileges",
            f"--section={section}",
            f"--use-list={chosen}",
        ]


def _archive(folder: Path) -> Path:
    return folder / "schema.dump"


def _in_order(
    read: Sequence[Statements], of_copied: Mapping[int, TablePart], entries: Sequence[Entry]
) -> dict[int, MadeLater]:
    """The parts that need nothing of what is made last, by their numbers in the dump.

    Args:
        read: the statements of all entries that come after the rows, in order.
        of_copied: which of them are parts of copied tables.
    """
    attachments = {entry.id for entry in entries if _ATTACHMENT.match(entry.line)}
    later = {entry.id for entry in entries}
    parts: dict[int, MadeLater] = {}
    for one in read:
        needed = [parts.get(n) for n in one.needs if n in later]
        known = [part for part in needed if part is not None]
        if len(known) < len(needed):
            continue
        if one.id in of_copied:
            parts[one.id] = MadeLater(of_copied[one.id], one.sql)
        elif one.id in attachments and known:
            parts[one.id] = MadeLater(replace(known[0].part, kind=ATTACHMENT), one.sql)
    return parts


@contextmanager
def dumped(
    dsn: str,
    snapshot: str,
    *,
    where: str,
    version: int,
    peer_timeout: float,
    keep_plpython: bool,
) -> Iterator[SchemaDump]:
    """Dump the master's schema as of an exported snapshot.

    Args:
        dsn: the master.
        snapshot: what pg_export_snapshot() gave.
        where: how messages name the replication.
        version: server_version_num of the newer of the two servers.
        peer_timeout: see run_program().
        keep_plpython: whether functions other than PyReplica's need plpython3u.
    """
    with TemporaryDirectory(prefix="pyreplica-") as folder:
        archive = _archive(Path(folder))
        run_program(
            [
                program("pg_dump", version),
                "--format=custom",
                "--schema-only",
                "--encoding=UTF8",
                "--exclude-schema=pyreplica",
                f"--snapshot={snapshot}",
                f"--file={archive}",
                "--dbname",
            ],
            where=where,
            time_limit=TIME_LIMIT,
            hint=_HINT,
            dsn=dsn,
            peer_timeout=peer_timeout,
        )
        listed = run_program(
            [program("pg_restore", version), "--list", archive],
            where=where,
            time_limit=TIME_LIMIT,
            hint=_HINT,
        ).stdout
        kept = [
            entry
            for entry in contents(listed)
            if not _OURS.match(entry.line) and (keep_plpython or not _LANGUAGE.match(entry.line))
        ]
        yield SchemaDump(Path(folder), kept, where, version, peer_timeout)
