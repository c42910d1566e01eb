"""Tasks are begun in an order that the tasks of each table keep, as many at a time as can be."""

from __future__ import annotations

import threading

from hypothesis import given
from hypothesis import strategies as st

from pyreplica.replication.agenda import Agenda, Task


def task(*tables: int, shared: bool = False) -> Task:
    return Task(frozenset(tables), lambda master, slave: 0, shared)


def test_a_task_waits_for_those_before_it_on_its_tables_alone() -> None:
    rows, key, other, foreign = task(1), task(1), task(2), task(1, 2)
    agenda = Agenda([rows, key, foreign, other])
    assert len(agenda) == 4
    assert agenda.take() is rows
    # the foreign key is before the other one, and they have a table in common
    agenda.done(rows)
    assert agenda.take() is key
    agenda.done(key)
    assert agenda.take() is foreign
    agenda.done(foreign)
    assert agenda.take() is other
    assert agenda.take() is None


def test_shared_tasks_of_a_table_run_beside_each_other_and_no_other() -> None:
    rows, one, two, end = task(1), task(1, shared=True), task(1, shared=True), task(1)
    agenda = Agenda([rows, one, two, end])
    assert agenda.take() is rows
    agenda.done(rows)
    assert agenda.take() is one
    assert agenda.take() is two
    taken: list[Task | None] = []
    waiting = threading.Thread(target=lambda: taken.append(agenda.take()))
    waiting.start()
    agenda.done(one)
    assert not taken
    agenda.done(two)
    waiting.join()
    assert taken == [end]


def test_who_waits_is_told_when_nothing_more_is_to_be_begun() -> None:
    first, second = task(1), task(1)
    agenda = Agenda([first, second])
    assert agenda.take() is first
    taken: list[Task | None] = []
    waiting = threading.Thread(target=lambda: taken.append(agenda.take()))
    waiting.start()
    agenda.clear()
    waiting.join()
    assert taken == [None]


@given(
    st.lists(st.tuples(st.frozensets(st.integers(1, 4), min_size=1), st.booleans()), max_size=12),
    st.randoms(use_true_random=False),
    st.integers(1, 4),
)
def test_all_are_done_and_no_two_that_must_not_meet_do(
    wanted: list[tuple[frozenset[int], bool]], chance: object, workers: int
) -> None:
    tasks = [task(*tables, shared=shared) for tables, shared in wanted]
    agenda = Agenda(tasks)
    running: list[Task] = []
    begun: list[Task] = []
    while len(agenda) or running:
        if len(agenda) and len(running) < workers and (one := agenda.ready()) is not None:
            for other in running:
                assert one.tables.isdisjoint(other.tables) or (one.shared and other.shared)
            running.append(one)
            begun.append(one)
        else:
            assert running
            agenda.done(running.pop(chance.randrange(len(running))))  # type: ignore[attr-defined]
    assert sorted(map(id, begun)) == sorted(map(id, tasks))
    for n, one in enumerate(tasks):
        for other in tasks[n + 1 :]:
            if not one.tables.isdisjoint(other.tables) and not (one.shared and other.shared):
                assert begun.index(one) < begun.index(other)
