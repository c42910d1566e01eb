"""Looks at both sides of a replication and says what is in its way, each with the cure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyreplica.config import CommitMode, ReplicationConfig
from pyreplica.errors import NotInstalled, PyReplicaError
from pyreplica.master import Master
from pyreplica.model import CapturedTable, Identity
from pyreplica.slave import Slave
from pyreplica.slave.statements import misfit

OLDEST = 130000


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        level: "ok"; "note", something to know; "problem", replication cannot work like this.
        side: "master", "slave", or a table's name.
        cure: what to do about a problem.
    """

    level: str
    side: str
    text: str
    cure: str = ""


def check(config: ReplicationConfig) -> Iterator[Finding]:
    """Look at everything that can be looked at; changes nothing."""
    master: Master | None = None
    slave: Slave | None = None
    try:
        try:
            master = Master(config)
        except PyReplicaError as error:
            yield Finding("problem", "master", error.what, error.hint)
        try:
            slave = Slave(config)
        except PyReplicaError as error:
            yield Finding("problem", "slave", error.what, error.hint)
        if master is not None:
            yield from _master(master)
        if slave is not None:
            yield from _slave(slave, config)
        if master is not None and slave is not None:
            yield from _both(master, slave)
            yield from _tables(config, master, slave)
    finally:
        for side in (master, slave):
            if side is not None:
                side.close()


def _server(side: Master | Slave) -> Iterator[Finding]:
    server = side.server()
    version = f"PostgreSQL {server.version // 10000}.{server.version % 10000}"
    if server.version < OLDEST:
        yield Finding("problem", side.side, f"{version} is too old", "Use PostgreSQL 13 or later.")
    else:
        yield Finding("ok", side.side, f"connected as {server.role}, {version}")
    if server.standby:
        yield Finding(
            "problem",
            side.side,
            "the server is a hot standby and cannot be written",
            "Connect to its primary.",
        )


def _master(master: Master) -> Iterator[Finding]:
    yield from _server(master)
    server = master.server()
    try:
        master.check_installed()
    except NotInstalled as error:
        yield Finding("problem", "master", error.what, error.hint)
        if not server.superuser:
            yield Finding(
                "problem",
                "master",
                f"role {server.role} is no superuser and cannot install PyReplica there",
                "Have a superuser run sql/master-install.sql.",
            )
        if not master.plpython_available():
            major = server.version // 10000
            yield Finding(
                "problem",
                "master",
                "the server does not have the language plpython3u",
                f"Install it there, on Debian: apt-get install postgresql-plpython3-{major}",
            )
        return
    except PyReplicaError as error:
        yield Finding("problem", "master", error.what, error.hint)
        return
    yield Finding("ok", "master", "PyReplica's master side is installed")


def _slave(slave: Slave, config: ReplicationConfig) -> Iterator[Finding]:
    yield from _server(slave)
    server = slave.server()
    if config.commit is CommitMode.TWO_PHASE:
        if server.prepared_transactions == 0:
            yield Finding(
                "problem",
                "slave",
                "max_prepared_transactions is 0, two-phase commit cannot work",
                "Set max_prepared_transactions = 10 on the slave's server and restart it, "
                "or choose `commit: one-phase`.",
            )
        else:
            yield Finding(
                "ok", "slave", f"max_prepared_transactions is {server.prepared_transactions}"
            )
    try:
        slave.check_installed()
    except PyReplicaError as error:
        yield Finding("problem", "slave", error.what, error.hint)
    else:
        yield Finding("ok", "slave", "PyReplica's slave side is installed")


def _both(master: Master, slave: Slave) -> Iterator[Finding]:
    here: Identity = slave.identity()
    if here == master.identity():
        yield Finding(
            "problem",
            "slave",
            "master and slave are the same database",
            "Look at the connection strings.",
        )
    ours, theirs = master.server().encoding, slave.server().encoding
    if ours != theirs:
        yield Finding(
            "note",
            "slave",
            f"the encodings differ ({ours} on the master, {theirs} on the slave): a character that "
            "the slave's does not have stops the replication",
        )


def _tables(config: ReplicationConfig, master: Master, slave: Slave) -> Iterator[Finding]:
    """Which tables can be replicated, and whether the slave's fit."""
    installed = _installed(master)
    captured = {t.relid: t for t in (master.tables() if installed else ())}
    copied = slave.copied_tables() if _installed(slave) else {}
    chosen = [t for t in master.all_tables() if config.includes(t.schema, t.name)]
    if not chosen:
        yield Finding(
            "problem",
            "master",
            "no table is chosen",
            "Look at `tables:` in the configuration; patterns are schema.table.",
        )
    for table in chosen:
        name = str(table)
        if table.reason is not None:
            yield Finding("note", name, f"will not be replicated: {table.reason}")
            continue
        as_captured = captured.get(table.relid)
        if as_captured is None:
            yield Finding(
                "note",
                name,
                "can be replicated; it is not captured yet",
                "Run `pyreplica install`.",
            )
            as_captured = CapturedTable(
                0,
                table.relid,
                table.schema,
                table.name,
                table.key,
                table.columns,
                False,
                True,
                table.types,
            )
        if not table.readable:
            yield Finding(
                "problem",
                name,
                "cannot be read on the master",
                f"GRANT SELECT ON {name} TO the master's role, and USAGE on its schema.",
            )
        here = slave.describe(as_captured)
        if here is not None and not here.writable:
            yield Finding(
                "problem",
                name,
                "cannot be written on the slave",
                f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {name} TO the slave's role.",
            )
        problem = misfit(as_captured, here)
        if problem is not None:
            missing = here is None and not copied
            yield Finding(
                "note" if missing else "problem",
                name,
                problem[0],
                f"Create it, or let `pyreplica copy {config.name} --schema` make all tables."
                if missing
                else problem[1],
            )
        elif installed and table.relid in captured:
            yield Finding("ok", name, "is captured, and the slave's table fits")
        if copied and not copied.get(table.relid):
            yield Finding(
                "problem",
                name,
                "was never copied to the slave; its changes are passed over",
                f"Copy anew: `pyreplica copy {config.name} --truncate`.",
            )


def _installed(side: Master | Slave) -> bool:
    try:
        side.check_installed()
    except PyReplicaError:
        return False
    return True
