"""PostgreSQL's own logical replication."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from tests.bench.system import System, execute, server_version, value
from tests.support import eventually

_APPLYING = "SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL"


class Builtin(System):
    """A publication and a subscription, binary."""

    name = "builtin"
    title = "built-in logical"
    # the default has a subscription that is enabled soon after its last start wait for 5 s
    slave_settings: ClassVar[Mapping[str, str]] = {"wal_retrieve_retry_interval": "100ms"}
    master_settings: ClassVar[Mapping[str, str]] = {"wal_level": "logical"}

    def set_up(self, tables: Sequence[str]) -> None:
        """Publish, subscribe, and wait until the tables are in step."""
        execute(self.master_dsn, f"CREATE PUBLICATION bench FOR TABLE {', '.join(tables)}")
        execute(
            self.slave_dsn,
            f"CREATE SUBSCRIPTION bench CONNECTION '{self.master_dsn}' PUBLICATION bench "
            "WITH (binary = true)",
        )
        ready = "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel"
        eventually(lambda: bool(value(self.slave_dsn, ready)), "it is in step", 120)

    def pause(self) -> None:
        """Disable the subscription."""
        execute(self.slave_dsn, "ALTER SUBSCRIPTION bench DISABLE")
        eventually(lambda: value(self.slave_dsn, _APPLYING) == 0, "the worker has ended", 120)

    def resume(self) -> None:
        """Enable it."""
        execute(self.slave_dsn, "ALTER SUBSCRIPTION bench ENABLE")

    def tear_down(self) -> None:
        """Drop the subscription with its slot."""
        execute(self.slave_dsn, "DROP SUBSCRIPTION bench")

    @property
    def version(self) -> str:
        """The version."""
        return f"PostgreSQL {server_version(self.slave)}, binary = true"
