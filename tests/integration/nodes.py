"""Databases that all are written and replicate to each other, for tests."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pyreplica.config import ReplicationConfig, parse
from pyreplica.demo.cluster import Cluster
from pyreplica.replication.session import Session
from pyreplica.replication.setup import install
from tests.support import copy, sql, value

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Mesh:
    """Nodes that replicate to each other.

    Attributes:
        dsns: the connection string of each, by its name: a, b, ...
        ways: the replications, by the names of their masters and slaves.
    """

    dsns: dict[str, str]
    ways: dict[tuple[str, str], ReplicationConfig]

    def sql(self, node: str, *statements: str) -> None:
        """Execute statements on a node."""
        sql(self.dsns[node], *statements)

    def everywhere(self, *statements: str) -> None:
        """Execute statements on all nodes."""
        for node in self.dsns:
            self.sql(node, *statements)

    def value(self, node: str, query: str) -> Any:
        """The one value that a query gives on a node."""
        return value(self.dsns[node], query)

    def rows(self, node: str, table: str = "public.t") -> Any:
        """The rows of a table by their keys, as a list of objects."""
        return self.value(node, f"SELECT json_agg(t ORDER BY t) FROM {table} t")

    def versions(self, node: str) -> Any:
        """The versions of all rows, those that are gone among them."""
        return self.value(
            node,
            "SELECT json_agg(json_build_array(r.relid::regclass::text, r.key, r.version) "
            "ORDER BY r.relid::regclass::text, r.key) FROM pyreplica.replica_row r",
        )

    def conflicts(self, node: str) -> list[str]:
        """The names of the conflicts that were met on a node, in their order."""
        query = "SELECT array_agg(conflict ORDER BY id) FROM pyreplica.replica_conflict"
        return self.value(node, query) or []

    def name(self) -> None:
        """Give the nodes their names, by which they are listed in a configuration."""
        for node in self.dsns:
            self.sql(node, f"SELECT pyreplica.set_node('{node}')")

    def begin(self) -> None:
        """Have the replications start where the nodes are, which have the same rows."""
        for config in self.ways.values():
            copy(config, rows=False)

    @contextmanager
    def sessions(self, *ways: tuple[str, str]) -> Iterator[dict[tuple[str, str], Session]]:
        """A session for each replication, or for some, to be stepped by hand."""
        with ExitStack() as stack:
            made = {}
            for way in ways or self.ways:
                made[way] = Session(self.ways[way], lambda step, batch: None)
                stack.callback(made[way].close)
            yield made


def merge_file(folder: Path, code: str) -> str:
    """The path of a file with a function that merges rows."""
    folder.chmod(0o755)
    path = folder / "merge.py"
    path.write_text(code)
    path.chmod(0o644)
    return str(path)


def deliver(sessions: dict[tuple[str, str], Session]) -> None:
    """Move what there is, in all directions."""
    for session in sessions.values():
        while session.step()[0]:
            pass


@contextmanager
def mesh(
    cluster: Cluster,
    names: Sequence[str],
    tables: str,
    *,
    of: Mapping[str, dict[str, Any]] | None = None,
    **options: Any,
) -> Iterator[Mesh]:
    """Databases of one server with these tables, installed and not begun.

    Args:
        of: options of the replications whose master is a node, besides those of all.
    """
    number = next(_numbers)
    databases = {name: f"node_{name}_{number}" for name in names}
    for database in databases.values():
        cluster.create_database(database)
    dsns = {name: cluster.dsn(database) for name, database in databases.items()}
    replications = {
        f"{one}-to-{other}": {
            "master": dsns[one],
            "slave": dsns[other],
            "both_ways": True,
            **options,
            **(of or {}).get(one, {}),
        }
        for one, other in itertools.permutations(names, 2)
    }
    loaded = parse(yaml.safe_dump({"replications": replications}), "test.yaml", {})
    ways = {
        (one, other): loaded.select([f"{one}-to-{other}"])[0]
        for one, other in itertools.permutations(names, 2)
    }
    made = Mesh(dsns, ways)
    made.everywhere(tables)
    for config in ways.values():
        install(config)
    yield made
    for database in databases.values():
        cluster.drop_database(database)
