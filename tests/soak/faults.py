"""Strikes with the faults of the matrix, one at a time, and measures how long recovery takes."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from pyreplica.errors import PyReplicaError
from tests.faults.faults import FAULTS, Fault
from tests.soak.place import Place
from tests.support import connect, eventually, sql

CATCH_UP = 300.0
"""Seconds; a slave that is not there by then will not be."""

_KILL = "kill"
# Those that need somebody to hold a row, a trigger of the slave or a disk of their own are left to
# the matrix: here nothing stands still for them.
_LEFT_OUT = {"stmt", "lock", "dead", "ser", "dkM", "dkS"}
ELIGIBLE = [fault for fault in FAULTS if fault.code not in _LEFT_OUT]


@dataclass(frozen=True, slots=True)
class Struck:
    """One fault that struck; all durations in seconds.

    Args:
        at: since the load began.
        lasted: until the daemon had met it and it was over.
        caught_up: from then on until the slave had what the master had when it was over.
    """

    fault: Fault
    at: float
    lasted: float
    caught_up: float


class Faults:
    """Chooses and strikes.

    Args:
        place: where.
        seed: of what is chosen.
    """

    def __init__(self, place: Place, seed: int) -> None:
        self._place = place
        self._chance = random.Random(seed)
        self._marks = 0
        self._unused: list[Fault] = []

    def pause(self, longest: float) -> float:
        """Seconds until the next one."""
        return self._chance.uniform(longest / 5, longest)

    def choose(self, *, killing: bool) -> Fault:
        """The next one: each once, in some order, before any of them comes again.

        Args:
            killing: the daemon may be killed. Every second fault kills it then: later on it is
                to live, so that what it never gives back can be seen.
        """
        if killing and self._chance.randrange(2):
            return next(fault for fault in ELIGIBLE if fault.code == _KILL)
        if not self._unused:
            self._unused = [fault for fault in ELIGIBLE if fault.code != _KILL]
            self._chance.shuffle(self._unused)
        return self._unused.pop()

    def strike(self, fault: Fault, at: float) -> Struck:
        """Strike, start what died, wait until the slave has caught up.

        Raises:
            AssertionError: the daemon has not noticed it, or the slave does not catch up.
        """
        began = time.monotonic()
        self._place.strikes()
        with fault.strike(self._place):
            pass
        self._place.start_daemon()
        over = time.monotonic()
        self.until_caught_up()
        return Struck(fault, at, over - began, time.monotonic() - over)

    def until_caught_up(self) -> None:
        """Wait until the slave has what is committed on the master now."""
        self._marks += 1
        databases = self._place.databases
        sql(databases.master, f"INSERT INTO public.mark VALUES ({self._marks})")

        def there() -> bool:
            query = f"SELECT count(*) FROM public.mark WHERE id = {self._marks}"
            try:
                with connect(databases.slave) as slave:
                    return bool(slave.one(query)[0])
            except PyReplicaError:  # it is still starting
                return False

        eventually(there, "the slave has caught up", CATCH_UP, pause=0.02)
