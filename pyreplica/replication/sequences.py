"""Sequences: the slave's never stand behind a value that a row on the slave was given.

A sequence has no triggers, and drawing a value writes nothing to the log. So the values are read
together with the log, in the same statement and after its snapshot was taken; those that have
changed are set on the slave at the beginning of the batch. setval() is no part of the transaction:
should the batch fail, the slave's sequences are ahead of its rows, which does no harm. Values that
were drawn without a change of a row are found by the look at all sequences that comes with
``keepalive``, and at once when somebody rings for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from pyreplica.config import ReplicationConfig
from pyreplica.database import sql
from pyreplica.errors import ApplyError
from pyreplica.master import Master
from pyreplica.master.log import Fetched
from pyreplica.model import MasterSequence, SequenceState, SlaveSequence
from pyreplica.slave import Slave

LOOK_FIRST = 0.005
LOOK_LONGEST = 0.1
"""Who waits for the slave looks at it after this many seconds, and then ever later."""
MOST_NAMED = 10
"""So many sequences are named in one line of the log."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A sequence of the master, and those of the slave that are to stand where it does.

    There is more than one where the master's serves several columns, each of which has a sequence
    of its own on the slave; none where the slave has no such sequence.
    """

    master: MasterSequence
    slaves: tuple[SlaveSequence, ...]


def pairs(config: ReplicationConfig, slave: Slave, found: Iterable[MasterSequence]) -> list[Pair]:
    """The sequences that are replicated."""
    if config.both_ways:
        return []  # each side draws from its own
    return own_pairs(config, slave, found)


def own_pairs(
    config: ReplicationConfig, slave: Slave, found: Iterable[MasterSequence]
) -> list[Pair]:
    """The sequences that are, or would be, replicated."""
    chosen = [one for one in (_chosen(config, sequence) for sequence in found) if one is not None]
    here = slave.find_sequences(chosen)
    return [Pair(sequence, here.get(sequence.relid, ())) for sequence in chosen]


def _chosen(config: ReplicationConfig, sequence: MasterSequence) -> MasterSequence | None:
    """The sequence with the columns of replicated tables that it serves; None to leave it out.

    It goes with the tables that it serves. One that belongs to a table that is not replicated
    stays out: the slave's may be in use by a table of the slave's own; and one of a table that is
    gathered from several masters, each of which has its own. Any other goes by its name.
    """
    serves = tuple(c for c in sequence.columns if c.captured and config.includes(c.schema, c.table))
    owned = any(column.owned for column in sequence.columns)
    if serves:
        serves = tuple(c for c in serves if not config.map.table(c.schema, c.table).constants)
        return replace(sequence, columns=serves) if serves else None
    if not owned and config.includes(sequence.schema, sequence.name):
        return replace(sequence, columns=serves)
    return None


def out_of_bounds(pair: Pair) -> tuple[SlaveSequence, str] | None:
    """The slave's sequence that cannot stand everywhere the master's can, with the cure."""
    for here in pair.slaves:
        if here.minimum > pair.master.minimum or here.maximum < pair.master.maximum:
            return here, (
                f"Widen it on the slave: ALTER SEQUENCE {here.quoted} AS {pair.master.type} "
                f"MINVALUE {pair.master.minimum} MAXVALUE {pair.master.maximum}"
            )
    return None


class Sequences:
    """What one session knows of the sequences, and sends to the slave.

    Args:
        config: the replication.
        master: the session with the master.
        slave: the session with the slave.
    """

    def __init__(self, config: ReplicationConfig, master: Master, slave: Slave) -> None:
        self._config = config
        self._master = master
        self._slave = slave
        self._log = logging.getLogger(f"pyreplica.{config.name}")
        self._said: set[tuple[str, str]] = set()
        self.forget()

    def forget(self) -> None:
        """Know nothing any more, so that all are looked at and sent anew."""
        self.unseen = True
        self.relids: list[int] = []
        self._shape: list[MasterSequence] = []
        self._pairs: dict[int, Pair] = {}
        self._left_out: list[Pair] = []
        self._known: dict[int, SequenceState] = {}
        self._sent: dict[int, SequenceState] = {}
        self._values: Sequence[int | None] | None = None

    def moves(self, fetched: Fetched) -> list[sql.Composable]:
        """The statements that set what has changed, after a fetch for ``relids``.

        Raises:
            ApplyError: a sequence of the slave cannot stand there; it is named.
        """
        if fetched.sequences is not None:
            return self._compare(fetched.sequences)
        if fetched.values == self._values:
            return []
        states = {}
        for relid, value in zip(self.relids, fetched.values, strict=True):
            known = self._known.get(relid)
            if value is not None:
                states[relid] = SequenceState(value, True)
            elif known is None or known.is_called:
                # set back to its start, or dropped, or locked: the value alone does not tell
                return self.look()
        self._values = fetched.values
        return self._statements(states)

    def look(self) -> list[sql.Composable]:
        """Look at all sequences now, and give the statements that set what has changed."""
        return self._compare(self._master.sequences())

    def send(self, statements: Sequence[sql.Composable]) -> None:
        """Execute them by themselves, as there is no batch; and say which sequences are left out.

        Not sooner, because a batch may bring the DDL that makes one on the slave.
        """
        if statements:
            self._slave.connection.execute(sql.SQL("; ").join(statements))
            self.done()
        self._warn()

    def done(self) -> None:
        """What the last call gave was executed."""
        self._known.update(self._sent)
        self._sent.clear()

    def _compare(self, found: Iterable[MasterSequence]) -> list[sql.Composable]:
        shape = [replace(sequence, state=None) for sequence in found]
        if self.unseen or self._left_out or shape != self._shape:
            self._match(shape)
        return self._statements(
            {one.relid: one.state for one in found if one.relid in self._pairs and one.state}
        )

    def _match(self, shape: list[MasterSequence]) -> None:
        """Find the slave's sequences."""
        matched = pairs(self._config, self._slave, shape)
        ready = {p.master.relid: p for p in matched if _in_the_way(p) is None}
        self._known = {
            relid: state
            for relid, state in self._known.items()
            if relid in ready and ready[relid].slaves == self._pairs[relid].slaves
        }
        self.unseen = False
        self.relids = list(ready)
        self._shape = shape
        self._pairs = ready
        self._values = None
        self._left_out = [pair for pair in matched if pair.master.relid not in ready]

    def _statements(self, states: dict[int, SequenceState]) -> list[sql.Composable]:
        self._sent = {r: state for r, state in states.items() if self._known.get(r) != state}
        statements = []
        for relid, state in self._sent.items():
            pair = self._pairs[relid]
            for here in pair.slaves:
                if not here.minimum <= state.last_value <= here.maximum:
                    self._refuse(pair, state, here)
                statements.append(self._slave.set_sequence(here, state))
        return statements

    def _refuse(self, pair: Pair, state: SequenceState, here: SlaveSequence) -> None:
        _, hint = out_of_bounds(pair) or (here, "")
        raise ApplyError(
            f"sequence {here} on the slave goes from {here.minimum} to {here.maximum} and cannot "
            f"be set to {state.last_value}, where {pair.master} on the master is",
            where=self._slave.connection.where,
            hint=hint,
        )

    def _warn(self) -> None:
        """Say which sequences are left out, and why; once."""
        reasons: dict[str, list[str]] = {}
        for pair in self._left_out:
            reason = _in_the_way(pair)
            if reason is not None and (reason, str(pair.master)) not in self._said:
                self._said.add((reason, str(pair.master)))
                reasons.setdefault(reason, []).append(str(pair.master))
        for reason, names in reasons.items():
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            self._log.warning("sequence %s%s: %s", ", ".join(names[:MOST_NAMED]), more, reason)


