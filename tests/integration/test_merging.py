"""Merged tables: after any history all nodes have the same rows, whatever was delivered when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyreplica.database import Connection
from pyreplica.demo.cluster import Cluster
from pyreplica.errors import DatabaseError
from pyreplica.replication.session import Session
from tests.integration.nodes import Mesh, deliver, merge_file, mesh
from tests.support import connect

TABLE = """
CREATE TABLE public.t (id integer PRIMARY KEY, a text, b numeric, n integer NOT NULL DEFAULT 0);
"""
TRIGGERS = """
CREATE FUNCTION public.touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE public.t SET n = n + 100, b = 7 WHERE id = new.id;
    RETURN NULL;
END
$$;
CREATE TRIGGER touch_inserted AFTER INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.touch();
CREATE TRIGGER touch_updated AFTER UPDATE OF a ON public.t FOR EACH ROW
    EXECUTE FUNCTION public.touch();
"""
# a clock that the test sets: it goes back, and shows the same time to several nodes
CLOCK = """
CREATE OR REPLACE FUNCTION pyreplica.wall_clock() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT current_setting('test.clock')::bigint
$$
"""
# rows of which a counter is not what all have added, or whose version says that they are gone
MISCOUNTED = """
SELECT count(*) FROM public.t t
LEFT JOIN pyreplica.replica_row r ON (r.key ->> 'id')::integer = t.id
WHERE (r.version ? 'deleted') IS NOT FALSE OR r.version ? 'counters' AND t.n <> (
    SELECT sum((o.value ->> 0)::numeric) FROM jsonb_each(r.version #> '{counters,n,of}') o)
"""
STATEMENTS = (
    "INSERT INTO public.t VALUES ({k}, '{v}', {v}.0, {v}) ON CONFLICT DO NOTHING",
    "INSERT INTO public.t VALUES ({k}, '{v}') ON CONFLICT (id) DO UPDATE SET a = '{v}', n = {v}",
    "UPDATE public.t SET a = '{v}' WHERE id = {k}",
    "UPDATE public.t SET b = {v}.00 WHERE id = {k}",
    "UPDATE public.t SET n = n + {v} WHERE id >= {k}",
    "UPDATE public.t SET a = NULL, b = b + 1 WHERE id IN ({k}, {v})",
    "UPDATE public.t SET id = {v} WHERE id = {k}",
    "DELETE FROM public.t WHERE id = {k}",
    "WITH d AS (DELETE FROM public.t WHERE id = {k} RETURNING *) "
    "INSERT INTO public.t SELECT id, 'again', b, n FROM d",
    "BEGIN; DELETE FROM public.t WHERE id = {k}; INSERT INTO public.t VALUES ({k}, 'new'); "
    "UPDATE public.t SET a = 'newer', n = n - 1; COMMIT",
)


class Write(NamedTuple):
    """A statement on a node, whose clock shows a time."""

    node: int
    statement: str
    k: int
    v: int
    clock: int


class Delivery(NamedTuple):
    """A batch goes from one node to another."""

    way: int


ACTIONS = st.lists(
    st.one_of(
        st.builds(
            Write,
            st.integers(0, 2),
            st.sampled_from(STATEMENTS),
            st.integers(1, 3),
            st.integers(1, 4),
            st.integers(1, 9),
        ),
        st.builds(Delivery, st.integers(0, 5)),
    ),
    min_size=5,
    max_size=30,
)


# what has been added to n by all is kept, of the others it depends on how many there are
FUNCTION = """
def merge(conflict):
    rows = [row for row in conflict.rows if row is not None]
    if len(rows) * 2 < len(conflict.rows):
        return None
    old = 0 if conflict.old is None else conflict.old["n"]
    kept = rows[len(rows) // 2]
    kept["n"] = old + sum(row["n"] - old for row in rows)
    kept["a"] = "".join(sorted({*"".join(row["a"] or "" for row in rows)}))
    return kept
"""
WAYS = {
    "last update": ("last_update_wins", "plpython3u", ""),
    "first update": ("first_update_wins", "plpython3u", ""),
    "priority": ({"priority": ["b", "a"]}, "plpgsql", TRIGGERS),
    "function with triggers": ({"function": FUNCTION}, "plpgsql", TRIGGERS),
    "columns with triggers": ("columns", "plpgsql", TRIGGERS),
    "counters": ({"counters": ["n"]}, "plpython3u", ""),
    "counters with triggers": ({"counters": ["n"]}, "plpgsql", TRIGGERS),
}


@pytest.fixture(params=WAYS)
def nodes(request: pytest.FixtureRequest, slave_cluster: Cluster, tmp_path: Path) -> Iterator[Mesh]:
    """Three nodes with clocks that are wrong."""
    way, capture, triggers = WAYS[request.param]
    if isinstance(way, dict) and "function" in way:
        way = {"function": merge_file(tmp_path, FUNCTION)}
    options: dict[str, Any] = {"merge": {"public.t": way}, "capture": capture}
    with mesh(slave_cluster, "abc", TABLE + triggers, **options) as made:
        made.everywhere(CLOCK)
        made.name()
        made.begin()
        yield made


def test_after_any_history_all_nodes_have_the_same_rows(nodes: Mesh) -> None:
    with nodes.sessions() as sessions:

        @settings(
            max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None
        )
        @given(ACTIONS)
        def histories(actions: Sequence[Write | Delivery]) -> None:
            nodes.everywhere(
                "SET session_replication_role = replica; DELETE FROM public.t; "
                "DELETE FROM pyreplica.replica_row"
            )
            _play(nodes, sessions, actions)

        histories()


def _play(
    nodes: Mesh, sessions: dict[tuple[str, str], Session], actions: Sequence[Write | Delivery]
) -> None:
    names, ways = [*nodes.dsns], [*sessions.values()]
    writers = {name: connect(dsn) for name, dsn in nodes.dsns.items()}
    try:
        for action in actions:
            if isinstance(action, Delivery):
                ways[action.way].step()
            else:
                _write(writers[names[action.node]], action)
        deliver(sessions)
        _assert_same(nodes)
    finally:
        for writer in writers.values():
            writer.close()


def _write(writer: Connection, write: Write) -> None:
    try:
        writer.execute(f"SET test.clock = {write.clock}")
        writer.execute(write.statement.format(k=write.k, v=write.v))
    except DatabaseError:
        writer.rollback()  # a key that is there already


def _assert_same(nodes: Mesh) -> None:
    first, *others = nodes.dsns
    for other in others:
        assert nodes.rows(other) == nodes.rows(first)
        assert nodes.versions(other) == nodes.versions(first)
    assert nodes.value(first, MISCOUNTED) == 0
