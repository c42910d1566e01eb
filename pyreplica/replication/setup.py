"""Installs and uninstalls PyReplica's SQL on both sides of a replication."""

from __future__ import annotations

from dataclasses import dataclass

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.database import Connection
from pyreplica.errors import NotInstalled, PyReplicaError
from pyreplica.master import Master
from pyreplica.slave import Slave


@dataclass(frozen=True, slots=True)
class Line:
    """What was done to one thing, for people."""

    text: str
    refused: bool = False


def run_script(dsn: str, where: str, name: str, connect_timeout: float = 10.0) -> None:
    """Run a script of sql/, as psql would.

    Raises:
        PyReplicaError: the script refused; nothing was changed.
    """
    with Connection(dsn, where=where, connect_timeout=connect_timeout) as connection:
        try:
            connection.execute(sqlfiles.text(name))
        except PyReplicaError:
            connection.rollback()
            raise


def install(config: ReplicationConfig) -> list[Line]:
    """Run the SQL on both sides and capture the chosen tables.

    A table at a time is captured, so that no lock is held for longer than its triggers need.
    """
    run_script(
        config.master, f"{config.name}: master", "master-install.sql", config.connect_timeout
    )
    lines = [Line("master: installed")]
    run_script(config.slave, f"{config.name}: slave", "slave-install.sql", config.connect_timeout)
    lines.append(Line("slave: installed"))
    master = Master(config)
    try:
        for table in master.candidates():
            if config.includes(table.schema, table.name):
                lines.append(Line(master.add_table(table), refused=table.reason is not None))
    finally:
        master.close()
    return lines


def uninstall(config: ReplicationConfig) -> list[Line]:
    """Forget the replication on both sides; take the SQL away where nothing else needs it."""
    lines = []
    slave = Slave(config)
    try:
        if _is_installed(slave):
            slave.lock()
            for batch in slave.prepared():
                slave.rollback_prepared(batch)
            slave.remove()
            last = not slave.serves_others()
            lines.append(Line("slave: the replication is forgotten; its tables stay as they are"))
        else:
            last = False
            lines.append(Line("slave: nothing is installed"))
    finally:
        slave.close()
    if last:
        run_script(config.slave, f"{config.name}: slave", "slave-uninstall.sql")
        lines.append(Line("slave: uninstalled"))
    master = Master(config)
    try:
        if _is_installed(master):
            master.lock()
            known = master.confirmed()
            if known is not None:
                master.set_doorbell(known.bit, False)
            master.unregister()
            last = not master.serves_others()
            lines.append(Line("master: the replication is forgotten"))
        else:
            last = False
            lines.append(Line("master: nothing is installed"))
    finally:
        master.close()
    if last:
        run_script(config.master, f"{config.name}: master", "master-uninstall.sql")
        lines.append(Line("master: uninstalled"))
    return lines


def _is_installed(side: Master | Slave) -> bool:
    try:
        side.check_installed()
    except NotInstalled:
        return False
    return True
