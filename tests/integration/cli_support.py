"""What the tests of the command line share: refusals, looks at both databases, a shop to fill."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import Databases
from tests.support import LIMIT, connect, eventually, pyreplica

SECRET = "hunter2secret"
"""The password of these tests; it must never be seen."""

# Each with the rest of a command line that would do something.
COMMANDS = {
    "check": (),
    "install": (),
    "copy": (),
    "run": (),
    "status": (),
    "pause": ("--timeout", "1s"),
    "resume": ("--timeout", "1s"),
    "wait": ("--timeout", "1s"),
    "compare": ("--timeout", "1s"),
    "repair": ("--timeout", "1s"),
    "uninstall": (),
}
"""The commands that need no more than a configuration, and what keeps them short."""
OTHER_COMMANDS = (
    *("alert", "check-lag", "conflicts", "add-table", "remove-table", "execute", "demo"),
    *("start", "stop", "restart", "reload", "service", "adopt"),
)

TABLES = """
CREATE TABLE item (id integer PRIMARY KEY, name text, price numeric);
INSERT INTO item SELECT i, 'item ' || i, i * 1.5 FROM generate_series(1, 100) i;
"""


def execute(dsn: str, *statements: str) -> None:
    """Execute SQL as a user would, with the schema public in reach."""
    with connect(dsn) as session:
        session.execute("SET search_path = public")
        for statement in statements:
            session.execute(statement)


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with connect(dsn) as session:
        session.execute("SET search_path = public")
        return session.query(query)


def write_config(path: Path, replications: dict[str, dict[str, Any]], **root: Any) -> Path:
    """A configuration file with these replications."""
    path.write_text(yaml.safe_dump({"replications": replications, **root}), encoding="utf-8")
    path.chmod(0o600)
    return path


def pair(databases: Databases, **options: Any) -> dict[str, Any]:
    """The settings of a replication between a test's two databases."""
    return {"master": databases.master, "slave": databases.slave, **options}


def refused(path: Path, *arguments: str, code: int = 1, says: str, hint: str = "") -> str:
    """A command must fail with one line, and perhaps a hint, on stderr; gives stderr.

    Args:
        code: the exit code it must end with.
        says: what the line must hold.
        hint: what the hint must hold.
    """
    done = pyreplica(path, *arguments, code=code)
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len([line for line in lines if line.startswith("pyreplica: ")]) == 1, done.stderr
    first = next(line for line in lines if line.startswith("pyreplica: "))
    assert says in first, done.stderr
    hints = [line for line in lines if line.startswith("  hint: ")]
    assert len(hints) <= 1
    assert hint in "".join(hints), done.stderr
    return done.stderr


def contents(databases: Databases) -> str:
    """Everything that is in both databases, catalogs and rows, as pg_dump tells it."""
    return dump(databases, databases.master) + dump(databases, databases.slave)


def dump(databases: Databases, dsn: str) -> str:
    """Everything that is in one database."""
    done = subprocess.run(
        [databases.master_cluster.binary("pg_dump"), "--dbname", dsn],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=True,
    )
    # newer releases put a random word around the dump
    return "".join(
        line
        for line in done.stdout.splitlines(keepends=True)
        if not line.startswith(("\\restrict", "\\unrestrict"))
    )


@contextmanager
def unchanged(databases: Databases) -> Iterator[None]:
    """The block must leave both databases as they are."""
    before = contents(databases)
    yield
    assert contents(databases) == before


def status(path: Path, *names: str) -> list[dict[str, Any]]:
    """What `status --json` gives."""
    found: list[dict[str, Any]] = json.loads(
        pyreplica(path, "status", *names, "--json", code=None).stdout
    )
    return found


def state(path: Path, *names: str) -> str:
    """The state of one replication."""
    return str(status(path, *names)[0]["state"])


def once(path: Path, wanted: str) -> dict[str, Any]:
    """The status of the only replication, once it is in that state."""
    found: list[dict[str, Any]] = []

    def holds() -> bool:
        found[:] = status(path)
        return bool(found[0]["state"] == wanted)

    eventually(holds, lambda: str(found))
    return found[0]


def wait(path: Path, *names: str) -> None:
    """Until the slave has everything."""
    pyreplica(path, "wait", *names, "--timeout", "30s")
