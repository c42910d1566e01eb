"""What an idle daemon asks its servers: one look a keepalive, which is proof of life as well."""

from __future__ import annotations

import re
import time
from collections import Counter

from pyreplica.database import Connection
from pyreplica.demo.cluster import Cluster
from pyreplica.model import Step
from tests.conftest import Databases
from tests.support import connect, copied, eventually, running, sql, value

TABLE = "CREATE TABLE public.t (id integer PRIMARY KEY, v text)"
PID = "SELECT pg_backend_pid()"
LOOKS = 3


class Statements:
    """What some sessions of a server execute from now on, by its log."""

    def __init__(self, cluster: Cluster, dsn: str) -> None:
        query = (
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name LIKE 'pyreplica shop%'"
        )
        with connect(dsn) as session:
            self._pids = [pid for (pid,) in session.query(query)]
        self._log = cluster.log_path
        self._begin = self._log.stat().st_size

    def executed(self) -> Counter[str]:
        """The beginnings of the statements, with how often."""
        with self._log.open("rb") as file:
            file.seek(self._begin)
            text = file.read().decode()
        pids = "|".join(map(str, self._pids))
        found = re.findall(rf"\[(?:{pids})\].* LOG:  statement: (.{{0,40}})", text)
        return Counter(found)


def test_an_idle_daemon_makes_one_look_a_keepalive_and_asks_nothing_else(
    databases: Databases,
) -> None:
    # a connection that hears nothing between two looks is still far from a whole peer_timeout
    made = copied(databases, TABLE, slave=TABLE, keepalive="2s", peer_timeout="4s")
    for dsn in (databases.master, databases.slave):
        sql(dsn, f"ALTER DATABASE \"{databases.name}\" SET log_statement = 'all'")
    with running(made) as replication:
        replication.until_asleep()
        replication.until(lambda: _waits(replication.steps) >= 2, "it does not look")
        sides = [
            Statements(databases.master_cluster, databases.master),
            Statements(databases.slave_cluster, databases.slave),
        ]
        before = _waits(replication.steps)
        replication.until(lambda: _waits(replication.steps) >= before + LOOKS, "it does not look")
        on_master, on_slave = (side.executed() for side in sides)
    # the last look may be in the log already when it is asked for, or not yet
    for executed, statements in ((on_master, 3), (on_slave, 1)):
        assert len(executed) == statements, executed
        assert set(executed.values()) <= {LOOKS, LOOKS + 1}, executed


def _waits(steps: list[tuple[Step, int]]) -> int:
    return sum(step is Step.WAITING for step, _ in list(steps))


def test_a_session_is_asked_whether_it_lives_after_a_whole_peer_timeout_of_silence(
    databases: Databases,
) -> None:
    with Connection(databases.slave, where="test", peer_timeout=1) as session:
        last = f"SELECT query FROM pg_stat_activity WHERE pid = {session.one(PID)[0]}"
        assert not session.wait(2)
        assert value(databases.slave, last) == "SELECT"


def test_a_session_that_is_talked_to_after_a_peer_timeout_anyway_is_not_asked_before(
    databases: Databases,
) -> None:
    """As with the defaults, by which keepalive and peer_timeout are the same."""
    with Connection(databases.slave, where="test", peer_timeout=2) as session:
        last = f"SELECT query FROM pg_stat_activity WHERE pid = {session.one(PID)[0]}"

        def waited_in_time() -> bool:
            begun = time.monotonic()
            session.one(PID)
            assert not session.wait(2)
            if time.monotonic() - begun > 2.2:
                return False  # the machine was busy, that was no such wait
            assert value(databases.slave, last) == PID
            return True

        eventually(waited_in_time, "the machine is busy all the time")
