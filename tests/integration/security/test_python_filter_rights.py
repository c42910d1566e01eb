"""Filters in Python under the roles of sql/roles.sql: set by a superuser, used by the daemon."""

from __future__ import annotations

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.database import errorcodes
from pyreplica.errors import DatabaseError, Refused
from pyreplica.replication.check import check
from pyreplica.replication.repair import repair
from pyreplica.replication.setup import install
from tests.integration.cli_support import rows
from tests.integration.security.conftest import Roles
from tests.support import assert_same, config, connect, connected, copy, sql, value

TABLE = "CREATE TABLE public.item (id integer PRIMARY KEY, name text);"
SOURCE = '(new["name"] or "").startswith("a")'


def problems(made: ReplicationConfig) -> list[str]:
    """What `pyreplica check` finds wrong."""
    return [one.text for one in check(made) if one.level == "problem"]


@pytest.fixture
def made(roles: Roles) -> ReplicationConfig:
    """A replication that is installed and not copied, under the daemon's roles."""
    with roles.attacker() as app:
        app.execute(TABLE + "INSERT INTO item VALUES (1, 'a'), (2, 'b')")
    sql(roles.databases.slave, TABLE)
    roles.install()
    roles.make("master")
    roles.make("slave")
    return roles.config(filters={"public.item": {"python": SOURCE}})


def test_a_superuser_sets_it_and_the_daemons_role_lives_with_it(
    roles: Roles, made: ReplicationConfig
) -> None:
    (problem,) = problems(made)
    assert "has a filter in Python that is not set yet, and role py-master" in problem
    with pytest.raises(Refused, match=r"is in Python, and role py-master .* is no superuser") as no:
        copy(made)
    assert "Have a superuser run `pyreplica install`" in no.value.hint
    lines = install(config(roles.databases, filters={"public.item": {"python": SOURCE}}))
    assert any("public.item: filtered: in Python" in line.text for line in lines)
    assert problems(made) == []
    copy(made)
    with connected(made), roles.attacker() as app:
        app.execute("INSERT INTO item VALUES (3, 'ab'), (4, NULL)")
        app.execute("UPDATE item SET name = 'a' WHERE id = 2")
        assert_same(made)
        sql(
            roles.databases.slave,
            "DELETE FROM public.item WHERE id = 1",
            "INSERT INTO public.item VALUES (4, 'not for us')",
        )
        (found,) = repair(made, apply=True)
        assert (found.state, found.insert, found.delete) == ("repaired", 1, 1)
        assert_same(made)
    assert rows(roles.databases.slave, "SELECT id FROM public.item ORDER BY 1") == [
        (1,),
        (2,),
        (3,),
    ]
    # roles that are made afterwards may call it as well
    roles.make("master")
    install(config(roles.databases, filters={"public.item": {"python": SOURCE}}))
    assert_same_as(made, roles)


def assert_same_as(made: ReplicationConfig, roles: Roles) -> None:
    """The daemon's role compares once more, after a further install."""
    with connected(made):
        sql(roles.databases.master, "INSERT INTO public.item VALUES (5, 'again')")
        assert_same(made)


def test_nobody_but_a_superuser_can_have_python_run(roles: Roles, made: ReplicationConfig) -> None:
    install(config(roles.databases, filters={"public.item": {"python": SOURCE}}))
    name = value(
        roles.databases.master, "SELECT proname FROM pg_proc WHERE proname ~ '^python_filter_[0-9]'"
    )
    evil = "__import__('os').system('true')"
    calls = (
        f"SELECT pyreplica.set_python_filter('shop', 'public.item', $${evil}$$)",
        f"SELECT pyreplica.read_python($${evil}$$)",
        f"SELECT pyreplica.store_filter('shop', 'public.item', 'x', $${evil}$$, '[]', NULL, NULL)",
        f"CREATE OR REPLACE FUNCTION pyreplica.{name}(a1 text) RETURNS boolean "
        f"LANGUAGE plpython3u AS $${evil}$$",
        "UPDATE pyreplica.replica_filter SET condition = 'true'",
    )
    with connect(roles.as_daemon.master) as daemon, roles.attacker() as app:
        for call in calls:
            for session in (daemon, app):
                with pytest.raises(DatabaseError) as refused:
                    session.execute(call)
                assert refused.value.sqlstate == errorcodes.INSUFFICIENT_PRIVILEGE, call
        assert daemon.query(f"SELECT pyreplica.{name}('ab')") == [(True,)]
        with pytest.raises(DatabaseError) as refused:
            app.execute(f"SELECT pyreplica.{name}('ab')")
        assert refused.value.sqlstate == errorcodes.INSUFFICIENT_PRIVILEGE
    given = "SELECT given, on_error FROM pyreplica.replica_filter"
    assert rows(roles.databases.master, given) == [(SOURCE, "stop")]
