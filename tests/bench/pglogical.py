"""pglogical, the extension that the built-in logical replication came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from tests.bench.system import DATABASE, System, debian_version, execute, value
from tests.support import eventually

_PACKAGE = "postgresql-15-pglogical"

# The newest minor versions run no output plugin that is not named here; others do not know it.
_TRUSTED = "output_plugin_libraries"
_HAS_TRUSTED = f"SELECT count(*) > 0 FROM pg_settings WHERE name = '{_TRUSTED}'"

_STATUS = "SELECT status FROM pglogical.show_subscription_status('bench')"
_APPLYING = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pglogical apply%'"


class Pglogical(System):
    """Two nodes and a subscription.

    Only with conflicts as errors does it insert many rows at a time, so this is its fastest way.
    """

    name = "pglogical"
    title = "pglogical 2"
    packages = (_PACKAGE,)
    master_settings: ClassVar[Mapping[str, str]] = {
        "wal_level": "logical",
        "shared_preload_libraries": "pglogical",
    }
    slave_settings: ClassVar[Mapping[str, str]] = {
        **master_settings,
        "pglogical.conflict_resolution": "error",
        "pglogical.batch_inserts": "on",
        "max_worker_processes": "16",
        "wal_retrieve_retry_interval": "100ms",
    }

    def set_up(self, tables: Sequence[str]) -> None:
        """Make the nodes, subscribe, and wait until the tables are in step."""
        for dsn, side in ((self.master_dsn, "master"), (self.slave_dsn, "slave")):
            execute(
                dsn,
                "CREATE EXTENSION pglogical",
                f"SELECT pglogical.create_node('{side}', '{dsn}')",
            )
        for table in tables:
            execute(
                self.master_dsn,
                f"SELECT pglogical.replication_set_add_table('default', 'public.{table}')",
            )
        if value(self.master_dsn, _HAS_TRUSTED):
            execute(
                self.master_dsn,
                f"ALTER DATABASE {DATABASE} SET {_TRUSTED} = pgoutput, pglogical_output",
            )
        execute(
            self.slave_dsn,
            f"SELECT pglogical.create_subscription('bench', '{self.master_dsn}', "
            "synchronize_structure := false, synchronize_data := false, forward_origins := '{}')",
        )
        eventually(lambda: value(self.slave_dsn, _STATUS) == "replicating", "it is in step", 120)

    def pause(self) -> None:
        """Disable the subscription."""
        execute(self.slave_dsn, "SELECT pglogical.alter_subscription_disable('bench', true)")
        eventually(lambda: value(self.slave_dsn, _APPLYING) == 0, "the worker has ended", 120)

    def resume(self) -> None:
        """Enable it."""
        execute(self.slave_dsn, "SELECT pglogical.alter_subscription_enable('bench', true)")

    def tear_down(self) -> None:
        """Drop the subscription with its slot."""
        execute(self.slave_dsn, "SELECT pglogical.drop_subscription('bench', true)")

    @property
    def version(self) -> str:
        """The version."""
        return f"{debian_version(_PACKAGE)}, conflict_resolution = error, batch_inserts = on"
