"""Slaves that are past the limits of the log: who drops them, when, and what of the log stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.capture.oracle import Master, Session


@pytest.fixture
def language(request: pytest.FixtureRequest) -> str:
    """Who writes to the log does not matter here: one language, but where a test names another."""
    return str(getattr(request, "param", "plpython3u"))


SEGMENT = 8 << 20
LOG_SIZE = (
    "SELECT pg_total_relation_size('pyreplica.replica_log_0') + "
    "pg_total_relation_size('pyreplica.replica_log_1')"
)
WIDE = "SELECT string_agg(md5(i::text || random()), '') FROM generate_series(1, 50) i"
"""1,600 bytes that do not compress, so that they stay in the row."""


@pytest.fixture
def log(master: Master) -> Master:
    """A table t, and a slave that has confirmed what was before it."""
    master.table("id int PRIMARY KEY, v text")
    master.add_slave("one")
    return master


def confirm(master: Master, name: str = "one") -> None:
    """Have a slave confirm what can be seen now."""
    master.reader.run(
        "UPDATE pyreplica.replica_slave SET snapshot = pg_current_snapshot(), snapshot_at = now(), "
        "log_id = (SELECT last_value FROM pyreplica.replica_log_id) "
        f"WHERE replication = '{name}'"
    )


def limit(master: Master, assignments: str, name: str = "one") -> None:
    master.reader.run(
        f"UPDATE pyreplica.replica_slave SET {assignments} WHERE replication = '{name}'"
    )


def rotate(master: Master, at_bytes: int = 1) -> str | None:
    answer: str | None = master.reader.value(f"SELECT pyreplica.rotate_log({at_bytes})")
    return answer


def dropped(master: Master) -> dict[str, str]:
    """The dropped slaves, with the reasons."""
    return dict(
        master.reader.run(
            "SELECT replication, dropped_why FROM pyreplica.replica_slave "
            "WHERE state = 'dropped' AND dropped_at <= now()"
        )
    )


def kept(master: Master, name: str = "one") -> tuple[int, float]:
    """How many bytes of log are kept for a slave, and the age in seconds."""
    ((size, age),) = master.reader.run(
        "SELECT bytes, extract(epoch FROM age)::float8 FROM pyreplica.log_kept() "
        f"WHERE replication = '{name}'"
    )
    return size, age


def work(session: Session, rows: int = 5000) -> None:
    """Write so much in one transaction that it leaves a snapshot behind, and more."""
    session.run(
        "INSERT INTO t SELECT coalesce(m, 0) + g "
        f"FROM (SELECT max(id) FROM t) x(m), generate_series(1, {rows}) g"
    )


def doorbell(master: Master) -> int:
    value: int = master.reader.value("SELECT last_value FROM pyreplica.doorbell")
    return value


# By size


def test_a_slave_is_dropped_when_the_log_has_grown_past_its_size(log: Master) -> None:
    log.add_slave("two")
    limit(log, "max_log_size = 100000")
    work(log.writer)
    assert rotate(log) == "switched"
    reason = dropped(log)["one"]
    assert reason.startswith("the log kept for it had grown to ")
    assert reason.endswith(" kB, past max_log_size (98 kB)")
    assert rotate(log) == "waiting"  # for the other one, which has no limit
    confirm(log, "two")
    assert rotate(log) == "truncated"
    assert list(dropped(log)) == ["one"]


def test_a_slave_within_its_size_stays(log: Master) -> None:
    limit(log, "max_log_size = 100000000")
    work(log.writer)
    assert [rotate(log), rotate(log)] == ["switched", "waiting"]
    assert dropped(log) == {}


def test_what_a_slave_has_confirmed_does_not_count_although_another_one_keeps_it(
    log: Master,
) -> None:
    log.add_slave("late")
    limit(log, "max_log_size = 400000")
    for _ in range(10):
        work(log.writer, 1000)
        confirm(log)
        assert rotate(log) in ("switched", "waiting")
    log.run("INSERT INTO t VALUES (-1)")
    assert rotate(log) == "waiting"
    assert dropped(log) == {}
    assert kept(log)[0] < 10_000
    size, _ = kept(log, "late")
    assert size == pytest.approx(log.reader.value(LOG_SIZE), rel=0.05)


def test_what_is_kept_for_a_table_being_added_counts(log: Master) -> None:
    limit(
        log,
        "max_log_size = 100000, held = pg_current_snapshot(), "
        "held_log_id = (SELECT last_value FROM pyreplica.replica_log_id)",
    )
    work(log.writer)
    confirm(log)
    assert rotate(log) == "switched"
    assert list(dropped(log)) == ["one"]
    assert rotate(log) == "truncated"


# By age


def test_a_slave_is_dropped_when_a_change_has_waited_for_too_long(log: Master) -> None:
    limit(log, "max_log_age = '1 h', snapshot_at = now() - interval '3 h'")
    log.run("INSERT INTO t VALUES (1)")
    assert rotate(log) == "switched"  # it is no older than its own
    assert dropped(log) == {}
    log.reader.run("UPDATE pyreplica.replica_log SET at = at - interval '2 h'")
    assert rotate(log) == "truncated"
    assert dropped(log) == {
        "one": "it had not confirmed for 02:00:00 what was in the log, past max_log_age (01:00:00)"
    }


def test_a_slave_that_has_everything_is_not_dropped_however_long_ago_that_was(log: Master) -> None:
    log.run("INSERT INTO t VALUES (1)")
    confirm(log)
    limit(log, "max_log_age = '1 h', snapshot_at = now() - interval '3 h'")
    assert rotate(log) == "switched"
    assert dropped(log) == {}
    assert kept(log)[1] == 0


def test_a_change_waits_no_longer_than_since_the_slave_last_confirmed(log: Master) -> None:
    # as one that was committed late
    limit(log, "max_log_age = '1 h'")
    log.run("INSERT INTO t VALUES (1)")
    log.reader.run("UPDATE pyreplica.replica_log SET at = at - interval '2 h'")
    rotate(log)
    assert dropped(log) == {}
    assert 0 < kept(log)[1] < 60


def test_the_oldest_change_is_found_among_running_and_rolled_back_transactions(
    log: Master,
) -> None:
    long_ago = "UPDATE pyreplica.replica_log SET at = at - interval '%s h' WHERE key->>'id' = '%s'"
    early, late = log.session(), log.session()
    early.run("BEGIN", "INSERT INTO t VALUES (1)")
    late.run("BEGIN", "INSERT INTO t VALUES (2)")
    confirm(log)
    limit(log, "snapshot_at = now() - interval '1 d'")
    assert kept(log)[1] == 0
    log.run("BEGIN", "INSERT INTO t VALUES (3)", "ROLLBACK")
    assert kept(log)[1] == 0
    log.run("INSERT INTO t VALUES (4)")
    log.reader.run(long_ago % (4, 4))
    assert kept(log)[1] == pytest.approx(4 * 3600, abs=60)
    late.run("ROLLBACK")
    assert kept(log)[1] == pytest.approx(4 * 3600, abs=60)
    early.run("COMMIT")  # was running at the moment that the slave has confirmed
    log.reader.run(long_ago % (6, 1))
    assert kept(log)[1] == pytest.approx(6 * 3600, abs=60)
    # what the looking session has written itself is not there to be replicated yet
    log.reader.run("BEGIN", "INSERT INTO public.t VALUES (5)", long_ago % (9, 5))
    assert kept(log)[1] == pytest.approx(6 * 3600, abs=60)
    log.reader.run("ROLLBACK")


def test_the_time_of_a_copy_counts_only_when_nobody_is_at_it(log: Master) -> None:
    limit(log, "state = 'copying', max_log_age = '1 h', snapshot_at = now() - interval '3 h'")
    log.run("INSERT INTO t VALUES (1)")
    log.reader.run("UPDATE pyreplica.replica_log SET at = at - interval '2 h'")
    copy = log.session()
    copy.run("SELECT pg_advisory_lock(hashtext('pyreplica'), hashtext('one'))")
    rotate(log)
    assert dropped(log) == {}
    copy.run("SELECT pg_advisory_unlock_all()")
    rotate(log)
    assert list(dropped(log)) == ["one"]


# What becomes of a dropped slave


def test_writers_do_not_ring_for_a_dropped_slave(log: Master) -> None:
    log.add_slave("two")
    asleep = [log.asleep("one"), log.asleep("two")]
    assert doorbell(log) & ~1 == 6
    limit(log, "max_log_size = 1")
    log.run("INSERT INTO t VALUES (1)")
    rotate(log, 1 << 30)
    assert list(dropped(log)) == ["one"]
    assert doorbell(log) & ~1 == 4
    # its session was ended; it comes again, goes to sleep, and does not know yet
    asleep[0] = log.asleep("one")
    assert doorbell(log) & ~1 == 6
    rotate(log, 1 << 30)
    assert doorbell(log) & ~1 == 4


def test_a_session_at_work_for_a_dropped_slave_is_ended(log: Master) -> None:
    daemon = log.session()
    pid = daemon.value("SELECT pg_backend_pid()")
    daemon.run("SELECT pg_advisory_lock(hashtext('pyreplica'), hashtext('one'))", "BEGIN")
    daemon.run("SELECT count(*) FROM pyreplica.replica_log")
    log.run("INSERT INTO t VALUES (1)")
    assert rotate(log) == "switched"
    limit(log, "max_log_size = 1")
    rotate(log)
    assert list(dropped(log)) == ["one"]
    alive = f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}"
    while log.reader.value(alive):
        pass
    assert rotate(log) in ("truncated", None)
    assert log.changes() == []


def test_a_slave_is_dropped_although_a_reader_keeps_the_log_from_being_emptied(
    log: Master,
) -> None:
    log.run("INSERT INTO t VALUES (1)")
    assert rotate(log) == "switched"
    limit(log, "max_log_size = 1")
    reader = log.session()
    reader.run("BEGIN", "LOCK TABLE pyreplica.replica_log IN ACCESS SHARE MODE")
    assert rotate(log) is None
    assert list(dropped(log)) == ["one"]
    assert len(log.changes()) == 1
    reader.run("COMMIT")
    assert rotate(log) == "truncated"


# Writers, where no daemon looks


def test_a_writer_drops_a_slave_that_is_past_its_limits_and_empties_the_log(log: Master) -> None:
    log.run("INSERT INTO t VALUES (-1)")
    assert rotate(log) == "switched"
    limit(log, "max_log_size = 100000")
    log.run("CREATE ROLE app LOGIN", "GRANT ALL ON t TO app")
    work(log.session("app"))
    assert list(dropped(log)) == ["one"]
    assert "-1" not in {change.key["id"] for change in log.changes() if change.key}


def test_a_writer_leaves_alone_a_slave_within_its_limits(log: Master) -> None:
    limit(log, "max_log_size = 100000000, max_log_age = '1 d'")
    log.run("INSERT INTO t VALUES (-1)")
    assert rotate(log) == "switched"
    work(log.writer)
    assert dropped(log) == {}
    assert len(log.changes()) == 5001


def test_the_log_stays_small_when_the_only_slave_is_gone(log: Master) -> None:
    limit(log, f"max_log_size = {SEGMENT}")
    largest = 0
    for number in range(12):
        with log.session() as session:
            session.run(
                f"INSERT INTO t SELECT {number} * 10000 + g, w FROM ({WIDE}) r(w), "
                "generate_series(1, 4000) g"
            )
        largest = max(largest, log.reader.value(LOG_SIZE))
    assert list(dropped(log)) == ["one"]
    assert SEGMENT < largest < 4 * SEGMENT


def test_the_log_stays_small_when_there_never_was_a_slave(log: Master) -> None:
    log.reader.run("DELETE FROM pyreplica.replica_slave")
    log.run("INSERT INTO t VALUES (-1)")
    assert rotate(log) == "switched"
    work(log.writer)
    assert len(log.changes()) == 5000


@contextmanager
def past_its_limit(log: Master) -> Iterator[Session]:
    """A writer whose commit would drop the slave, if that could be done."""
    limit(log, "max_log_size = 1")
    with log.session() as writer:
        writer.run("SET statement_timeout = '5s'")
        yield writer
    assert dropped(log) == {}
    work(log.session())
    assert list(dropped(log)) == ["one"]


@pytest.mark.parametrize(
    "lock",
    [
        "LOCK TABLE pyreplica.replica_slave",
        "LOCK TABLE pyreplica.replica_segment",
        "SELECT FROM pyreplica.replica_slave FOR UPDATE",
        "UPDATE pyreplica.replica_slave SET batch = batch",
    ],
)
def test_a_writer_does_not_wait_for_what_is_locked(log: Master, lock: str) -> None:
    with past_its_limit(log) as writer:
        other = log.session()
        other.run("BEGIN", lock)
        work(writer)
        other.run("ROLLBACK")


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_writer_with_an_old_snapshot_does_not_look_after_the_log(log: Master, level: str) -> None:
    with past_its_limit(log) as writer:
        writer.run(f"BEGIN ISOLATION LEVEL {level}")
        work(writer)
        writer.run("COMMIT")


def test_a_writer_that_rolls_back_has_dropped_nobody(log: Master) -> None:
    with past_its_limit(log) as writer:
        writer.run("BEGIN")
        work(writer)
        writer.run("ROLLBACK")


def test_constraints_that_are_set_immediate_do_not_have_a_writer_keep_locks(log: Master) -> None:
    with past_its_limit(log) as writer:
        writer.run("BEGIN")
        work(writer)
        writer.run("SET CONSTRAINTS ALL IMMEDIATE")
        work(writer)
        locked = (
            "SELECT count(*) FROM pg_locks WHERE mode ~ 'Exclusive' AND relation IN "
            "('pyreplica.replica_slave'::regclass, 'pyreplica.replica_segment'::regclass)"
        )
        assert log.reader.value(locked) == 0
        writer.run("COMMIT")


def test_a_failure_in_the_upkeep_does_not_fail_the_writer(log: Master) -> None:
    with past_its_limit(log) as writer:
        log.reader.run("ALTER TABLE pyreplica.replica_segment RENAME TO gone")
        try:
            work(writer)
        finally:
            log.reader.run("ALTER TABLE pyreplica.gone RENAME TO replica_segment")
