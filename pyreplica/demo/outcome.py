"""What a demo has shown, and whether that is what it must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyreplica.demo.probe import percentile


@dataclass(frozen=True, slots=True)
class Table:
    """How one table compared; ``problem`` is empty when it is equal."""

    name: str
    rows: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """The load and what came of it; durations in seconds.

    Args:
        transactions: pgbench's, all of them.
        transaction_rate: pgbench's, a second.
        changes: captured on the master and applied on the slave from pgbench's beginning on.
        applied_in: from pgbench's beginning until the slave had all.
        lags: of every marker of the :class:`Probe`, before the outage.
        down: from the command to stop the slave's server until it took connections again.
        caught_up_in: from then on until the slave had all that was committed on the master by then.
        finished_in: from pgbench's end until the slave had all.
    """

    transactions: int
    transaction_rate: float
    changes: int
    applied_in: float
    lags: Sequence[float]
    down: float
    caught_up_in: float
    finished_in: float

    @property
    def change_rate(self) -> float:
        """Changes applied on the slave, a second, over the whole run with its outage."""
        return self.changes / self.applied_in

    def lag(self, part: float) -> float:
        """The lag, seconds, that this part of the markers did not exceed."""
        return percentile(self.lags, part)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a demo has shown.

    Args:
        clients: of pgbench.
        tables: as `pyreplica compare` found them.
        daemon_code: the daemon's exit code after SIGTERM.
        daemon_log: the last lines of its log.
    """

    clients: int
    measured: Measured
    tables: Sequence[Table]
    daemon_code: int
    daemon_log: Sequence[str]

    @property
    def problems(self) -> list[str]:
        """What was not as it must be, a line each."""
        found = [f"table {t.name}: {t.problem}" for t in self.tables if t.problem]
        if not self.tables:
            found.append("no table was compared")
        if self.daemon_code != 0:
            found.append(f"the daemon ended with exit code {self.daemon_code}")
        return found