def set_sequences(config: ReplicationConfig, master: Master, slave: Slave) -> None:
    """Have all of the slave's sequences stand where the master's do."""
    sequences = Sequences(config, master, slave)
    sequences.send(sequences.look())


@dataclass(frozen=True, slots=True)
class SequenceDifference:
    """A sequence of the slave that does not stand where the master's does.

    Args:
        name: schema and name, on the master where the slave does not have it.
        slave: None where the slave does not have it.
    """

    name: str
    master: SequenceState
    slave: SequenceState | None

    def __str__(self) -> str:
        there = "is not there" if self.slave is None else f"stands at {_shown(self.slave)}"
        return f"sequence {self.name} {there}, the master's at {_shown(self.master)}"


class Awaited:
    """The replicated sequences as they were on the master at one moment, to be waited for.

    Args:
        config: the replication.
        master: a session with the master; the moment is now.
        slave: a session with the slave.

    Attributes:
        missing: those that the slave does not have.
    """

    def __init__(self, config: ReplicationConfig, master: Master, slave: Slave) -> None:
        self._master = master
        self._slave = slave
        self._wanted: list[tuple[SlaveSequence, MasterSequence, SequenceState]] = []
        self.missing: list[SequenceDifference] = []
        for pair in pairs(config, slave, master.sequences()):
            state = pair.master.state
            if state is None:
                continue
            self._wanted += [(here, pair.master, state) for here in pair.slaves if here.readable]
            if not pair.slaves:
                self.missing.append(SequenceDifference(str(pair.master), state, None))

    def differences(self) -> list[SequenceDifference]:
        """Which of the slave's sequences have not got there; looked at now."""
        # the slave first: it cannot be ahead of what the master is read at after it
        there = self._slave.sequence_states([here for here, _, _ in self._wanted])
        late = [(*one, at) for one, at in zip(self._wanted, there, strict=True) if at != one[2]]
        self._wanted = []
        if not late:
            return []
        now = {sequence.relid: sequence.state for sequence in self._master.sequences()}
        differences = []
        for here, sequence, then, at in late:
            current = now.get(sequence.relid)
            if current is None:
                continue  # dropped, or locked: nobody draws from it
            # it may have been set back meanwhile
            goal = current if _before(current, then, sequence) else then
            if _before(at, goal, sequence) or _before(current, at, sequence):
                self._wanted.append((here, sequence, goal))
                differences.append(SequenceDifference(str(here), current, at))
        return differences


