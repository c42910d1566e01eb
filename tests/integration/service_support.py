"""What the tests of the daemon as a service share: two replications, and who listens to them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from pyreplica.config import Config, load, parse
from pyreplica.daemon.listener import Listener
from pyreplica.daemon.service import Service
from pyreplica.daemon.systemd import Systemd
from pyreplica.demo.cluster import Cluster
from pyreplica.model import Event, EventKind, State, Status, Step
from pyreplica.replication.setup import install
from tests.conftest import Databases
from tests.integration.cli_support import pair, write_config
from tests.support import LIMIT, copy, eventually, sql, value

TABLES = "CREATE TABLE public.{0} (id int PRIMARY KEY)"


def settings(databases: Databases, table: str, **options: Any) -> dict[str, Any]:
    """A replication of that table alone."""
    return pair(databases, tables=[f"public.{table}"], **options)


@contextmanager
def shared_databases(
    name: str, master: Cluster, slave: Cluster, tables: Sequence[str] = ("one", "two")
) -> Iterator[Databases]:
    """Two databases for all tests of a module, with replications that are copied.

    No test changes more of them than it says, and none leaves a daemon behind.

    Args:
        tables: the names of the replications, and of the one table that each has.
    """
    for cluster in (master, slave):
        cluster.start()
        cluster.create_database(name)
    made = Databases(master.dsn(name), slave.dsn(name), name, master, slave)
    for table in tables:
        sql(made.master, TABLES.format(table))
        sql(made.slave, TABLES.format(table))
    replications = {table: settings(made, table) for table in tables}
    text = yaml.safe_dump({"replications": replications})
    for number, replication in enumerate(parse(text, "shared", {}).select([])):
        if not number:  # it captures all tables
            install(replace(replication, tables=None))
        copy(replication)
    yield made
    for cluster in (master, slave):
        cluster.start()
        cluster.drop_database(name)


def both(databases: Databases) -> dict[str, dict[str, Any]]:
    """The two replications."""
    return {name: settings(databases, name) for name in ("one", "two")}


def two(databases: Databases, folder: Path, **root: Any) -> Path:
    """A configuration of the two replications."""
    return write_config(folder / "both.yaml", both(databases), **root)


def moves(databases: Databases, table: str, timeout: float = LIMIT) -> None:
    """Write a row on the master, and wait until it is on the slave."""
    query = f"INSERT INTO public.{table} SELECT coalesce(max(id), 0) + 1 FROM public.{table} "
    id_ = value(databases.master, f"{query} RETURNING id")
    query = f"SELECT count(*) FROM public.{table} WHERE id = {id_}"
    eventually(lambda: value(databases.slave, query), f"row {id_} of {table} has not come", timeout)


class Told:
    """Takes note of all that it is told."""

    def __init__(self) -> None:
        self.statuses: list[Status] = []
        self.events: list[Event] = []
        self.calls: list[str] = []
        self._changed = threading.Condition()

    def start(self) -> None:
        """Note it."""
        self.note("start")

    def note(self, call: str) -> None:
        """Take note of anything else."""
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()

    def status(self, status: Status) -> None:
        """Note it."""
        with self._changed:
            self.statuses.append(status)
            self._changed.notify_all()

    def event(self, event: Event) -> None:
        """Note it."""
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def reload(self, config: Config) -> None:
        """Note it."""
        self.note("reload")

    def stop(self) -> None:
        """Note it."""
        self.note("stop")

    def until(self, true: Callable[[], object], what: str) -> None:
        """Wait for something of that."""
        with self._changed:
            assert self._changed.wait_for(true, LIMIT), f"{what}: {self.statuses} {self.events}"

    def of(self, name: str) -> list[Status]:
        """The statuses of a replication."""
        return [status for status in self.statuses if status.replication == name]

    def until_state(self, name: str, state: State) -> None:
        """Wait until a replication does that."""
        self.until(lambda: self.of(name) and self.of(name)[-1].state is state, f"{name} {state}")

    def kinds(self, name: str) -> list[EventKind]:
        """The kinds of the events of a replication."""
        return [event.kind for event in self.events if event.replication == name]

    def until_told(self, name: str, kind: EventKind, *, over: bool = False) -> Event:
        """Wait for an event; gives the last such."""

        def found() -> list[Event]:
            return [e for e in self.events if (e.replication, e.kind, e.over) == (name, kind, over)]

        self.until(found, f"{name} {kind}")
        return found()[-1]


class Serving:
    """A service in a thread of the test."""

    def __init__(
        self,
        path: Path,
        names: Sequence[str],
        listeners: Sequence[Listener],
        observe: Callable[[str, Step, int], None],
        systemd: Systemd | None,
    ) -> None:
        self.told = Told()
        self.reloads: list[tuple[str, str]] = []
        self.service = Service(
            load(path),
            names,
            listeners=[self.told, *listeners],
            read=lambda: load(path),
            reloaded=self._reloaded,
            systemd=systemd,
            observe=observe,
        )
        self.result: bool | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.result = self.service.run()

    def _reloaded(self, done: str, error: Exception | None) -> None:
        self.reloads.append((done, str(error or "")))
        self.told.note("reloaded")

    def reload(self) -> tuple[str, str]:
        """Have it read the configuration anew; gives what was done, and the error."""
        before = len(self.reloads)
        self.service.reload()
        self.told.until(lambda: len(self.reloads) > before, "it is not read anew")
        return self.reloads[-1]

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Stop it."""
        self.service.stop()
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()


@contextmanager
def serving(
    path: Path,
    *names: str,
    listeners: Sequence[Listener] = (),
    observe: Callable[[str, Step, int], None] = lambda name, step, batch: None,
    systemd: Systemd | None = None,
) -> Iterator[Serving]:
    """A service for the time of the block."""
    made = Serving(path, names, listeners, observe, systemd)
    made.start()
    try:
        yield made
    finally:
        made.end()


class Manager:
    """What systemd is for a service: a socket that hears of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(LIMIT)

    def until(self, words: str) -> str:
        """Wait until the service says that, after all that was waited for before."""
        while True:
            self.heard.append(self._socket.recv(65536).decode())
            if words in self.heard[-1]:
                return self.heard[-1]

    def waiting(self, pause: float = 0.0) -> list[str]:
        """What it has said and nobody has waited for, after a pause."""
        threading.Event().wait(pause)
        said = []
        self._socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                said.append(self._socket.recv(65536).decode())
        self._socket.settimeout(LIMIT)
        return said

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()
