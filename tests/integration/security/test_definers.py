"""Functions that run with more rights than their callers', and who may call anything."""

from __future__ import annotations

import pytest

from pyreplica.replication.setup import install
from tests.conftest import Databases
from tests.integration.cli_support import rows
from tests.support import config, sql

PINNED = "search_path=pg_catalog, pg_temp"
THEIR_OWN_PATH = {"announce_ddl", "run_ddl", "log_of"}
"""They have the rights of who calls them. Two have to see his search_path, or to set another; a
function with settings of its own would not be inlined, as the third is."""


@pytest.mark.parametrize("side", ["master", "slave"])
def test_every_function_but_three_pins_its_search_path(databases: Databases, side: str) -> None:
    sql(databases.master, "CREATE TABLE public.t (id integer PRIMARY KEY)")
    install(config(databases, capture="plpgsql"))
    functions = rows(
        getattr(databases, side),
        "SELECT proname, prosecdef, coalesce(proconfig, '{}') FROM pg_proc "
        "WHERE pronamespace = 'pyreplica'::regnamespace AND prokind = 'f'",
    )
    assert functions
    loose = {name: definer for name, definer, settings in functions if PINNED not in settings}
    assert loose.keys() <= THEIR_OWN_PATH
    assert not any(loose.values())


@pytest.mark.parametrize("side", ["master", "slave"])
def test_nobody_is_given_rights_by_the_install(databases: Databases, side: str) -> None:
    sql(databases.master, "CREATE TABLE public.t (id integer PRIMARY KEY)")
    install(config(databases, capture="plpgsql"))
    given = rows(
        getattr(databases, side),
        """SELECT 'schema' FROM pg_namespace n, aclexplode(n.nspacl) a
            WHERE n.nspname = 'pyreplica' AND a.grantee <> n.nspowner
        UNION ALL
        SELECT c.relname FROM pg_class c, aclexplode(c.relacl) a
            WHERE c.relnamespace = 'pyreplica'::regnamespace AND a.grantee <> c.relowner
        UNION ALL
        SELECT p.proname
            FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
            WHERE p.pronamespace = 'pyreplica'::regnamespace AND a.grantee <> p.proowner""",
    )
    assert given == []
