"""How long to wait before the next try.

Exponential with jitter, so that the many clients of a server that comes back do not all call at
once.
"""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Delays that double from ``first`` to ``longest``, each drawn from its upper half.

    Args:
        first: the first delay, seconds.
        longest: no delay is longer than this, seconds.
        draw: a random number in [0, 1); passed in by tests.
    """

    def __init__(self, first: float, longest: float, draw: Callable[[], float] = random.random):
        self._first = first
        self._longest = longest
        self._draw = draw
        self._next = first

    def reset(self) -> None:
        """Begin again with the first delay, after a success."""
        self._next = self._first

    def delay(self) -> float:
        """The next delay, seconds."""
        ceiling = min(self._next, self._longest)
        self._next = min(self._next * 2, self._longest)
        return ceiling * (0.5 + self._draw() / 2)
