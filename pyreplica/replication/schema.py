"""Carries the master's schema over with pg_dump and pg_restore, without what is PyReplica's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pyreplica.replication.programs import program, run_program

TIME_LIMIT = 3600.0
"""Seconds that pg_dump or pg_restore of a schema may take; building indexes counts."""

_OURS = re.compile(
    r"""^\d+;\ \d+\ \d+\ (
        SCHEMA\ -\ pyreplica\ |
        COMMENT\ -\ SCHEMA\ pyreplica\ |
        ACL\ -\ SCHEMA\ pyreplica\ |
        TRIGGER\ .*\ pyreplica_(insert|update|delete|(before_)?truncate)\ |
        TRIGGER\ .*\ pyreplica_(before_merge|z_after_merge|before_move|after_move)\ |
        EVENT\ TRIGGER\ -\ pyreplica_(announce|announce_drop|ddl|drop|rewrite)\ |
        COMMENT\ -\ EVENT\ TRIGGER\ pyreplica_
    )""",
    re.VERBOSE,
)
_HINT = "Carry the schema over by hand and copy without --schema."
_LANGUAGE = re.compile(r"^\d+; \d+ \d+ (COMMENT - )?EXTENSION -? ?plpython3u ")


@dataclass(frozen=True, slots=True)
class SchemaDump:
    """A dump of the master's schema that waits to be restored."""

    archive: Path
    contents: Path
    where: str
    version: int
    peer_timeout: float

    def restore(self, dsn: str, section: str) -> None:
        """Restore one section (pre-data, post-data) into the slave, all of it or nothing."""
        run_program(
            [
                program("pg_restore", self.version),
                "--exit-on-error",
                "--single-transaction",
                "--no-owner",
                "--no-privileges",
                f"--section={section}",
                f"--use-list={self.contents}",
                "--dbname",
            ],
            where=self.where,
            time_limit=TIME_LIMIT,
            hint=_HINT,
            dsn=dsn,
            peer_timeout=self.peer_timeout,
            arguments=[self.archive],
        )


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
        archive, contents = Path(folder, "schema.dump"), Path(folder, "contents.list")
        run_program(
            [
                program("pg_dump", version),
                "--format=custom",
                "--schema-only",
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
            line
            for line in listed.splitlines()
            if not _OURS.match(line) and (keep_plpython or not _LANGUAGE.match(line))
        ]
        contents.write_text("\n".join(kept) + "\n", encoding="utf-8")
        yield SchemaDump(archive, contents, where, version, peer_timeout)
