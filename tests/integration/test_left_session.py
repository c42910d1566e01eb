"""Sessions that the server still has, with their locks, when this side has given them up."""

from __future__ import annotations

import pytest

from pyreplica.database import Connection
from pyreplica.errors import Unreachable
from tests.conftest import Databases
from tests.faults.proxy import Mode, Proxy
from tests.support import connect, eventually, sql, value

AT_ONCE = "keepalives_idle=1 keepalives_interval=1 keepalives_count=1 tcp_user_timeout=500"


def test_a_session_that_was_lost_is_ended_by_the_next_one(databases: Databases) -> None:
    sql(databases.slave, f'ALTER DATABASE "{databases.name}" SET tcp_keepalives_idle = 7200')
    with Proxy(databases.slave_cluster.port) as proxy:
        dsn = f"host=127.0.0.1 port={proxy.port} dbname={databases.name} user=postgres {AT_ONCE}"
        with Connection(dsn, where="left", peer_timeout=60) as session:
            session.execute("SELECT pg_advisory_lock(1)")
            proxy.set(Mode.VANISH)
            proxy.set(Mode.PASS)
            with pytest.raises(Unreachable):  # by the kernel, long before the watchdog
                session.query("SELECT 1")
        with connect(databases.slave) as other:
            assert other.one("SELECT pg_try_advisory_lock(1)") == (False,)
        with Connection(dsn, where="left", peer_timeout=60):
            eventually(
                lambda: value(databases.slave, "SELECT pg_try_advisory_lock(1)"),
                "the lock is still held",
            )


def test_a_session_that_is_closed_while_its_server_hears_nothing_is_ended(
    databases: Databases,
) -> None:
    """As that of a command which holds a lock while another connection of it copies."""
    with Proxy(databases.slave_cluster.port) as proxy:
        dsn = f"host=127.0.0.1 port={proxy.port} dbname={databases.name} user=postgres"
        with Connection(dsn, where="closed", peer_timeout=600) as holder:
            holder.execute("SELECT pg_advisory_lock(1)")
            with Connection(dsn, where="closed", peer_timeout=1) as other:
                proxy.set(Mode.VANISH)
                proxy.set(Mode.PASS)
                with pytest.raises(Unreachable, match="no answer for 1 s"):
                    other.query("SELECT 1")
            assert not value(databases.slave, "SELECT pg_try_advisory_lock(1)")
        eventually(
            lambda: value(databases.slave, "SELECT pg_try_advisory_lock(1)"),
            "the lock is still held",
        )
