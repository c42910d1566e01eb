"""Anybody may take any advisory lock; that stops a daemon only in a way that names who it is."""

from __future__ import annotations

from tests.integration.security.conftest import Roles
from tests.support import assert_same, connected, copy, rotated, running, sql, value

TABLES = "CREATE TABLE public.t (id integer PRIMARY KEY)"


def prepared(roles: Roles) -> None:
    """A copied replication."""
    with roles.attacker() as app:
        app.execute(TABLES)
    sql(roles.databases.slave, TABLES)
    roles.install()
    roles.make("master")
    roles.make("slave")
    copy(roles.config())


def test_who_has_taken_the_lock_of_a_replication_is_named(roles: Roles) -> None:
    prepared(roles)
    made = roles.config()
    for side in ("slave", "master"):
        with roles.attacker(side) as stranger:
            lock = "SELECT pg_advisory_lock(hashtext('pyreplica'), hashtext('shop'))"
            # what it says of itself does not count
            stranger.execute(f"SET application_name = 'pyreplica (pid 1 on db1)'; {lock}")
            pid = stranger.one("SELECT pg_backend_pid()")[0]
            with running(made) as daemon:
                line = daemon.until_said("has taken the lock of this replication")
                assert f"{side}: server process {pid} of role {roles.app}," in line
                assert f"pg_terminate_backend({pid})" in line
                # it is not taken for a daemon, either
                if side == "master":
                    owner = roles.databases.master
                    assert value(owner, "SELECT pyreplica.listeners()") == 0
                stranger.execute("SELECT pg_advisory_unlock_all()")
                assert_same(made)


def test_no_advisory_lock_holds_up_the_doorbell_or_the_log(roles: Roles) -> None:
    prepared(roles)
    made = roles.config()
    with roles.attacker() as stranger, roles.attacker() as app:
        for name in ("pyreplica.doorbell", "pyreplica", "pyreplica.tables"):
            stranger.execute(f"SELECT pg_advisory_lock(hashtext('{name}'))")
        with connected(made) as daemon:
            app.execute("INSERT INTO t VALUES (1)")
            daemon.until_asleep()
            assert_same(made)
            assert rotated(roles.databases.master)
