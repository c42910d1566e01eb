"""PostgreSQL's own benchmark as the writer."""

from __future__ import annotations

import subprocess

from pyreplica.replication.setup import install
from tests.conftest import Databases
from tests.support import LIMIT, assert_same, config, copy, running, sql, value


def test_after_pgbench_with_several_clients_every_row_is_the_same(databases: Databases) -> None:
    pgbench(databases, "--initialize", "--scale=1", "--quiet")
    sql(
        databases.master,
        "ALTER TABLE public.pgbench_history ADD COLUMN id bigserial PRIMARY KEY",
    )
    made = config(databases)
    install(made)
    copy(made, schema=True)
    with running(made) as daemon:
        daemon.until_asleep()
        pgbench(databases, "--no-vacuum", "--client=8", "--jobs=2", "--time=5")
        assert_same(made)
    written = value(databases.master, "SELECT count(*) FROM public.pgbench_history")
    assert written > 100
    balances = (
        "SELECT sum(abalance) = (SELECT sum(delta) FROM public.pgbench_history) "
        "FROM public.pgbench_accounts"
    )
    assert value(databases.slave, balances)


def pgbench(databases: Databases, *arguments: str) -> None:
    """Run it against the master."""
    program = databases.master_cluster.binary("pgbench")
    subprocess.run(
        [program, *arguments, databases.master], check=True, capture_output=True, timeout=LIMIT
    )
