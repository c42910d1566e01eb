"""Tables that are added to a running replication, and removed from it."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.errors import NotInstalled, PyReplicaError, Refused, TimedOut
from pyreplica.model import Step
from pyreplica.replication.addition import Added, Addition, remove_tables
from pyreplica.replication.report import report
from pyreplica.replication.session import Session
from pyreplica.replication.setup import install
from pyreplica.replication.wait import wait
from tests.conftest import Databases
from tests.integration.stalling_copy import Watching
from tests.support import (
    Running,
    Silence,
    assert_same,
    blocked,
    config,
    config_file,
    connect,
    connected,
    copied,
    copy,
    cursors,
    eventually,
    pyreplica,
    rotated,
    running,
    sql,
    stalling_copy,
    stalling_daemon,
    value,
)

OLD = "CREATE TABLE public.old (id integer PRIMARY KEY, n integer NOT NULL DEFAULT 0, v text);"
NEW = "CREATE TABLE public.new (id integer PRIMARY KEY, n integer NOT NULL DEFAULT 0, v text);"
ROWS = "INSERT INTO public.{} SELECT i, 0, 'row ' || i FROM generate_series(1, 2000) i"
HELD = "SELECT held IS NOT NULL FROM pyreplica.replica_slave WHERE replication = 'shop'"
_numbers = itertools.count(1)
STATES = (
    "SELECT string_agg(table_name || ' ' || state, ', ' ORDER BY table_name) "
    "FROM pyreplica.replica_copy WHERE replication = 'shop'"
)


def replicated(databases: Databases, new: str = NEW, **options: Any) -> ReplicationConfig:
    """A replication of the old table; the new one is on both sides, with rows on the master."""
    made = copied(databases, OLD + ROWS.format("old"), **options)
    sql(databases.slave, new)
    sql(databases.master, new, *([ROWS.format("new")] if new is NEW else []))
    return made


def add(made: ReplicationConfig, *names: str, timeout: float = 60.0, **options: Any) -> list[Added]:
    return Addition(made, names or ("public.new",), Silence(), **options).run(timeout)


@contextmanager
def writing(databases: Databases, *tables: str) -> Iterator[None]:
    """Sessions that insert, update and delete in these tables, in transactions over them all."""
    end = threading.Event()
    failures: list[BaseException] = []

    def write(number: int) -> None:
        i = 0
        first = next(_numbers) * 100_000
        statements = "; ".join(
            f"INSERT INTO {table} VALUES (%(new)s, 0, 'new'); "
            f"UPDATE {table} SET n = n + 1, v = v || '.' WHERE id = %(old)s; "
            f"UPDATE {table} SET id = -id WHERE id = %(new)s - 7; "
            f"DELETE FROM {table} WHERE id = %(gone)s"
            for table in tables
        )
        try:
            with connect(databases.master) as session:
                while not end.is_set():
                    i += 1
                    session.execute(
                        f"BEGIN; {statements}; COMMIT",
                        {
                            "new": first + i,
                            "old": 1 + (i * 2 + number) % 1000,
                            "gone": 1001 + (i + number * 300) % 1000,
                        },
                    )
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert not failures, failures


def until_joined(databases: Databases) -> None:
    """Wait until no table is on its way any more."""
    eventually(lambda: "joining" not in value(databases.slave, STATES), "a table does not join")


def assert_replicates(made: ReplicationConfig, databases: Databases, daemon: Running) -> None:
    """All tables are equal, also after more work; nothing is held back for the addition."""
    until_joined(databases)
    assert_same(made)
    for table in ("public.old", "public.new"):
        sql(databases.master, f"UPDATE {table} SET v = v || '!' WHERE n = 0")
    assert_same(made)
    assert daemon.said("conflict") == []
    assert daemon.said("ERROR") == []
    assert not value(databases.master, HELD)
    assert report(made).state == "in step"


@pytest.mark.usefixtures("apply_path")
def test_a_table_that_is_added_under_writers_joins_exactly(databases: Databases) -> None:
    made = replicated(databases)
    with running(made) as daemon:
        with writing(databases, "public.new", "public.old"):
            daemon.until(lambda: len(daemon.batches()) > 5, "it moves nothing")
            (added,) = add(made)
            assert added.state == "in step"
            so_far = len(daemon.batches())
            daemon.until(lambda: len(daemon.batches()) > so_far + 5, "it moves nothing any more")
        assert_replicates(made, databases, daemon)


def test_a_table_is_added_while_no_daemon_runs_and_joins_when_one_does(
    databases: Databases, tmp_path: Path
) -> None:
    made = replicated(databases)
    path = config_file(tmp_path, databases)
    with writing(databases, "public.new", "public.old"):
        said = pyreplica(path, "add-table", "shop", "public.new").stdout
    assert re.fullmatch(
        r"shop: public\.new is copied, [\d,]+ rows; it joins as soon as the daemon runs: "
        r"`pyreplica run shop`\n",
        said,
    )
    assert value(databases.slave, STATES) == "new joining, old ready"
    assert report(made).state == "stopped"
    with connected(made) as daemon:
        (added,) = add(made)
        assert added.state == "in step"
        assert_replicates(made, databases, daemon)
    assert pyreplica(path, "add-table", "shop", "public.new").stdout == (
        "shop: public.new is in step already\n"
    )


def test_a_table_joins_a_daemon_that_is_far_behind_when_it_gets_there(databases: Databases) -> None:
    made = replicated(databases, batch_rows=500)
    install(made)

    def work(begin: int) -> None:
        for i in range(begin, begin + 4):
            sql(
                databases.master,
                f"BEGIN; INSERT INTO public.old SELECT {i} * 10000 + g FROM "
                f"generate_series(1, 400) g; INSERT INTO public.new SELECT {i} * 10000 + g FROM "
                "generate_series(1, 400) g; UPDATE public.new SET n = n + 1; "
                "DELETE FROM public.new WHERE id % 7 = 3 AND id < 2000; COMMIT",
                "SELECT pyreplica.tick()",
            )

    work(1)
    (added,) = add(made)
    assert added.state == "joining"
    work(5)
    with running(made) as daemon:
        assert_replicates(made, databases, daemon)
        joined = daemon.until_said("public.new is in step")
        assert joined
        # three batches before it was copied had no use for it
        assert len(daemon.batches()) > 6


@pytest.mark.parametrize("point", ["begin", "rows", "done"])
def test_an_addition_that_is_killed_is_never_called_ready_and_succeeds_when_run_again(
    databases: Databases, tmp_path: Path, point: str
) -> None:
    made = replicated(databases)
    path = config_file(tmp_path, databases)
    with connected(made), writing(databases, "public.new", "public.old"):
        with stalling_copy(path, point, add="public.new") as killed:
            killed.until_said(f"stalled: {point}")
            assert report(made).state == "adding"
            killed.kill()
        if point != "done":
            eventually(lambda: report(made).state == "incomplete", "the killed one is at work")
            assert report(made).hint == "Run `pyreplica add-table shop public.new`."
            assert value(databases.slave, STATES) == "new copying, old ready"
            assert value(databases.master, HELD)
        (added,) = add(made)
        assert added.state == "in step"
    with running(made) as daemon:
        assert_replicates(made, databases, daemon)


STEPS = (Step.FETCHED, Step.PREPARED, Step.CONFIRMED, Step.COMMITTED)


@pytest.mark.parametrize("step", STEPS, ids=[step.value for step in STEPS])
@pytest.mark.parametrize("commit", ["two-phase", "one-phase"])
def test_a_daemon_that_is_killed_while_a_table_joins_has_it_join_once(
    databases: Databases, tmp_path: Path, commit: str, step: Step
) -> None:
    made = replicated(databases, commit=commit)
    path = config_file(tmp_path, databases, commit=commit)
    changes = "UPDATE public.new SET n = n + 1 WHERE id <= 100"
    add(made)
    sql(databases.master, changes, "DELETE FROM public.new WHERE id > 1990")
    with stalling_daemon(path, step, 2) as killed:
        killed.until_said(f"stalled: shop {step.value} 2")
        killed.kill()
    applied = step is Step.COMMITTED or (commit == "one-phase" and step is not Step.FETCHED)
    assert value(databases.slave, STATES) == f"new {'ready' if applied else 'joining'}, old ready"
    assert value(databases.master, HELD)
    with running(made) as daemon:
        assert_replicates(made, databases, daemon)
    assert value(databases.slave, "SELECT sum(n) FROM public.new") == 100
    moved = value(databases.slave, "SELECT changes FROM pyreplica.replica_cursor")
    updated = value(databases.slave, "SELECT count(*) FILTER (WHERE n = 0) FROM public.new")
    assert moved == 100 + 10 + updated + 2000


def test_a_transaction_that_is_open_across_the_copy_is_not_lost(databases: Databases) -> None:
    made = replicated(databases)
    install(made)
    with connected(made) as daemon, connect(databases.master) as open_:
        open_.execute(
            "BEGIN; INSERT INTO public.new VALUES (-1, 7, 'open'); "
            "UPDATE public.new SET n = 7 WHERE id < 10; DELETE FROM public.new WHERE id = 20; "
            "INSERT INTO public.old VALUES (-1, 7, 'open')"
        )
        (added,) = add(made)
        assert added == Added("public.new", "in step", 2000)
        assert_same(made)
        open_.execute("COMMIT")
        assert_replicates(made, databases, daemon)
    assert value(databases.slave, "SELECT sum(n) FROM public.new") == 7 * 10


def test_capturing_a_table_waits_for_those_who_are_writing_it(databases: Databases) -> None:
    made = replicated(databases)
    with connected(made) as daemon, connect(databases.master) as open_:
        open_.execute("BEGIN; INSERT INTO public.new VALUES (-1, 7, 'open')")
        added: list[Added] = []
        adding = threading.Thread(target=lambda: added.extend(add(made)))
        adding.start()
        eventually(blocked(databases.master), "it does not wait")
        open_.execute("COMMIT")
        adding.join()
        assert added == [Added("public.new", "in step", 2001)]
        assert_replicates(made, databases, daemon)


# The log


def test_the_log_is_kept_while_a_table_is_added_and_given_back_afterwards(
    databases: Databases,
) -> None:
    made = replicated(databases)
    done: list[str] = []

    def rotate() -> None:
        for i in range(4):
            sql(databases.master, f"INSERT INTO public.new VALUES (-{i} - 1, 0, 'during')")
            wait(made, 30)
            done.append(rotated(databases.master))

    with running(made) as daemon:
        # all of it is confirmed, and would be truncated
        Addition(made, ["public.new"], Watching("begin", rotate)).run()
        assert done == ["switched", "waiting", "waiting", "waiting"]
        assert_replicates(made, databases, daemon)
        eventually(
            lambda: value(databases.master, "SELECT pyreplica.rotate_log(0)") == "truncated",
            "the log is not given back",
        )
    assert value(databases.slave, "SELECT count(*) FROM public.new WHERE id < 0") == 4


def test_a_log_that_rotates_all_the_time_has_what_the_new_tables_need(
    databases: Databases,
) -> None:
    made = replicated(databases)
    end = threading.Event()
    rotated: list[str | None] = []

    def rotate() -> None:
        with connect(databases.master) as session:
            while not end.is_set():
                rotated.append(session.one("SELECT pyreplica.rotate_log(0)")[0])

    rotating = threading.Thread(target=rotate)
    with running(made) as daemon, writing(databases, "public.new", "public.old"):
        rotating.start()
        try:
            add(made)
            for _ in range(3):
                remove_tables(made, ["public.new"])
                add(made, truncate=True)
            so_far = rotated.count("truncated")
            eventually(lambda: rotated.count("truncated") > so_far, "the log is kept for ever")
        finally:
            end.set()
            rotating.join()
    with running(made) as daemon:
        assert_replicates(made, databases, daemon)


# Several tables


def test_tables_of_every_kind_are_added_together(databases: Databases) -> None:
    tables = """
        CREATE SCHEMA "Other Schema";
        CREATE TABLE "Other Schema"."a.""b"" %s" ("Key" text PRIMARY KEY, "%" integer);
        CREATE TABLE public.parent (id integer PRIMARY KEY, v text);
        CREATE TABLE public.child (PRIMARY KEY (id)) INHERITS (public.parent);
        CREATE TABLE public.g (
            id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n integer UNIQUE,
            twice integer GENERATED ALWAYS AS (n * 2) STORED,
            parent integer REFERENCES public.g
        );
    """
    parted = """
        CREATE TABLE public.p (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE public.p_1 PARTITION OF public.p FOR VALUES FROM (0) TO (10);
        CREATE TABLE public.p_2 PARTITION OF public.p FOR VALUES FROM (10) TO (1000);
    """
    made = replicated(databases, tables)
    sql(databases.master, parted)
    sql(databases.slave, "CREATE TABLE public.p (id integer PRIMARY KEY, v text)")
    change = """
        INSERT INTO "Other Schema"."a.""b"" %s" SELECT 'k' || i, i FROM generate_series(1, 9) i;
        UPDATE "Other Schema"."a.""b"" %s" SET "Key" = "Key" || '!' WHERE "%" < 4;
        INSERT INTO public.parent SELECT i, 'parent' FROM generate_series(1, 20) i;
        INSERT INTO public.child SELECT i, 'child' FROM generate_series(10, 30) i;
        UPDATE public.parent SET id = id + 100;
        INSERT INTO public.g (n) SELECT count(*) + 1 FROM public.g;
        UPDATE public.g SET parent = id;
        INSERT INTO public.p SELECT i, 'p' FROM generate_series(1, 20) i;
        UPDATE public.p SET id = id + 30;
        DELETE FROM public.p WHERE id < 33;
    """
    sql(databases.master, change)
    names = ['"Other Schema"."a.""b"" %s"', "public.child", "public.g", "public.p"]
    again = change.replace("+ 30", "+ 55").replace("'k'", "'l'").replace("100", "200")

    def write() -> None:
        sql(databases.master, again)

    with connected(made) as daemon:
        with pytest.raises(Refused, match=r"inherits from public\.parent, .* add that one first"):
            add(made, *names)
        add(made, "public.parent")
        added = Addition(made, names, Watching("begin", write), workers=3).run()
        assert [a.state for a in added] == ["in step"] * 4
        assert_same(made)
        sql(databases.master, "TRUNCATE public.p, public.parent")
        assert_same(made)
        assert daemon.said("conflict") == []


def test_two_additions_join_each_as_of_its_own_snapshot(databases: Databases) -> None:
    made = replicated(databases)
    other = NEW.replace("new", "newer")
    sql(databases.master, other, ROWS.format("newer"))
    sql(databases.slave, other)
    names = ("public.old", "public.new", "public.newer")
    with writing(databases, *names):
        add(made)
        add(made, "public.newer")
    assert value(databases.slave, STATES) == "new joining, newer joining, old ready"
    with running(made) as daemon:
        assert_replicates(made, databases, daemon)


def test_an_addition_refuses_to_work_beside_another_one(databases: Databases) -> None:
    made = replicated(databases)

    def another() -> None:
        for act in (
            lambda: add(made),
            lambda: remove_tables(made, ["public.old"]),
            lambda: copy(made, truncate=True),
        ):
            with pytest.raises(Refused, match="another command is copying or removing tables"):
                act()

    Addition(made, ["public.new"], Watching("rows", another)).run()


# What cannot be added


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("public.nowhere", r"the master has no table public\.nowhere"),
        ("public.part", r"the master has no table public\.part"),
        ("public.keyless", r"public\.keyless cannot be replicated: .*no primary key"),
        ("other.t", r"other\.t is not among `tables:`"),
        ("public.missing", r"the slave has no table public\.missing"),
        ("public.narrow", r"column v of table public\.narrow is text on the master and"),
        ("public.filled", r"table public\.filled on the slave has rows"),
    ],
)
def test_a_table_that_cannot_be_added_is_refused_and_nothing_is_changed(
    databases: Databases, name: str, words: str
) -> None:
    replicated(databases)
    both = """
        CREATE TABLE public.whole (id integer PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE public.part PARTITION OF public.whole FOR VALUES FROM (0) TO (10);
        CREATE TABLE public.keyless (id integer);
        CREATE SCHEMA other; CREATE TABLE other.t (id integer PRIMARY KEY);
        CREATE TABLE public.filled (id integer PRIMARY KEY);
    """
    sql(
        databases.master,
        both,
        "CREATE TABLE public.missing (id integer PRIMARY KEY)",
        "CREATE TABLE public.narrow (id integer PRIMARY KEY, v text)",
    )
    sql(
        databases.slave,
        both,
        "CREATE TABLE public.narrow (id integer PRIMARY KEY, v integer)",
        "INSERT INTO public.filled VALUES (1)",
    )
    with pytest.raises(Refused, match=words) as caught:
        add(config(databases, tables=["public.*"]), "public.new", name)
    assert caught.value.hint
    assert value(databases.slave, STATES) == "old ready"
    captured = "SELECT count(*) FROM pyreplica.replica_table WHERE active"
    assert value(databases.master, captured) == 1
    assert not value(databases.master, HELD)


def test_a_table_cannot_be_added_before_the_slave_was_copied(databases: Databases) -> None:
    sql(databases.master, NEW)
    sql(databases.slave, NEW)
    made = config(databases)
    install(made)
    with pytest.raises(NotInstalled, match="has not been copied yet") as caught:
        add(made)
    assert "pyreplica copy shop" in caught.value.hint


def test_rows_in_the_way_are_replaced_when_told_to(databases: Databases) -> None:
    made = replicated(databases)
    sql(databases.slave, "INSERT INTO public.new VALUES (1, 1, 'mine'), (-1, 1, 'mine')")
    with running(made) as daemon:
        add(made, truncate=True)
        assert_replicates(made, databases, daemon)


def test_a_table_that_cannot_join_does_not_hold_the_others_up(databases: Databases) -> None:
    made = replicated(databases)
    add(made)
    sql(databases.master, "UPDATE public.new SET n = 1", "UPDATE public.old SET n = 1")
    sql(databases.slave, "ALTER TABLE public.new DROP v")
    sql(databases.master, "UPDATE public.new SET v = 'x' WHERE id < 3")
    with running(made) as daemon:
        daemon.until_said("table public.new cannot join: ")
        eventually(
            lambda: value(databases.slave, "SELECT sum(n) FROM public.old") == 2000,
            "the others are held up",
        )
        eventually(lambda: report(made).state == "incomplete", "it is not told")
        told = report(made)
        assert told.error is not None
        assert "public.new on the slave has no column v" in told.error
        with pytest.raises(Refused, match=r"public\.new on the slave has no column v"):
            add(made)
        sql(databases.slave, "ALTER TABLE public.new ADD v text")
        add(made)
        assert_same(made)
        assert report(made).state == "in step"


def test_a_row_of_somebody_elses_in_the_joining_table_does_not_hold_the_others_up(
    databases: Databases,
) -> None:
    made = replicated(databases)
    add(made)
    sql(databases.master, "INSERT INTO public.new VALUES (-1)", "UPDATE public.old SET n = 1")
    sql(databases.slave, "INSERT INTO public.new VALUES (-1)")
    with running(made) as daemon:
        assert "insert_exists" in daemon.until_said("table public.new cannot join: ")
        eventually(
            lambda: value(databases.slave, "SELECT sum(n) FROM public.old") == 2000,
            "the others are held up",
        )
        add(made)
        assert_same(made)


def test_a_table_that_is_not_chosen_when_it_should_join_waits_until_it_is(
    databases: Databases,
) -> None:
    made = replicated(databases)
    without = config(databases, tables=["public.old"])
    with connected(without) as daemon:
        with pytest.raises(TimedOut, match=r"public\.new is copied, but has not joined") as caught:
            add(made, timeout=1)
        assert "started with this configuration" in caught.value.hint
        daemon.until_said("public.new was added, but is not among `tables:`")
        assert report(without).error == (
            "never copied, and passed over: public.new "
            "(public.new: it is not chosen, or is gone on the master; remove it)"
        )
        assert report(made).state == "adding"
    with running(made) as daemon:
        assert_replicates(made, databases, daemon)


def test_tables_are_not_changed_while_a_batch_is_in_doubt(
    databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyreplica.slave.tables.LONGEST_DOUBT", 1)
    made = replicated(databases)
    with stalling_daemon(config_file(tmp_path, databases), Step.PREPARED, 2) as killed:
        sql(databases.master, "UPDATE public.old SET n = 1")
        killed.until_said("stalled")
        killed.kill()
    for act in (lambda: add(made), lambda: remove_tables(made, ["public.old"])):
        with pytest.raises(Refused, match=r"a batch .* has not been decided for 1 s") as caught:
            act()
        assert "pyreplica run shop" in caught.value.hint
    with connected(made) as daemon:
        add(made)
        assert_replicates(made, databases, daemon)


# Removing


def test_a_table_that_is_removed_under_writers_gets_nothing_more(databases: Databases) -> None:
    made = replicated(databases)
    rows = "SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM public.new t"
    with running(made) as daemon:
        add(made)
        with writing(databases, "public.new", "public.old"):
            so_far = len(daemon.batches())
            daemon.until(lambda: len(daemon.batches()) > so_far + 5, "it moves nothing")
            (line,) = remove_tables(made, ["public.new"])
            left = value(databases.slave, rows)
            so_far = len(daemon.batches())
            daemon.until(lambda: len(daemon.batches()) > so_far + 5, "it moves nothing any more")
        assert_same(made)
        assert value(databases.slave, rows) == left
        assert report(made).state == "in step"
        assert daemon.said("public.new is captured") == []
        assert daemon.said("WARNING") == []
    assert line == (
        "public.new: removed; the slave's rows stay; on the master: public.new: removed; what was "
        "logged before still goes to the slaves"
    )
    triggers = "SELECT count(*) FROM pg_trigger WHERE tgrelid = 'public.new'::regclass"
    assert value(databases.master, triggers) == 0


@pytest.mark.parametrize("step", [Step.FETCHED, Step.COMMITTED], ids=["before it", "after it"])
@pytest.mark.usefixtures("apply_path")
def test_a_batch_that_was_made_before_a_table_was_removed_is_made_again(
    databases: Databases, step: Step
) -> None:
    made = replicated(databases)
    add(made)
    removed: list[str] = []

    def remove(now: Step, batch: int) -> None:
        if (now, batch) == (step, 3) and not removed:
            removed.extend(remove_tables(made, ["public.new"]))

    with running(made, remove) as daemon:
        daemon.until_said("public.new is in step")
        sql(
            databases.master,
            "BEGIN; UPDATE public.new SET n = 1; UPDATE public.old SET n = 1; COMMIT",
        )
        assert_same(made)
        assert removed
        assert len(daemon.said("the batch is made again")) == (step is Step.FETCHED)
    applied = 0 if step is Step.FETCHED else 2000
    assert value(databases.slave, "SELECT sum(n) FROM public.new") == applied
    assert value(databases.slave, "SELECT sum(n) FROM public.old") == 2000


def test_a_batch_without_changes_that_was_made_before_a_table_was_removed_is_made_again(
    databases: Databases,
) -> None:
    """Such as one that is made so that the log can be given back."""
    made = replicated(databases)
    with closing(Session(made, lambda step, batch: None)) as session:
        _, read = session.step()
        sql(databases.master, "UPDATE public.old SET n = 1", "SELECT pyreplica.rotate_log(0)")
        remove_tables(made, ["public.old"])
        assert not session.tidy_log(read)
        assert cursors(made)[1].batch == 1
        while session.step()[0]:
            pass
        assert session.tidy_log(read)
    assert value(databases.slave, "SELECT sum(n) FROM public.old") == 0
    assert value(databases.master, "SELECT count(*) FROM pyreplica.replica_log") == 0


def test_a_table_that_was_removed_is_added_again_from_its_rows_of_now(
    databases: Databases,
) -> None:
    made = replicated(databases)
    with running(made) as daemon:
        add(made)
        with writing(databases, "public.new", "public.old"):
            remove_tables(made, ["public.new"])
        sql(databases.master, "DELETE FROM public.new WHERE id < 100")
        assert_same(made)
        with pytest.raises(Refused, match="has rows"):
            add(made)
        with writing(databases, "public.new", "public.old"):
            add(made, truncate=True)
        assert_replicates(made, databases, daemon)


def test_a_table_whose_addition_was_broken_off_can_be_removed(databases: Databases) -> None:
    made = replicated(databases)
    with connected(made):
        with pytest.raises(PyReplicaError, match="an interruption"):
            Addition(made, ["public.new"], Watching("rows", interrupt)).run()
        assert report(made).state == "incomplete"
        remove_tables(made, ["public.new"])
        eventually(lambda: not value(databases.master, HELD), "the log is kept for it")
        assert report(made).state == "in step"


def interrupt() -> None:
    raise PyReplicaError("an interruption")


def test_a_table_that_is_removed_here_stays_in_other_replications(databases: Databases) -> None:
    made = replicated(databases)
    name = databases.name[:50] + "_other"
    databases.slave_cluster.create_database(name)
    there = replace(databases, slave=databases.slave_cluster.dsn(name))
    other = config(there, "other")
    sql(there.slave, OLD, NEW)
    install(other)
    copy(other)
    try:
        with running(made), running(other):
            add(made)
            (line,) = remove_tables(made, ["public.new"])
            assert line.endswith("it stays captured on the master for other slaves")
            sql(databases.master, "UPDATE public.new SET n = 1", "UPDATE public.old SET n = 1")
            assert_same(made)
            assert_same(other)
            assert report(made).state == "in step"
        assert value(databases.slave, "SELECT sum(n) FROM public.new") == 0
        assert value(there.slave, "SELECT sum(n) FROM public.new") == 2000
    finally:
        databases.slave_cluster.drop_database(name)


def test_removing_what_is_not_there_is_refused(databases: Databases, tmp_path: Path) -> None:
    made = replicated(databases)
    path = config_file(tmp_path, databases)
    done = pyreplica(path, "remove-table", "shop", "public.old", "public.nowhere", code=1)
    assert "no table of the replication is called public.nowhere" in done.stderr
    assert value(databases.slave, STATES) == "old ready"
    done = pyreplica(path, "remove-table", "shop", "public.old")
    assert done.stdout.startswith("shop: public.old: removed; the slave's rows stay")
    assert report(made).state == "stopped"


# Other ways in and out


def test_a_table_that_is_not_chosen_any_more_is_not_taken_for_one_in_step_later(
    databases: Databases,
) -> None:
    made = replicated(databases)
    add(made)
    with running(made):
        until_joined(databases)
        assert_same(made)
    without = config(databases, tables=["public.old"])
    with running(without) as daemon:
        sql(databases.master, "UPDATE public.new SET n = 1")
        daemon.until_said("public.new is not chosen any more")
        assert_same(without)
    with running(made) as daemon:
        sql(databases.master, "UPDATE public.new SET n = n + 1")
        eventually(lambda: report(made).state == "incomplete", "it is taken for one in step")
        add(made, truncate=True)
        assert_replicates(made, databases, daemon)


def test_a_table_that_takes_the_place_of_a_dropped_one_gets_nothing_of_it(
    databases: Databases,
) -> None:
    """Not even what was logged of the dropped one and has not come to the slave."""
    made = replicated(databases)
    add(made)
    with running(made):
        until_joined(databases)
        assert_same(made)
    sql(
        databases.master,
        "UPDATE public.new SET n = 1",
        "DROP TABLE public.new",
        NEW,
        "INSERT INTO public.new VALUES (1, 5, 'another')",
    )
    with pytest.raises(Refused, match="has rows"):
        add(made)
    add(made, truncate=True)
    with running(made) as daemon:
        until_joined(databases)
        assert_same(made)
        assert daemon.said("conflict") == []
        assert report(made).state == "in step"
    assert value(databases.slave, "SELECT sum(n) FROM public.new") == 5


def test_a_renamed_tables_rows_are_not_taken_away_by_a_new_one_of_its_name(
    databases: Databases,
) -> None:
    made = replicated(databases)
    sql(databases.master, "ALTER TABLE public.old RENAME TO older", OLD)
    with pytest.raises(Refused, match=r"belongs to the master's table public\.older") as caught:
        add(made, "public.old", truncate=True)
    assert "Rename it on the slave" in caught.value.hint
    sql(databases.slave, "ALTER TABLE public.old RENAME TO older", OLD)
    with running(made) as daemon:
        add(made, "public.old")
        sql(databases.master, "UPDATE public.older SET n = 1", "INSERT INTO public.old VALUES (1)")
        assert_same(made)
        assert daemon.said("conflict") == []


def test_a_copy_anew_ends_an_addition(databases: Databases) -> None:
    made = replicated(databases)
    add(made)
    assert value(databases.master, HELD)
    copy(made, truncate=True)
    with running(made) as daemon:
        assert_replicates(made, databases, daemon)


def test_a_column_that_comes_while_a_table_is_added_is_filled(databases: Databases) -> None:
    made = replicated(databases)
    alter = "ALTER TABLE public.new ADD w integer DEFAULT 5"

    def change() -> None:
        sql(
            databases.master,
            "UPDATE public.new SET n = 1 WHERE id < 100",
            alter,
            "UPDATE public.new SET w = 6 WHERE id < 10",
        )
        sql(databases.slave, "ALTER TABLE public.new ADD w integer")

    with running(made) as daemon:
        Addition(made, ["public.new"], Watching("begin", change)).run()
        assert_replicates(made, databases, daemon)
    assert value(databases.slave, "SELECT sum(w) FROM public.new") == 2000 * 5 + 9
