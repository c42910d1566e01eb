"""The daemon as a process of its own: in the background, under systemd, on standby, its log."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pyreplica.cli.main import main
from pyreplica.daemon.pidfile import holder
from pyreplica.demo.cluster import Cluster
from tests.conftest import Databases
from tests.integration.cli_support import refused
from tests.integration.service_support import Manager, moves, shared_databases, two
from tests.support import LIMIT, daemon, eventually, pyreplica


@pytest.fixture(scope="module")
def databases(master_cluster: Cluster, slave_cluster: Cluster) -> Iterator[Databases]:
    """Those of all tests here."""
    with shared_databases("test_service_processes", master_cluster, slave_cluster) as made:
        yield made


@pytest.fixture
def both(databases: Databases, tmp_path: Path) -> Path:
    """A configuration of two replications that are copied."""
    return two(databases, tmp_path)


# In the background


@contextmanager
def in_background(pidfile: Path) -> Iterator[tuple[str, ...]]:
    """The options of the commands; whatever runs at the end is killed."""
    try:
        yield ("--pidfile", str(pidfile))
    finally:
        left = holder(pidfile)
        if left is not None:
            os.kill(left.pid, signal.SIGKILL)


def running(pidfile: Path) -> int:
    """The process id of the daemon that runs."""
    found = holder(pidfile)
    assert found is not None
    return found.pid


class Commands:
    """The commands about one daemon in the background."""

    def __init__(self, path: Path, pidfile: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._options = ("--config", str(path), "--pidfile", str(pidfile))
        self._path = path
        self._capsys = capsys

    def fork(self, command: str, *options: str) -> str:
        """One that forks, in a process of its own; gives what it prints."""
        return pyreplica(self._path, command, *self._options[2:], *options).stdout

    def here(self, command: str, *options: str, code: int = 0) -> str:
        """One that does not, or does not get so far; gives all it prints."""
        before = signal.getsignal(signal.SIGTERM)
        try:
            assert main([command, *self._options, *options]) == code
        finally:
            signal.signal(signal.SIGTERM, before)
        said = self._capsys.readouterr()
        return said.out + said.err


def test_start_reload_restart_and_stop_of_a_daemon_in_the_background(
    both: Path, databases: Databases, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pidfile, log = tmp_path / "run" / "both.pid", tmp_path / "both.log"
    with in_background(pidfile):
        commands = Commands(both, pidfile, capsys)
        to_log = ("--log", str(log))
        assert "no daemon is running" in commands.here("stop")
        assert "no daemon is running" in commands.here("reload", code=1)
        assert "there is no log_file" in commands.here("start", code=2)
        said = commands.fork("start", *to_log)
        first = running(pidfile)
        assert said == f"the daemon runs: process {first}, log {log}\n"
        moves(databases, "one")
        # a daemon is nobody's child, in no terminal, and has the folder it was started in
        assert os.getsid(first) not in (first, os.getsid(0))
        assert Path(f"/proc/{first}/cwd").resolve() == Path.cwd()

        refused(
            both,
            *("start", "--pidfile", str(pidfile), *to_log),
            says=f"the daemon is running already: process {first}",
            hint="Stop it first",
        )
        right = both.read_text()
        both.write_text(right.replace("tables:", "tabels:", 1))
        for said in (
            commands.here("reload", code=2),
            commands.here("restart", *to_log, code=2),
        ):
            assert "unknown key" in said
            assert "hint: did you mean tables?" in said
        both.write_text(right + "log_level: debug\n")
        assert commands.here("reload") == "the configuration was taken: 2 as before\n"
        assert running(pidfile) == first

        said = commands.fork("restart", *to_log)
        second = running(pidfile)
        assert said.splitlines() == [
            f"the daemon has ended: process {first}",
            f"the daemon runs: process {second}, log {log}",
        ]
        moves(databases, "two")
        assert f"has ended: process {second}" in commands.here("stop")
        assert not pidfile.exists()
        assert log.read_text().count("stopped\n") == 2


def test_a_daemon_that_is_killed_leaves_no_stale_pidfile(
    both: Path, databases: Databases, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pidfile, log = tmp_path / "both.pid", tmp_path / "both.log"
    both.write_text(both.read_text() + f"log_file: {log}\n")
    with in_background(pidfile):
        commands = Commands(both, pidfile, capsys)
        commands.fork("start")
        killed = running(pidfile)
        os.kill(killed, signal.SIGKILL)
        eventually(lambda: holder(pidfile) is None)
        assert pidfile.read_text().startswith(f"{killed}\n")
        assert "no daemon is running" in commands.here("reload", code=1)
        commands.fork("start")
        assert running(pidfile) != killed
        moves(databases, "one")
        commands.here("stop")


def test_a_daemon_that_cannot_run_in_the_background_says_why(
    both: Path, databases: Databases, tmp_path: Path
) -> None:
    log = ("--log", str(tmp_path / "both.log"))
    for what, says in (
        (("--pidfile", str(both / "pid"), *log), "the pidfile cannot be used"),
        (("--pidfile", str(tmp_path / "pid"), "--log", str(tmp_path)), "Is a directory"),
    ):
        refused(both, "start", *what, says=says, hint="")
    both.write_text(both.read_text() + f"log_file: {tmp_path}/none/both.log\n")
    refused(both, "start", "--pidfile", str(tmp_path / "pid"), says="the log cannot be written")


# Standby


def test_two_daemons_share_the_replications_and_one_takes_over_when_the_other_is_killed(
    both: Path, databases: Databases
) -> None:
    other = both.with_name("other.yaml")
    other.write_bytes(both.read_bytes())
    other.chmod(0o600)
    with daemon(both, "one") as first:
        first.until_said("pyreplica.one: connected")
        with daemon(other) as second:
            second.until_said("pyreplica.two: connected")
            second.until_said("pyreplica.one: standing by: one: slave: another daemon or copy is")
            assert f"pid {first.process.pid} on {socket.gethostname()[:30]}" in second.log
            with daemon(both) as third:
                third.until_said("pyreplica.two: standing by")
                for name in ("one", "two"):
                    moves(databases, name)
                first.kill()
                moves(databases, "one", timeout=15)
                second.kill()
                for name in ("one", "two"):
                    moves(databases, name, timeout=15)
                assert "ERROR" not in second.log + third.log
                assert third.stop() == 0


# systemd


def test_systemd_is_told_of_all_there_is(
    both: Path, databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Manager(tmp_path / "notify")) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
        monkeypatch.setenv("WATCHDOG_USEC", "600000")
        with daemon(both) as running_:
            manager.until("READY=1")
            manager.until("STATUS=2 in step")
            manager.until("WATCHDOG=1")
            running_.process.send_signal(signal.SIGHUP)
            lines = manager.until("RELOADING=1").splitlines()
            name, _, microseconds = lines[1].partition("=")
            assert name == "MONOTONIC_USEC"
            assert int(microseconds) > 0
            manager.until("READY=1")
            databases.slave_cluster.stop("immediate")
            manager.until("STATUS=one failed: one: slave: ")
            databases.slave_cluster.start()
            manager.until("STATUS=2 in step")
            running_.process.send_signal(signal.SIGTERM)
            manager.until("STOPPING=1")
            assert running_.process.wait(LIMIT) == 0


# The log


def test_the_log_is_text_or_json_and_has_priorities_for_the_journal(
    both: Path, databases: Databases, tmp_path: Path
) -> None:
    both.write_text(both.read_text() + "log_format: json\n")
    databases.slave_cluster.stop("immediate")
    with daemon(both) as running_:
        running_.until_said("cannot connect")
        databases.slave_cluster.start()
        running_.until_said("connected, at batch")
    lines = [json.loads(line) for line in running_.log.splitlines()]
    started = lines[0]
    assert started.keys() == {"time", "level", "message"}
    assert started["message"] == "started: one, two"
    failed = next(line for line in lines if line["level"] == "error")
    assert failed["replication"] in ("one", "two")
    assert failed["message"].startswith(f"{failed['replication']}: slave: cannot connect: ")
    assert failed["hint"].startswith("Start the server, or correct host")
    both.write_text(both.read_text().replace("log_format: json", "log_format: text"))
    log = tmp_path / "journal"
    with log.open("wb") as output:
        found = os.fstat(output.fileno())
        journal = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        command = [sys.executable, "-m", "pyreplica", "--config", str(both), "run"]
        process = subprocess.Popen(command, stderr=output, env=journal)
        try:
            eventually(lambda: log.read_text().count("connected, at batch") == 2)
        finally:
            process.terminate()
            process.wait(LIMIT)
    assert "<6>INFO pyreplica: started: one, two\n" in log.read_text()
    assert "<6>INFO pyreplica.one: connected, at batch" in log.read_text()


def test_a_log_file_that_was_moved_away_is_begun_anew(both: Path, tmp_path: Path) -> None:
    log = tmp_path / "shop.log"
    both.write_text(both.read_text() + f"log_file: {log}\n")
    with daemon(both) as running_:
        eventually(lambda: log.exists() and log.read_text().count("connected, at batch") == 2)
        log.rename(tmp_path / "shop.log.1")
        assert running_.stop() == 0
    assert "stopped" in log.read_text()
    assert "started" in (tmp_path / "shop.log.1").read_text()
