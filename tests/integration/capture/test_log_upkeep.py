"""Segments of the log that rotate without losing a change, and the snapshots left behind."""

from __future__ import annotations

import psycopg2
import pytest

from tests.integration.capture.oracle import Master, Session


@pytest.fixture
def language(request: pytest.FixtureRequest) -> str:
    """Who writes to the log does not matter here: one language, but where a test names another."""
    return str(getattr(request, "param", "plpython3u"))


@pytest.fixture
def log(master: Master) -> Master:
    """A table t and a slave that has confirmed what was before it."""
    master.table("id int PRIMARY KEY, v text")
    add_slave(master, "one")
    return master


def add_slave(master: Master, name: str) -> None:
    master.reader.run(
        "INSERT INTO pyreplica.replica_slave (replication, bit, slave_system, slave_database) "
        f"SELECT '{name}', 1 + count(*), 'system', 'database' FROM pyreplica.replica_slave"
    )


def confirm(master: Master, name: str = "one") -> None:
    """Have a slave confirm what can be seen now."""
    snapshot = master.reader.value("SELECT pg_current_snapshot()::text")
    master.reader.run(
        f"UPDATE pyreplica.replica_slave SET snapshot = '{snapshot}' WHERE replication = '{name}'"
    )


def rotate(master: Master, at_bytes: int = 1) -> str | None:
    answer: str | None = master.reader.value(f"SELECT pyreplica.rotate_log({at_bytes})")
    return answer


def keys(master: Master) -> list[str | None]:
    """The keys in the log, in the order of the ids."""
    return [change.key["id"] for change in master.changes() if change.key]


def segment(master: Master) -> int:
    """The segment that the newest row of the log is in."""
    number: int = master.reader.value(
        "SELECT segment FROM pyreplica.replica_log ORDER BY id DESC LIMIT 1"
    )
    return number


# Rotation


def test_the_log_is_switched_when_it_has_grown_and_emptied_when_it_is_confirmed(
    log: Master,
) -> None:
    assert rotate(log) is None
    log.run("INSERT INTO t VALUES (1)")
    first = segment(log)
    assert rotate(log, 1 << 30) is None
    assert rotate(log) == "switched"
    log.run("INSERT INTO t VALUES (2)")
    assert segment(log) == 1 - first
    confirm(log)
    assert rotate(log) == "truncated"
    assert keys(log) == ["2"]
    assert rotate(log) == "switched"
    log.run("INSERT INTO t VALUES (3)")
    assert segment(log) == first
    assert rotate(log) == "truncated"
    assert keys(log) == ["3"]


def test_a_change_that_one_slave_has_not_confirmed_stays(log: Master) -> None:
    add_slave(log, "two")
    log.run("INSERT INTO t VALUES (1)")
    assert rotate(log) == "switched"
    confirm(log, "two")
    assert rotate(log) == "waiting"
    assert keys(log) == ["1"]
    confirm(log, "one")
    assert rotate(log) == "truncated"


def test_without_slaves_nothing_is_kept(log: Master) -> None:
    log.reader.run("DELETE FROM pyreplica.replica_slave")
    log.run("INSERT INTO t VALUES (1)")
    assert [rotate(log), rotate(log)] == ["switched", "truncated"]
    assert keys(log) == []


def test_a_writer_that_is_still_open_keeps_the_segment_it_has_written_to(log: Master) -> None:
    log.run("BEGIN", "INSERT INTO t VALUES (1)")
    assert rotate(log, 0) == "switched"
    confirm(log)
    assert rotate(log) is None
    log.run("INSERT INTO t VALUES (2)", "COMMIT")
    assert rotate(log) == "waiting"
    assert keys(log) == ["1", "2"]
    confirm(log)
    assert rotate(log) == "truncated"
    assert keys(log) == ["2"]


def test_a_transaction_that_the_snapshot_of_the_switch_does_not_list_loses_nothing(
    log: Master,
) -> None:
    # its xid is the newest there is: at or above the xmax of every snapshot until another one ends
    log.run("BEGIN", "INSERT INTO t VALUES (1)")
    log.reader.run("BEGIN")
    assert rotate(log, 0) == "switched"
    confirm(log)
    log.run("COMMIT")
    log.reader.run("COMMIT")
    assert rotate(log) == "waiting"
    assert keys(log) == ["1"]


