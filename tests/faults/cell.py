"""One cell of the matrix: a replication through proxies, under load, what must hold at its end."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyreplica.config import ReplicationConfig
from pyreplica.demo.cluster import Cluster
from pyreplica.errors import PyReplicaError
from pyreplica.replication.setup import install
from tests.conftest import Databases
from tests.faults.load import MOVING, TABLES, Load, Reader
from tests.faults.programs import Program
from tests.faults.proxy import Proxy
from tests.support import config, config_file, connect, copy, eventually, prepared, sql, value

PEER_TIMEOUT = 1
"""Seconds after which either end of a connection gives a silent peer up."""
OPTIONS: dict[str, Any] = {
    "retry_first": "10ms",
    "retry_max": "200ms",
    "connect_timeout": "2s",
    "peer_timeout": f"{PEER_TIMEOUT}s",
    "keepalive": "1h",  # a wake-up that was lost is not to be made up for
    "copy_workers": 1,
}
CATCH_UP = 90.0
"""Seconds that a busy machine may take to notice a fault, and to catch up."""

REPLICATED = re.findall(r"public\.(\w+)", TABLES + MOVING)
_BAD = re.compile(r"Traceback|defect|conflict|insert_exists|_missing", re.IGNORECASE)
_CHANGES = "SELECT count(*) FROM pyreplica.replica_log WHERE NOT pg_visible_in_snapshot(txid, %s)"
COUNTED = """
    CREATE TABLE public.counted (n bigint);
    CREATE FUNCTION public.count_changes() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO public.counted SELECT count(*) FROM fresh;
        RETURN NULL;
    END $$;
    CREATE TRIGGER count AFTER INSERT ON pyreplica.replica_log REFERENCING NEW TABLE AS fresh
        EXECUTE FUNCTION public.count_changes();
