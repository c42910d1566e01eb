"""The doorbell's protocol as a small model, and a search of all that can happen in it.

Every step of a process is taken in every order with those of all others. What the model knows of
PostgreSQL:

- A transaction is *listed* as running in a snapshot only if one with a higher id has ended already:
  a snapshot ends after the highest id that has. The newest ones are in no list.
- setval() takes a transaction id while it has the sequence's page locked, so that whoever read the
  old value has a lower one.
- Reading a sequence is not bound to a snapshot; reading a table is.
- A rollback to a savepoint takes back the rows and the NOTIFYs since then.
- A commit is seen by new snapshots first, and rings after that. The ring reaches who listens.

The keepalive is left out, which would hide each fault after a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.unit.doorbell_state import (
    CHANGE,
    FAULTS,
    TRANSACTIONS,
    Daemon,
    State,
    Upkeep,
    Writer,
    ended,
    swapped,
    will_ring,
    with_daemon,
)


class Model:
    """Writers, daemons and a rotation of the log, with a fault or none.

    Args:
        transactions: what each writer does.
        daemons: how many fall asleep.
        rotates: whether the log's segment changes meanwhile.
        silences: whether the bits of daemons that are not there are cleared.
        cuts: whether each daemon may lose its connection once.
        busy: whether each daemon may have its bit cleared once more after it was set.
        fault: one of FAULTS.
    """

    def __init__(
        self,
        *transactions: str,
        daemons: int = 1,
        rotates: bool = False,
        silences: bool = False,
        cuts: bool = False,
        busy: bool = False,
        fault: str = "",
    ) -> None:
        assert not fault or fault in FAULTS
        self.fault = fault
        self.change = self._change()
        programs = [TRANSACTIONS[name] for name in transactions]
        if fault == "late id":
            programs = [swapped(program, "id", "look") for program in programs]
        if fault == "early ring":
            programs = [swapped(program, "publish", "ring") for program in programs]
        self.first = State(
            tuple(Writer(program) for program in programs),
            (Daemon(*self._connected(), cut=cuts, busy=busy),) * daemons,
            tuple(self._upkeep(rotates, silences)),
        )

    def _change(self) -> tuple[str, ...]:
        """The steps that change the doorbell."""
        match self.fault:
            case "no lock":
                return CHANGE[1:]
            case "early id":
                return ("early id", "lock", "read", "change", "end")
            case "no id":
                return ("lock", "read", "change", "end")
        return CHANGE

    def _upkeep(self, rotates: bool, silences: bool) -> Iterator[Upkeep]:
        if rotates:
            yield Upkeep("rotation", self.change)
        if silences:
            lock, *change = CHANGE
            looking = ("look", lock) if self.fault == "early look" else (lock, "look")
            yield Upkeep("silence", (*looking, *change))

    # The search

    def lost(self) -> list[str] | None:
        """A shortest way to a wake-up that is lost; None when there is none."""
        came: dict[State, tuple[State, str] | None] = {self.first: None}
        found = [self.first]
        for state in found:
            stuck = True
            for step, after in self.steps(state):
                stuck = False
                if after not in came:
                    came[after] = (state, step)
                    found.append(after)
            if self.wrong(state) or (stuck and not self.finished(state)):
                way: list[str] = []
                before = came[state]
                while before is not None:
                    way.append(before[1])
                    before = came[before[0]]
                return way[::-1]
        self.states = len(found)
        return None

    def wrong(self, state: State) -> bool:
        """Whether somebody sleeps who has to read something and will not be woken."""
        if any(writer.todo == ("ring",) and will_ring(writer) for writer in state.writers):
            return False
        return any(d.then == "asleep" and d.unread and not d.rung for d in state.daemons)

    def finished(self, state: State) -> bool:
        """Whether all have done what they had to do."""
        return (
            not any(writer.todo for writer in state.writers)
            and not any(upkeep.todo for upkeep in state.upkeep)
            and all(d.then == "asleep" and not d.unread for d in state.daemons)
        )

    def steps(self, state: State) -> Iterator[tuple[str, State]]:
        """Everything that can happen next."""
        for number, writer in enumerate(state.writers):
            if writer.todo:
                after = self._write(state, number, writer)
                if after is not None:
                    yield f"writer {number}: {writer.todo[0]}", after
        for number, daemon in enumerate(state.daemons):
            name = f"daemon {number}"
            if daemon.cut:
                yield f"{name}: connection lost", self._cut(state, number, daemon)
            if daemon.todo:
                after = self._daemon_step(state, number, daemon)
                if after is not None:
                    yield f"{name}: {daemon.todo[0]}", after
            else:
                for next_ in self._decide(daemon):
                    what = " ".join((next_.then, *next_.todo[:1]))
                    yield f"{name}: {what}", with_daemon(state, number, next_)
        for number, upkeep in enumerate(state.upkeep):
            if upkeep.todo:
                after = self._look_after(state, number, upkeep)
                if after is not None:
                    yield f"{upkeep.name}: {upkeep.todo[0]}", after

    # Writers

    def _write(self, state: State, number: int, writer: Writer) -> State | None:
        step, name = writer.todo[0], f"w{number}"
        writer = writer._replace(todo=writer.todo[1:])
        *outer, (row, rings) = writer.levels
        match step:
            case "begin":
                writer = writer._replace(snapshot=state.doorbell)
            case "id":
                if name not in state.listed and name not in state.newest:
                    state = state._replace(newest=(*state.newest, name))
            case "look":
                if state.page:
                    return None
                seen = state.doorbell
                if self.fault == "bound to a snapshot" and writer.snapshot is not None:
                    seen = writer.snapshot
                writer = writer._replace(seen=seen)
            case "log":
                rings_now = writer.seen > 1 and not (self.fault == "rings once" and writer.rang)
                if rings_now and self.fault == "one shot":
                    state = state._replace(doorbell=state.doorbell & ~(writer.seen & ~1))
                writer = writer._replace(
                    levels=(*outer, (True, rings or rings_now)), rang=writer.rang or rings_now
                )
            case "savepoint":
                writer = writer._replace(levels=(*writer.levels, (False, False)))
            case "undo":
                writer = writer._replace(levels=tuple(outer))
            case "release":
                below = outer.pop()
                merged = (below[0] or row, below[1] or rings)
                writer = writer._replace(levels=(*outer, merged))
            case "abort":
                state = ended(state, name)
            case "publish":
                state = ended(state, name)
                if any(has_row for has_row, _ in writer.levels):
                    state = state._replace(
                        daemons=tuple(d._replace(unread=True) for d in state.daemons)
                    )
            case "ring":
                if will_ring(writer):
                    state = state._replace(
                        daemons=tuple(d._replace(rung=d.rung or d.listens) for d in state.daemons)
                    )
        if not writer.todo:
            writer = Writer(())
        writers = state.writers
        return state._replace(writers=(*writers[:number], writer, *writers[number + 1 :]))

    # Daemons

    def _connected(self) -> tuple[tuple[str, ...], str]:
        if self.fault == "late listener":
            return (*self.change, "drop", "fetch"), "catch up"
        return ("listen", *self.change, "drop", "fetch"), "catch up"

    def _cut(self, state: State, number: int, daemon: Daemon) -> State:
        # a transaction that was underway is rolled back, but for what setval() has done
        state = ended(state, f"d{number}")
        todo, then = self._connected()
        return with_daemon(
            state,
            number,
            daemon._replace(
                todo=todo, then=then, awaited=None, listens=False, rung=False, cut=False
            ),
        )

    def _decide(self, daemon: Daemon) -> Iterator[Daemon]:
        """What a daemon does after its reading, as pyreplica.replication.loop does it."""
        read = ("fetch", "drop") if self.fault == "deaf" else ("drop", "fetch")
        match daemon.then:
            case "catch up" if daemon.moved:
                yield daemon._replace(todo=read)
            case "catch up":
                todo = (*self.change, *read)
                if self.fault == "read first":
                    todo = (*read, *self.change)
                if self.fault == "late listener" and not daemon.listens:
                    todo = (*todo, "listen")
                yield daemon._replace(todo=todo, then="sleep", awaited=None)
            case "sleep" if daemon.moved and self.fault != "read first":
                yield daemon._replace(todo=read)
                if daemon.busy:
                    yield daemon._replace(
                        todo=(*self.change, *read), then="catch up", awaited=None, busy=False
                    )
            case "sleep" if daemon.awaited and self.fault != "no waiting":
                yield daemon._replace(todo=read)
            case "sleep":
                yield daemon._replace(then="asleep", moved=False, awaited=frozenset())
            case "asleep" if daemon.rung:
                yield daemon._replace(todo=read, then="sleep")

    def _daemon_step(self, state: State, number: int, daemon: Daemon) -> State | None:
        name = f"d{number}"
        step = daemon.todo[0]
        daemon = daemon._replace(todo=daemon.todo[1:])
        match step:
            case "listen":
                daemon = daemon._replace(listens=True)
            case "drop":
                daemon = daemon._replace(rung=False)
            case "fetch":
                noted = None if daemon.then == "catch up" else state.listed
                if noted is not None and daemon.awaited is not None:
                    noted &= daemon.awaited
                daemon = daemon._replace(moved=daemon.unread, unread=False, awaited=noted)
            case _:
                bit = 2 << number
                sleeping = daemon.then == "sleep"
                changed = self._change_step(
                    state,
                    name,
                    step,
                    daemon.value,
                    lambda value: value | bit if sleeping else value & ~bit,
                )
                if changed is None:
                    return None
                state, value = changed
                daemon = daemon._replace(value=value)
        return with_daemon(state, number, daemon)

    # Changing the doorbell

    def _look_after(self, state: State, number: int, upkeep: Upkeep) -> State | None:
        step = upkeep.todo[0]
        upkeep = upkeep._replace(todo=upkeep.todo[1:])
        if step == "look":
            there = sum(2 << n for n, daemon in enumerate(state.daemons) if daemon.listens)
            upkeep = upkeep._replace(present=there)
        else:
            mask = 1 | upkeep.present
            changed = self._change_step(
                state,
                upkeep.name,
                step,
                upkeep.value,
                lambda value: value ^ 1 if upkeep.name == "rotation" else value & mask,
            )
            if changed is None:
                return None
            state, value = changed
            upkeep = upkeep._replace(value=value)
        if not upkeep.todo:
            upkeep = Upkeep(upkeep.name, ())
        before = state.upkeep
        return state._replace(upkeep=(*before[:number], upkeep, *before[number + 1 :]))

    def _change_step(
        self, state: State, name: str, step: str, value: int, new: Callable[[int], int]
    ) -> tuple[State, int] | None:
        """A step of set_doorbell() or rotate_log(); gives what it has read of the doorbell."""
        taken = state.lock if step == "lock" else state.page
        if taken not in ("", name) and step in ("lock", "read", "id", "change"):
            return None
        match step:
            case "lock":
                return state._replace(lock=name), value
            case "read":
                return state, state.doorbell
            case "id":
                return state._replace(page=name, newest=(*state.newest, name)), value
            case "early id":
                return state._replace(newest=(*state.newest, name)), value
            case "change":
                return state._replace(page="", doorbell=new(value)), 0
        assert step == "end"
        return ended(state, name), 0
