"""Writers ring by NOTIFY while a slave sleeps, and only then.

That those who do not ring are waited for is in test_wakeups.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest

from pyreplica import sqlfiles
from pyreplica.demo.cluster import Cluster
from tests.integration.capture.oracle import Master, Session


@pytest.fixture
def language(request: pytest.FixtureRequest) -> str:
    """Who writes to the log does not matter here: one language, but where a test names another."""
    return str(getattr(request, "param", "plpython3u"))


@pytest.fixture
def sleeper(master: Master) -> Session:
    """A session that listens as a daemon does, to a master with the table t."""
    master.table("id int PRIMARY KEY, v text")
    session = master.session()
    session.run("LISTEN pyreplica")
    return session


def set_bit(master: Master, bit: int, sleeping: bool) -> None:
    master.reader.run(f"SELECT pyreplica.set_doorbell({bit}, {sleeping})")


def doorbell(master: Master) -> int:
    value: int = master.reader.value("SELECT last_value FROM pyreplica.doorbell")
    return value


WRITES = [
    "INSERT INTO t VALUES (1)",
    "UPDATE t SET v = 'x'",
    "UPDATE t SET id = 9",
    "DELETE FROM t",
    "TRUNCATE t",
    "DO $$BEGIN INSERT INTO t VALUES (3); UPDATE t SET v = 'y'; DELETE FROM t; END$$",
]


@pytest.mark.parametrize("segment", [0, 1])
def test_while_nobody_sleeps_no_writer_rings(
    master: Master, sleeper: Session, segment: int
) -> None:
    master.run(f"SELECT setval('pyreplica.doorbell', {segment})")
    master.run(*WRITES)
    assert sleeper.notifications() == []
    assert {row for (row,) in master.reader.run("SELECT segment FROM pyreplica.replica_log")} == {
        segment
    }


@pytest.mark.parametrize("segment", [0, 1])
@pytest.mark.parametrize("bit", [1, 2, 62])
def test_while_somebody_sleeps_each_transaction_rings_once(
    master: Master, sleeper: Session, bit: int, segment: int
) -> None:
    master.run(f"SELECT setval('pyreplica.doorbell', {segment})")
    set_bit(master, bit, True)
    for statement in WRITES:
        master.run(statement)
        assert sleeper.notifications() == ["pyreplica"]
    master.run("BEGIN", *WRITES)
    assert sleeper.notifications() == []
    master.run("COMMIT")
    assert sleeper.notifications() == ["pyreplica"]
    assert {row for (row,) in master.reader.run("SELECT segment FROM pyreplica.replica_log")} == {
        segment
    }
    set_bit(master, bit, False)
    master.run(*WRITES)
    assert sleeper.notifications() == []


def test_what_is_not_logged_does_not_ring(master: Master, sleeper: Session) -> None:
    set_bit(master, 1, True)
    master.run(
        "UPDATE t SET v = 'x'", "DELETE FROM t", "BEGIN", "INSERT INTO t VALUES (1)", "ROLLBACK"
    )
    assert sleeper.notifications() == []


def test_bits_are_set_and_cleared_one_by_one(master: Master) -> None:
    for bit, sleeping, expected in (
        (1, True, 0b0010),
        (3, True, 0b1010),
        (3, True, 0b1010),
        (1, False, 0b1000),
        (2, False, 0b1000),
        (3, False, 0b0000),
    ):
        set_bit(master, bit, sleeping)
        assert doorbell(master) == expected
    master.run("SELECT setval('pyreplica.doorbell', 1)")
    set_bit(master, 62, True)
    assert doorbell(master) == (1 << 62) + 1


def test_the_rotation_of_the_log_leaves_the_bits_alone(master: Master) -> None:
    master.table("id int PRIMARY KEY")
    for name in ("one", "two", "three"):
        master.add_slave(name)
    sleepers = [master.asleep(name) for name in ("one", "three")]
    master.run("INSERT INTO t VALUES (1)")
    assert master.reader.value("SELECT pyreplica.rotate_log(1)") == "switched"
    assert doorbell(master) == 0b1011
    assert [sleeper.notifications() for sleeper in sleepers] == [["pyreplica"]] * 2


def test_two_who_set_their_bits_at_a_time_do_not_undo_one_another(master: Master) -> None:
    first, second = master.session(), master.session()
    first.run("BEGIN", "SELECT pyreplica.set_doorbell(1, true)")
    other = second.start("SELECT pyreplica.set_doorbell(2, true)")
    second.wait_for_lock()
    first.run("SELECT pyreplica.set_doorbell(1, false)", "SELECT pyreplica.set_doorbell(3, true)")
    first.run("COMMIT")
    other.result()
    assert doorbell(master) == 0b1100


# Bits of daemons that are not there any more


@pytest.fixture
def killed(master: Master, sleeper: Session) -> Session:
    """Two daemons slept, and one of them was killed; a session that hears what is rung."""
    for name in ("one", "two"):
        master.add_slave(name)
    asleep = [master.asleep(name) for name in ("one", "two")]
    pid = asleep[0].value("SELECT pg_backend_pid()")
    asleep[0].connection.close()
    while master.reader.value(f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"):
        pass
    assert doorbell(master) == 0b110
    return asleep[1]


def test_the_rotation_of_the_log_clears_the_bits_of_the_absent(
    master: Master, killed: Session
) -> None:
    master.reader.value("SELECT pyreplica.rotate_log(1 << 30)")
    assert doorbell(master) == 0b100
    pid = killed.value("SELECT pg_backend_pid()")
    killed.connection.close()
    while master.reader.value(f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"):
        pass
    master.reader.value("SELECT pyreplica.rotate_log(1 << 30)")
    assert doorbell(master) == 0
    set_bit(master, 7, True)  # of no slave at all
    master.reader.value("SELECT pyreplica.rotate_log(1 << 30)")
    assert doorbell(master) == 0


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_writers_stop_ringing_for_the_absent_after_some_thousand_rows(
    master: Master, killed: Session, isolation: str
) -> None:
    master.run("BEGIN ISOLATION LEVEL " + isolation)
    master.run("INSERT INTO t SELECT g FROM generate_series(1, 5000) g", "COMMIT")
    # whoever looks must see the newest: who has an old snapshot leaves it to others
    assert doorbell(master) == (0b100 if isolation == "READ COMMITTED" else 0b110)
    assert killed.notifications() == ["pyreplica"]
    master.run("INSERT INTO t SELECT g FROM generate_series(5001, 10000) g")
    assert doorbell(master) == 0b100
    assert killed.notifications() == ["pyreplica"]


def test_a_daemon_that_comes_while_bits_are_cleared_keeps_its_own(
    master: Master, killed: Session
) -> None:
    upkeep, daemon = master.session(), master.session()
    upkeep.run("BEGIN", "SELECT pyreplica.silence_doorbell()")
    daemon.run("SELECT pg_advisory_lock(hashtext('pyreplica'), hashtext('one'))")
    setting = daemon.start("SELECT pyreplica.set_doorbell(1, true)")
    daemon.wait_for_lock()
    assert doorbell(master) == 0b100
    upkeep.run("COMMIT")
    setting.result()
    assert doorbell(master) == 0b110
    upkeep.run("SELECT pyreplica.silence_doorbell()")
    assert doorbell(master) == 0b110


# Prepared transactions of the application


@pytest.fixture
def two_phase(slave_cluster: Cluster) -> Iterator[Master]:
    """A master that takes prepared transactions, with the table t and a sleeping daemon."""
    slave_cluster.create_database("two_phase")
    slave_cluster.psql("-q", "-f", str(sqlfiles.path("master-install.sql")), dbname="two_phase")
    with Master(slave_cluster, "two_phase") as master:
        master.table("id int PRIMARY KEY, v text")
        set_bit(master, 1, True)
        yield master
    slave_cluster.drop_database("two_phase")


def test_a_prepared_transaction_is_in_the_log_once_it_is_committed(two_phase: Master) -> None:
    set_bit(two_phase, 1, False)
    two_phase.run("BEGIN", "INSERT INTO t VALUES (1, 'a')", "PREPARE TRANSACTION 'app'")
    assert two_phase.changes() == []
    assert two_phase.logged("COMMIT PREPARED 'app'") == ["t I 1 v=a"]
    two_phase.assert_exact()


def test_where_transactions_can_be_prepared_nobody_rings(two_phase: Master) -> None:
    listener = two_phase.session()
    listener.run("LISTEN pyreplica")
    assert two_phase.logged("INSERT INTO t VALUES (1, 'a')") == ["t I 1 v=a"]
    two_phase.run("BEGIN", "UPDATE t SET v = 'b'", "PREPARE TRANSACTION 'app'")
    two_phase.run("COMMIT PREPARED 'app'")
    assert listener.notifications() == []
    two_phase.assert_exact()


def test_an_administrator_can_have_writers_ring_all_the_same_but_for_some(
    two_phase: Master,
) -> None:
    two_phase.run("ALTER DATABASE two_phase SET pyreplica.notify = on")
    writer, listener = two_phase.session(), two_phase.session()
    listener.run("LISTEN pyreplica")
    assert two_phase.logged("INSERT INTO t VALUES (1, 'a')", session=writer) == ["t I 1 v=a"]
    assert listener.notifications() == ["pyreplica"]
    # PostgreSQL does not prepare a transaction that has executed NOTIFY
    writer.run("BEGIN", "INSERT INTO t VALUES (2, 'b')")
    with pytest.raises(psycopg2.errors.FeatureNotSupported, match="NOTIFY"):
        writer.run("PREPARE TRANSACTION 'app'")
    writer.run("BEGIN", "SET LOCAL pyreplica.notify = off", "INSERT INTO t VALUES (2, 'b')")
    writer.run("PREPARE TRANSACTION 'app'", "COMMIT PREPARED 'app'")
    assert listener.notifications() == []
    # a setting made with SET LOCAL leaves an empty one behind
    writer.run("RESET pyreplica.notify", "INSERT INTO t VALUES (3, 'c')")
    assert listener.notifications() == ["pyreplica"]
    two_phase.assert_exact()


@pytest.mark.parametrize(
    ("said", "rings"),
    [("on", True), ("TRUE", True), ("1", True), ("off", False), ("No", False), ("", True)],
)
def test_whether_a_session_rings_is_a_setting(master: Master, said: str, rings: bool) -> None:
    assert master.reader.value("SELECT pyreplica.rings()") is True
    session = master.session(**{"pyreplica.notify": said})
    assert session.value("SELECT pyreplica.rings()") is rings
