"""Two databases that are a master and a slave of one example after another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR

from pyreplica.config import ReplicationConfig
from pyreplica.replication.setup import install
from pyreplica.slave import Slave
from tests.conftest import Databases
from tests.integration.capture.oracle import Session
from tests.integration.machines.kinds import SETUP
from tests.integration.machines.tables import SCHEMAS, Table
from tests.support import config, copy, eventually, sql

Rows = dict[str, list[str]]
"""Tables' rows as text, sorted."""

PINNED = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "client_min_messages": "warning",
}
WRITERS: tuple[dict[str, str], ...] = (
    {},
    {"DateStyle": "German", "IntervalStyle": "sql_standard", "extra_float_digits": "-15"},
    {"TimeZone": "'Asia/Kathmandu'", "bytea_output": "escape", "search_path": "app, pg_catalog"},
)
"""The settings of the sessions that write, as SET has them."""

# Dropping a database and making one takes ten times as long as this.
_EMPTY = f"DROP SCHEMA IF EXISTS {', '.join(SCHEMAS)} CASCADE;"
_EMPTY_MASTER = (
    _EMPTY
    + """
    DELETE FROM pyreplica.replica_table;
    SELECT pyreplica.drop_unused_captures();
    SELECT setval('pyreplica.doorbell', 0);
    TRUNCATE pyreplica.replica_slave;
    TRUNCATE pyreplica.replica_log, pyreplica.replica_tick;
    """
)
_DAEMONS = (
    "SELECT count(*) FROM pg_stat_activity "
    "WHERE datname = current_database() AND application_name LIKE 'pyreplica%'"
)

# What statements fail with for reasons of their own, or because of another session; anything else
# is a failure of PyReplica, or of what makes the statements.
_EXPECTED = re.compile("0A000|21000|22...|23...|27000|40...|428C9|42P10|54001|55000|55006|55P03")


class Pair:
    """The two databases, three sessions that write, and one on each side that reads.

    Args:
        databases: empty ones.
    """

    def __init__(self, databases: Databases) -> None:
        self._stack = ExitStack()
        for dsn in (databases.master, databases.slave):
            sql(dsn, SETUP)
        self._databases = databases
        install(self.config())
        open_ = self._stack.enter_context
        self.writers = [open_(Session(databases.master)) for _ in WRITERS]
        self.master = open_(Session(databases.master, **PINNED))
        self.slave = open_(Session(databases.slave, **PINNED))
        self.version = int(self.master.value("SHOW server_version_num"))
        self._queries: dict[Session, str] = {}
        self._copied: ReplicationConfig | None = None

    def close(self) -> None:
        """End all sessions."""
        self._stack.close()

    def config(self, **options: object) -> ReplicationConfig:
        """The replication, with these settings."""
        return config(self._databases, "machine", **options)

    # One example

    def empty(self) -> None:
        """Take away what the example before has left."""
        for writer in self.writers:
            writer.run("ROLLBACK", "DISCARD ALL")
        self.until_alone()
        for (gid,) in self.slave.run(
            "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        ):
            self.slave.run(f"ROLLBACK PREPARED '{gid}'")
        with closing(Slave(self.config())) as slave:
            slave.remove()
        self.slave.run(_EMPTY)
        self.master.run(_EMPTY_MASTER)

    def make(self, master: Iterable[str], slave: Iterable[str]) -> None:
        """Make the tables."""
        self.master.run(*master)
        self.slave.run(*slave)
        for number, writer in enumerate(self.writers):
            writer.run(*settings_of(number))

    def replicate(self, tables: Sequence[Table], **options: object) -> ReplicationConfig:
        """Capture all tables and copy them."""
        self.master.run(f"SELECT pyreplica.set_capture('{options['capture']}')")
        for (line,) in self.master.run("SELECT pyreplica.add_all_tables()"):
            assert ": added, key (" in line, line
        self.look(tables)
        made = self.config(**options)
        copy(made, workers=1)
        return made

    # Reading

    def look(self, tables: Sequence[Table]) -> None:
        """Remember what is to be read of each table, after it was made or altered."""
        for side in (self.master, self.slave):
            self._queries[side] = " UNION ALL ".join(_reading(side, table) for table in tables)

    def rows(self, side: Session) -> Rows:
        """All committed rows of the tables that are replicated."""
        found: Rows = {}
        for table, row in side.run(self._queries[side]):
            found.setdefault(table, []).append(row)
        return {table: sorted(rows) for table, rows in found.items()}

    def rows_of_master(self) -> Rows | None:
        """The master's, or None while an open transaction has locked a table."""
        try:
            self.master.run("SET lock_timeout = '10ms'")
            return self.rows(self.master)
        except psycopg2.errors.LockNotAvailable:
            return None
        finally:
            self.master.run("RESET lock_timeout")

    def until_alone(self) -> None:
        """Wait until the servers have noticed that the daemon's connections are gone."""
        eventually(
            lambda: self.master.value(_DAEMONS) + self.slave.value(_DAEMONS) == 0,
            "the daemon has not gone",
        )


def _reading(side: Session, table: Table) -> str:
    """A query for a table's rows as text; generated columns too, in the master's order."""
    partitioned = side.value(
        f"SELECT relkind = 'p' FROM pg_class WHERE oid = $n${table.name}$n$::regclass"
    )
    columns = ", ".join(column.name for column in table.columns)
    return (
        f"SELECT $n${table.name}$n$, ROW({columns})::text "
        f"FROM {'' if partitioned else 'ONLY '}{table.name}"
    )


def settings_of(number: int) -> list[str]:
    """The statements that make a session what it is: whoever waits for another one gives up."""
    settings = {**WRITERS[number], "lock_timeout": "'30ms'", "statement_timeout": "'20s'"}
    return [f"SET {name} = {value}" for name, value in settings.items()]


def is_expected(error: psycopg2.Error) -> bool:
    """Whether a statement may fail like that; never in what captures it."""
    code = error.pgcode or ""
    waited = code in ("40001", "40P01", "55P03")
    captured = "pyreplica" in (error.diag.context or "")
    return bool(_EXPECTED.fullmatch(code)) and (waited or not captured)


def in_transaction(session: Session) -> bool:
    """Whether a session has an open transaction."""
    return session.connection.get_transaction_status() != TRANSACTION_STATUS_IDLE


def has_failed(session: Session) -> bool:
    """Whether a session's transaction can only be rolled back."""
    return session.connection.get_transaction_status() == TRANSACTION_STATUS_INERROR
