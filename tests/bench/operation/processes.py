"""What processes have taken, as the kernel counts it in /proc."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from pyreplica.demo.cluster import Cluster

_TICK = os.sysconf("SC_CLK_TCK")
_CPU_CLOCK = 2
"""The clock of all of a process's CPU time, CPUCLOCK_SCHED in the kernel's posix-timers.h."""


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has taken, with all its threads, those that ended as well."""
    return time.clock_gettime((~pid << 3) | _CPU_CLOCK)


def server_cpu(cluster: Cluster) -> float:
    """Seconds of CPU that all processes of a server have taken, those that ended as well.

    In steps of a hundredth of a second for each process.
    """
    first = cluster.pid
    children = [_times(one, 2) for one in children_of(first)]
    return _times(first, 4) + sum(children)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that are there."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(_fields(int(folder.name))[1])
        except OSError:
            continue  # it has ended
        if parent == pid:
            found.append(int(folder.name))
    return found


def _times(pid: int, count: int) -> float:
    """The first of utime, stime, cutime and cstime (proc_pid_stat(5)), added up, in seconds."""
    try:
        return sum(map(int, _fields(pid)[11 : 11 + count])) / _TICK
    except OSError:
        return 0.0


def _fields(pid: int) -> list[str]:
    """From the third field of /proc/PID/stat on: the second may have blanks in it."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


@dataclass(frozen=True, slots=True)
class Memory:
    """What memory a process has, in bytes.

    Attributes:
        resident: of it in the machine's memory, with the pages that others use, too.
        peak: the most that was ever resident.
        private: the pages that it alone uses.
    """

    resident: int
    peak: int
    private: int


def memory(pid: int) -> Memory:
    """What memory a process has."""
    status = _numbers(Path(f"/proc/{pid}/status"))
    rollup = _numbers(Path(f"/proc/{pid}/smaps_rollup"))
    private = rollup["Private_Clean"] + rollup["Private_Dirty"]
    return Memory(status["VmRSS"] * 1024, status["VmHWM"] * 1024, private * 1024)


@dataclass(frozen=True, slots=True)
class Activity:
    """What a process has done since it began.

    Attributes:
        cpu: seconds of CPU.
        wakeups: how often one of its threads went to sleep of itself, and so was woken.
        threads: how many it has.
    """

    cpu: float
    wakeups: int
    threads: int

    def since(self, before: Activity) -> Activity:
        """What was done in between."""
        return Activity(self.cpu - before.cpu, self.wakeups - before.wakeups, self.threads)


def activity(pid: int) -> Activity:
    """What a process has done; threads that have ended are not in its wake-ups."""
    wakeups = [
        _numbers(task / "status")["voluntary_ctxt_switches"]
        for task in Path(f"/proc/{pid}/task").iterdir()
    ]
    return Activity(cpu(pid), sum(wakeups), len(wakeups))


def _numbers(path: Path) -> dict[str, int]:
    """The lines ``name: number`` of a file."""
    found = re.findall(r"^(\w+):\s+(\d+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: int(number) for name, number in found}
