"""Random statements on a random table whose constraints and triggers write to it as well."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import psycopg2
import pytest

from tests.integration.capture.oracle import Master

ACTIONS = ["NO ACTION", "CASCADE", "SET NULL", "SET DEFAULT"]
KEYS = ["", "", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"]

# What such statements fail with for reasons of their own; anything else is a failure of capture.
EXPECTED = (
    psycopg2.errors.IntegrityError,
    psycopg2.errors.CardinalityViolation,
    psycopg2.errors.InvalidColumnReference,  # ON CONFLICT with a deferrable constraint
    psycopg2.errors.ObjectNotInPrerequisiteState,
    psycopg2.errors.ObjectInUse,  # TRUNCATE in a trigger
    psycopg2.errors.TriggeredDataChangeViolation,
)
CAUGHT = (
    "integrity_constraint_violation OR triggered_data_change_violation OR cardinality_violation "
    "OR object_not_in_prerequisite_state OR object_in_use OR division_by_zero"
)


class Statements:
    """Makes statements on one of some tables, which have the columns id, up, up2, v and n."""

    def __init__(self, random: Random, tables: list[str]) -> None:
        self._random = random
        self._tables = tables

    def any(self) -> str:
        """A statement as an application sends it."""
        make = self._random.choices(
            [self.simple, self.writing_with, self.upsert, self.calling, self.block, self.truncate],
            [10, 4, 3, 2, 3, 1],
        )[0]
        return make()

    def nested(self) -> str:
        """A statement for a function or a trigger."""
        return self._one_of(self.simple, self.simple, self.writing_with)

    def simple(self) -> str:
        table, number = self._table(), self._number()
        return self._one_of(
            lambda: f"INSERT INTO {table} (id, v) VALUES ({number}, 1), ({number + 1}, 2)",
            lambda: (
                f"INSERT INTO {table} (id, up, v) SELECT g, g - 1, 0 "
                f"FROM generate_series({number}, {number + 3}) g ON CONFLICT DO NOTHING"
            ),
            lambda: f"UPDATE {table} SET {self._assignment()} WHERE {self._condition()}",
            lambda: f"UPDATE {table} SET {self._assignment()} WHERE {self._condition()}",
            lambda: f"DELETE FROM {table} WHERE {self._condition()}",
        )

    def writing_with(self) -> str:
        first, second = (
            f"UPDATE {self._table()} SET {self._assignment()} WHERE {self._condition()}"
            for _ in range(2)
        )
        delete = f"DELETE FROM {self._table()} WHERE {self._condition()}"
        return self._one_of(
            lambda: (
                f"WITH d AS ({delete} RETURNING *) INSERT INTO {self._table()} (id, up2, v) "
                f"SELECT id + {self._random.choice([0, 1, 20])}, up2, v + 1 FROM d"
            ),
            lambda: f"WITH u AS ({first} RETURNING *) {delete}",
            lambda: f"WITH u AS ({first} RETURNING *) {second}",
        )

    def upsert(self) -> str:
        table, number = self._table(), self._number()
        change = self._random.choice([f"id = {number + 20}", "v = t.v + 1", "up = t.id"])
        return (
            f"INSERT INTO {table} AS t (id, v) VALUES ({number}, 50), ({number + 1}, 51) "
            f"ON CONFLICT (id) DO UPDATE SET {change}"
        )

    def calling(self) -> str:
        return f"UPDATE {self._table()} SET v = f() WHERE {self._condition()}"

    def block(self) -> str:
        parts = (self.simple() for _ in range(self._random.randrange(2, 5)))
        caught = (
            f"BEGIN {part}; {self._random.choice(['', 'RAISE division_by_zero;'])} "
            f"EXCEPTION WHEN {CAUGHT} THEN NULL; END;"
            for part in parts
        )
        return f"DO $$BEGIN {' '.join(caught)} END$$"

    def truncate(self) -> str:
        return f"TRUNCATE {self._table()} CASCADE"

    def _one_of(self, *makers: Callable[[], str]) -> str:
        return self._random.choice(makers)()

    def _table(self) -> str:
        return self._random.choice(self._tables)

    def _number(self) -> int:
        return self._random.randrange(1, 14)

    def _condition(self) -> str:
        number = self._number()
        return self._random.choice(
            [
                *(f"id = {number}", f"id < {number}", f"id % 2 = {number % 2}", f"v > {number}"),
                *("true", f"up = {number}", f"id IN ({number}, {number + 1}, {number + 10})"),
            ]
        )

    def _assignment(self) -> str:
        number = self._number()
        return self._random.choice(
            [
                *(f"v = {number}", "v = v + 1", "v = v", f"id = {number}", f"id = {number} - id"),
                *("id = id + 1", "id = id + 10", f"id = id + 10, v = {number}", "up = id"),
                *(f"up = {number}", "up = NULL", f"up2 = {number}", "up = up2, up2 = up"),
                *("n = 1.0", "n = 1.00", "n = NULL"),
            ]
        )


def make_tables(master: Master, random: Random) -> list[str]:
    """Make the table t, plain, partitioned or inherited from; gives what can be written to."""
    key = random.choice(KEYS)
    columns = f"id int PRIMARY KEY {key}, up int DEFAULT 1, up2 int, v int, n numeric"
    kind = random.choice(["plain", "plain", "partitioned", "parent"])
    if kind == "partitioned":
        master.table(f"{columns}) PARTITION BY RANGE (id", name="t")
        master.run(
            "CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (MINVALUE) TO (6)",
            "CREATE TABLE t_2 PARTITION OF t DEFAULT",
        )
    else:
        master.table(columns)
    if not key:
        for column in random.sample(["up", "up2"], random.randrange(3)):
            master.run(
                f"ALTER TABLE t ADD FOREIGN KEY ({column}) REFERENCES t "
                f"ON UPDATE {random.choice(ACTIONS)} ON DELETE {random.choice(ACTIONS)}"
            )
    if kind == "parent":
        master.run(f"CREATE TABLE b (x int, PRIMARY KEY (id) {key}) INHERITS (t)")
        if random.random() < 0.7:
            master.add("public.b")
    return {"plain": ["t"], "partitioned": ["t", "t", "t_1", "t_2"], "parent": ["t", "b"]}[kind]


@pytest.mark.parametrize("seed", range(40))
def test_a_random_history_is_logged_exactly(master: Master, seed: int) -> None:
    random = Random(seed)
    tables = make_tables(master, random)
    statements = Statements(random, tables)
    master.run(
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS "
        f"$$BEGIN {statements.nested()}; RETURN 7; END$$"
    )
    for event in ("INSERT", "UPDATE", "DELETE"):
        if random.random() < 0.4:
            name = random.choice("az") + event
            master.run(
                f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$BEGIN IF pg_trigger_depth() < 3 THEN {statements.nested()}; END IF; "
                f"RETURN NULL; EXCEPTION WHEN {random.choice([CAUGHT, 'division_by_zero'])} "
                "THEN RETURN NULL; END$$",
                f"CREATE TRIGGER {name} AFTER {event} ON {random.choice(tables)} "
                f"FOR EACH {random.choice(['ROW', 'STATEMENT'])} EXECUTE FUNCTION {name}()",
            )
    for _ in range(10):
        transaction = [statements.any() for _ in range(random.choice([1, 1, 2, 3]))]
        try:
            master.run("BEGIN", *transaction, "COMMIT")
        except EXPECTED:
            master.run("ROLLBACK")
        master.assert_exact()
