"""Runs the demo's programs, several at a time, and hands on their output line by line."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pyreplica.demo.interrupts import Interrupts
from pyreplica.errors import PyReplicaError, TimedOut

TICK = 0.2
"""Seconds between two looks at the programs that write to a file, and so end unheard."""
PATIENCE = 10.0
"""Seconds a program has to end after SIGTERM; the daemon wants to finish a batch."""


class Program:
    """A program that was started; its lines are handed on by :meth:`Programs.wait`."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], line: Callable[[str], object]
    ) -> None:
        self.name = name
        self.lines: list[str] = []
        self.ended_at: float | None = None
        self._process = process
        self._line = line
        self._rest = b""

    @property
    def pipe(self) -> int | None:
        """Where its output can be read; None when that goes to a file, or has come to its end."""
        output = self._process.stdout
        return None if output is None or output.closed else output.fileno()

    @property
    def code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        code = self._process.poll()
        if code is not None and self.ended_at is None:
            self.ended_at = time.monotonic()
        return code

    @property
    def ended(self) -> bool:
        """Whether it has ended and all its output was handed on."""
        return self.pipe is None and self.code is not None

    @property
    def text(self) -> str:
        """All that it has written to its pipe."""
        return "\n".join(self.lines)

    def read(self) -> None:
        """Hand on what can be read now."""
        pipe = self.pipe
        if pipe is None:
            return
        chunk = os.read(pipe, 1 << 16)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if not chunk:
            lines, self._rest = [self._rest] if self._rest else [], b""
            assert self._process.stdout is not None
            self._process.stdout.close()
            self.ended_at = time.monotonic()
        for line in lines:
            text = line.decode(errors="replace").rstrip()
            self.lines.append(text)
            self._line(text)

    def end(self) -> None:
        """End it and what it has started: SIGTERM, then SIGKILL."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.code is None:
                os.killpg(self._process.pid, number)  # a session of its own, see start()
                try:
                    self._process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    continue
        if self._process.stdout is not None:
            self._process.stdout.close()


class Programs:
    """All programs of a demo; at the end of the block none of them is left.

    Args:
        interrupts: a signal ends every wait.
        environment: what the programs get to see.
    """

    def __init__(self, interrupts: Interrupts, environment: Mapping[str, str]) -> None:
        self._interrupts = interrupts
        self._environment = dict(environment)
        self._running: list[Program] = []
        self._guarded: list[Program] = []

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        line: Callable[[str], object] = lambda text: None,
        log: Path | None = None,
        errors: Path | None = None,
    ) -> Program:
        """Start a program.

        Args:
            name: how messages name it.
            line: called with each line it writes.
            log: the file its output goes to; then there are no lines.
            errors: the file its standard error goes to, rather than where the rest goes.
        """
        with ExitStack() as files:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=files.enter_context(log.open("ab")) if log else subprocess.PIPE,
                stderr=files.enter_context(errors.open("ab")) if errors else subprocess.STDOUT,
                env=self._environment,
                # Ctrl-C is for us: we end the programs, in the order that is right.
                start_new_session=True,
            )
        program = Program(name, process, line)
        self._running.append(program)
        return program

    def guard(self, program: Program) -> None:
        """Take its end for a failure from now on, whatever is being waited for."""
        self._guarded.append(program)

    def unguard(self, program: Program) -> None:
        """Let it end."""
        self._guarded.remove(program)

    def wait(self, *programs: Program, seconds: float) -> bool:
        """Wait for the end of programs, and hand on the lines of all meanwhile.

        Args:
            programs: none: just let the time pass.
            seconds: the longest wait.

        Returns:
            Whether all of them have ended.

        Raises:
            PyReplicaError: a guarded program has ended.
            KeyboardInterrupt, SystemExit: a signal came.
        """
        deadline = time.monotonic() + seconds
        while True:
            self._interrupts.check()
            for guarded in self._guarded:
                if guarded.code is not None:
                    raise PyReplicaError(
                        f"{guarded.name} ended by itself with exit code {guarded.code}"
                    )
            if programs and all(program.ended for program in programs):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            # A program that has closed its output is about to end.
            ending = any(program.pipe is None for program in programs)
            pause = min(left, 0.005 if ending else TICK)
            piped = {p.pipe: p for p in self._running if p.pipe is not None}
            ready, _, _ = select.select([self._interrupts.fileno(), *piped], [], [], pause)
            for pipe in ready:
                if pipe in piped:
                    piped[pipe].read()

    def finish(self, program: Program, *, seconds: float, code: int | None = 0) -> str:
        """Wait for a program that must end in time, and with this exit code unless None.

        Returns:
            What it has written.

        Raises:
            TimedOut: it goes on for longer than that.
            PyReplicaError: it ended with another code.
        """
        if not self.wait(program, seconds=seconds):
            raise TimedOut(f"{program.name} has not ended within {seconds:g} s")
        if code is not None and program.code != code:
            raise PyReplicaError(
                f"{program.name} failed with exit code {program.code}", details=program.text
            )
        return program.text

    def end_all(self) -> None:
        """End what still runs, the last started first."""
        self._guarded.clear()
        for program in reversed(self._running):
            program.end()
        self._running.clear()