def test_an_open_transaction_that_has_not_written_does_not_hold_the_log_up(log: Master) -> None:
    idle = log.session()
    idle.run("CREATE TABLE uncaptured (id int)", "BEGIN", "INSERT INTO uncaptured VALUES (1)")
    log.run("INSERT INTO t VALUES (1)")
    assert rotate(log) == "switched"
    confirm(log)
    assert rotate(log) == "truncated"
    idle.run("ROLLBACK")


def test_a_writer_that_comes_late_to_an_emptied_segment_is_waited_for(log: Master) -> None:
    log.run("INSERT INTO t VALUES (1)")
    old = segment(log)
    assert rotate(log) == "switched"
    confirm(log)
    assert rotate(log) == "truncated"
    # as a writer does that had read the doorbell before the switch
    log.run("BEGIN", "INSERT INTO t VALUES (2)")
    log.run(f"UPDATE pyreplica.replica_log SET segment = {old}", "COMMIT")
    assert rotate(log) == "waiting"
    assert keys(log) == ["2"]
    confirm(log)
    assert rotate(log) == "truncated"


def test_a_writer_between_the_reading_of_the_doorbell_and_its_commit_survives_the_rotation(
    log: Master,
) -> None:
    # waits for a row lock inside its statement; then writes to whichever segment is filled
    log.run("INSERT INTO t VALUES (1), (2)")
    confirm(log)
    log.run("BEGIN", "UPDATE t SET v = 'a' WHERE id = 1")
    late = log.session()
    waiting = late.start("UPDATE t SET v = v || 'b'")
    late.wait_for_lock()
    assert rotate(log) == "switched"
    confirm(log)
    log.run("COMMIT")
    waiting.result()
    for _ in range(3):
        assert rotate(log) != "truncated"
    log.assert_exact()


def test_rolled_back_rows_do_not_keep_a_segment(log: Master) -> None:
    log.run("BEGIN", "INSERT INTO t VALUES (1)", "ROLLBACK")
    assert [rotate(log), rotate(log)] == ["switched", "truncated"]


@pytest.mark.parametrize(
    "lock",
    [
        "INSERT INTO pyreplica.replica_slave (replication, bit, slave_system, slave_database) "
        "VALUES ('new', 9, 's', 'd')",
        "SELECT * FROM pyreplica.replica_log",
    ],
)
def test_what_is_locked_is_left_for_the_next_time(log: Master, lock: str) -> None:
    log.run("INSERT INTO t VALUES (1)")
    assert rotate(log) == "switched"
    confirm(log)
    other = log.session()
    other.run("BEGIN", lock)
    assert rotate(log) is None
    assert keys(log) == ["1"]
    other.run("ROLLBACK")
    assert rotate(log) == "truncated"


def test_a_transaction_with_an_old_snapshot_may_not_rotate(log: Master) -> None:
    log.run("INSERT INTO t VALUES (1)")
    old = log.session(default_transaction_isolation="repeatable read")
    with pytest.raises(psycopg2.Error, match="cannot be rotated in a repeatable read transaction"):
        old.run("SELECT pyreplica.rotate_log(0)")


def test_a_slave_added_meanwhile_finds_all_that_it_needs(log: Master) -> None:
    log.run("INSERT INTO t VALUES (1)")
    assert rotate(log) == "switched"
    confirm(log)
    add_slave(log, "two")  # begins here: what came before is in its copy
    log.run("INSERT INTO t VALUES (2)")
    assert rotate(log) == "truncated"
    assert keys(log) == ["2"]
    assert rotate(log) == "switched"
    confirm(log, "one")
    assert rotate(log) == "waiting"
    assert keys(log) == ["2"]


# Ticks


def ticks(session: Session) -> list[tuple[str, int, int]]:
    return [
        (snapshot, running, log_id)
        for snapshot, running, log_id in session.run(
            "SELECT snapshot::text, running, log_id FROM pyreplica.replica_tick ORDER BY log_id"
        )
    ]


def is_visible(master: Master, txid: int, snapshot: str) -> bool:
    answer: bool = master.reader.value(f"SELECT pg_visible_in_snapshot('{txid}', '{snapshot}')")
    return answer


def before_its_tick(session: Session) -> int:
    """How many rows and statements a new session logs until it leaves a snapshot behind."""
    pid: int = session.value("SELECT pg_backend_pid()")
    return 4000 - pid % 4000


