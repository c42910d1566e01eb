"""Drives the program pausing.py: starts it, has it pause, kills it, reads what it says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tests.support import LIMIT, eventually


class Program:
    """A process of pausing.py.

    Args:
        config: its configuration file.
        log: what it says is written here, behind what is there.
        arguments: the rest of its command line.
    """

    def __init__(self, config: Path, log: Path, *arguments: str) -> None:
        self.log_path = log
        command = [sys.executable, "-m", "tests.faults.pausing", str(config), *arguments]
        with log.open("ab") as output:
            self._begin = log.stat().st_size
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                text=True,
            )

    def said(self, since: int = 0) -> str:
        """What it has said since a mark."""
        data = self.log_path.read_bytes()[max(since, self._begin) :]
        return data.decode(errors="replace")

    def mark(self) -> int:
        """How much is in the log now."""
        return self.log_path.stat().st_size

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def until_said(self, words: str, since: int = 0) -> str:
        """Wait for words, as a regular expression; gives the line."""

        def heard() -> bool:
            return re.search(words, self.said(since)) is not None or not self.running

        eventually(heard, f"the program has not said: {words}")
        found = re.search(f".*(?:{words}).*", self.said(since))
        assert found, f"it ended without saying: {words}\n{self.said(since)}"
        return found[0]

    def pause(self, step: str) -> None:
        """Have it pause when it next comes to this step, and wait until it does."""
        since = self.mark()
        self._tell(f"pause {step}")
        self.until_said(f"will pause: {step}", since)
        self.until_said(f"paused: {step}", since)

    def arm(self, step: str) -> None:
        """Have it pause when it next comes to this step."""
        since = self.mark()
        self._tell(f"pause {step}")
        self.until_said(f"will pause: {step}", since)

    def go(self) -> None:
        """Let it go on, if it is there."""
        if self.running:
            self._tell("go")

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has just ended
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def kill(self) -> None:
        """kill -9, if it runs."""
        self.process.kill()
        self.end()

    def terminate(self) -> None:
        """Ask it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        """Wait for its end; gives its exit code."""
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # it says what its threads are at
            self.process.wait(LIMIT)
            raise AssertionError(f"it does not end:\n{self.said()}") from None
        finally:
            assert self.process.stdin is not None
            with suppress(BrokenPipeError):
                self.process.stdin.close()
