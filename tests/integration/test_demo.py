"""`pyreplica demo` as a user sees it, its exit code, and what it leaves behind: nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from pyreplica.cli.demo import run, show
from pyreplica.cli.main import parser
from pyreplica.demo.outcome import Measured, Outcome, Table
from pyreplica.demo.probe import percentile
from tests.support import connect

SHORT = ("demo", "--seconds", "6", "--scale", "1", "--clients", "2")
BANK = ("accounts", "branches", "history", "tellers")
LIMIT = 120.0
"""Seconds a demo may take here; it takes about 12 on an idle machine."""


@pytest.fixture
def folder(servers_directory: Path) -> Iterator[Path]:
    """The folder for temporary files of a demo; it must be as empty afterwards as before."""
    with tempfile.TemporaryDirectory(prefix="demo-", dir=servers_directory) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def processes(folder: Path) -> list[list[str]]:
    """The command lines of all processes that have to do with a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has just ended
        if str(folder) in text:
            found.append([path.parent.name, *text.rstrip("\0").split("\0")])
    return found


@contextmanager
def started(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """A running demo."""
    with subprocess.Popen(
        [sys.executable, "-m", "pyreplica", *SHORT, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(process: subprocess.Popen[str], text: str) -> None:
    """Read a demo's output until a line has this text."""
    assert process.stdout is not None
    assert any(text in line for line in process.stdout), f"never said: {text}"


def ended(process: subprocess.Popen[str]) -> tuple[str, str, int]:
    """Wait for the end; gives the rest of the output, the errors and the exit code."""
    # not communicate(), which knows nothing of what read_until() has taken in already
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = process.stdout.read(), process.stderr.read()
    return out, err, process.wait(LIMIT)


def tables(output: str) -> dict[str, tuple[int, str]]:
    """Rows and result of each table."""
    found = re.findall(r"^   public\.(\w+) +([\d,]+)  (\S.*)$", output, re.MULTILINE)
    return {name: (int(rows.replace(",", "")), result) for name, rows, result in found}


def number(output: str, name: str, unit: str = "") -> float:
    """One of the figures."""
    found = re.search(rf"^   {name} +([\d.,]+){unit}  \S", output, re.MULTILINE)
    assert found is not None, f"no figure: {name}"
    return float(found[1].replace(",", ""))


def test_a_demo_shows_equal_tables_and_plausible_figures_and_leaves_nothing(folder: Path) -> None:
    with started(folder) as process:
        out, err, code = ended(process)
    assert (code, err) == (0, "")

    found = tables(out)
    assert set(found) == {"demo_probe", *(f"pgbench_{name}" for name in BANK)}
    assert {result for _, result in found.values()} == {"equal"}
    assert found["pgbench_accounts"][0] == 100_000
    transactions = number(out, "transactions")
    markers = found["demo_probe"][0]
    assert found["pgbench_history"][0] == transactions > 0
    # An UPDATE by 0, which changes nothing, is not captured; about one in 10,000 is.
    most = transactions * 4 + markers
    assert most * 0.99 < number(out, "changes captured") <= most
    assert number(out, "changes applied", "/s") > 0
    assert markers > 10
    assert 0 < number(out, "lag p50", " ms") <= number(out, "lag p99", " ms")
    assert 1.0 <= number(out, "slave server down", " s") < LIMIT
    assert 0.0 < number(out, "catch-up time", " s") < LIMIT

    assert "\x1b" not in out, "plain text where it is no terminal"
    assert not re.search(r"[ \t]$", out, re.MULTILINE)
    assert processes(folder) == []
    assert list(folder.iterdir()) == []


def test_a_row_that_differs_makes_the_exit_code_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damage(slave: str) -> None:
        with connect(slave) as session:
            session.execute("UPDATE public.pgbench_tellers SET filler = 'damaged' WHERE tid = 7")

    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert run(parser().parse_args(SHORT), before_compare=damage) == 1
    out, err = capsys.readouterr()
    found = {name: result for name, (_, result) in tables(out).items()}
    assert found.pop("pgbench_tellers") == "DIFFERS: rows that differ: 1"
    assert set(found.values()) == {"equal"}
    assert "public.pgbench_tellers: rows that differ: 1" in err
    assert "INFO pyreplica: stopped" in err, "the end of the daemon's log"
    assert "are equal" not in out
    assert processes(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("number_", "moment", "code"),
    [
        (signal.SIGINT, "1. ", 130),
        (signal.SIGTERM, "copy --schema", 143),
        (signal.SIGINT, "the slave's server is stopped", 130),
    ],
)
def test_a_signal_in_the_middle_ends_everything(
    folder: Path, number_: signal.Signals, moment: str, code: int
) -> None:
    with started(folder) as process:
        read_until(process, moment)
        process.send_signal(number_)
        _, err, found = ended(process)
    assert found == code
    assert "Traceback" not in err
    assert processes(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "files"),
    [((), set()), (("--keep",), {"daemon.log", "demo.yaml", "master.log", "slave.log"})],
)
def test_a_daemon_that_dies_is_reported_with_its_log(
    folder: Path, options: Sequence[str], files: set[str]
) -> None:
    with started(folder, *options) as process:
        read_until(process, "pgbench begins")
        (daemon,) = [int(pid) for pid, *command in processes(folder) if command[-1] == "run"]
        os.kill(daemon, signal.SIGKILL)
        out, err, code = ended(process)
    assert code == 1
    assert err.startswith("pyreplica: demo: the daemon ended by itself with exit code -9\n")
    assert "connected, at batch 1" in err, "the end of the daemon's log"
    assert ("demo --keep" in err) == (not files)
    assert processes(folder) == []
    left = list(folder.rglob("*"))
    assert {path.name for path in left if path.is_file()} == files
    if files:
        assert f"are kept in {left[0]}\n" in out
    else:
        assert left == []


def test_a_daemon_that_does_not_end_well_makes_the_exit_code_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured = Measured(100, 10.0, 400, 10.0, [0.01, 0.02], 1.0, 0.5, 0.1)
    outcome = Outcome(4, measured, [Table("public.item", 3)], 1, ["its last line"])
    assert show(outcome, kept=True) == 1
    out, err = capsys.readouterr()
    assert tables(out) == {"item": (3, "equal")}
    assert err.startswith("pyreplica: demo: the daemon ended with exit code 1\n")
    assert err.endswith("\nits last line\n")


@pytest.mark.parametrize("option", ["--seconds=4", "--scale=0", "--clients=none"])
def test_a_number_that_makes_no_sense_is_refused(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(["demo", option])
    assert caught.value.code == 2
    assert "is not a whole number from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "part", "expected"),
    [
        ([7.0], 0.99, 7.0),
        ([3.0, 1.0, 2.0], 0.5, 2.0),
        ([float(n) for n in range(100, 0, -1)], 0.5, 50.0),
        ([float(n) for n in range(1, 101)], 0.99, 99.0),
        ([float(n) for n in range(1, 102)], 0.99, 100.0),
    ],
)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(
    values: list[float], part: float, expected: float
) -> None:
    assert percentile(values, part) == expected
