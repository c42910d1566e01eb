"""What tests of the whole product share: a configuration, the command line, the daemon."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import yaml

from pyreplica.backoff import Backoff
from pyreplica.config import ReplicationConfig, parse
from pyreplica.database import Connection
from pyreplica.errors import PyReplicaError
from pyreplica.master import Master
from pyreplica.model import Cursor, Event, EventKind, State, Status, Step
from pyreplica.replication.compare import compare
from pyreplica.replication.copy import Copied, Copy
from pyreplica.replication.loop import Replication
from pyreplica.replication.setup import install
from pyreplica.replication.wait import wait
from pyreplica.slave import Slave
from tests import forks
from tests.conftest import Databases

_daemons = itertools.count(1)

LIMIT = 60.0
"""Seconds that any command of a test may take."""


DEFAULTS: dict[str, Any] = {}
"""Settings of all replications that do not say otherwise."""


def config_text(databases: Databases, name: str = "shop", **options: Any) -> str:
    """A configuration with one replication between the two databases."""
    settings = {"master": databases.master, "slave": databases.slave, **DEFAULTS, **options}
    return yaml.safe_dump({"replications": {name: settings}})


def config_file(folder: Path, databases: Databases, name: str = "shop", **options: Any) -> Path:
    """The same in a file."""
    path = folder / f"{name}.yaml"
    path.write_text(config_text(databases, name, **options), encoding="utf-8")
    path.chmod(0o600)
    return path


def config(databases: Databases, name: str = "shop", **options: Any) -> ReplicationConfig:
    """The same, loaded."""
    return parse(config_text(databases, name, **options), "test.yaml", {}).select([])[0]


def pyreplica(
    path: Path, *arguments: str, code: int | None = 0, timeout: float = LIMIT
) -> subprocess.CompletedProcess[str]:
    """Run the command line; its exit code must be ``code`` (None: whatever)."""
    done = forks.run(["pyreplica", "--config", str(path), *arguments], timeout)
    if code is not None:
        assert done.returncode == code, done.stdout + done.stderr
    return done


class Daemon:
    """A running ``pyreplica run`` (or another program that runs one).

    Args:
        command: a program and its arguments; a module of Python and its arguments if not fresh.
        log: where it writes.
        fresh: whether it has an interpreter of its own (tests.forks tells what that is about).
    """

    def __init__(self, command: Sequence[str], log: Path, *, fresh: bool = True) -> None:
        self.log_path = log
        self.process: subprocess.Popen[bytes] | forks.Forked
        with log.open("ab") as output:
            if fresh:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                )
            else:
                self.process = forks.forked(command, output, output, PYTHONUNBUFFERED="1")

    @property
    def log(self) -> str:
        """What it has written so far."""
        return self.log_path.read_text(encoding="utf-8")

    def until_said(self, words: str) -> None:
        """Wait until it has written these words."""

        def said() -> bool:
            return words in self.log or self.process.poll() is not None

        eventually(said, f"the daemon has not said: {words}")
        assert words in self.log, self.log

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(LIMIT)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; gives its exit code."""
        self.process.send_signal(number)
        return self.process.wait(LIMIT)


@contextmanager
def daemon(path: Path, *names: str, fresh: bool = False) -> Iterator[Daemon]:
    """``pyreplica run`` for the time of the block."""
    command = ["pyreplica", "--config", str(path), "run", *names]
    interpreter = [sys.executable, "-m"] if fresh else []
    started = Daemon([*interpreter, *command], path.with_suffix(".log"), fresh=fresh)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.stop()


def stalling_daemon(
    path: Path, step: Step | None = None, batch: int = 0, *, staged: bool = False
) -> AbstractContextManager[Daemon]:
    """The program stalling_daemon.py for the time of the block; it is killed at the end."""
    at = [] if step is None else ["--step", step.value, "--batch", str(batch)]
    return _stalling("stalling_daemon", path, *at, *(["--staged"] if staged else []))