def sequences_differ(
    config: ReplicationConfig,
    master: Master,
    slave: Slave,
    timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> list[SequenceDifference]:
    """The sequences of the slave that do not get where the master's are, and those it lacks.

    The daemon is woken for it; a sequence whose values are still on their way is no difference.

    Args:
        timeout: seconds to wait for the slave.
    """
    awaited = Awaited(config, master, slave)
    deadline = clock() + timeout
    pause = LOOK_FIRST
    differences = awaited.differences()
    if differences:
        master.ring()
    while differences and clock() < deadline:
        sleep(pause)
        pause = min(pause * 1.5, LOOK_LONGEST)
        differences = awaited.differences()
    return sorted([*differences, *awaited.missing], key=lambda difference: difference.name)


def _before(one: SequenceState, other: SequenceState, sequence: MasterSequence) -> bool:
    """Whether a sequence comes through one state before another."""
    if sequence.increment > 0:
        return one < other
    return (-one.last_value, one.is_called) < (-other.last_value, other.is_called)


def _shown(state: SequenceState) -> str:
    return f"{state.last_value}{'' if state.is_called else ' (not yet handed out)'}"


def _in_the_way(pair: Pair) -> str | None:
    """Why the sequence cannot be replicated, with the cure; None when it can."""
    if not pair.master.readable:
        return "cannot be read on the master; GRANT SELECT on it to the master's role"
    if not pair.slaves:
        return "the slave does not have it; create it there, or its value is not replicated"
    if not all(here.settable for here in pair.slaves):
        return "cannot be set on the slave; GRANT SELECT, UPDATE on it to the slave's role"
    return None
