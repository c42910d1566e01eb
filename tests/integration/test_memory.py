"""The daemon's memory does not depend on how much there is to be moved."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import Databases
from tests.support import config, config_file, daemon, pyreplica, set_up, sql, value

ROWS = 1_000_000
LIMIT_MIB = 150


def test_a_transaction_of_a_million_rows_replicates_in_less_than_150_mib(
    databases: Databases, tmp_path: Path
) -> None:
    path = config_file(tmp_path, databases)
    sql(databases.master, "CREATE TABLE public.t (id integer PRIMARY KEY, v text, at timestamptz)")
    set_up(path)
    with daemon(path, fresh=True) as started:
        sql(
            databases.master,
            f"INSERT INTO public.t SELECT g, 'row ' || g, now() FROM generate_series(1, {ROWS}) g",
        )
        pyreplica(path, "wait", "--timeout", "120s", timeout=150)
        peak = _peak_mib(started.process.pid)
        assert value(databases.slave, "SELECT count(*) FROM public.t") == ROWS
        assert started.stop() == 0
    assert 10 < peak < LIMIT_MIB
    digest = "SELECT md5(string_agg(t::text, ',' ORDER BY id)) FROM public.t"
    assert value(databases.slave, digest) == value(databases.master, digest)
    assert config(databases).batch_rows < ROWS  # a transaction is one batch, whatever its size


def _peak_mib(pid: int) -> float:
    """The most memory a process has had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024
