"""What the model of the doorbell's protocol consists of.

A state is what the processes and the server have in common, and where each process is. Every step
of a process is taken in every order with those of all others.
"""

from __future__ import annotations

from typing import NamedTuple

FAULTS = {
    "read first": "the daemon notes who is running before it sets its bit",
    "no waiting": "the daemon does not wait for those who are running",
    "deaf": "the daemon drops what has rung after its reading, not before",
    "late listener": "the daemon listens only after it has caught up",
    "no lock": "bits are changed without a lock",
    "early id": "the transaction that sets the bit has its id from before",
    "no id": "the transaction that sets the bit has no id",
    "late id": "the writer looks at the doorbell before it has its transaction id",
    "bound to a snapshot": "the doorbell is a row of a table",
    "rings once": "the writer does not ring again in a transaction, whatever was rolled back",
    "one shot": "the writer clears the bits that it has seen",
    "early ring": "the writer rings before its commit can be seen",
    "early look": "who clears the bits of the absent looks who is there before it has the lock",
}
"""What can be planted, each of which loses a wake-up."""

WRITE = ("id", "look", "log")
COMMIT = ("publish", "ring")
CHANGE = ("lock", "read", "id", "change", "end")

# What a writer may do; "begin" takes a snapshot before anything is written
TRANSACTIONS: dict[str, tuple[str, ...]] = {
    "commits": (*WRITE, *COMMIT),
    "has an old snapshot": ("begin", *WRITE, *COMMIT),
    "writes twice": (*WRITE, *WRITE, *COMMIT),
    "rolls back": (*WRITE, "abort"),
    "rolls its ring back": ("savepoint", *WRITE, "undo", *WRITE, *COMMIT),
    "rolls its second ring back": (*WRITE, "savepoint", *WRITE, "undo", *COMMIT),
    "releases a savepoint": ("savepoint", *WRITE, "release", *COMMIT),
}


class Writer(NamedTuple):
    """A transaction of an application.

    Attributes:
        todo: its steps that are left.
        snapshot: the doorbell as it was when its snapshot was taken.
        seen: the doorbell as it has read it.
        levels: for each savepoint it is in, whether it has logged anything and will ring.
        rang: whether it ever has.
    """

    todo: tuple[str, ...]
    snapshot: int | None = None
    seen: int = 0
    levels: tuple[tuple[bool, bool], ...] = ((False, False),)
    rang: bool = False


class Daemon(NamedTuple):
    """A daemon.

    Attributes:
        todo: its steps until it decides what to do next.
        then: what that decision is about.
        value: the doorbell as it has read it to change it.
        awaited: whose end it waits for before it sleeps; None until it has noted them.
        moved: whether its last reading found anything.
        unread: something was committed that it has not read.
        rung: a notification has come.
        listens: notifications come to it.
        cut: its connection may still be lost once.
        busy: it may still find so much that it stops the ringing.
    """

    todo: tuple[str, ...]
    then: str
    value: int = 0
    awaited: frozenset[str] | None = None
    moved: bool = False
    unread: bool = False
    rung: bool = False
    listens: bool = False
    cut: bool = False
    busy: bool = False


class Upkeep(NamedTuple):
    """Somebody who looks after the log, once.

    Attributes:
        name: "rotation", or "silence": who clears the bits of daemons that are not there.
        todo: its steps that are left.
        value: the doorbell as it has read it to change it.
        present: the bits of the daemons that were there when it looked.
    """

    name: str
    todo: tuple[str, ...]
    value: int = 0
    present: int = 0


class State(NamedTuple):
    """All there is.

    Attributes:
        doorbell: bit 0 is the log's segment, then one for each daemon.
        lock, page: who has the bits' lock, and the page of the sequence.
        listed: the running transactions that a snapshot lists.
        newest: those that no snapshot lists yet, in the order of their ids.
    """

    writers: tuple[Writer, ...]
    daemons: tuple[Daemon, ...]
    upkeep: tuple[Upkeep, ...]
    doorbell: int = 0
    lock: str = ""
    page: str = ""
    listed: frozenset[str] = frozenset()
    newest: tuple[str, ...] = ()


def will_ring(writer: Writer) -> bool:
    """Whether it will ring at its commit."""
    return any(rings for _, rings in writer.levels)


def ended(state: State, name: str) -> State:
    """A transaction has ended: those with lower ids are in the list of snapshots from now on."""
    state = state._replace(
        lock="" if state.lock == name else state.lock,
        page="" if state.page == name else state.page,
    )
    if name in state.newest:
        at = state.newest.index(name)
        return state._replace(
            listed=state.listed | set(state.newest[:at]), newest=state.newest[at + 1 :]
        )
    return state._replace(listed=state.listed - {name})


def with_daemon(state: State, number: int, daemon: Daemon) -> State:
    """The state with a daemon replaced."""
    daemons = state.daemons
    return state._replace(daemons=(*daemons[:number], daemon, *daemons[number + 1 :]))


def swapped(program: tuple[str, ...], one: str, other: str) -> tuple[str, ...]:
    """A program with two steps in each other's place."""
    return tuple({one: other, other: one}.get(step, step) for step in program)
