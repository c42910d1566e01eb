"""The demo's steps between two running servers: the commands a user would run, and what is seen."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import yaml

from pyreplica.demo.cluster import Cluster
from pyreplica.demo.interrupts import unheard
from pyreplica.demo.outcome import Measured, Outcome, Table
from pyreplica.demo.probe import TABLE, Probe
from pyreplica.demo.programs import Program, Programs
from pyreplica.errors import PyReplicaError, TimedOut

NAME = "bank"
"""What the replication and both databases are called."""

OUTAGE_AFTER = 0.4
"""The slave's server is stopped when this part of pgbench's time is over."""
OUTAGE = 1 / 6
"""It stays down for this part of pgbench's time, within these limits, seconds."""
OUTAGE_SHORTEST = 1.0
OUTAGE_LONGEST = 5.0

# Seconds. Generous: a limit is there to end what hangs.
COMMAND_LIMIT = 300.0
CATCH_UP_LIMIT = 300
SETTLE_LIMIT = 5.0

LOG_LINES = 20

_KEY = """
ALTER TABLE public.pgbench_history ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY
"""


class Screen(Protocol):
    """Is told what happens."""

    def step(self, text: str) -> None:
        """A new part begins."""

    def say(self, text: str) -> None:
        """Something worth knowing."""

    def command(self, text: str) -> None:
        """A command is run."""

    def output(self, line: str) -> None:
        """A line of a command's output, or of a file."""

    def busy(self, text: str) -> None:
        """What is going on now, until the next step."""


