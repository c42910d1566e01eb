"""Which tables can be replicated, and whether the slave's fit."""

from __future__ import annotations

from collections.abc import Iterator

from pyreplica.config import ReplicationConfig
from pyreplica.database.masks import Masks
from pyreplica.errors import PyReplicaError, Refused
from pyreplica.master import Master
from pyreplica.model import CapturedTable, TableFilter
from pyreplica.replication.check.finding import Finding
from pyreplica.replication.check.rights import installed
from pyreplica.replication.filters import as_configured, changed
from pyreplica.slave import Slave
from pyreplica.slave.misfit import misfit, unknown_column


def mapping(config: ReplicationConfig, master: Master) -> Iterator[Finding]:
    """What is wrong with the names in `map:`."""
    if not installed(master):
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


def tables(config: ReplicationConfig, master: Master, slave: Slave) -> Iterator[Finding]:
    """Which tables can be replicated, and whether the slave's fit."""
    is_installed = installed(master)
    captured = {t.relid: t for t in (master.tables(whole=True) if is_installed else ())}
    filters = master.filters.recorded() if is_installed else {}
    copies = slave.records.copies() if installed(slave) else {}
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
        elif is_installed:
            problem = _unset_filter(config, master, as_captured, filters.get(table.relid))
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
        here = slave.describe(as_captured, _masks(master, as_captured) if is_installed else None)
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
        elif is_installed and table.relid in captured:
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


def _unset_filter(
    config: ReplicationConfig, master: Master, table: CapturedTable, recorded: TableFilter | None
) -> tuple[str, str] | None:
    """Why the filter of a table that is not copied yet cannot be set, with the cure."""
    wanted = config.filter_of(table.schema, table.name)
    if wanted.python is None or wanted.same(recorded or TableFilter()):
        return None
    return master.filters.python_problem()


def _masks(master: Master, table: CapturedTable) -> Masks | None:
    """What is masked of a table; None, so that its name tells, where a mask is of no table."""
    try:
        return master.masking.of(table)
    except Refused:
        return None  # told before
