"""Random schemas, random transactions on several sessions, and a daemon that comes and goes.

`make test` runs a few examples, the same ones each time. To look for more:

    PYREPLICA_EXAMPLES=1000 make test WORKERS=0 PYTEST_ARGS="-s tests/integration/machines"

runs so many with random seeds. What fails is printed with the history that led to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.conftest import Databases
from tests.integration.machines.machine import Machine
from tests.integration.machines.pair import Pair

EXAMPLES = int(os.environ.get("PYREPLICA_EXAMPLES", "0"))
"""How many to run with random seeds; 0: a few that are always the same."""


@pytest.fixture
def pair(databases: Databases) -> Iterator[Pair]:
    made = Pair(databases)
    yield made
    made.close()


@pytest.mark.timeout(0 if EXAMPLES else 300)
def test_after_any_history_of_any_tables_the_slave_equals_the_master(pair: Pair) -> None:
    machine: Callable[[], RuleBasedStateMachine] = type("Example", (Machine,), {"pair": pair})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=EXAMPLES or 30,
            stateful_step_count=30,
            derandomize=not EXAMPLES,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
