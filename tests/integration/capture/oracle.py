"""A master to write to, and the oracle of capture: the log, replayed, must give the tables.

What is compared is text: that of the log, and that of the tables as the types' output functions
print it under the settings that PyReplica pins.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.extensions

from pyreplica.demo.cluster import Cluster

Text = dict[str, str | None]
"""A row, or a part of one: column name to value."""

Key = frozenset[tuple[str, str | None]]

_CANONICAL = {
    "search_path": "pg_catalog",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
}


class Session:
    """A connection in autocommit mode; transactions are the test's own BEGIN and COMMIT."""

    def __init__(self, dsn: str, **settings: str) -> None:
        self._connection = psycopg2.connect(dsn)
        self._connection.autocommit = True
        self._thread = ThreadPoolExecutor(max_workers=1)
        for name, value in settings.items():
            self.run(f"SELECT set_config('{name}', '{value}', false)")

    def run(self, *statements: str) -> list[Any]:
        """Execute statements, each in a message of its own; gives the rows of the last one."""
        rows: list[Any] = []
        with self._connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
                rows = cursor.fetchall() if cursor.description else []
        return rows

    def value(self, query: str) -> Any:
        """The one value that a query gives."""
        ((value,),) = self.run(query)
        return value

    def start(self, statement: str) -> Future[list[Any]]:
        """Have a thread execute a statement that will wait for another session."""
        return self._thread.submit(self.run, statement)

    def wait_for_lock(self) -> None:
        """Wait until what was started waits for a lock."""
        with Session(self._connection.dsn) as observer:
            pid = self._connection.get_backend_pid()
            while not observer.value(f"SELECT cardinality(pg_blocking_pids({pid})) > 0"):
                pass

    def copy_in(self, statement: str, file: Any) -> None:
        """COPY ... FROM STDIN."""
        with self._connection.cursor() as cursor:
            cursor.copy_expert(statement, file)

    def notifications(self) -> list[str]:
        """The channels of the notifications that came since the last call."""
        self.run("SELECT 1")  # the server sends them before its answer
        channels = [notify.channel for notify in self._connection.notifies]
        self._connection.notifies.clear()
        return channels

    @property
    def connection(self) -> psycopg2.extensions.connection:
        """The driver's connection, for what only it can do."""
        return self._connection

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._connection.closed:
            self._connection.cancel()  # a test that failed may leave a statement waiting
        self._thread.shutdown()
        self._connection.close()


@dataclass(frozen=True)
class Change:
    """A row of the log."""

    row_id: int
    txid: int
    relid: int
    table: str
    op: str
    key: Text | None
    row: Text | None

    def __str__(self) -> str:
        words = [self.table, self.op]
        if self.key is not None:
            words.append(",".join(str(value) for value in self.key.values()))
        if self.row is not None:
            words.extend(
                f"{name}={'NULL' if value is None else value}"
                for name, value in sorted(self.row.items())
            )
        return " ".join(words)


