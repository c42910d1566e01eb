"""One soak, from the empty databases to the verdict."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pyreplica.errors import PyReplicaError
from tests.conftest import Databases
from tests.soak import verdict
from tests.soak.faults import Faults, Struck
from tests.soak.place import Place
from tests.soak.verdict import Row, Rule
from tests.soak.watch import Sample, Watch

_PROGRESS = 30.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for; durations in seconds.

    Args:
        seconds: of load and faults.
        seed: of everything that is left to chance but for time itself.
        most_faults: so many at the most.
    """

    seconds: float
    seed: int
    most_faults: int | None = None

    @property
    def scale(self) -> float:
        """1 for a run of six minutes and more; the pauses of a shorter one are shorter."""
        return min(1.0, self.seconds / 360)

    @property
    def long(self) -> float:
        """How long a long transaction is open."""
        return 60 * self.scale

    @property
    def pause(self) -> float:
        """The longest time without a fault."""
        return 25 * self.scale

    @property
    def idle(self) -> float:
        """The rest at the end: a keepalive and somewhat more."""
        return 65 * self.scale

    @property
    def every(self) -> float:
        """From one sample to the next."""
        return max(0.5, 3 * self.scale)


@dataclass
class Outcome:
    """What came of it."""

    settings: Settings
    samples: list[Sample] = field(default_factory=list)
    struck: list[Struck] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    transactions: dict[str, int] = field(default_factory=dict)
    errors: int = 0
    loaded: float = 0.0
    caught_up: float = 0.0
    idle: Sample | None = None

    @property
    def passed(self) -> bool:
        """Whether every rule holds."""
        return bool(self.rules) and not any(rule.broken for rule in self.rules)


def soak(
    settings: Settings, databases: Databases, folder: Path, say: Callable[[str], None]
) -> Outcome:
    """Run it.

    Args:
        databases: two empty ones; their servers are crashed.
        folder: for files, empty.
        say: is given a line now and then.
    """
    outcome = Outcome(settings)
    place = Place(
        databases, folder, seed=settings.seed, long=settings.long, every=max(settings.scale, 0.5)
    )
    try:
        place.set_up()
        watch = Watch(
            databases, lambda: place.running_daemon, lambda: place.load.done, settings.every
        )
        outcome.samples = watch.samples
        with watch:
            outcome.rules.append(_strike(settings, place, watch, outcome, say))
            outcome.transactions = place.mixed.by_kind()
            outcome.errors = len(place.load.errors.splitlines())
            if outcome.passed:
                _judge(settings, place, watch, outcome, say)
    finally:
        place.close()
        outcome.rows = verdict.rows(outcome.samples, outcome.loaded)
    if outcome.idle is not None and settings.seconds >= verdict.FLAT_FROM:
        outcome.rules += verdict.flat(outcome.rows)
    return outcome


def _strike(
    settings: Settings, place: Place, watch: Watch, outcome: Outcome, say: Callable[[str], None]
) -> Rule:
    """The load, and one fault after the other."""
    faults = Faults(place, settings.seed)
    waiting = threading.Event()
    text = "the daemon met every fault, and the slave caught up after each"
    told = 0.0
    try:
        with place.load:
            while (now := watch.now) < settings.seconds:
                until = min(now + faults.pause(settings.pause), settings.seconds)
                while (now := watch.now) < until:
                    waiting.wait(min(1.0, until - now))
                    if now - told >= _PROGRESS and watch.samples:
                        told = now
                        say(_progress(watch.samples[-1], len(outcome.struck)))
                if until == settings.seconds or len(outcome.struck) == settings.most_faults:
                    continue
                fault = faults.choose(killing=watch.now < settings.seconds / 4)
                say(f"{_clock(watch.now)}  {fault.name} ...")
                struck = faults.strike(fault, watch.now)
                outcome.struck.append(struck)
                say(
                    f"{_clock(watch.now)}  ... over after {struck.lasted:.1f} s, "
                    f"caught up {struck.caught_up:.1f} s later"
                )
        outcome.loaded = watch.now
        faults.until_caught_up()
        outcome.caught_up = watch.now - outcome.loaded
    except (AssertionError, PyReplicaError) as failure:
        outcome.loaded = watch.now
        return Rule(text, str(failure))
    return Rule(text)


def _judge(
    settings: Settings, place: Place, watch: Watch, outcome: Outcome, say: Callable[[str], None]
) -> None:
    say(f"{_clock(watch.now)}  the writers have stopped; comparing")
    outcome.rules += verdict.the_same(place)
    say(f"{_clock(watch.now)}  nobody does anything for {settings.idle:.0f} s")
    threading.Event().wait(settings.idle)
    outcome.idle = watch.sample()
    outcome.rules += verdict.at_rest(place)
    outcome.rules += verdict.told(place)


def _clock(seconds: float) -> str:
    return f"{int(seconds // 60):3}:{int(seconds % 60):02}"


def _progress(sample: Sample, struck: int) -> str:
    def shown(value: float | None, unit: str, divisor: float = 1, digits: int = 0) -> str:
        return f"-{unit}" if value is None else f"{value / divisor:,.{digits}f}{unit}"

    return (
        f"{_clock(sample.at)}  {shown(sample.transactions, ' transactions')}, "
        f"{shown(sample.changes, ' changes')}, lag {shown(sample.lag, ' s', digits=1)}, "
        f"memory {shown(sample.rss, ' MiB', verdict.MIB, 1)}, "
        f"log {shown(sample.log, ' MiB', verdict.MIB)}, {struck} faults"
    )
