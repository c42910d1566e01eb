"""The log is trimmed at random moments, and never of what a slave that was not dropped lacks.

What a slave lacks is known from a list that the test keeps by itself: which keys each transaction
has written that was committed. What a snapshot sees is decided in Python.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from pyreplica import sqlfiles
from pyreplica.model import SQL_VERSION, Snapshot
from tests.integration.capture.oracle import Master, Session

SQL = sqlfiles.statements("master.sql")
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
STEPS = 800


@dataclass
class Writer:
    """A session that writes; ``kept`` are the keys of its transaction, with those at savepoints."""

    session: Session
    txid: int | None = None
    kept: list[list[str]] = field(default_factory=list)


@dataclass
class Reader:
    """A daemon in the middle of reading the log for its slave."""

    session: Session
    after: Snapshot
    until: Snapshot
    found: set[str] = field(default_factory=set)


@dataclass
class Slave:
    """What a daemon remembers: moments that were read, and not confirmed yet."""

    name: str
    read: list[tuple[str, int]] = field(default_factory=list)


class Turns:
    """Writers, slaves, readers and the log's upkeep, taking turns at random."""

    def __init__(self, master: Master, seed: int) -> None:
        self.master = master
        self.random = Random(seed)
        self.keys = 0
        self.committed: dict[int, list[str]] = {}
        self.writers = [Writer(master.session()) for _ in range(3)]
        self.slaves = [Slave("a"), Slave("b"), Slave("c")]
        self.readers: list[Reader] = []
        self.done: Counter[str] = Counter()
        for slave in self.slaves:
            self.register(slave)
            self.copied(slave)
        master.reader.run("DEALLOCATE ALL")
        self.execute("prepare_confirm")

    # The master's record

    def execute(self, name: str, **values: Any) -> int:
        """One of the program's own statements; gives the number of rows."""
        with self.master.reader.connection.cursor() as cursor:
            cursor.execute(SQL[name], values)
            return int(cursor.rowcount)

    def state(self, slave: Slave) -> str:
        found: str = self.master.reader.value(
            f"SELECT state FROM pyreplica.replica_slave WHERE replication = '{slave.name}'"
        )
        return found

    def moment(self) -> tuple[str, int]:
        ((snapshot, log_id),) = self.master.reader.run(
            "SELECT pg_current_snapshot()::text, last_value FROM pyreplica.replica_log_id"
        )
        return snapshot, log_id

    def register(self, slave: Slave) -> None:
        self.execute("register", replication=slave.name, system="system", database="database")

    def copied(self, slave: Slave) -> None:
        slave.read.clear()  # a daemon begins where the copy ends
        snapshot, log_id = self.moment()
        self.execute(
            "set_copied",
            replication=slave.name, batch=1, snapshot=snapshot, log_id=log_id, at="now",
        )  # fmt: skip

    # Steps

    def step(self) -> None:
        """Do something, if it can be done."""
        choices: list[tuple[Callable[[], None], int]] = [
            (self.write, 20), (self.end, 24), (self.savepoint, 3), (self.late, 2), (self.read, 16),
            (self.confirm, 30), (self.hold, 1), (self.release, 4), (self.begin_reading, 3),
            (self.go_on_reading, 16), (self.rotate, 30), (self.drop, 1), (self.copy_anew, 3),
        ]  # fmt: skip
        steps, weights = zip(*choices, strict=True)
        self.random.choices(steps, weights)[0]()

    def write(self) -> None:
        writer = self.random.choice(self.writers)
        if not writer.kept:
            writer.session.run(f"BEGIN ISOLATION LEVEL {self.random.choice(LEVELS)}")
            writer.txid = writer.session.value("SELECT pg_current_xact_id()::text::bigint")
            writer.kept.append([])
        count = self.random.choice([1, 1, 5, 5, 50, 50, 50, 700])
        first = self.keys
        self.keys += count
        writer.session.run(f"INSERT INTO t SELECT generate_series({first}, {self.keys - 1})")
        writer.kept[-1] += map(str, range(first, self.keys))

    def savepoint(self) -> None:
        writer = self.random.choice(self.writers)
        if len(writer.kept) > 1 and self.random.random() < 0.7:
            writer.session.run(f"ROLLBACK TO s{len(writer.kept) - 1}")
            writer.kept.pop()
        elif writer.kept:
            writer.session.run(f"SAVEPOINT s{len(writer.kept)}")
            writer.kept.append([])

    def end(self) -> None:
        writer = self.random.choice(self.writers)
        if not writer.kept:
            return
        if self.random.random() < 0.8:
            writer.session.run("COMMIT")
            assert writer.txid is not None
            self.committed[writer.txid] = [key for keys in writer.kept for key in keys]
            self.done["committed"] += 1
        else:
            writer.session.run("ROLLBACK")
        writer.kept.clear()
        self.check()  # the writers look after the log, too

    def late(self) -> None:
        """A writer who had read the doorbell before the segments were switched."""
        writer = self.random.choice(self.writers)
        if writer.kept:
            writer.session.run(
                "UPDATE pyreplica.replica_log SET segment = 1 - segment "
                f"WHERE txid = '{writer.txid}'"
            )
            self.done["late"] += 1

    def read(self) -> None:
        self.random.choice(self.slaves).read.append(self.moment())

    def confirm(self) -> None:
        slave = self.random.choice(self.slaves)
        if not slave.read:
            return
        number = self.random.randrange(len(slave.read))
        snapshot, log_id = slave.read[number]
        del slave.read[: number + 1]
        batch = self.master.reader.value(
            f"SELECT batch + 1 FROM pyreplica.replica_slave WHERE replication = '{slave.name}'"
        )
        confirmed = self.execute(
            "confirm",
            replication=slave.name, batch=batch, snapshot=snapshot, log_id=log_id, at="now",
            version=SQL_VERSION,
        )  # fmt: skip
        assert confirmed == (self.state(slave) == "ready")
        self.done["confirmed"] += confirmed

    def hold(self) -> None:
        self.execute("hold", replication=self.random.choice(self.slaves).name)

    def release(self) -> None:
        slave = self.random.choice(self.slaves)
        holds = self.master.reader.value(
            f"SELECT holds FROM pyreplica.replica_slave WHERE replication = '{slave.name}'"
        )
        self.execute("release", replication=slave.name, holds=holds)

    def begin_reading(self) -> None:
        """As COPY of the log does to a daemon that takes its time: two keys at a time."""
        slave = self.random.choice(self.slaves)
        if len(self.readers) == 2 or self.state(slave) != "ready":
            return
        session = self.master.session()
        session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        until = Snapshot.parse(session.value("SELECT pg_current_snapshot()::text"))
        after = Snapshot.parse(
            session.value(
                "SELECT snapshot::text FROM pyreplica.replica_slave "
                f"WHERE replication = '{slave.name}'"
            )
        )
        running = [str(txid) for txid in after.running]
        session.run(
            "DECLARE r NO SCROLL CURSOR FOR SELECT key->>'id' FROM pyreplica.replica_log "
            f"WHERE (txid = ANY (ARRAY{running}::xid8[]) OR txid >= '{after.xmax}') "
            f"AND pg_visible_in_snapshot(txid, '{until}')",
        )
        self.readers.append(Reader(session, after, until))

    def go_on_reading(self) -> None:
        if not self.readers:
            return
        reader = self.random.choice(self.readers)
        rows = reader.session.run(f"FETCH {self.random.choice([2, 1000, 5000])} FROM r")
        reader.found.update(key for (key,) in rows)
        if not rows:
            reader.session.run("COMMIT")
            self.readers.remove(reader)
            wanted = {
                key
                for txid, keys in self.committed.items()
                if reader.until.sees(txid) and not reader.after.sees(txid)
                for key in keys
            }
            assert reader.found == wanted
            self.done["read"] += 1

    def rotate(self) -> None:
        answer = self.master.reader.value(
            f"SELECT pyreplica.rotate_log({self.random.choice([0, 1, 100_000])})"
        )
        self.done[str(answer)] += 1
        self.check()

    def drop(self) -> None:
        slave = self.random.choice(self.slaves)
        self.master.reader.run(
            "UPDATE pyreplica.replica_slave SET max_log_size = 10000 "
            f"WHERE replication = '{slave.name}'"
        )

    def copy_anew(self) -> None:
        for slave in self.slaves:
            if self.state(slave) == "dropped":
                self.done["dropped"] += 1
                self.master.reader.run(
                    "UPDATE pyreplica.replica_slave SET max_log_size = NULL "
                    f"WHERE replication = '{slave.name}'"
                )
                self.register(slave)
            elif self.state(slave) == "copying":
                self.copied(slave)

    # What has to hold

    def check(self) -> None:
        """Everything that a slave lacks is in the log; it was written there by its transaction."""
        logged: dict[int, set[str]] = defaultdict(set)
        for txid, key in self.master.reader.run(
            "SELECT txid::text::bigint, key->>'id' FROM pyreplica.replica_log"
        ):
            logged[txid].add(key)
        for name, *snapshots in self.master.reader.run(
            "SELECT replication, snapshot::text, held::text FROM pyreplica.replica_slave "
            "WHERE state <> 'dropped'"
        ):
            for snapshot in filter(None, snapshots):
                seen = Snapshot.parse(snapshot)
                for txid, keys in self.committed.items():
                    if not seen.sees(txid):
                        missing = set(keys) - logged[txid]
                        assert not missing, (name, snapshot, txid, sorted(missing)[:5])


@pytest.mark.parametrize("seed", range(5))
def test_what_a_slave_lacks_is_never_trimmed(master: Master, seed: int) -> None:
    master.table("id int PRIMARY KEY")
    turns = Turns(master, seed)
    for _ in range(STEPS):
        turns.step()
    for kind in ("switched", "truncated", "waiting", "None", "committed", "confirmed", "read"):
        assert turns.done[kind] > 0, turns.done
    # and in the end all of it can be given back
    for writer in turns.writers:
        writer.session.run("ROLLBACK")
    for reader in turns.readers:
        reader.session.run("ROLLBACK")
    master.reader.run(
        "UPDATE pyreplica.replica_slave SET snapshot = pg_current_snapshot(), held = NULL"
    )
    for _ in range(4):
        master.reader.run("SELECT pyreplica.rotate_log(1)")
    assert master.changes() == []
