"""Which sequences can be replicated."""

from __future__ import annotations

import math
from collections.abc import Iterator

from pyreplica.config import ReplicationConfig
from pyreplica.master import Master
from pyreplica.replication.check.finding import Finding
from pyreplica.replication.check.rights import installed
from pyreplica.replication.sequences import Pair, out_of_bounds, own_pairs, pairs
from pyreplica.slave import Slave


def sequences(config: ReplicationConfig, master: Master, slave: Slave) -> Iterator[Finding]:
    """Which sequences can be replicated."""
    if not installed(master):
        return
    if config.both_ways:
        yield from _own_sequences(config, master, slave)
        return
    copied = installed(slave) and bool(slave.records.copies())
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
