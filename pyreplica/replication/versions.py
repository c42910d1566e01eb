"""Carries the versions of a merged table's rows over, with the rows."""

from __future__ import annotations

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.database import pump, sql
from pyreplica.errors import Refused
from pyreplica.master import Master
from pyreplica.model import CapturedTable, SlaveTable
from pyreplica.slave import Slave

_SQL = sqlfiles.statements("versions.sql")


def check_merged(
    config: ReplicationConfig, slave: Slave, table: CapturedTable, found: SlaveTable | None
) -> None:
    """Refuse a table that is merged on the master and not on the slave.

    Its rows would come without their versions there, and what the slave writes to them would be
    taken for older than it is.
    """
    if not table.merged:
        return
    connection = slave.connection
    if (
        found is None
        or not connection.one(_SQL["is_node"])[0]
        or not connection.query(_SQL["merge"], {"relid": found.relid})
    ):
        raise Refused(
            f"table {table} is merged on the master, and not on the slave",
            where=config.name,
            hint="Make the table on the slave, and run `pyreplica install` for the replication "
            "back, with the same `merge:`; see docs/both-ways.md.",
        )


def move_versions(
    config: ReplicationConfig, master: Master, slave: Slave, table: CapturedTable
) -> None:
    """Copy the versions of a table's rows, in the transactions that copy these.

    Raises:
        Refused: the slave's table is not merged.
    """
    if not table.merged:
        return
    found = slave.describe(table)
    check_merged(config, slave, table, found)
    assert found is not None
    here, there = sql.Literal(found.relid), sql.Literal(table.relid)
    slave.connection.execute(
        sql.SQL("DELETE FROM pyreplica.replica_row WHERE relid = {}").format(here)
    )
    pump(
        master.connection,
        sql.SQL(
            "COPY (SELECT {}, key, version FROM pyreplica.replica_row WHERE relid = {}) TO STDOUT"
        ).format(here, there),
        slave.connection,
        "COPY pyreplica.replica_row (relid, key, version) FROM STDIN",
    )
