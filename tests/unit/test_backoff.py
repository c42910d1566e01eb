"""Delays between tries."""

from __future__ import annotations

from pyreplica.backoff import Backoff


def test_delays_double_up_to_the_longest() -> None:
    backoff = Backoff(1.0, 5.0, draw=lambda: 1.0)
    assert [backoff.delay() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_delay_is_drawn_from_the_upper_half() -> None:
    assert Backoff(1.0, 5.0, draw=lambda: 0.0).delay() == 0.5


def test_many_clients_do_not_call_at_once() -> None:
    delays = {Backoff(1.0, 5.0).delay() for _ in range(50)}
    assert len(delays) > 40
    assert all(0.5 <= delay < 1.0 for delay in delays)


def test_after_a_success_it_begins_again() -> None:
    backoff = Backoff(1.0, 60.0, draw=lambda: 1.0)
    for _ in range(4):
        backoff.delay()
    backoff.reset()
    assert backoff.delay() == 1.0