def test_a_session_leaves_a_snapshot_behind_after_some_thousands_of_rows(log: Master) -> None:
    writer = log.session()
    log.reader.run("SELECT setval('pyreplica.replica_log_id', 8000)")
    writer.run("INSERT INTO t SELECT generate_series(1, 4000)")
    assert len(ticks(log.reader)) == 1
    writer.run("UPDATE t SET v = 'x' WHERE id <= 3000")
    assert len(ticks(log.reader)) == 1
    writer.run("DELETE FROM t WHERE id <= 1500")
    assert len(ticks(log.reader)) == 2


@pytest.mark.parametrize("language", ["plpgsql"], indirect=True)
def test_whoever_logs_each_four_thousandth_row_leaves_a_snapshot_behind(log: Master) -> None:
    first, second = log.session(), log.session()
    last = "SELECT last_value FROM pyreplica.replica_log_id"
    log.reader.run("SELECT setval('pyreplica.replica_log_id', 7990)")
    for id_ in range(1, 5):
        first.run(f"INSERT INTO t VALUES ({id_})")
        second.run(f"INSERT INTO t VALUES (-{id_})")
    assert (log.reader.value(last), ticks(log.reader)) == (7998, [])
    first.run("INSERT INTO t VALUES (10)", "INSERT INTO t VALUES (11)")
    assert (log.reader.value(last), len(ticks(log.reader))) == (8000, 1)
    second.run("INSERT INTO t SELECT generate_series(20, 1000)", "DELETE FROM t WHERE id < 0")
    assert len(ticks(log.reader)) == 1


@pytest.mark.parametrize("language", ["plpython3u"], indirect=True)
def test_a_session_leaves_a_snapshot_behind_after_some_thousands_of_statements(log: Master) -> None:
    writer = log.session()
    count = before_its_tick(writer)
    work = "DO $$BEGIN FOR n IN 1..%d LOOP UPDATE t SET v = v; END LOOP; END$$"
    writer.run(work % (count - 1))
    assert ticks(log.reader) == []
    writer.run(work % 1)
    assert len(ticks(log.reader)) == 1


def test_the_snapshot_left_behind_does_not_contain_the_transaction_that_left_it(
    log: Master,
) -> None:
    before = log.writer.value("SELECT pg_current_xact_id()::text::bigint")
    open_ = log.session()
    open_.run("BEGIN")
    running = open_.value("SELECT pg_current_xact_id()::text::bigint")
    log.run("BEGIN")
    own = log.writer.value("SELECT pg_current_xact_id()::text::bigint")
    log.session().run("CREATE TABLE later (id int)")  # so that the own xid is below xmax
    log.run("INSERT INTO t SELECT generate_series(1, 4000)")
    log.run("INSERT INTO t SELECT generate_series(4001, 8000)", "COMMIT")
    (first, count, log_id), (second, *_) = ticks(log.reader)
    for snapshot in (first, second):
        assert is_visible(log, before, snapshot)
        assert not is_visible(log, own, snapshot)
        assert not is_visible(log, running, snapshot)
    assert count == log.reader.value(f"SELECT count(*) FROM pg_snapshot_xip('{first}')") == 2
    assert log_id == log.changes()[3999].row_id
    open_.run("ROLLBACK")


def test_a_snapshot_left_by_the_newest_transaction_does_not_contain_it_either(log: Master) -> None:
    log.run("INSERT INTO t SELECT generate_series(1, 4000)")
    ((snapshot, running, _),) = ticks(log.reader)
    assert not is_visible(log, log.changes()[0].txid, snapshot)
    assert running == 0


def test_a_repeatable_read_session_leaves_the_snapshot_it_has(log: Master) -> None:
    log.run("BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1")
    log.session().run("INSERT INTO t VALUES (0)")
    unseen = log.changes()[0].txid
    log.run("INSERT INTO t SELECT generate_series(1, 4000)", "COMMIT")
    ((snapshot, _, _),) = ticks(log.reader)
    assert not is_visible(log, unseen, snapshot)
    assert not is_visible(log, log.changes()[-1].txid, snapshot)


def test_snapshots_before_what_every_slave_has_confirmed_go_away(log: Master) -> None:
    log.run("INSERT INTO t SELECT generate_series(1, 4000)")
    rotate(log, 1 << 30)
    assert len(ticks(log.reader)) == 1
    confirm(log)
    log.run("INSERT INTO t SELECT generate_series(4001, 9000)")
    rotate(log, 1 << 30)
    ((_, _, log_id),) = ticks(log.reader)
    assert log_id > 4000
