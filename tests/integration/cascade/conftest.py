"""Databases for chains and trees."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from pyreplica.demo.cluster import Cluster
from tests.integration.cascade.support import Tree

_numbers = itertools.count(1)

Place = Callable[..., dict[str, str]]
"""Makes databases of these names; gives their connection strings."""


@pytest.fixture
def place(slave_cluster: Cluster) -> Iterator[Place]:
    """Makes databases in a server that takes prepared transactions; they are dropped again."""
    made: list[str] = []

    def make(*names: str) -> dict[str, str]:
        number = next(_numbers)
        found = {name: f"cascade_{number}_{name}" for name in names}
        for database in found.values():
            slave_cluster.create_database(database)
            made.append(database)
        return {name: slave_cluster.dsn(database) for name, database in found.items()}

    yield make
    slave_cluster.start()
    for database in made:
        slave_cluster.drop_database(database)


@pytest.fixture
def chain(place: Place) -> Tree:
    """top, mid and leaf, installed and copied; no daemon runs."""
    tree = Tree(place("top", "mid", "leaf"))
    tree.grow(("top", "mid", False), ("mid", "leaf", True))
    return tree
