"""Every writer has seen the bit of a sleeping daemon, or is listed as running when it is set.

The interleavings that tests/unit/doorbell_model.py searches, as far as they can be stepped through
from outside, on a real server.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from pyreplica import sqlfiles
from pyreplica.demo.cluster import Cluster
from tests.integration.capture.oracle import Master, Session
from tests.unit.doorbell_state import COMMIT, TRANSACTIONS, WRITE

LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


def restate(session: Session, key: int) -> None:
    """What `pyreplica repair` does with a key."""
    session.run(
        f"SELECT pyreplica.restate('public.t', ARRAY[jsonb_build_object('id', '{key}'::text)])"
    )


# Each can be the first statement of its transaction
WRITES: dict[str, Callable[[Session], object]] = {
    "insert": lambda session: session.run("INSERT INTO t SELECT max(id) + 1 FROM t"),
    "update": lambda session: session.run("UPDATE t SET id = -id"),
    "delete": lambda session: session.run("DELETE FROM t WHERE id = (SELECT max(id) FROM t)"),
    "copy": lambda session: session.copy_in("COPY t FROM STDIN", io.StringIO("1001\tx\n1002\ty\n")),
    "truncate": lambda session: session.run("TRUNCATE t"),
    "truncate a partition": lambda session: session.run("TRUNCATE p1"),
    "restate": lambda session: restate(session, 1),
    "restate what is missing": lambda session: restate(session, 5000),
    "a script": lambda session: session.run(
        "SELECT pyreplica.begin_script()", "COMMENT ON TABLE t IS 'x'"
    ),
}
_OTHERS = {
    "begin": "SELECT FROM t",
    "savepoint": "SAVEPOINT s",
    "undo": "ROLLBACK TO SAVEPOINT s",
    "release": "RELEASE SAVEPOINT s",
    "abort": "ROLLBACK",
    "publish": "COMMIT",
}


def statements(transaction: str) -> list[str]:
    """A transaction of the model, as its real statements; "write" for those that write."""
    steps = list(TRANSACTIONS[transaction])
    found = ["BEGIN"]
    while steps:
        if tuple(steps[: len(WRITE)]) == WRITE:
            found.append("write")
            del steps[: len(WRITE)]
        else:
            found.append(_OTHERS[steps.pop(0)])
            if found[-1] == "COMMIT":
                assert steps == list(COMMIT[1:])
                break
    return found


@dataclass
class Sleeper:
    """A daemon that falls asleep as pyreplica.replication.loop does.

    Attributes:
        noted: the ids of the transactions that it waits for before it sleeps.
    """

    session: Session
    bit: int
    noted: frozenset[int] = frozenset()

    def fall_asleep(self) -> None:
        self.session.run(f"SELECT pyreplica.set_doorbell({self.bit}, true)")
        self.session.notifications()
        self.noted = frozenset(
            txid
            for (txid,) in self.session.run(
                "SELECT pg_snapshot_xip(pg_current_snapshot())::text::bigint"
            )
        )

    def logged(self) -> set[int]:
        """The transactions in the log that it can see."""
        rows = self.session.run("SELECT DISTINCT txid::text::bigint FROM pyreplica.replica_log")
        return {txid for (txid,) in rows}

    def missed(self, read: set[int]) -> set[int]:
        """The transactions that it has not read and does not look for by itself."""
        if self.session.notifications():
            return set()
        return self.logged() - read - self.noted


@pytest.fixture
def log(master: Master) -> Master:
    """A master with a log."""
    make_log(master)
    return master


def make_log(master: Master) -> None:
    """A partitioned table t with rows, which are in the log."""
    master.run(
        "CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE p0 PARTITION OF t FOR VALUES FROM (MINVALUE) TO (0)",
        "CREATE TABLE p1 PARTITION OF t FOR VALUES FROM (0) TO (MAXVALUE)",
    )
    master.add("public.t")
    master.run("INSERT INTO t SELECT generate_series(1, 9)")


@pytest.fixture
def sleeper(log: Master) -> Sleeper:
    return sleeping(log, 1)


def sleeping(log: Master, bit: int) -> Sleeper:
    name = f"slave {bit}"
    log.add_slave(name)
    session = log.session()
    session.run(
        f"SELECT pg_advisory_lock(hashtext('pyreplica'), hashtext('{name}'))", "LISTEN pyreplica"
    )
    return Sleeper(session, bit)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("transaction", TRANSACTIONS)
def test_a_daemon_that_falls_asleep_in_the_midst_of_a_transaction_misses_nothing(
    log: Master, sleeper: Sleeper, transaction: str, level: str
) -> None:
    writer = log.session(default_transaction_isolation=level)
    steps = statements(transaction)
    for moment in range(len(steps) + 1):
        log.reader.run("SELECT pyreplica.set_doorbell(1, false)")
        read: set[int] = set()
        for number, step in enumerate([*steps, ""]):
            if number == moment:
                sleeper.fall_asleep()
                read = sleeper.logged()
            if step == "write":
                WRITES["insert"](writer)
            elif step:
                writer.run(step)
        assert sleeper.missed(read) == set(), f"asleep before {[*steps, 'the end'][moment]}"


@pytest.mark.parametrize("write", WRITES)
def test_every_kind_of_write_that_begins_after_the_bit_rings(
    log: Master, sleeper: Sleeper, write: str
) -> None:
    log.run("BEGIN")
    sleeper.fall_asleep()
    read = sleeper.logged()
    WRITES[write](log.writer)
    log.run("COMMIT")
    assert sleeper.session.notifications() == ["pyreplica"]
    assert sleeper.logged() - read


@pytest.mark.parametrize("write", WRITES)
def test_every_kind_of_write_that_was_before_the_bit_is_listed(
    log: Master, sleeper: Sleeper, write: str
) -> None:
    log.run("BEGIN")
    WRITES[write](log.writer)
    sleeper.fall_asleep()
    read = sleeper.logged()
    log.run("COMMIT")
    assert sleeper.session.notifications() == []
    assert sleeper.logged() - read
    assert sleeper.missed(read) == set()


def test_a_rotation_of_the_log_meanwhile_hides_nobody(log: Master, sleeper: Sleeper) -> None:
    read = sleeper.logged()
    first, second = log.session(), log.session()
    first.run("BEGIN", "INSERT INTO t VALUES (100)")
    assert log.reader.value("SELECT pyreplica.rotate_log(1)") == "switched"
    sleeper.fall_asleep()
    second.run("BEGIN", "INSERT INTO t VALUES (101)")
    first.run("COMMIT")
    assert len(sleeper.logged() - read) == 1
    assert sleeper.missed(read) == set()
    log.reader.run("SELECT pyreplica.rotate_log(1)")
    log.run("INSERT INTO t VALUES (102)")
    assert sleeper.session.notifications() == ["pyreplica"]
    second.run("COMMIT")
    assert sleeper.session.notifications() == ["pyreplica"]


def test_of_two_daemons_each_is_woken_whatever_the_other_does(log: Master) -> None:
    first, second = sleeping(log, 1), sleeping(log, 2)
    writer = log.session()
    first.fall_asleep()
    writer.run("BEGIN", "INSERT INTO t VALUES (100)")
    second.fall_asleep()
    read = second.logged()
    first.session.run("SELECT pyreplica.set_doorbell(1, false)")
    log.run("INSERT INTO t VALUES (101)")
    assert second.session.notifications() == ["pyreplica"]
    writer.run("COMMIT")
    assert second.missed(read) == set()
    second.session.run("SELECT pyreplica.set_doorbell(2, false)")
    log.run("INSERT INTO t VALUES (102)")
    assert second.session.notifications() == []


def test_setting_the_bit_lists_who_has_read_the_doorbell_before(log: Master) -> None:
    # a snapshot ends after the highest id that has ended, and lists nobody above it
    writers = [log.session() for _ in range(3)]
    txids = []
    for number, writer in enumerate(writers):
        writer.run("BEGIN", f"INSERT INTO t VALUES ({100 + number})")
        txids.append(writer.value("SELECT pg_current_xact_id()::text::bigint"))
    listed = "SELECT pg_snapshot_xip(pg_current_snapshot())::text::bigint"
    assert not set(txids) & {txid for (txid,) in log.reader.run(listed)}
    log.reader.run("SELECT pyreplica.set_doorbell(1, true)")
    assert set(txids) <= {txid for (txid,) in log.reader.run(listed)}


# In a database of their own, with a changed function


@pytest.fixture
def own(master_cluster: Cluster) -> Iterator[Master]:
    """A master of one test."""
    master_cluster.create_database("doorbell")
    master_cluster.psql("-q", "-f", str(sqlfiles.path("master-install.sql")), dbname="doorbell")
    with Master(master_cluster, "doorbell") as master:
        yield master
    master_cluster.drop_database("doorbell")


def alter(master: Master, function: str, old: str, new: str) -> None:
    """Change a function's text."""
    text: str = master.reader.value(f"SELECT pg_get_functiondef('{function}'::regproc)")
    assert text.count(old) == 1
    master.reader.run(text.replace(old, new))


