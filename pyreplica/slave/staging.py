"""Makes the staging tables of a replication, and names them."""

from __future__ import annotations

import hashlib

from pyreplica import sqlfiles
from pyreplica.database import Connection, sql

_SQL = sqlfiles.statements("stage.sql")


def names(id_: int) -> dict[str, sql.Composable]:
    """The names of a replication's staging tables, and of their indexes.

    Args:
        id_: of its cursor.
    """
    return {
        "stage": sql.Identifier("pyreplica", f"stage_{id_}"),
        "net": sql.Identifier("pyreplica", f"net_{id_}"),
        "stage_by_tab": sql.Identifier(f"stage_{id_}_by_tab"),
        "net_by_tab": sql.Identifier(f"net_{id_}_by_tab"),
    }


def create(connection: Connection, id_: int) -> None:
    """Make the tables, or make them anew after an upgrade.

    Which statement has made them is told by their comments.
    """
    tables = names(id_)
    made = hashlib.md5(_SQL["create_staging"].encode(), usedforsecurity=False).hexdigest()
    wanted = {"tables": [f"pyreplica.stage_{id_}", f"pyreplica.net_{id_}"], "made": made}
    if connection.one(_SQL["staging_made"], wanted)[0]:
        return
    note = sql.SQL("COMMENT ON TABLE {} IS {}")
    with connection.transaction():
        connection.execute(
            sql.SQL("; ").join(
                [
                    drop(id_),
                    sql.SQL(_SQL["create_staging"]).format(**tables),
                    *(note.format(tables[name], sql.Literal(made)) for name in ("stage", "net")),
                ]
            )
        )


def drop(id_: int) -> sql.Composable:
    """The statement that drops them, if they are there."""
    return sql.SQL("DROP TABLE IF EXISTS {stage}, {net}").format(**names(id_))
