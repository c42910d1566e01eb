"""Three slaves of one master in one daemon: each with its own tables, speed, faults and end."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pyreplica.config import load
from pyreplica.demo.cluster import Cluster
from pyreplica.replication.compare import compare
from pyreplica.replication.wait import wait
from tests.conftest import PREPARING_SETTINGS, Databases
from tests.integration.cli_support import refused, state, write_config
from tests.support import LIMIT, Daemon, connect, daemon, eventually, pyreplica, sql, value

TABLES = """
CREATE TABLE public.item (id integer PRIMARY KEY, n integer NOT NULL, v text NOT NULL);
CREATE TABLE public.note (id integer PRIMARY KEY, n integer NOT NULL, v text NOT NULL);
"""
ROWS = "INSERT INTO public.{0} SELECT i, 0, md5(i::text) FROM generate_series(1, 1000) i"
MANY = "UPDATE public.note SET n = n + 1, v = md5(v) WHERE id BETWEEN 1 AND 1000"
"""That many changes more. Of these rows a transaction of writing() has one at the most: of two it
could have the second while this has the first, and each would wait for the other."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Shop:
    """A master, and its slaves: ``near``, ``some`` with one of the tables, and ``far``.

    Attributes:
        master: the connection string of the master.
        slaves: those of the slaves, by the replications' names.
        far_server: the server of ``far``, which no other slave is on.
        folder: for files.
    """

    master: str
    slaves: dict[str, str]
    far_server: Cluster
    folder: Path

    @property
    def path(self) -> Path:
        """The configuration."""
        return self.folder / "shop.yaml"

    def settings(self, name: str, **options: Any) -> dict[str, Any]:
        """A replication."""
        tables = {"tables": ["public.item"]} if name == "some" else {}
        return {"master": self.master, "slave": self.slaves[name], **tables, **options}

    def configure(self, *names: str, **options: dict[str, Any]) -> Path:
        """Write the configuration of these replications, with settings of their own."""
        replications = {name: self.settings(name, **options.get(name, {})) for name in names}
        defaults = {"keepalive": "1s", "retry_first": "10ms", "retry_max": "200ms"}
        return write_config(self.path, replications, defaults=defaults)

    def assert_equal(self, *names: str) -> None:
        """These slaves have all that the master has, of their tables."""
        for made in load(self.path).select(names):
            results = compare(made)
            wanted = ["public.item"] if made.name == "some" else ["public.item", "public.note"]
            assert [result.table for result in results] == wanted
            assert all(result.equal and result.rows for result in results), results

    def kept(self, name: str) -> int:
        """How many bytes of log the master keeps for a slave."""
        query = "SELECT log_bytes FROM pyreplica.replication_status WHERE replication = '{}'"
        return int(value(self.master, query.format(name)))

    def logged(self, *names: str) -> int:
        """Change a row, have these slaves confirm it, look after the log; gives its changes."""
        sql(self.master, "UPDATE public.item SET n = n + 1 WHERE id = 1")
        for made in load(self.path).select(names):
            wait(made, LIMIT)
        sql(self.master, "SELECT pyreplica.rotate_log(0)")
        return int(value(self.master, "SELECT count(*) FROM pyreplica.replica_log"))


@pytest.fixture(scope="module")
def far_server(servers_directory: Path) -> Iterator[Cluster]:
    """A third server."""
    with Cluster.create(servers_directory, "far", PREPARING_SETTINGS) as cluster:
        yield cluster


@pytest.fixture
def shop(databases: Databases, far_server: Cluster, tmp_path: Path) -> Iterator[Shop]:
    """A master with three slaves that are copied, and no daemon runs."""
    some = databases.name[:50] + "_some"
    far_server.start()
    far_server.create_database(databases.name)
    databases.slave_cluster.create_database(some)
    slaves = {
        "near": databases.slave,
        "some": databases.slave_cluster.dsn(some),
        "far": far_server.dsn(databases.name),
    }
    for dsn in (databases.master, *slaves.values()):
        sql(dsn, TABLES)
    sql(databases.master, ROWS.format("item"), ROWS.format("note"))
    made = Shop(databases.master, slaves, far_server, tmp_path)
    path = made.configure(*slaves)
    pyreplica(path, "install")
    pyreplica(path, "copy")
    yield made
    far_server.start()
    far_server.drop_database(databases.name)
    databases.slave_cluster.drop_database(some)


