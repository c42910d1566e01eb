"""Installs and uninstalls PyReplica's SQL on both sides of a replication."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from pyreplica import sqlfiles
from pyreplica.config import ReplicationConfig
from pyreplica.database import Connection
from pyreplica.errors import NotInstalled, PyReplicaError, Refused
from pyreplica.master import Candidate, Master
from pyreplica.model import TableCopy, TableFilter
from pyreplica.replication.drift import AT_ONCE, BLIND
from pyreplica.replication.filters import changed, set_filter
from pyreplica.slave import Slave
from pyreplica.slave.guards import Guards


@dataclass(frozen=True, slots=True)
class Line:
    """What was done to one thing, for people."""

    text: str
    refused: bool = False


def _run_script(
    dsn: str, where: str, name: str, config: ReplicationConfig, *, both: bool = False
) -> None:
    """Run a script of sql/, as psql would; when it refuses nothing was changed.

    Args:
        both: a database that has the other side already is meant.
    """
    with Connection(
        dsn,
        where=where,
        connect_timeout=config.connect_timeout,
        peer_timeout=config.peer_timeout,
    ) as connection:
        try:
            if config.capture is not None:
                # the script needs the language that is asked for, and nothing of the other one
                connection.execute(
                    "SELECT set_config('pyreplica.capture', %s, false)", (config.capture,)
                )
            if both or config.both_ways:
                connection.execute("SELECT set_config('pyreplica.both', 'on', false)")
            connection.execute(sqlfiles.script(name))
        except PyReplicaError:
            connection.rollback()
            raise


def install(config: ReplicationConfig) -> list[Line]:
    """Run the SQL on both sides and capture the chosen tables.

    Both sides are looked at before either is changed. Tables are captured one at a time, so that no
    lock is held for longer than its triggers need.

    Raises:
        PyReplicaError: a side cannot be reached or may not be changed; nothing was changed.
    """
    with closing(Master(config)) as master, closing(Slave(config)) as slave:
        _may_install(master, slave)
    script, where = "master-install.sql", master.connection.where
    _run_script(config.master, where, script, config, both=config.forward)
    lines = [Line("master: installed")]
    _run_script(config.slave, slave.connection.where, "slave-install.sql", config)
    lines.append(Line("slave: installed"))
    with closing(Master(config)) as master:
        if not master.ddl.sees_ddl():
            lines.append(Line(f"master: {BLIND}. {AT_ONCE}"))
        if config.capture is not None:
            lines.append(Line(f"master: {master.set_capture(config.capture)}"))
        if config.forward:
            lines.append(Line(f"master: {master.forwarding.turn_on()}"))
        renews = config.capture is not None or config.forward
        held = _held(config)
        recorded = master.filters.recorded()
        for table in master.candidates():
            if config.includes(table.schema, table.name) and table.reason is None:
                lines += _filtered(config, master, table, held, recorded)
            # what other replications have had captured changes its triggers as well
            if config.includes(table.schema, table.name) or (renews and table.added):
                done = master.add_table(table)
                lines.append(Line(done, refused=": not added:" in done))
        names = {(table.schema, table.name) for table in master.candidates()}
        lines += [
            Line(f"{schema}.{name}: has a filter in the configuration, and is no table", True)
            for schema, name, _ in config.filters
            if (schema, name) not in names
        ]
        lines += [Line(master.set_merge(merge)) for merge in config.merge]
    return lines


def _held(config: ReplicationConfig) -> dict[tuple[str, str], TableCopy]:
    """The tables of which the slave has rows, or is about to, by their names on the master."""
    with closing(Slave(config)) as slave:
        copies = slave.records.copies().values()
    return {(c.schema, c.name): c for c in copies if c.state in ("copying", "joining", "ready")}


def _filtered(
    config: ReplicationConfig,
    master: Master,
    table: Candidate,
    held: Mapping[tuple[str, str], TableCopy],
    recorded: Mapping[int, TableFilter],
) -> list[Line]:
    """Have a table filtered before it is captured; one that the slave has stays as it is."""
    wanted = config.filter_of(table.schema, table.name)
    copy = held.get((table.schema, table.name))
    if copy is not None:
        problem = changed(config, copy, recorded.get(copy.relid))
        return [Line(f"{problem[0]}. {problem[1]}", refused=True)] if problem else []
    if wanted.same(recorded.get(table.relid, TableFilter())):
        return []
    try:
        return [Line(f"master: {set_filter(config, master, table.schema, table.name)}")]
    except Refused as error:
        return [Line(f"{error.what}. {error.hint}", refused=True)]


def _may_install(master: Master, slave: Slave) -> None:
    if master.identity() == slave.identity():
        raise Refused(
            "master and slave are the same database",
            where=master.replication,
            hint="Look at the connection strings.",
        )
    for side in (master, slave):
        if side.server().standby:
            raise Refused(
                "the server is a hot standby and cannot be changed",
                where=side.connection.where,
                hint="Connect to its primary.",
            )
    if not _is_installed(slave) and not slave.may_create():
        raise Refused(
            f"role {slave.server().role} may not create a schema in this database",
            where=slave.connection.where,
            hint="GRANT CREATE ON DATABASE ... TO the role, or connect as the database's owner.",
        )


def uninstall(config: ReplicationConfig) -> list[Line]:
    """Forget the replication on both sides; take the SQL away where nothing else needs it.

    Both sides are reached and locked before either is changed.

    Raises:
        PyReplicaError: a side cannot be reached, or a daemon is at work; nothing was changed.
    """
    lines: dict[str, list[Line]] = {"slave": [], "master": []}
    with closing(Master(config)) as master, closing(Slave(config)) as slave:
        on_master, on_slave = _is_installed(master), _is_installed(slave)
        last_of_master = on_master and not master.serves_others()
        last_of_slave = on_slave and not slave.serves_others()
        if last_of_master and not master.ddl.may_uninstall():
            raise Refused(
                f"role {master.server().role} is no superuser and has not installed PyReplica on "
                "the master: it may not take it away",
                where=master.connection.where,
                hint="Connect as the role that has, or have a superuser run "
                "sql/master-uninstall.sql.",
            )
        for side, installed in ((slave, on_slave), (master, on_master)):
            if installed:
                side.lock()
        if on_slave:
            slave.records.lock()
            for batch in slave.prepared():
                slave.rollback_prepared(batch)
            _unguard(slave)
            slave.remove()
            text = "slave: the replication is forgotten; its tables stay as they are"
            lines["slave"].append(Line(text))
        if on_master:
            known = master.record.confirmed()
            if known is not None:
                master.set_doorbell(known.bit, False)
            master.record.unregister()
            if not last_of_master:
                master.filters.drop()
            lines["master"].append(Line("master: the replication is forgotten"))
    for side, installed, last, dsn in (
        (slave, on_slave, last_of_slave, config.slave),
        (master, on_master, last_of_master, config.master),
    ):
        if last:
            _run_script(dsn, side.connection.where, f"{side.side}-uninstall.sql", config)
            lines[side.side].append(Line(f"{side.side}: uninstalled"))
        elif not installed:
            lines[side.side].append(Line(f"{side.side}: nothing is installed"))
    return [*lines["slave"], *lines["master"]]


def _unguard(slave: Slave) -> None:
    """Take the guard away from the slave's tables."""
    applied = slave.applied()
    if applied is None:
        return
    busy = Guards(slave.connection, slave.replication).set(applied.id, (), patience=10)
    if busy:
        raise Refused(
            f"the guard of table {busy[0]} cannot be taken away: somebody has the table locked",
            where=slave.connection.where,
            hint="Run it again when that is over; see pg_stat_activity.",
        )


def _is_installed(side: Master | Slave) -> bool:
    try:
        side.check_installed()
    except NotInstalled:
        return False
    return True