class Steps:
    """The steps of one demo.

    Args:
        screen: is told what happens.
        programs: runs the programs, and ends them with the demo.
        stack: ends what else a step leaves running.
        folder: where files can be written.
        master: runs, and has an empty database of the demo's name.
        slave: the same.
    """

    def __init__(
        self,
        screen: Screen,
        programs: Programs,
        stack: ExitStack,
        folder: Path,
        master: Cluster,
        slave: Cluster,
    ) -> None:
        self._screen = screen
        self._programs = programs
        self._stack = stack
        self._master = master
        self._slave = slave
        self._config = folder / "demo.yaml"
        self._daemon_log = folder / "daemon.log"
        self._errors = folder / "errors.log"

    def run(
        self,
        seconds: int,
        scale: int,
        clients: int,
        before_compare: Callable[[str], object] | None,
    ) -> Outcome:
        """All of them; the arguments are those of :func:`pyreplica.demo.demo.demo`."""
        try:
            self._introduce()
            self._fill_master(scale)
            self._replicate()
            daemon = self._start_daemon()
            measured = self._load(seconds, clients)
            if before_compare is not None:
                before_compare(self._slave.dsn(NAME))
            tables = self._compare()
            code = self._stop_daemon(daemon)
            return Outcome(clients, measured, tables, code, self._log_tail())
        except PyReplicaError as error:
            if tail := self._log_tail():
                lines = ["The end of the daemon's log:", *tail]
                error.details = "\n".join(filter(None, [error.details, *lines]))
            raise
        finally:
            self._screen.busy("cleaning up")

    # The steps

    def _introduce(self) -> None:
        version = self._master.psql("-Atc", "SHOW server_version").stdout.split()[0]
        self._screen.say(f"PostgreSQL {version} with its defaults, so with fsync = on.")
        for server in (self._master, self._slave):
            self._screen.output(f"{server.name}: port {server.port}")

    def _fill_master(self, scale: int) -> None:
        screen = self._screen
        screen.step(f"pgbench's bank on the master, {scale * 100_000:,} accounts")
        self._run("pgbench", self._pgbench("-i", "-I", "tgvp", "-q", "-s", str(scale)))
        self._master.psql(input=f"{_KEY}; {TABLE}", dbname=NAME)
        screen.say("A table needs a primary key to be replicated, and pgbench_history has none:")
        screen.output(" ".join(_KEY.split()))
        screen.say("To measure the lag with:")
        screen.output(" ".join(TABLE.split()))

    def _replicate(self) -> None:
        screen = self._screen
        screen.step("The replication")
        settings = {
            "replications": {
                NAME: {"master": self._master.dsn(NAME), "slave": self._slave.dsn(NAME)}
            },
            # by default a server that stays away is looked for twice a minute
            "defaults": {"retry_max": "1s"},
        }
        text = yaml.safe_dump(settings, sort_keys=False, width=1000)
        self._config.write_text(text, encoding="utf-8")
        screen.command(f"cat {self._config}")
        for line in text.splitlines():
            screen.output(line)
        self._run("pyreplica install", self._pyreplica("install"))
        self._run("pyreplica copy", self._pyreplica("copy", "--schema"))

    def _start_daemon(self) -> Program:
        screen, programs = self._screen, self._programs
        arguments = self._pyreplica("run")
        screen.command(f"{_typed(arguments)} >{self._daemon_log} 2>&1 &")
        screen.busy("the daemon connects")
        daemon = programs.start("the daemon", arguments, log=self._daemon_log)
        programs.guard(daemon)
        deadline = time.monotonic() + COMMAND_LIMIT
        while True:
            status = programs.start("pyreplica status", self._pyreplica("status"))
            text = programs.finish(status, seconds=COMMAND_LIMIT, code=None)
            if status.code == 0:
                break
            if time.monotonic() > deadline:
                raise TimedOut("the daemon does not get to work", details=text)
        screen.command(_typed(self._pyreplica("status")))
        for line in status.lines:
            screen.output(line)
        return daemon

    def _load(self, seconds: int, clients: int) -> Measured:
        screen, programs = self._screen, self._programs
        screen.step(f"pgbench for {seconds} s; the slave's server goes down in the middle")

        def progress(line: str) -> None:
            if found := re.match(r"progress: ([\d.]+) s, ([\d.]+) tps", line):
                at, rate = (float(text) for text in found.groups())
                screen.busy(f"pgbench: {at:.0f} of {seconds} s, {rate:,.0f} transactions/s")

        arguments = self._pgbench("-n", "-c", str(clients), "-T", str(seconds), "-P", "1")
        screen.command(_typed(arguments))
        screen.busy("pgbench")
        pgbench = programs.start("pgbench", arguments, line=progress)
        began = time.monotonic()

        def say(text: str, at: float | None = None) -> None:
            screen.say(f"{(at or time.monotonic()) - began:5.1f} s  {text}")

        def let_pass(until: float) -> None:
            """Let the time pass, and notice when pgbench fails."""
            if programs.wait(pgbench, seconds=until - time.monotonic()):
                programs.finish(pgbench, seconds=0)
                programs.wait(seconds=until - time.monotonic())

        say("pgbench begins, and the lag is measured")
        lags = self._lags(lambda: let_pass(began + seconds * OUTAGE_AFTER))

        stopping = time.monotonic()
        say("the slave's server is stopped (pg_ctl stop -m fast), pgbench goes on", stopping)
        with unheard():
            self._slave.stop("fast")
        self._run("pyreplica status", self._pyreplica("status"), code=None)
        let_pass(stopping + min(max(seconds * OUTAGE, OUTAGE_SHORTEST), OUTAGE_LONGEST))
        with unheard():
            self._slave.start()
        up = time.monotonic()
        say("the slave's server is up again", up)
        caught_up = self._wait_for_slave()
        say("the slave has all that was committed before its server was up again", caught_up)

        output = programs.finish(pgbench, seconds=seconds + COMMAND_LIMIT)
        assert pgbench.ended_at is not None
        say("pgbench has ended", pgbench.ended_at)
        finished = self._wait_for_slave()
        say("the slave has everything", finished)
        return Measured(
            transactions=int(_last(r"transactions actually processed: (\d+)", output)),
            transaction_rate=float(_last(r"tps = ([\d.]+)", output)),
            changes=self._json("status")[0]["changes"],
            applied_in=finished - began,
            lags=lags,
            down=up - stopping,
            caught_up_in=caught_up - up,
            finished_in=finished - pgbench.ended_at,
        )

    def _lags(self, let_pass: Callable[[], None]) -> list[float]:
        """The lags of the markers of this time."""
        # without options the caller's PGOPTIONS would count
        probe = Probe(self._master.dsn(NAME, options=""), self._slave.dsn(NAME, options=""))
        self._stack.callback(probe.close)
        probe.start()
        let_pass()
        probe.stop_marking()
        deadline = time.monotonic() + SETTLE_LIMIT
        while not probe.settled and time.monotonic() < deadline:
            self._programs.wait(seconds=0.02)
        probe.close()
        return probe.lags()

    def _wait_for_slave(self) -> float:
        """Until the slave has what is committed on the master now; gives the time when it had."""
        arguments = self._pyreplica("wait", "--timeout", str(CATCH_UP_LIMIT))
        self._screen.command(_typed(arguments))
        self._screen.busy("waiting for the slave")
        waiting = self._programs.start("pyreplica wait", arguments)
        self._programs.finish(waiting, seconds=CATCH_UP_LIMIT + COMMAND_LIMIT)
        assert waiting.ended_at is not None
        return waiting.ended_at

    def _compare(self) -> list[Table]:
        self._screen.step("Row by row, master against slave")
        self._screen.command(_typed(self._pyreplica("compare", "--json")))
        self._screen.busy("comparing")
        return [
            Table(
                one["table"],
                one["rows"],
                "" if one["equal"] else one["problem"] or f"rows that differ: {one['differing']:,}",
            )
            for one in self._json("compare", codes=(0, 3))[NAME]["tables"]
        ]

    def _stop_daemon(self, daemon: Program) -> int:
        """Gives its exit code."""
        self._screen.say("The daemon is told to stop, with SIGTERM.")
        self._programs.unguard(daemon)
        daemon.end()
        assert daemon.code is not None
        return daemon.code

    # Programs

    def _pyreplica(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pyreplica", "--config", str(self._config), *arguments]

    def _pgbench(self, *arguments: str) -> list[str]:
        server = self._master
        where = ("-h", str(server.socket_directory), "-p", str(server.port), "-U", "postgres")
        return [str(server.binary("pgbench")), *arguments, *where, NAME]

    def _run(self, name: str, arguments: Sequence[str], code: int | None = 0) -> None:
        """Run a program and show its output."""
        self._screen.command(_typed(arguments))
        self._screen.busy(name)
        program = self._programs.start(name, arguments, line=self._screen.output)
        self._programs.finish(program, seconds=COMMAND_LIMIT, code=code)

    def _json(self, *arguments: str, codes: Sequence[int] = (0,)) -> Any:
        """Run a command of ours for what it has to say to machines."""
        program = self._programs.start(
            f"pyreplica {arguments[0]}", self._pyreplica(*arguments, "--json"), errors=self._errors
        )
        text = self._programs.finish(program, seconds=COMMAND_LIMIT, code=None)
        if program.code not in codes:
            raise PyReplicaError(
                f"{program.name} failed with exit code {program.code}",
                details=self._errors.read_text(encoding="utf-8", errors="replace").strip(),
            )
        return json.loads(text)

    def _log_tail(self) -> list[str]:
        try:
            text = self._daemon_log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []  # not started yet
        return text.splitlines()[-LOG_LINES:]


def _typed(arguments: Sequence[str]) -> str:
    """A command as one would type it."""
    program, *rest = arguments
    if rest[:2] == ["-m", "pyreplica"]:
        program, rest = "pyreplica", rest[2:]
    return shlex.join([Path(program).name, *rest])


def _last(pattern: str, text: str) -> str:
    """What pgbench says of something; its older versions say two rates, and mean the second."""
    found = re.findall(pattern, text)
    if not found:
        raise PyReplicaError("pgbench's output cannot be read", details=text)
    return str(found[-1])
