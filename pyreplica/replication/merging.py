"""What the merging of tables needs besides the slave: the user's functions, and the master."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.database import Connection
from pyreplica.model import CapturedTable
from pyreplica.transform.merging import MergeFunction, load

_SQL = sqlfiles.statements("versions.sql")


class Merging:
    """Helps one session merge tables.

    Args:
        config: names the functions.
        master: the session with the master.
    """

    def __init__(self, config: ReplicationConfig, master: Connection) -> None:
        self._config = config
        self._master = master
        self._functions: dict[tuple[str, str], MergeFunction] = {}

    def load(self) -> None:
        """Load the functions.

        Raises:
            Refused: one cannot be loaded.
        """
        self._functions = functions(self._config)

    def function(self, table: CapturedTable) -> MergeFunction | None:
        """The function of a table; None when the configuration names none."""
        return self._functions.get((table.schema, table.name))

    def seen(self, table: CapturedTable, keys: Sequence[str]) -> dict[str, Mapping[str, int]]:
        """What the versions have seen that rows have on the master now, by their keys."""
        values = {"relid": table.relid, "keys": list(keys)}
        return dict(self._master.query(_SQL["versions_now"], values))


def functions(config: ReplicationConfig) -> dict[tuple[str, str], MergeFunction]:
    """Load the functions of a replication, by the names of their tables; each file once.

    Raises:
        Refused: one cannot be loaded.
    """
    paths = {(m.schema, m.table): m.function.path for m in config.merge if m.function is not None}
    loaded = {path: load(path, config.name) for path in dict.fromkeys(paths.values())}
    return {table: loaded[path] for table, path in paths.items()}
