"""The triggers that refuse writes on the slave's replicated tables to everybody but the daemon."""

from __future__ import annotations

from collections.abc import Iterable

from pyreplica import sqlfiles
from pyreplica.database import Connection, errorcodes, sql
from pyreplica.errors import DatabaseError
from pyreplica.model import CapturedTable

_SQL = sqlfiles.statements("slave.sql")

PATIENCE = 0.5
"""A table's lock is waited for so long, seconds: less than deadlock_timeout, so that nobody else's
transaction is broken off because of us."""

_BUSY = {
    errorcodes.LOCK_NOT_AVAILABLE,
    errorcodes.DEADLOCK_DETECTED,
    # gone in between
    errorcodes.UNDEFINED_TABLE,
    errorcodes.UNDEFINED_OBJECT,
}

_STATEMENTS = {
    "create": "CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table} "
    "FOR EACH STATEMENT EXECUTE FUNCTION pyreplica.refuse_write({replication})",
    # for what comes through a parent, and for partitions that are made tomorrow
    "create rows": "CREATE TRIGGER {trigger} BEFORE INSERT OR UPDATE OR DELETE ON {table} "
    "FOR EACH ROW EXECUTE FUNCTION pyreplica.refuse_write({replication})",
    "enable": "ALTER TABLE {table} ENABLE TRIGGER {trigger}",
    "drop": "DROP TRIGGER {trigger} ON {table}",
}


class Guards:
    """The guards of one replication's tables, through a session with the slave.

    They are ordinary triggers, which are silent where session_replication_role is replica: in the
    sessions of the daemon and of copies.
    """

    def __init__(self, connection: Connection, replication: str) -> None:
        self._connection = connection
        self._replication = replication

    def set(
        self, id_: int, tables: Iterable[CapturedTable], patience: float = PATIENCE
    ) -> list[str]:
        """Guard these tables and no others.

        Args:
            id_: the cursor's id, which names the triggers.
            tables: generations of the tables; that of the newest name which the slave knows counts.
            patience: how long each table's lock is waited for, seconds.

        Returns:
            The tables that others had locked; they are as they were.

        Raises:
            DatabaseError: among others, the role may not do that.
        """
        generations = list(tables)
        busy: list[str] = []
        for schema, name, trigger, what in self._connection.query(
            _SQL["guards"],
            {
                "relids": [table.relid for table in generations],
                "generations": [table.id for table in generations],
                "schemas": [table.schema for table in generations],
                "names": [table.name for table in generations],
                "trigger": f"pyreplica_guard_{id_}",
                "rows": f"pyreplica_guard_rows_{id_}",
            },
        ):
            statement = sql.SQL(_STATEMENTS[what]).format(
                trigger=sql.Identifier(trigger),
                table=sql.Identifier(schema, name),
                replication=sql.Literal(self._replication),
            )
            try:
                with self._connection.transaction():
                    self._connection.execute(f"SET LOCAL lock_timeout = '{patience * 1000:.0f}ms'")
                    self._connection.execute(statement)
            except DatabaseError as error:
                if error.sqlstate == errorcodes.INSUFFICIENT_PRIVILEGE:
                    error.hint = (
                        f"The guard of table {schema}.{name} is a trigger: the slave's role must "
                        "own the table or be superuser; or leave it unguarded: `guard: false`."
                    )
                if error.sqlstate not in _BUSY:
                    raise
                busy.append(f"{schema}.{name}")
        return list(dict.fromkeys(busy))
