"""What further slaves of the same master cost its writers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.growth.replicated import Replicated
from tests.bench.growth.tables import Table
from tests.bench.growth.writers import Writers

CLIENTS = 8


def writing(folder: Path, counts: Sequence[int], seconds: float, turns: int) -> list[list[float]]:
    """Transactions a second that insert a row each, while nothing is applied.

    Each number of slaves has a master of its own, which it is registered with and copied from; the
    masters take turns. At the end the slaves catch up, and their rows are compared.

    Args:
        folder: for the servers.
        counts: of slaves.
        seconds: of each turn.
        turns: how many each master has.

    Returns:
        For each turn what was found with each number of slaves.

    Raises:
        Wrong: a slave differs.
    """
    table = Table("written")
    with ExitStack() as stack:
        masters = [
            stack.enter_context(Replicated(folder / f"slaves_{count}", [table], count))
            for count in counts
        ]
        for master in masters:
            master.end()
        found = []
        for _ in range(turns):
            rates = []
            for master in masters:
                with Writers(master, table, CLIENTS) as writers:
                    rates.append(writers.stretch(seconds).rate)
            found.append(rates)
        for master in masters:
            master.start()
            master.check([table])
            master.end()
    return found
