"""Takes two databases for those that a replication was set up with, after they have moved.

A database is known by its server's system identifier and its name, because batch numbers and
snapshots of another one mean nothing. pg_upgrade gives the server a new identifier and keeps the
rest: transaction ids go on, tables have the oids they had. ALTER DATABASE RENAME changes the name
alone.
"""

from __future__ import annotations

from contextlib import closing

from pyreplica.config import ReplicationConfig
from pyreplica.errors import Refused
from pyreplica.master import Master
from pyreplica.model import Cursor, Identity
from pyreplica.replication.agreement import check_fit, not_copied, recorded
from pyreplica.slave import Slave


def adopt(config: ReplicationConfig) -> list[str]:
    """Record both databases as the ones this replication is between.

    It is for the administrator to know that they are the same ones, moved; what can be seen is
    looked at: both stand at the same batch, the master has seen its snapshot, and the captured
    tables are where they were recorded.

    Returns:
        What was recorded, in lines; none when both were known already.

    Raises:
        NotInstalled, Refused: they cannot be the same ones; nothing was changed.
    """
    with closing(Master(config)) as master, closing(Slave(config)) as slave:
        for side in (master, slave):
            side.check_installed()
            side.check_writable()
        slave.lock()
        master.lock()
        applied, confirmed = recorded(master, slave)
        found = (master.identity(), slave.identity())
        if found == (applied.master, confirmed.slave):
            return []
        if found[0] == found[1]:
            raise Refused(
                "master and slave are the same database",
                where=config.name,
                hint="Look at the connection strings.",
            )
        if applied.cursor is None:
            raise not_copied(config)
        check_fit(config, applied.cursor, confirmed.cursor)
        _check_moment(master, applied.cursor)
        _check_tables(master)
        # broken off in between, the same call does the rest
        master.record.adopt(found[1])
        slave.adopt(found[0])
        return _lines(("master", found[0], applied.master), ("slave", found[1], confirmed.slave))


def _check_moment(master: Master, cursor: Cursor) -> None:
    now = master.log.position().snapshot.xmax
    if now < cursor.position.snapshot.xmax:
        raise Refused(
            f"the next transaction of this server is {now}, the slave has seen up to "
            f"{cursor.position.snapshot.xmax}",
            where=master.connection.where,
            hint="It is another server, to which the database was restored: transaction ids have "
            "begun anew. Uninstall PyReplica, install it, and copy the slave anew.",
        )


def _check_tables(master: Master) -> None:
    moved = master.moved_tables()
    if moved:
        raise Refused(
            f"the captured tables are not where they were recorded: {', '.join(moved)}",
            where=master.connection.where,
            hint="The database was restored from a dump, which gives tables other oids. Uninstall "
            "PyReplica, install it, and copy the slave anew.",
        )


def _lines(*changes: tuple[str, Identity, Identity]) -> list[str]:
    return [
        f"{side}: {found}, before that {before}"
        for side, found, before in changes
        if found != before
    ]