def stalling_copy(
    path: Path, point: str, *, schema: bool = False, add: str | None = None
) -> AbstractContextManager[Daemon]:
    """The program stalling_copy.py for the time of the block; it is killed at the end."""
    options = ["--schema"] if schema else ["--add", add] if add else []
    return _stalling("stalling_copy", path, point, *options)


@contextmanager
def _stalling(program: str, path: Path, *arguments: str) -> Iterator[Daemon]:
    command = [f"tests.integration.{program}", str(path), *arguments]
    started = Daemon(command, path.with_suffix(f".{next(_daemons)}.log"), fresh=False)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.kill()


def connect(dsn: str) -> Connection:
    """A session of the test's own; names must be qualified with their schema."""
    return Connection(dsn, where="test")


def set_up(path: Path) -> None:
    """install and copy --schema."""
    pyreplica(path, "install")
    pyreplica(path, "copy", "--schema")


def sql(dsn: str, *statements: str) -> None:
    """Execute statements, each in a transaction of its own unless it says otherwise."""
    with connect(dsn) as session:
        for statement in statements:
            session.execute(statement)


def value(dsn: str, query: str) -> Any:
    """The one value that a query gives."""
    with connect(dsn) as session:
        return session.one(query)[0]


class Silence:
    """Watches a copy and says nothing."""

    def begin(self, tables: Sequence[tuple[str, int]]) -> None:
        """Nothing."""

    def rows(self, table: str, rows: int) -> None:
        """Nothing."""

    def done(self, table: str, rows: int) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


def copied(
    databases: Databases, tables: str, *, slave: str | None = None, **options: Any
) -> ReplicationConfig:
    """A replication that is installed and copied, and no daemon runs.

    Args:
        tables: SQL that makes the tables, and may fill them on the master.
        slave: other SQL that makes them on the slave; the same without its rows when None.
        options: further settings.
    """
    sql(databases.master, tables)
    sql(databases.slave, tables if slave is None else slave)
    made = config(databases, **options)
    install(made)
    copy(made, truncate=slave is None)
    return made


def copy(made: ReplicationConfig, **options: Any) -> Copied:
    """The initial copy."""
    return Copy(made, Silence(), **options).run()


def assert_same(made: ReplicationConfig, timeout: float = LIMIT / 2) -> None:
    """Wait for the slave, then compare every table."""
    wait(made, timeout)
    results = compare(made, timeout=timeout)
    assert results
    different = [result for result in results if not result.equal]
    assert not different, different


def cursors(made: ReplicationConfig) -> tuple[Cursor, Cursor]:
    """Where the master's record and the slave are."""
    with closing(Master(made)) as master, closing(Slave(made)) as slave:
        confirmed, applied = master.record.confirmed(), slave.applied()
    assert confirmed is not None
    assert applied is not None
    assert applied.cursor is not None
    return confirmed.cursor, applied.cursor


def prepared(databases: Databases) -> list[str]:
    """The transactions that are prepared on the slave."""
    with connect(databases.slave) as session:
        query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid"
        return [str(gid) for (gid,) in session.query(query)]


def eventually(
    true: Callable[[], object],
    what: str | Callable[[], str] = "",
    timeout: float = LIMIT,
    pause: float = 0.005,
) -> None:
    """Wait until something holds that nobody tells of; looked at after short, growing pauses.

    Args:
        what: tells of the failure; a function is asked then.
    """
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() >= deadline:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"not after {timeout:g} s: {said}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)


def rotated(dsn: str) -> str:
    """Look after the log, however small it is; gives what was done.

    It never waits for a lock: while a daemon confirms a batch it does nothing, and is tried again.
    """
    answers: list[str | None] = []

    def answered() -> bool:
        answers.append(value(dsn, "SELECT pyreplica.rotate_log(0)"))
        return answers[-1] is not None

    eventually(answered, "the log cannot be looked after")
    return str(answers[-1])


