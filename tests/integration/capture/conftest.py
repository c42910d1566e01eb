"""A master for the tests of capture: one database with PyReplica's master side, empty for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyreplica import sqlfiles
from pyreplica.demo.cluster import Cluster
from tests.integration.capture.oracle import Master

# Dropping a database and making one takes ten times as long as this.
_EMPTY = """
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT nspname FROM pg_namespace
        WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'pyreplica')
    LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', name);
    END LOOP;
    CREATE SCHEMA public;
    GRANT ALL ON SCHEMA public TO PUBLIC;
    FOR name IN SELECT rolname FROM pg_roles WHERE rolname ~ '^app' LOOP
        EXECUTE format('DROP OWNED BY %I; DROP ROLE %1$I', name);
    END LOOP;
    DELETE FROM pyreplica.replica_table;
    PERFORM pyreplica.drop_unused_captures();
    PERFORM setval('pyreplica.doorbell', 0);
    UPDATE pyreplica.replica_segment
        SET since_id = (SELECT last_value FROM pyreplica.replica_log_id);
END
$$;
TRUNCATE pyreplica.replica_slave;
TRUNCATE pyreplica.replica_log, pyreplica.replica_tick;
"""


@pytest.fixture(scope="package")
def emptied_master(master_cluster: Cluster) -> Iterator[Master]:
    """The master of all these tests; ask for ``master`` instead."""
    name = "capture"
    master_cluster.start()
    master_cluster.create_database(name)
    master_cluster.psql("-q", "-f", str(sqlfiles.path("master-install.sql")), dbname=name)
    with Master(master_cluster, name) as master:
        # The first row of all has the number at which the sequence stands before it, and is not
        # seen in the size of the log that is kept; no test is to depend on being the first.
        master.reader.run("SELECT nextval('pyreplica.replica_log_id')")
        yield master
    master_cluster.start()
    master_cluster.drop_database(name)


@pytest.fixture(params=["plpython3u", "plpgsql"])
def language(request: pytest.FixtureRequest) -> str:
    """What tables are captured in: each test is run in both."""
    return str(request.param)


@pytest.fixture
def master(emptied_master: Master, master_cluster: Cluster, language: str) -> Iterator[Master]:
    """A master without tables, with an empty log, and with sessions as new."""
    chosen = f"SELECT pyreplica.set_capture('{language}')"
    emptied_master.reader.run("SET client_min_messages = warning", _EMPTY, chosen)
    yield emptied_master
    emptied_master.reset()
