"""How a server holds a program at a step: by a lock, or by a commit that does not return."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pyreplica.demo.cluster import Cluster
from pyreplica.errors import PyReplicaError
from tests.faults.cell import Cell
from tests.support import connect, eventually, sql, value


@contextmanager
def holding(dsn: str, lock: str) -> Iterator[None]:
    """A session has locked something; gone with its server it holds nothing any more."""
    with connect(dsn) as session:
        session.execute(f"BEGIN; {lock}")
        yield


def waits(dsn: str, event: str, words: str) -> Callable[[], bool]:
    """Whether a session of the daemon waits, executing a statement with these words."""
    query = (
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() "
        f"AND application_name LIKE 'pyreplica shop:%' AND wait_event = '{event}' "
        f"AND strpos(query, '{words}') > 0"
    )
    return lambda: bool(value(dsn, query))


def blocked(dsn: str) -> Callable[[], bool]:
    """Whether a session of the daemon waits for a lock; the writers may wait as well."""
    query = (
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name LIKE 'pyreplica shop:%' AND wait_event_type = 'Lock'"
    )
    return lambda: bool(value(dsn, query))


@contextmanager
def commits_wait(cell: Cell, cluster: Cluster) -> Iterator[None]:
    """What is committed on a server waits for a standby that there is not."""
    cluster.psql(
        input="ALTER SYSTEM SET synchronous_standby_names = 'nobody';\nSELECT pg_reload_conf();"
    )

    def end() -> None:
        sql(
            cluster.dsn(),
            "ALTER SYSTEM RESET synchronous_standby_names",
            "SELECT pg_reload_conf()",
        )

    try:
        _until_commits_wait(cluster)
        yield
    finally:
        try:
            end()
        except PyReplicaError:  # it does not run
            cell.later.append(end)


def _until_commits_wait(cluster: Cluster) -> None:
    """A commit of our own waits: so do all others from now on."""
    with connect(cluster.dsn()) as probe:
        pid = probe.one("SELECT pg_backend_pid()")[0]
        waiting = (
            f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'"
        )

        def commit() -> None:
            with suppress(PyReplicaError):  # it is terminated below
                while True:
                    probe.execute("SELECT pg_logical_emit_message(true, 'fault', '')")

        thread = threading.Thread(target=commit)
        thread.start()
        eventually(lambda: value(cluster.dsn(), waiting), "commits do not wait")
        sql(cluster.dsn(), f"SELECT pg_terminate_backend({pid})")
        thread.join()