def blocked(dsn: str, count: int = 1) -> Callable[[], bool]:
    """Whether so many sessions of PyReplica wait for a lock in that database."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name LIKE 'pyreplica%' AND wait_event_type = 'Lock'"
    )
    return lambda: int(value(dsn, query)) >= count


class Running:
    """A replication in a thread of the test. What it does and says can be waited for.

    Attributes:
        steps: all steps so far, with the batches' numbers.
        statuses: all statuses it has published.
        events: all events it has told of.
        lines: its log, "LEVEL message".
        error: what ended it, if anything did.
    """

    def __init__(
        self, made: ReplicationConfig, hook: Callable[[Step, int], None] = lambda step, batch: None
    ) -> None:
        self.config = made
        self.steps: list[tuple[Step, int]] = []
        self.statuses: list[Status] = []
        self.events: list[Event] = []
        self.lines: list[str] = []
        self.error: PyReplicaError | None = None
        self._hook = hook
        self._changed = threading.Condition()
        self.replication = Replication(
            made,
            observe=self._observe,
            publish=self._publish,
            tell=self._tell,
            backoff=Backoff(0.01, 0.2),
        )
        self._thread = threading.Thread(target=self._run, name=made.name)

    def _run(self) -> None:
        error = self.replication.run()
        with self._changed:
            self.error = error
            self._changed.notify_all()

    def _observe(self, step: Step, batch: int) -> None:
        with self._changed:
            self.steps.append((step, batch))
            self._changed.notify_all()
        self._hook(step, batch)

    def _publish(self, status: Status) -> None:
        with self._changed:
            self.statuses.append(status)
            self._changed.notify_all()

    def _tell(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def told(self, kind: EventKind, *, over: bool = False) -> list[Event]:
        """The events of a kind that it has told of."""
        return [one for one in self.events if one.kind is kind and one.over is over]

    def until_told(self, kind: EventKind, *, over: bool = False) -> Event:
        """Wait for an event of a kind; gives the first."""
        self.until(lambda: self.told(kind, over=over), f"it has not told of: {kind.value}")
        return self.told(kind, over=over)[0]

    def heard(self, record: logging.LogRecord) -> None:
        """Take a line of the log."""
        with self._changed:
            self.lines.append(f"{record.levelname} {record.getMessage()}")
            self._changed.notify_all()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Stop it and wait for its end."""
        self.replication.stop()
        self._thread.join(LIMIT)
        if self._thread.is_alive():
            self.replication.cancel()
            self._thread.join(LIMIT)
        assert not self._thread.is_alive()

    def until(self, true: Callable[[], object], what: str, timeout: float = LIMIT) -> None:
        """Wait until something of what it did or said holds."""
        with self._changed:
            assert self._changed.wait_for(true, timeout), f"{what}; {self.steps} {self.lines}"

    def until_asleep(self) -> None:
        """Wait until it sleeps."""
        self.until(
            lambda: self.steps and self.steps[-1][0] is Step.WAITING and not self.failing,
            "it does not fall asleep",
        )

    def until_said(self, words: str) -> str:
        """Wait for a line of its log; gives the line."""
        self.until(lambda: self.said(words), f"it has not said: {words}")
        return self.said(words)[0]

    def said(self, words: str) -> list[str]:
        """The lines of its log with these words."""
        return [line for line in self.lines if words in line]

    @property
    def failing(self) -> bool:
        """Whether its last status says that it failed."""
        return bool(self.statuses) and self.statuses[-1].state is State.FAILED

    def batches(self) -> list[int]:
        """The batches it has committed."""
        return [batch for step, batch in list(self.steps) if step is Step.COMMITTED]


@contextmanager
def running(
    made: ReplicationConfig, hook: Callable[[Step, int], None] = lambda step, batch: None
) -> Iterator[Running]:
    """A replication in a thread, for the time of the block."""
    started = Running(made, hook)
    handler = logging.Handler()
    handler.emit = started.heard  # type: ignore[method-assign]
    logger = logging.getLogger(f"pyreplica.{made.name}")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    started.start()
    try:
        yield started
    finally:
        started.end()
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def connected(made: ReplicationConfig) -> Iterator[Running]:
    """The same, once others can see that it is at work: `repair` and `add-table` ask for that."""
    with running(made) as started:
        started.until_said("connected, at batch")
        yield started


def set_up_logging(level: str) -> None:
    """The log of a program that is no daemon goes to standard error, a line an event."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("pyreplica")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
