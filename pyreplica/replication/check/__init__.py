"""Looks at both sides of a replication and says what is in its way, each with the cure."""

from __future__ import annotations

from collections.abc import Iterator

from pyreplica.config import CommitMode, ReplicationConfig
from pyreplica.errors import NotInstalled, PyReplicaError
from pyreplica.master import Master
from pyreplica.model import Identity
from pyreplica.replication.check.finding import Finding
from pyreplica.replication.check.rights import installed, missing_rights, rights
from pyreplica.replication.check.sequences import sequences
from pyreplica.replication.check.tables import mapping, tables
from pyreplica.replication.drift import unseen_ddl
from pyreplica.replication.hooks import hooks_of
from pyreplica.replication.merging import functions
from pyreplica.slave import Slave

__all__ = ["Finding", "check"]

OLDEST = 130000


def check(config: ReplicationConfig) -> Iterator[Finding]:
    """Look at everything that can be looked at; changes nothing."""
    master: Master | None = None
    slave: Slave | None = None
    yield from _transform(config)
    yield from _functions(config)
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
            yield from _master(master, config)
            yield from _forwarding(config, master)
        if slave is not None:
            yield from _slave(slave, config)
        if master is not None and slave is not None:
            yield from _both(master, slave)
            yield from mapping(config, master)
            yield from tables(config, master, slave)
            yield from sequences(config, master, slave)
    finally:
        for side in (master, slave):
            if side is not None:
                side.close()


def _transform(config: ReplicationConfig) -> Iterator[Finding]:
    """Whether the transform can be loaded, and what it has; it is executed for that."""
    try:
        hooks = hooks_of(config)
    except PyReplicaError as error:
        yield Finding("problem", "transform", error.what, error.hint)
        return
    if hooks is None:
        return
    yield Finding("ok", "transform", f"{hooks.path} has {', '.join(hooks.names)}")
    if hooks.conflict is not None and not config.conflicts.asked:
        yield Finding(
            "note",
            "transform",
            f"{hooks.path} has a function conflict(), and no policy in `conflicts:` is `transform`",
        )


def _functions(config: ReplicationConfig) -> Iterator[Finding]:
    """Whether the functions that merge tables can be loaded; the files are executed for that."""
    try:
        for (schema, name), function in functions(config).items():
            yield Finding("ok", f"{schema}.{name}", f"is merged by the function of {function.path}")
    except PyReplicaError as error:
        yield Finding("problem", "merge", error.what, error.hint)


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


def _master(master: Master, config: ReplicationConfig) -> Iterator[Finding]:
    yield from _server(master)
    server = master.server()
    try:
        master.check_installed()
    except NotInstalled as error:
        yield Finding("problem", "master", error.what, error.hint)
        if config.capture == "plpgsql":
            return
        if not server.superuser:
            yield Finding(
                "problem",
                "master",
                f"role {server.role} is no superuser and cannot install PyReplica there",
                "Have a superuser run sql/master-install.sql; or `capture: plpgsql`.",
            )
        if not master.plpython_available():
            major = server.version // 10000
            yield Finding(
                "problem",
                "master",
                "the server does not have the language plpython3u",
                f"Install it there, on Debian: apt-get install postgresql-plpython3-{major}; or "
                "`capture: plpgsql`.",
            )
        return
    except PyReplicaError as error:
        yield Finding("problem", "master", error.what, error.hint)
        return
    yield Finding("ok", "master", "PyReplica's master side is installed")
    missing = missing_rights(master)
    yield from rights(master, missing)
    if missing:
        return
    for schema, table, code in master.code_of_others():
        yield Finding(
            "problem",
            f"{schema}.{table}",
            f"is not safe to be captured: {code}",
            "Have a superuser look at the function and make it his: ALTER FUNCTION ... OWNER TO "
            "...; see docs/security.md.",
        )
    for unseen in unseen_ddl(master):
        yield Finding(*unseen)
    yield from _doorbell(master, server.prepared_transactions)


def _forwarding(config: ReplicationConfig, master: Master) -> Iterator[Finding]:
    """Whether the master forwards what this replication is to carry."""
    if not config.forward or not installed(master):
        return
    if master.forwarding.on_all_tables():
        yield Finding("ok", "master", "what other replications apply to it is forwarded")
    else:
        yield Finding(
            "problem",
            "master",
            "what other replications apply to it is not captured on all tables",
            f"Run `pyreplica install {config.name}`; writers of each table wait for a moment.",
        )


def _doorbell(master: Master, prepared_transactions: int) -> Iterator[Finding]:
    """How the daemon hears of changes, where it is not the usual way."""
    rings = master.rings()
    database = master.identity().database
    if rings and prepared_transactions > 0:
        yield Finding(
            "note",
            "master",
            "writers wake the daemon with NOTIFY, though max_prepared_transactions is "
            f"{prepared_transactions}: a transaction that has done so cannot be prepared",
            "For roles that use PREPARE TRANSACTION: ALTER ROLE ... SET pyreplica.notify = off.",
        )
    elif not rings and prepared_transactions > 0:
        yield Finding(
            "note",
            "master",
            f"max_prepared_transactions is {prepared_transactions}: so that applications can use "
            "PREPARE TRANSACTION, writers do not wake the daemon; it looks at the log ten times a "
            "second",
            f"If none does: ALTER DATABASE {database} SET pyreplica.notify = on, for all sessions "
            "that begin after it; restart the daemon.",
        )
    elif not rings:
        yield Finding(
            "note",
            "master",
            "pyreplica.notify is off: writers do not wake the daemon; it looks at the log ten "
            "times a second",
            f"Unless this is meant: ALTER DATABASE {database} RESET pyreplica.notify, or ALTER "
            "ROLE if it is set there; restart the daemon.",
        )


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
        yield from rights(slave, missing_rights(slave))


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
