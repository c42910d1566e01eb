"""Programs that are forked are processes as those are that a test starts itself."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import forks
from tests.support import LIMIT, Daemon

ROOT = Path(__file__).parents[1]

_TELLS = """
import os, sys
print(__name__, sys.argv[1:], os.getcwd(), os.environ.get("GIVEN"), os.getppid() == {parent})
print("a failure", file=sys.stderr)
sys.exit(int(sys.argv[1]))
"""
_WAITS = """
import signal, sys
print("ready")
signal.pause()
"""

_STARTS = """
import sys
from tests import forks
print(forks.forked(["waits"], 2, 2).pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; a module in it can be run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_program_has_its_arguments_folder_environment_output_and_exit_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tells.py").write_text(_TELLS.format(parent=os.getpid()))
    monkeypatch.setenv("GIVEN", "this")
    command = ["tells", "3", "x y"]
    done = forks.run(command, LIMIT)
    fresh = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False
    )
    assert fresh.stdout == f"__main__ ['3', 'x y'] {folder} this True\n"
    assert done.stdout == fresh.stdout.replace("True", "False")
    assert (done.returncode, done.stderr) == (fresh.returncode, fresh.stderr) == (3, "a failure\n")


def test_a_program_ends_by_the_signals_that_it_is_sent(folder: Path) -> None:
    (folder / "waits.py").write_text(_WAITS)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        started = Daemon(["waits"], folder / f"{number}.log", fresh=False)
        started.until_said("ready")
        assert started.process.poll() is None
        os.kill(started.process.pid, 0)
        # Python says that it was interrupted, and then ends by that signal
        assert started.stop(number) == -number
        assert started.process.poll() == -number
        with pytest.raises(ProcessLookupError):
            os.kill(started.process.pid, 0)


def test_a_program_that_takes_too_long_is_killed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "waits.py").write_text(_WAITS)
    started: list[forks.Forked] = []
    start = forks.forked

    def noting(*arguments: Any) -> forks.Forked:
        started.append(start(*arguments))
        return started[-1]

    monkeypatch.setattr(forks, "forked", noting)
    with pytest.raises(subprocess.TimeoutExpired):
        forks.run(["waits"], 0.1)
    (process,) = started
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_a_program_holds_no_file_of_another(folder: Path) -> None:
    """Otherwise the end of another's output would not be seen before its own end."""
    (folder / "waits.py").write_text(_WAITS)
    (folder / "files.py").write_text("import os\nprint(len(os.listdir('/proc/self/fd')))\n")
    alone = forks.run(["files"], LIMIT).stdout
    started = Daemon(["waits"], folder / "log", fresh=False)
    started.until_said("ready")
    assert forks.run(["files"], LIMIT).stdout == alone
    started.kill()


def test_programs_end_with_the_tests_that_started_them(folder: Path) -> None:
    (folder / "waits.py").write_text(_WAITS)
    with subprocess.Popen(
        [sys.executable, "-c", _STARTS],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as tests:
        assert tests.stdout is not None
        program = os.pidfd_open(int(tests.stdout.readline()))
        tests.kill()
    ended, _, _ = select.select([program], [], [], LIMIT)
    os.close(program)
    assert ended