@contextmanager
def writing(shop: Shop) -> Iterator[None]:
    """Sessions that insert, update and delete, in transactions over both tables."""
    ended = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        first = next(_numbers) * 1_000_000
        statements = "; ".join(
            f"INSERT INTO public.{table} VALUES (%(new)s, 0, 'new'); "
            f"UPDATE public.{table} SET n = n + 1, v = md5(v) WHERE id = %(old)s; "
            f"UPDATE public.{table} SET id = -id WHERE id = %(new)s - 3; "
            f"DELETE FROM public.{table} WHERE id = 6 - %(new)s"
            for table in ("item", "note")
        )
        try:
            with connect(shop.master) as session:
                for n in itertools.count(1):
                    if ended.is_set():
                        return
                    values = {"new": first + n, "old": 1 + n % 1000}
                    session.execute(f"BEGIN; {statements}; COMMIT", values)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not failures, failures


@contextmanager
def serving(shop: Shop) -> Iterator[Daemon]:
    """The daemon, once it has read its configuration and takes signals."""
    with daemon(shop.path) as running:
        running.until_said("INFO pyreplica: started: ")
        yield running


def reload(running: Daemon, done: str) -> None:
    """Have the daemon read its configuration anew."""
    running.process.send_signal(signal.SIGHUP)
    running.until_said(f"the configuration was taken: {done}")


def test_a_slave_that_is_away_holds_no_other_up_and_catches_up_exactly(shop: Shop) -> None:
    with serving(shop) as running:
        with writing(shop):
            shop.assert_equal("near", "some", "far")
            shop.far_server.stop("immediate")
            running.until_said("ERROR pyreplica.far: far: slave: ")
            for _ in range(3):
                shop.assert_equal("near", "some")
        sql(shop.master, MANY)
        # the log goes on being looked after, and what one slave lacks stays
        for _ in range(4):
            assert shop.logged("near", "some") > 1000
        assert shop.kept("far") > 0
        assert (shop.kept("near"), shop.kept("some")) == (0, 0)
        shop.far_server.start()
        with writing(shop):
            shop.assert_equal("far")
        shop.assert_equal("near", "some", "far")
        eventually(lambda: shop.logged("near", "some", "far") < 1000, "it is not emptied")
        assert running.stop() == 0
    assert value(shop.slaves["some"], "SELECT count(*) FROM public.note") == 0
    for name in ("near", "some"):
        assert f"ERROR pyreplica.{name}:" not in running.log
    assert "conflict" not in running.log


def test_a_slave_that_is_dropped_keeps_no_log_and_comes_back_beside_the_others(
    shop: Shop,
) -> None:
    with serving(shop) as running:
        shop.configure("near", "some", "far", far={"max_log_size": "1MB"})
        reload(running, "changed: far; 2 as before")
        shop.far_server.stop("immediate")
        query = "SELECT state FROM pyreplica.replica_slave WHERE replication = 'far'"

        def dropped() -> bool:
            sql(shop.master, MANY)
            return bool(value(shop.master, query) == "dropped")

        with writing(shop):
            eventually(dropped, "it is not dropped")
            running.until_said("replication far has ended: far: master: the slave was dropped on ")
        shop.assert_equal("near", "some")
        eventually(lambda: shop.logged("near", "some") < 1000, "its log is kept")
        shop.far_server.start()
        assert state(shop.path, "far") == "needs a new copy"
        with writing(shop):
            pyreplica(shop.path, "copy", "far", "--truncate")
            reload(running, "started again: far; 2 as before")
            shop.assert_equal("far")
        shop.assert_equal("near", "some", "far")
        # a replication of it had ended by an error, but does no more
        assert running.stop() == 0
    for name in ("near", "some"):
        assert f"ERROR pyreplica.{name}:" not in running.log
    assert "conflict" not in running.log


def test_a_slave_is_uninstalled_while_the_others_go_on(shop: Shop) -> None:
    own = write_config(shop.folder / "some.yaml", {"some": shop.settings("some")})
    with serving(shop) as running:
        with writing(shop):
            shop.assert_equal("near", "some", "far")
            refused(own, "uninstall", says="another daemon or copy is at work")
            shop.configure("near", "far")
            reload(running, "removed: some; 2 as before")
            pyreplica(own, "uninstall")
            shop.assert_equal("near", "far")
        shop.assert_equal("near", "far")
        query = (
            "SELECT string_agg(replication, ' ' ORDER BY replication) FROM pyreplica.replica_slave"
        )
        assert value(shop.master, query) == "far near"
        # its tables stay, and nothing of PyReplica does
        assert value(shop.slaves["some"], "SELECT count(*) > 0 FROM public.item")
        assert value(shop.slaves["some"], "SELECT to_regnamespace('pyreplica') IS NULL")
        assert running.stop() == 0
    assert " ERROR " not in running.log
    assert "conflict" not in running.log
