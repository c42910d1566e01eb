"""Looks at both sides of a replication and says what is in its way, each with the cure."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from pyreplica.config import CommitMode, ReplicationConfig
from pyreplica.database.masks import Masks
from pyreplica.errors import NotInstalled, PyReplicaError, Refused
from pyreplica.master import Master
from pyreplica.model import CapturedTable, Identity
from pyreplica.replication.drift import unseen_ddl
from pyreplica.replication.filters import as_configured, changed
from pyreplica.replication.sequences import Pair, out_of_bounds, own_pairs, pairs
from pyreplica.slave import Slave
from pyreplica.slave.misfit import misfit, unknown_column
from pyreplica.transform.module import load

OLDEST = 130000

READ_ON_MASTER = (
    *("replica_log", "replica_table", "replica_tick", "replica_version", "replica_segment"),
    *("replica_partition", "replica_capture", "changes", "capture_trigger", "capture_function"),
    *("replica_filter", "hidden_columns", "doorbell", "replica_log_id"),
)
WRITTEN_ON_MASTER = ("replica_slave",)
CALLED_ON_MASTER = (
    *("restate", "rotate_log", "set_doorbell", "tick", "rings", "sequences", "sequence_values"),
    *("log_kept", "at_work", "waits_since", "log_bytes_after", "candidates", "refusal"),
    *("add_table", "remove_table", "set_capture", "code_of_others"),
    *("log_of", "bit_for", "set_filter", "keep_filter", "drop_filters"),
    *("installer", "sees_ddl", "drift", "follow_drift", "catalog_mark"),
    *("set_forwarding", "forwards", "received", "skipped"),
)
WRITTEN_ON_SLAVE = (
    *("replica_cursor", "replica_copy", "replica_status", "replica_conflict", "replica_pause"),
    "replica_source",
)
READ_ON_SLAVE = ("replica_version",)
CALLED_ON_SLAVE = (
    *("move_cursor", "expect", "failing", "run_ddl", "merge", "pause", "resume"),
    # where it is a master as well
    *("forwards", "forward_ddl", "rotate_log"),
)
"""What a daemon's role needs in the schema pyreplica, whatever it is given by sql/roles.sql."""


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
    yield from _transform(config)
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
            yield from _map(config, master)
            yield from _tables(config, master, slave)
            yield from _sequences(config, master, slave)
    finally:
        for side in (master, slave):
            if side is not None:
                side.close()


def _transform(config: ReplicationConfig) -> Iterator[Finding]:
    """Whether the transform can be loaded, and what it has; it is executed for that."""
    if config.transform is None:
        return
    path = config.transform.path
    try:
        names = load(path, config.name).names
    except PyReplicaError as error:
        yield Finding("problem", "transform", error.what, error.hint)
    else:
        yield Finding("ok", "transform", f"{path} has {', '.join(names)}")


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
    missing = _missing_rights(master)
    yield from _rights(master, missing)
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
    if not config.forward or not _installed(master):
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


