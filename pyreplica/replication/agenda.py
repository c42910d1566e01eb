"""What several workers are to do, in an order that each table's tasks keep."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pyreplica.master import Master
from pyreplica.slave import Slave


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Something that a worker does with its two sessions.

    Attributes:
        tables: the oids on the master of the tables that it works on.
        work: does it; gives the number of rows that it has copied.
        shared: another one that is shared may work on the same tables meanwhile.
    """

    tables: frozenset[int]
    work: Callable[[Master, Slave], int]
    shared: bool = False


class Agenda:
    """Hands out tasks: the first one that needs to wait for none before it.

    A task waits for those before it that work on one of its tables. So a table's rows come before
    its indexes, and a foreign key after both of its tables, whoever does what.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._waiting = list(tasks)
        self._running: list[Task] = []
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """How many tasks nobody has taken."""
        return len(self._waiting)

    def take(self) -> Task | None:
        """A task, as soon as there is one that can be done; None when all have been taken."""
        with self._changed:
            while self._waiting:
                if (task := self.ready()) is not None:
                    return task
                self._changed.wait()
        return None

    def ready(self) -> Task | None:
        """A task that can be done now, if there is one."""
        with self._changed:
            alone: set[int] = set()
            shared: set[int] = set()
            for task in self._running:
                (shared if task.shared else alone).update(task.tables)
            for n, task in enumerate(self._waiting):
                free = alone.isdisjoint(task.tables)
                if free and (task.shared or shared.isdisjoint(task.tables)):
                    del self._waiting[n]
                    self._running.append(task)
                    return task
                (shared if task.shared else alone).update(task.tables)
        return None

    def done(self, task: Task) -> None:
        """A task is done."""
        with self._changed:
            self._running.remove(task)
            self._changed.notify_all()

    def clear(self) -> None:
        """Nothing more is to be begun."""
        with self._changed:
            self._waiting.clear()
            self._changed.notify_all()
