"""Setting a table up takes what the table takes, however many others are captured."""

from __future__ import annotations

from tests.integration.capture.oracle import Master

_FEW, _MANY = 10, 60
_EACH = 4
"""Blocks that may be looked at for each other table: what the catalogs themselves grow by, where
PostgreSQL prefers to read a small one as a whole."""

_WORK = {
    "refresh, as after any DDL": "SELECT pyreplica.refresh(ARRAY['t1'::regclass::oid])",
    "a look whether it can be captured": "SELECT pyreplica.refusal('t1'::regclass)",
    "adding it": "SELECT pyreplica.add_table('t1')",
    "a new generation": "SELECT pyreplica.build('t1'::regclass)",
}


def test_setting_a_table_up_does_not_look_at_all_the_others(master: Master) -> None:
    _make(master, 1, _FEW)
    few = {what: _blocks(master, query) for what, query in _WORK.items()}
    _make(master, _FEW + 1, _MANY)
    many = {what: _blocks(master, query) for what, query in _WORK.items()}
    grown = {what: (few[what], many[what]) for what in _WORK}
    assert all(more - less <= _EACH * (_MANY - _FEW) for less, more in grown.values()), grown


def _make(master: Master, first: int, last: int) -> None:
    for number in range(first, last + 1):
        master.table("id int PRIMARY KEY, v text", name=f"t{number}")


def _blocks(master: Master, query: str) -> int:
    """How many blocks of memory a query and the functions that it calls look at; by the second
    execution in a session, which has the catalog's rows and its plans at hand."""
    explained = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}"
    master.run(explained)
    top = master.writer.value(explained)[0]["Plan"]
    return int(top["Shared Hit Blocks"]) + int(top["Shared Read Blocks"])