class Master:
    """A database with PyReplica's master side.

    Attributes:
        writer: a session of an application, with the server's settings.
        reader: a session that sees values as the log has to show them.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster = cluster
        self._name = name
        self._sessions = ExitStack()
        self.writer = Session(cluster.dsn(name))
        self.reader = Session(cluster.dsn(name), **_CANONICAL)

    def session(self, user: str = "postgres", **settings: str) -> Session:
        """One more session; it is closed when the test ends."""
        session = Session(self._cluster.dsn(self._name, user=user), **settings)
        return self._sessions.enter_context(session)

    def add_slave(self, name: str) -> None:
        """A slave that has confirmed all there is; the first one has bit 1."""
        self.reader.run(
            "INSERT INTO pyreplica.replica_slave (replication, bit, slave_system, slave_database, "
            f"state, log_id) SELECT '{name}', 1 + count(*), 'system', 'database', 'ready', "
            "(SELECT last_value FROM pyreplica.replica_log_id) FROM pyreplica.replica_slave"
        )

    def asleep(self, name: str) -> Session:
        """A session that does what the sleeping daemon of a slave has done."""
        daemon = self.session()
        daemon.run(
            f"SELECT pg_advisory_lock(hashtext('pyreplica'), hashtext('{name}'))",
            "LISTEN pyreplica",
            "SELECT pyreplica.set_doorbell(bit, true) FROM pyreplica.replica_slave "
            f"WHERE replication = '{name}'",
        )
        return daemon

    def reset(self) -> None:
        """Close the further sessions, and make the others what they were, as poolers do."""
        self._sessions.close()
        self.writer.run("ROLLBACK", "DISCARD ALL")
        self.reader.run("ROLLBACK")

    def run(self, *statements: str) -> list[Any]:
        """Execute statements as the application, each in a message of its own."""
        return self.writer.run(*statements)

    def add(self, *tables: str) -> None:
        """Have tables captured."""
        for table in tables:
            answer = self.reader.value(f"SELECT pyreplica.add_table('{table}')")
            assert ": added, key (" in answer, answer

    def table(self, definition: str, *, name: str = "t") -> None:
        """Make a table and have it captured.

        Args:
            definition: its columns, as in CREATE TABLE.
            name: its name, as in CREATE TABLE.
        """
        self.run(f"CREATE TABLE {name} ({definition})")
        self.add(f"public.{name}" if "." not in name else name)

    def last_id(self) -> int:
        """The id of the newest row of the log."""
        last: int = self.reader.value("SELECT coalesce(max(id), 0) FROM pyreplica.replica_log")
        return last

    def changes(self, after: int = 0) -> list[Change]:
        """The log after an id, in the order of the ids."""
        rows = self.reader.run(
            "SELECT l.id, l.txid::text::bigint, t.relid::bigint, t.table_name, l.op, l.key, l.row "
            "FROM pyreplica.replica_log l JOIN pyreplica.replica_table t ON t.id = l.tab "
            f"WHERE l.id > {after} ORDER BY l.id"
        )
        return [Change(*row) for row in rows]

    def logged(self, *statements: str, session: Session | None = None) -> list[str]:
        """Execute statements and give what they logged, in short: "t U 1 v=b"."""
        before = self.last_id()
        (session or self.writer).run(*statements)
        return [str(change) for change in self.changes(before)]

    def assert_exact(self) -> None:
        """Assert that the log, replayed, gives every captured table as it stands."""
        replayed = replay(self.changes())
        for relid in self._captured():
            assert replayed.get(relid, {}) == self._rows(relid)

    def rows(self, table: str) -> list[Text]:
        """A table's rows as text, in no order."""
        return list(
            self._rows(self.reader.value(f"SELECT $n${table}$n$::regclass::oid::bigint")).values()
        )

    def __enter__(self) -> Master:
        return self

    def __exit__(self, *_: object) -> None:
        for it in (self._sessions, self.writer, self.reader):
            it.__exit__(None, None, None)

    def _captured(self) -> list[int]:
        query = "SELECT relid::bigint FROM pyreplica.replica_table WHERE active"
        return [relid for (relid,) in self.reader.run(query)]

    def _rows(self, relid: int) -> dict[Key, Text]:
        table, columns, key, partitioned, xml = self.reader.run(
            f"""SELECT {relid}::regclass::text,
                ARRAY(SELECT a.attname::text FROM pg_attribute a
                    WHERE a.attrelid = {relid} AND a.attnum > 0 AND NOT a.attisdropped
                        AND (a.attgenerated = '' OR a.attnum = ANY (i.indkey)) ORDER BY a.attnum),
                ARRAY(SELECT a.attname::text FROM pg_attribute a
                    WHERE a.attrelid = {relid} AND a.attnum = ANY (i.indkey)),
                (SELECT relkind = 'p' FROM pg_class WHERE oid = {relid}),
                ARRAY(SELECT a.attname::text FROM pg_attribute a
                    WHERE a.attrelid = {relid} AND a.atttypid = 'xml'::regtype)
            FROM pg_index i WHERE i.indrelid = {relid} AND i.indisprimary"""
        )[0]
        # format() prints by the type's output function, and num_nulls() knows a NULL from a
        # composite of NULLs; that of xml leaves something out
        values = ", ".join(
            "CASE num_nulls({}) WHEN 0 THEN format('%s', {}) END".format(
                quoted, f"XMLSERIALIZE(CONTENT {quoted} AS text)" if name in xml else quoted
            )
            for name in columns
            for quoted in [psycopg2.extensions.quote_ident(name, self.reader.connection)]
        )
        found: dict[Key, Text] = {}
        for (row,) in self.reader.run(
            f"SELECT ARRAY[{values}] FROM {'' if partitioned else 'ONLY '}{table}"
        ):
            text: Text = dict(zip(columns, row, strict=True))
            found[key_of({name: text[name] for name in key})] = text
        return found


def key_of(key: Text) -> Key:
    """A key that a dictionary can hold."""
    return frozenset(key.items())


def replay(changes: Iterable[Change]) -> dict[int, dict[Key, Text]]:
    """Play the log into empty tables.

    A key that one transaction logged in capital letters alone is promised to have been there before
    (U, D) or not (I): slaves report a conflict otherwise. A lower-case letter takes the promise
    back for that transaction.

    Returns:
        The tables' rows, by the oid of the table and the key.
    """
    log = list(changes)
    relaxed = {
        (change.txid, change.relid, key_of(change.key))
        for change in log
        if change.key is not None and change.op.islower()
    }
    tables: dict[int, dict[Key, Text]] = {}
    for change in log:
        rows = tables.setdefault(change.relid, {})
        if change.key is None:
            if change.op == "F":
                assert change.row
                for row in rows.values():
                    row.update(change.row)
                continue
            assert change.op == "T", change
            rows.clear()
            continue
        key = key_of(change.key)
        if (change.txid, change.relid, key) not in relaxed:
            assert (key in rows) == (change.op != "I"), f"{change}: conflict"
        if change.op in "Dd":
            assert change.row is None
            rows.pop(key, None)
        elif change.op in "Ii":
            assert change.row is not None
            rows[key] = {**change.key, **change.row}
        else:
            assert change.op in "Uu"
            assert change.row
            if key in rows:
                rows[key].update(change.row)
    return tables