@pytest.mark.parametrize("write", WRITES)
def test_a_writer_has_its_transaction_id_before_it_reads_the_doorbell(
    own: Master, write: str
) -> None:
    make_log(own)
    alter(
        own,
        "pyreplica.ring",
        "BEGIN",
        "BEGIN ASSERT pg_current_xact_id_if_assigned() IS NOT NULL, 'it is listed nowhere';",
    )
    own.reader.run("SELECT pyreplica.set_doorbell(1, true)")
    before = own.last_id()
    own.run("BEGIN")
    WRITES[write](own.writer)
    own.run("COMMIT")
    assert own.last_id() > before


def test_where_the_queue_of_notifications_fills_up_writers_go_on_without_ringing(
    own: Master,
) -> None:
    make_log(own)
    listener, stuck, other = own.session(), own.session(), own.session()
    listener.run("LISTEN pyreplica")
    own.reader.run("SELECT pyreplica.set_doorbell(1, true)")
    alter(own, "pyreplica.ring", "< 0.5", "< 0.00001")  # 80 kB instead of 4 GB
    insert = WRITES["insert"]
    insert(own.writer)
    assert listener.notifications() == ["pyreplica"]
    # a session takes notifications only between its transactions
    stuck.run("LISTEN other", "BEGIN", "SELECT 1")
    other.run("SELECT pg_notify('other', repeat('x', 7000) || g) FROM generate_series(1, 20) g")
    insert(own.writer)
    assert listener.notifications() == []
    own.run("BEGIN", "INSERT INTO t VALUES (500)", "SAVEPOINT s", "INSERT INTO t VALUES (501)")
    own.run("ROLLBACK TO SAVEPOINT s", "COMMIT")
    assert listener.notifications() == []
    stuck.run("COMMIT")
    insert(own.writer)
    assert listener.notifications() == ["pyreplica"]
    own.assert_exact()