"""


class Cell:
    """What a step and a fault work on.

    Args:
        databases: the two databases, with the tables, installed; not copied.
        folder: for files.
        seed: of what the writers choose by chance.

    Attributes:
        databases: the same; the test's own sessions go there directly.
        master, slave: the proxies that the daemon connects through.
        daemon: the program at hand: a daemon, after begin().
        command: a copy or add-table beside it, if there is one.
        disk: the small disk that one of the sides is on, if it is.
        later: what is to be done once the fault is over.
        shown: what the slave is to have of a table where that is not all as it is: what comes after
            FROM on the master.
        once_copied: done when the initial copy is.
        checks: done at the very end.
        further: names of further databases of the slave's server.
        carries_sequences: the slave's sequences follow the master's.
    """

    def __init__(self, databases: Databases, folder: Path, seed: int) -> None:
        self.databases = databases
        self.later: list[Callable[[], object]] = []
        self.disk: Path | None = None
        self.shown: dict[str, str] = {}
        self.once_copied: list[Callable[[], object]] = []
        self.checks: list[Callable[[], object]] = []
        self.further: list[str] = []
        self.carries_sequences = True
        self.stack = ExitStack()
        self.master = self.stack.enter_context(Proxy(databases.master_cluster.port))
        self.slave = self.stack.enter_context(Proxy(databases.slave_cluster.port))
        self.load = Load(databases.master, seed)
        self.reader = Reader(databases.slave)
        self.command: Program | None = None
        self._since: int | None = None
        self._counts_changes = True
        self._daemon: Program | None = None
        self.folder = folder
        self._logs = itertools.count(1)
        self._snapshot: str | None = None
        self._options: dict[str, Any] = dict(OPTIONS)
        self._tables = [t for t in REPLICATED if t != "extra"]

    # Programs

    def options(self, **options: Any) -> None:
        """Settings of the replication; before it is copied."""
        self._options |= options

    def install(
        self, databases: Databases | None = None, name: str = "shop", **options: Any
    ) -> None:
        """Install again, for settings that need it; or another replication of these tables."""
        chosen = self._options | options if databases is None else options
        tables = [f"public.{table}" for table in self._tables]
        install(config(databases or self.databases, name, tables=tables, **chosen))

    def config(self, *, direct: bool = True) -> ReplicationConfig:
        """The replication; directly, or through the proxies."""
        return config(self._through(direct), **self._options)

    def _through(self, direct: bool) -> Databases:
        if direct:
            return self.databases
        name = self.databases.name
        common = f"host=127.0.0.1 user=postgres dbname={name}"
        return replace(
            self.databases,
            master=f"{common} port={self.master.port}",
            slave=f"{common} port={self.slave.port}",
        )

    def program(self, *arguments: str) -> Program:
        """Start pausing.py; its connections go through the proxies."""
        path = config_file(self.folder, self._through(False), **self._options)
        started = Program(path, self.folder / f"{next(self._logs)}.log", *arguments)
        self.stack.callback(started.kill)
        return started

    @property
    def daemon(self) -> Program:
        """The program at hand."""
        assert self._daemon is not None
        return self._daemon

    @daemon.setter
    def daemon(self, program: Program) -> None:
        self._daemon = program

    def copied(self) -> None:
        """The initial copy is done, from here on changes count."""
        self._snapshot = value(
            self.databases.master, "SELECT snapshot::text FROM pyreplica.replica_slave"
        )
        for act in self.once_copied:
            act()
        self.stack.enter_context(self.reader)

    def begin(self, *arguments: str, counted: bool = False) -> None:
        """Copy, start the writers, start a daemon.

        Args:
            arguments: further ones of the daemon.
            counted: changes are counted when they are logged, because the log will be truncated.
        """
        copy(self.config())
        self.copied()
        if counted:
            sql(self.databases.master, COUNTED)
            self._snapshot = None
        self.stack.enter_context(self.load)
        self.daemon = self.program("run", *arguments)
        self.daemon.until_said("connected, at batch")

    def add_extra(self) -> None:
        """From here on the table `extra` is replicated as well."""
        self._tables = REPLICATED
        self.hard_to_count()

    def hard_to_count(self) -> None:
        """Not each change of the log is one for this slave."""
        self._counts_changes = False

    # The fault

    def strikes(self, *, watched: bool) -> None:
        """From here on the daemon may say that it notices; it has to if it is watched."""
        self._since = self.daemon.mark() if watched else None

    def until_noticed(self, words: str, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until the daemon has said, since the fault struck, that it notices.

        Args:
            words: what it says, as a regular expression.
            meanwhile: done before each look.
        """
        since = self._since
        if since is None:
            return

        def said() -> bool:
            meanwhile()
            return re.search(words, self.daemon.said(since)) is not None

        try:
            eventually(said, f"the daemon has said: {words}", CATCH_UP)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.logs()}") from None

    @property
    def victim(self) -> Program:
        """The program that is killed: the copy, if it is that which stands at the step."""
        command = self.command
        return command if command is not None else self.daemon

    def cluster(self, side: str) -> Cluster:
        """The server of a side."""
        return getattr(self.databases, f"{side}_cluster")  # type: ignore[no-any-return]

    def dsn(self, side: str) -> str:
        """How the test's own sessions reach a side."""
        return str(getattr(self.databases, side))

    def proxy(self, side: str) -> Proxy:
        """How the daemon reaches a side."""
        return self.master if side == "master" else self.slave

    # The end

    def check(self) -> None:
        """Start what died, let it catch up; nothing may be lost, repeated, torn or left over."""
        for cluster in (self.databases.master_cluster, self.databases.slave_cluster):
            cluster.start()
        if not self.daemon.running:
            self.daemon = self.program("run")
        done = self.load.done
        eventually(lambda: self.load.done > done, f"the writers stand still: {self.load.errors}")
        self.load.end()
        self.until_caught_up()
        self._check_rows()
        assert not self.reader.torn, self.reader.torn[:3]
        assert prepared(self.databases) == []
        self._check_changes()
        self.daemon.terminate()
        assert self.daemon.end() == 0, self.logs()
        assert not _BAD.search(self.logs()), self.logs()
        for check in self.checks:
            check()

    def logs(self) -> str:
        """What all programs have said."""
        logs = sorted(self.folder.glob("*.log"), key=lambda path: int(path.stem))
        return "\n".join(
            f"--- {path.name}\n{path.read_text(encoding='utf-8', errors='replace')}"
            for path in logs
        )

    def until_caught_up(self) -> None:
        """Wait until both sides agree and there is nothing in the log that the slave does not have.

        Nobody is woken for it, as pyreplica.replication.wait would do.
        """

        seen: list[object] = []

        def caught_up() -> bool:
            try:
                with connect(self.databases.slave) as slave:
                    here = slave.one("SELECT batch, snapshot::text FROM pyreplica.replica_cursor")
                with connect(self.databases.master) as master:
                    there = master.one("SELECT batch, snapshot::text FROM pyreplica.replica_slave")
                    (pending,) = master.one(_CHANGES, (here[1],))
                    (bits,) = master.one("SELECT last_value FROM pyreplica.doorbell")
                seen[:] = [f"slave {here}", f"master {there}", f"{pending} behind", f"bell {bits}"]
                return here == there and pending == 0
            except PyReplicaError:
                return False

        try:
            eventually(caught_up, "the slave has caught up", CATCH_UP)
        except AssertionError as error:
            raise AssertionError(f"{error} {seen}\n{self.logs()}") from None

    def _check_rows(self) -> None:
        for table in self._tables:
            shown = self.shown.get(table, f"public.{table}")
            self.same_rows(table, self.databases.master, self.databases.slave, shown)
        if not self.carries_sequences:
            return
        with connect(self.databases.slave) as session:
            behind = session.one(
                "SELECT max(id), (SELECT last_value FROM public.item_id_seq) FROM public.item"
            )
        assert behind[1] >= behind[0], behind

    def same_rows(self, table: str, master: str, slave: str, shown: str) -> None:
        """A table is the same on both sides.

        Args:
            shown: what of it the slave is to have; what comes after FROM on the master.
        """
        rows = []
        for dsn, what in ((master, shown), (slave, f"public.{table}")):
            with connect(dsn) as session:
                query = f"SELECT _row::text FROM {what} _row ORDER BY 1"
                rows.append([row for (row,) in session.query(query)])
        there, here = map(set, rows)
        assert rows[0] == rows[1], (
            f"{table}: {len(there - here)} rows are missing or old, {len(here - there)} are "
            f"too many: {sorted(there ^ here)[:10]}\n{self.logs()}"
        )

    def _check_changes(self) -> None:
        """No change was applied twice, and none was passed over."""
        if not self._counts_changes:
            return
        with connect(self.databases.master) as session:
            if self._snapshot is None:
                logged = session.one("SELECT sum(n) FROM public.counted")[0]
            else:
                logged = session.one(_CHANGES, (self._snapshot,))[0]
        applied = value(self.databases.slave, "SELECT changes FROM pyreplica.replica_cursor")
        assert applied == logged, (applied, logged)

    def close(self) -> None:
        """End everything that was started."""
        self.load.end()
        self.stack.close()