def _rights(side: Master | Slave, missing: list[str]) -> Iterator[Finding]:
    """The rights that the role lacks in PyReplica's schema."""
    role = side.server().role
    for grant in missing:
        what = grant.removeprefix("GRANT ").rpartition(" TO ")[0]
        yield Finding(
            "problem",
            side.side,
            f"role {role} lacks a right: {what}",
            f"{grant}; or have a superuser run sql/roles.sql with -v "
            f"{side.side}_role={shlex.quote(role)}.",
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
        yield from _rights(slave, _missing_rights(slave))


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


def _map(config: ReplicationConfig, master: Master) -> Iterator[Finding]:
    """What is wrong with the names in `map:`."""
    if not _installed(master):
        return
    chosen = {(t.schema, t.name) for t in master.tables() if config.includes(t.schema, t.name)}
    for one in sorted(config.map.named - chosen):
        yield Finding(
            "problem",
            ".".join(one),
            "is named in `map:`, and is not among the tables that are captured and chosen",
            "Correct the name, or look at `tables:`; run `pyreplica install` if it is new.",
        )
    for one, other in config.map.mixed(sorted(chosen)):
        yield Finding(
            "problem",
            ".".join(other),
            f"would be the same table on the slave as {'.'.join(one)}",
            "Map one to another name, or tell their rows apart with `constants:`.",
        )
    try:
        master.masking.load()
    except PyReplicaError as error:
        yield Finding("problem", "master", error.what, error.hint)


def _tables(config: ReplicationConfig, master: Master, slave: Slave) -> Iterator[Finding]:
    """Which tables can be replicated, and whether the slave's fit."""
    installed = _installed(master)
    captured = {t.relid: t for t in (master.tables(whole=True) if installed else ())}
    filters = master.filters.recorded() if installed else {}
    copies = slave.records.copies() if _installed(slave) else {}
    chosen = [t for t in master.all_tables() if config.includes(t.schema, t.name)]
    if not chosen:
        yield Finding(
            "problem",
            "master",
            "no table is chosen",
            "Look at `tables:` in the configuration; patterns are schema.table.",
        )
    names = {(t.schema, t.name) for t in chosen}
    for schema, filtered, _ in config.filters:
        if (schema, filtered) not in names:
            yield Finding(
                "problem",
                f"{schema}.{filtered}",
                "has a filter in the configuration, and is not among the tables",
                "Look at `filters:` and `tables:`; names are written as PostgreSQL stores them.",
            )
    if config.guard:
        for owned in slave.not_owned(t for t in captured.values() if t.relid in copies):
            yield Finding(
                "problem",
                owned,
                "cannot be guarded: it does not belong to the slave's role",
                f"ALTER TABLE {owned} OWNER TO the slave's role, which sql/roles.sql does with "
                "-v tables=own; or `guard: false`.",
            )
    for table in chosen:
        name = str(table)
        if table.reason is not None:
            yield Finding("note", name, f"will not be replicated: {table.reason}")
            continue
        state = copies[table.relid].state if table.relid in copies else None
        if state == "removed":
            yield Finding("note", name, "was removed from the replication and is passed over")
            continue
        as_captured = captured.get(table.relid)
        if as_captured is None:
            yield Finding(
                "note",
                name,
                "can be replicated; it is not captured yet",
                f"Run `pyreplica add-table {config.name} {name}`."
                if copies
                else "Run `pyreplica install`.",
            )
            as_captured = table.as_captured()
        if state is not None:
            problem = changed(config, as_captured, filters.get(table.relid))
            if problem is not None:
                yield Finding("problem", name, problem[0], problem[1])
        as_captured = as_configured(config, as_captured)
        if not table.readable:
            yield Finding(
                "problem",
                name,
                "cannot be read on the master",
                f"GRANT SELECT ON {name} TO the master's role, and USAGE on its schema.",
            )
        here = slave.describe(as_captured, _masks(master, as_captured) if installed else None)
        if here is not None and not here.writable:
            yield Finding(
                "problem",
                name,
                "cannot be written on the slave",
                f"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {here} TO the slave's role.",
            )
        there = slave.place(as_captured)
        problem = unknown_column(as_captured, there) or misfit(as_captured, here, there)
        if problem is not None:
            missing = here is None and not copies and not config.map
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
        if not copies or state == "ready" or table.relid not in captured:
            continue
        if state == "joining" or (state == "copying" and slave.records.locked()):
            yield Finding("note", name, "is being added to the replication")
        else:
            problem_before = copies[table.relid].problem if state else None
            yield Finding(
                "problem",
                name,
                "was never copied to the slave; its changes are passed over"
                if state is None
                else problem_before or "was not copied to the end; its changes are passed over",
                f"Run `pyreplica add-table {config.name} {name}`.",
            )


def _masks(master: Master, table: CapturedTable) -> Masks | None:
    """What is masked of a table; None, so that its name tells, where a mask is of no table."""
    try:
        return master.masking.of(table)
    except Refused:
        return None  # told before


def _sequences(config: ReplicationConfig, master: Master, slave: Slave) -> Iterator[Finding]:
    """Which sequences can be replicated."""
    if not _installed(master):
        return
    if config.both_ways:
        yield from _own_sequences(config, master, slave)
        return
    copied = _installed(slave) and bool(slave.records.copies())
    following = 0
    for pair in pairs(config, slave, master.sequences()):
        found = list(_sequence(config, pair, copied))
        following += not any(finding.level == "problem" for finding in found) and bool(pair.slaves)
        yield from found
    if following:
        yield Finding("ok", "slave", f"sequences that follow the master's: {following}")


def _own_sequences(config: ReplicationConfig, master: Master, slave: Slave) -> Iterator[Finding]:
    """Whether sequences of databases that are both written draw different numbers."""
    for pair in own_pairs(config, slave, master.sequences()):
        for here in pair.slaves:
            (state,) = slave.sequence_states([here]) if here.readable else (None,)
            there = pair.master.state
            if state is None or there is None:
                continue
            step = math.gcd(here.increment, pair.master.increment)
            if (state.last_value - there.last_value) % step == 0:
                yield Finding(
                    "problem",
                    str(pair.master),
                    "master and slave may draw the same numbers from the sequence",
                    "Have each draw its own, on either side, while nobody writes: SELECT "
                    "pyreplica.interleave_sequences(1, 2), and (2, 2) on the other one.",
                )


def _sequence(config: ReplicationConfig, pair: Pair, copied: bool) -> Iterator[Finding]:
    name = str(pair.master)
    if not pair.master.readable:
        yield Finding(
            "problem",
            name,
            "the sequence cannot be read on the master",
            f"GRANT SELECT ON SEQUENCE {name} TO the master's role, and USAGE on its schema.",
        )
    if not pair.slaves:
        serves = [f"{c.schema}.{c.table}.{c.column}" for c in pair.master.columns]
        used = f" (of {', '.join(serves)})" if serves else ""
        yield Finding(
            "problem" if serves and copied else "note",
            name,
            f"the slave does not have the sequence{used}",
            f"Create it: CREATE SEQUENCE {name} AS {pair.master.type}."
            if copied or config.map
            else f"Create it, or let `pyreplica copy {config.name} --schema` make it.",
        )
    for here in pair.slaves:
        if not here.settable or not here.readable:
            yield Finding(
                "problem",
                name,
                "the sequence cannot be set on the slave",
                f"GRANT SELECT, UPDATE ON SEQUENCE {here} TO the slave's role, and USAGE on its "
                "schema.",
            )
        if here.increment != pair.master.increment:
            yield Finding(
                "note",
                name,
                f"the sequence goes by {pair.master.increment} on the master and by "
                f"{here.increment} on the slave",
                f"ALTER SEQUENCE {here.quoted} INCREMENT {pair.master.increment} on the slave, "
                "unless this is meant.",
            )
    narrow = out_of_bounds(pair)
    if narrow is not None:
        here, cure = narrow
        yield Finding(
            "problem",
            name,
            f"the sequence goes from {pair.master.minimum} to {pair.master.maximum}, and on the "
            f"slave only from {here.minimum} to {here.maximum}",
            cure,
        )


def _installed(side: Master | Slave) -> bool:
    """Whether a side is installed and may be asked."""
    try:
        side.check_installed()
    except PyReplicaError:
        return False
    return not _missing_rights(side)


def _missing_rights(side: Master | Slave) -> list[str]:
    """The GRANTs that the role of an installed side lacks in PyReplica's schema."""
    if isinstance(side, Master):
        return side.missing_rights(READ_ON_MASTER, WRITTEN_ON_MASTER, CALLED_ON_MASTER)
    missing = side.missing_rights(READ_ON_SLAVE, WRITTEN_ON_SLAVE, CALLED_ON_SLAVE)
    return missing if side.may_stage() else [*missing, side.grant_to_stage()]
