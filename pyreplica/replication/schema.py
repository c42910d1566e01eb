"""Carries the master's schema over with pg_dump and pg_restore, without what is PyReplica's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pyreplica.database import without_password
from pyreplica.errors import PyReplicaError

TIME_LIMIT = 3600.0
"""Seconds that pg_dump or pg_restore of a schema may take; building indexes counts."""

_OURS = re.compile(
    r"""^\d+;\ \d+\ \d+\ (
        SCHEMA\ -\ pyreplica\ |
        COMMENT\ -\ SCHEMA\ pyreplica\ |
        ACL\ -\ SCHEMA\ pyreplica\ |
        TRIGGER\ .*\ pyreplica_(insert|update|delete|truncate|before_truncate)\ |
        EVENT\ TRIGGER\ -\ pyreplica_(ddl|drop)\ |
        COMMENT\ -\ EVENT\ TRIGGER\ pyreplica_
    )""",
    re.VERBOSE,
)
_LANGUAGE = re.compile(r"^\d+; \d+ \d+ (COMMENT - )?EXTENSION -? ?plpython3u ")


@dataclass(frozen=True, slots=True)
class SchemaDump:
    """A dump of the master's schema that waits to be restored."""

    archive: Path
    contents: Path
    where: str
    version: int

    def restore(self, dsn: str, section: str) -> None:
        """Restore one section (pre-data, post-data) into the slave, all of it or nothing."""
        _run(
            [
                str(program("pg_restore", self.version)),
                "--exit-on-error",
                "--single-transaction",
                "--no-owner",
                "--no-privileges",
                f"--section={section}",
                f"--use-list={self.contents}",
                "--dbname",
            ],
            dsn,
            [str(self.archive)],
            self.where,
        )


@contextmanager
def dumped(
    dsn: str, snapshot: str, *, where: str, version: int, keep_plpython: bool
) -> Iterator[SchemaDump]:
    """Dump the master's schema as of an exported snapshot.

    Args:
        dsn: the master.
        snapshot: what pg_export_snapshot() gave.
        where: how messages name the replication.
        version: server_version_num of the newer of the two servers.
        keep_plpython: whether functions other than PyReplica's need plpython3u.
    """
    with TemporaryDirectory(prefix="pyreplica-") as folder:
        archive, contents = Path(folder, "schema.dump"), Path(folder, "contents.list")
        _run(
            [
                str(program("pg_dump", version)),
                "--format=custom",
                "--schema-only",
                "--exclude-schema=pyreplica",
                f"--snapshot={snapshot}",
                f"--file={archive}",
                "--dbname",
            ],
            dsn,
            [],
            where,
        )
        listed = _run(
            [str(program("pg_restore", version)), "--list", str(archive)], None, [], where
        )
        kept = [
            line
            for line in listed.splitlines()
            if not _OURS.match(line) and (keep_plpython or not _LANGUAGE.match(line))
        ]
        contents.write_text("\n".join(kept) + "\n", encoding="utf-8")
        yield SchemaDump(archive, contents, where, version)


def program(name: str, version: int) -> Path:
    """The newest pg_dump or pg_restore, which must not be older than the server.

    Args:
        version: server_version_num.

    Raises:
        PyReplicaError: there is none.
    """
    folders = sorted(
        (p for p in Path("/usr/lib/postgresql").glob("*/bin") if p.parent.name.isdigit()),
        key=lambda p: int(p.parent.name),
        reverse=True,
    )
    for folder in folders:
        if (folder / name).exists() and int(folder.parent.name) >= version // 10000:
            return folder / name
    found = shutil.which(name)
    if found is None:
        raise PyReplicaError(
            f"{name} is needed for --schema and was not found",
            hint=f"Install PostgreSQL's client programs: postgresql-client-{version // 10000}.",
        )
    return Path(found)


def _run(command: Sequence[str], dsn: str | None, more: Sequence[str], where: str) -> str:
    environment = dict(os.environ)
    arguments = list(command)
    if dsn is not None:
        # a command line can be read by everybody on the machine: the password goes another way
        shown, password = without_password(dsn)
        arguments.append(shown)
        if password is not None:
            environment["PGPASSWORD"] = password
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            [*arguments, *more],
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PyReplicaError(f"{name} took longer than {TIME_LIMIT:.0f} s", where=where) from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        first = next((line for line in lines if "error" in line.lower()), "it failed")
        raise PyReplicaError(
            f"{name}: {first}",
            where=where,
            hint="Carry the schema over by hand and copy without --schema.",
            details=done.stderr.strip(),
        )
    return done.stdout
