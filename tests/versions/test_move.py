"""The recipe of docs/versions.md: a database moves to a new major version while it is written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg2
import pytest

from tests import support
from tests.support import config_file, daemon, eventually, pyreplica, sql, value
from tests.versions.conftest import Pair, Servers, new_pair

TABLES = """
CREATE TABLE public.account (id integer PRIMARY KEY, balance bigint NOT NULL DEFAULT 0);
CREATE TABLE public.entry (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account integer NOT NULL REFERENCES public.account, amount bigint NOT NULL,
    note text NOT NULL UNIQUE);
CREATE FUNCTION public.book() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.account SET balance = balance + new.amount WHERE id = new.account;
    RETURN NULL;
END $$;
CREATE TRIGGER book AFTER INSERT ON public.entry FOR EACH ROW EXECUTE FUNCTION public.book();
INSERT INTO public.account (id) SELECT generate_series(1, 20);
INSERT INTO public.entry (account, amount, note)
    SELECT 1 + i % 20, i, 'before ' || i FROM generate_series(1, 2000) i;
"""


class Address:
    """Where the database is, which a name or a pooler says elsewhere."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.closed = threading.Event()


class Writer(threading.Thread):
    """An application: inserts entries, and connects again wherever the database is now.

    Attributes:
        written: the notes of the entries whose commit was answered.
        in_doubt: those whose commit was not answered.
        gap: the longest time between two entries, seconds.
    """

    def __init__(self, number: int, address: Address) -> None:
        super().__init__(name=f"writer {number}")
        self.written: list[str] = []
        self.in_doubt: list[str] = []
        self.gap = 0.0
        self.error: BaseException | None = None
        self._number = number
        self._address = address

    def run(self) -> None:
        last = time.monotonic()
        count = 0
        while not self._address.closed.is_set():
            try:
                session = psycopg2.connect(self._address.dsn)
                session.autocommit = True
                with session.cursor() as cursor:
                    while not self._address.closed.is_set():
                        count += 1
                        note = f"{self._number}: {count}"
                        self.in_doubt.append(note)
                        cursor.execute(
                            "INSERT INTO public.entry (account, amount, note) VALUES (%s, 1, %s)",
                            (1 + count % 20, note),
                        )
                        self.in_doubt.remove(note)
                        self.written.append(note)
                        now = time.monotonic()
                        self.gap = max(self.gap, now - last)
                        last = now
            except psycopg2.errors.ReadOnlySqlTransaction:
                self.in_doubt.remove(note)
                self._address.closed.wait(0.02)  # as an application does: a little later again
            except psycopg2.OperationalError:
                self._address.closed.wait(0.02)
            except BaseException as error:
                self.error = error
                raise


@pytest.fixture
def old_to_new(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    """The oldest version that is supported, and the newest one."""
    for pair in new_pair(servers, "13", "18"):
        for key, setting in pair.options.items():
            monkeypatch.setitem(support.DEFAULTS, key, setting)
        yield pair


def test_a_database_moves_to_a_new_major_version_and_its_writers_with_it(
    old_to_new: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = old_to_new.databases.master, old_to_new.databases.slave
    name = old_to_new.databases.name
    sql(old, TABLES)
    address = Address(old)
    writers = [Writer(number, address) for number in range(3)]
    for writer in writers:
        writer.start()
    path = config_file(tmp_path, old_to_new.databases)
    try:
        pyreplica(path, "install")
        pyreplica(path, "copy", "--schema")
        with daemon(path) as running:
            running.until_said("connected, at batch")
            pyreplica(path, "wait", "--timeout", "30s")
            assert "no problems found" in pyreplica(path, "check").stdout
            began = time.monotonic()
            sql(
                old,
                f"ALTER DATABASE {name} SET default_transaction_read_only = on",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = "
                "current_database() AND application_name NOT LIKE 'pyreplica%' "
                "AND pid <> pg_backend_pid()",
            )
            eventually(
                lambda: (
                    value(
                        old,
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                        "AND backend_type = 'client backend' AND backend_xid IS NOT NULL",
                    )
                    == 0
                ),
                "somebody still writes",
            )
            pyreplica(path, "wait", "--timeout", "30s")
            running.stop()
        address.dsn = new
        took = time.monotonic() - began
        for goes_on in [writes_more(writer) for writer in writers]:
            eventually(goes_on, "nobody writes there")
    finally:
        address.closed.set()
        for writer in writers:
            writer.join()
    assert [writer.error for writer in writers] == [None] * 3
    pyreplica(path, "uninstall")
    with capsys.disabled():
        gap = max(writer.gap for writer in writers)
        print(f"\nwriters were held up for {gap:.1f} s, of which {took:.1f} s to wait and switch")

    # everything that was answered is there once, and nothing else but what was not answered
    written = {note for writer in writers for note in writer.written}
    in_doubt = {note for writer in writers for note in writer.in_doubt}
    in_old, in_new = notes(old), notes(new)
    assert written <= in_new
    assert in_new <= written | in_doubt
    assert in_old < in_new
    # the books are right: the trigger booked once, here or there
    assert value(
        new,
        "SELECT bool_and(a.balance = e.sum) FROM public.account a JOIN (SELECT account, "
        "sum(amount) FROM public.entry GROUP BY account) e ON e.account = a.id",
    )
    for dsn in (old, new):
        assert value(dsn, "SELECT to_regnamespace('pyreplica') IS NULL")


def writes_more(writer: Writer) -> Callable[[], bool]:
    """Whether a writer has written more than now."""
    enough = len(writer.written) + 5
    return lambda: len(writer.written) > enough


def notes(dsn: str) -> set[str]:
    """The entries that the writers made, where they are now."""
    with support.connect(dsn) as session:
        rows = session.query("SELECT note FROM public.entry WHERE note NOT LIKE 'before%'")
    return {str(note) for (note,) in rows}
