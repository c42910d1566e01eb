"""A master that has given its changes and waits for the slave is not taken for one that hangs."""

from __future__ import annotations

from pyreplica.database import Connection, pump
from tests.conftest import Databases
from tests.support import sql

PEER_TIMEOUT = 0.5


def test_a_source_that_is_idle_after_its_copy_is_not_given_up(databases: Databases) -> None:
    sql(databases.slave, "CREATE TABLE public.t (id integer)")
    # less than a buffer, so that the last of it is passed on after the COPY has ended
    copy_to = "COPY (SELECT i FROM generate_series(1, 100) i) TO STDOUT"
    with (
        Connection(databases.master, where="test", peer_timeout=PEER_TIMEOUT) as source,
        Connection(databases.slave, where="test", peer_timeout=PEER_TIMEOUT) as target,
    ):
        assert pump(source, copy_to, target, "COPY public.t FROM STDIN") == 100
        target.execute("SELECT pg_sleep(3)")  # a large batch is being applied
        assert source.one("SELECT 1") == (1,)
