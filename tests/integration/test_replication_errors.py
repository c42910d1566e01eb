"""What the slave cannot take, found while the daemon runs and knows the tables already."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.conftest import Databases
from tests.support import assert_same, copied, running, sql, value

pytestmark = pytest.mark.usefixtures("apply_path")

TABLES = """
    CREATE TABLE public.t (id integer PRIMARY KEY, n integer, v text);
    CREATE TABLE public.other (id integer PRIMARY KEY);
    INSERT INTO public.t SELECT i, i, 'first' FROM generate_series(1, 20) i
"""
WORK = (
    "BEGIN",
    "INSERT INTO public.other VALUES (1), (2)",
    "UPDATE public.t SET v = 'changed' WHERE id IN (3, 4)",
    "UPDATE public.t SET n = 70000, v = 'large' WHERE id = 5",
    "DELETE FROM public.t WHERE id = 6",
    "INSERT INTO public.t VALUES (21, 21, 'inserted')",
    "COMMIT",
)
WORK_BACK = (
    "BEGIN",
    "DELETE FROM public.other",
    "UPDATE public.t SET v = 'first' WHERE id IN (3, 4)",
    "UPDATE public.t SET n = 5, v = 'first' WHERE id = 5",
    "DELETE FROM public.t WHERE id = 21",
    "INSERT INTO public.t VALUES (6, 6, 'first')",
    "COMMIT",
)


@dataclass(frozen=True)
class Damage:
    """Something that is done to the slave.

    Args:
        do: the SQL for it.
        repair: the SQL that makes it good.
        says: what the daemon's line names.
    """

    do: str
    repair: str
    says: tuple[str, ...]


DAMAGES = {
    "a column that was dropped": Damage(
        "ALTER TABLE public.t DROP v",
        "ALTER TABLE public.t ADD v text; UPDATE public.t SET v = 'first'",
        ("table public.t on the slave has no column v",),
    ),
    "a column that was renamed": Damage(
        "ALTER TABLE public.t RENAME n TO m",
        "ALTER TABLE public.t RENAME m TO n",
        ("table public.t on the slave has no column n",),
    ),
    "a table that was dropped": Damage(
        "ALTER TABLE public.t RENAME TO gone",
        "ALTER TABLE public.gone RENAME TO t",
        ("public.t",),
    ),
    "a column that became too narrow": Damage(
        "ALTER TABLE public.t ALTER n TYPE smallint",
        "ALTER TABLE public.t ALTER n TYPE integer",
        ("column n of table public.t is integer on the master and smallint on the slave",),
    ),
    "a column that became shorter": Damage(
        "ALTER TABLE public.t ALTER v TYPE varchar(7)",
        "ALTER TABLE public.t ALTER v TYPE text",
        ("column v of table public.t is text on the master and character varying(7) on the",),
    ),
    "a column of its own that must not be null": Damage(
        "ALTER TABLE public.t ADD own integer; UPDATE public.t SET own = 1;"
        "ALTER TABLE public.t ALTER own SET NOT NULL",
        "ALTER TABLE public.t ALTER own SET DEFAULT 0",
        ("column own of table public.t is on the slave only, NOT NULL",),
    ),
    "a check that only the slave has": Damage(
        "ALTER TABLE public.t ADD CONSTRAINT small CHECK (n < 60000)",
        "ALTER TABLE public.t DROP CONSTRAINT small",
        ('cannot update public.t {"id": "5"}', '"small"'),
    ),
    "a trigger that always fires and refuses": Damage(
        """
        CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN RAISE EXCEPTION 'row % stays', old.id; END $$;
        CREATE TRIGGER refuse BEFORE DELETE ON public.t
            FOR EACH ROW EXECUTE FUNCTION public.refuse();
        ALTER TABLE public.t ENABLE ALWAYS TRIGGER refuse
        """,
        "ALTER TABLE public.t DISABLE TRIGGER refuse",
        ('cannot delete public.t {"id": "6"}', "row 6 stays"),
    ),
    "a unique key that only the slave has": Damage(
        "CREATE UNIQUE INDEX once ON public.t (v) WHERE v <> 'first'",
        "DROP INDEX public.once",
        ("public.t", '{"id": "4"}', '"once"'),
    ),
    "a row of its own under a new key": Damage(
        "INSERT INTO public.t VALUES (21, 0, 'mine')",
        "DELETE FROM public.t WHERE id = 21",
        ('conflict insert_exists: cannot insert public.t {"id": "21"}',),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_change_that_the_slave_cannot_take_is_named_and_applied_after_the_repair_because_of(
    databases: Databases, damage: Damage
) -> None:
    made = copied(databases, TABLES)
    with running(made) as daemon:
        # every kind of statement was prepared before the slave changed
        sql(databases.master, *WORK, *WORK_BACK)
        assert_same(made)
        daemon.until_asleep()
        sql(databases.slave, damage.do)
        sql(databases.master, *WORK)
        line = daemon.until_said(damage.says[0])
        assert all(words in line for words in damage.says), line
        assert line.startswith("ERROR shop: slave: ")
        assert value(databases.slave, "SELECT count(*) FROM public.other") == 0
        assert value(databases.slave, "SELECT count(*) FROM pg_prepared_xacts") == 0
        sql(databases.slave, damage.repair)
        assert_same(made)
        assert daemon.error is None


def test_a_swap_in_the_same_batch_is_not_blamed_for_a_bad_row(databases: Databases) -> None:
    made = copied(
        databases,
        "CREATE TABLE public.t (id integer PRIMARY KEY, u integer UNIQUE DEFERRABLE, v text);"
        "INSERT INTO public.t VALUES (1, 10, 'a'), (2, 20, 'b'), (3, 30, 'c')",
        slave="CREATE TABLE public.t (id integer PRIMARY KEY, u integer UNIQUE, "
        "v text CONSTRAINT polite CHECK (v <> 'rude'))",
    )
    with running(made) as daemon:
        daemon.until_asleep()
        sql(
            databases.master,
            "BEGIN",
            "UPDATE public.t SET u = 30 - u WHERE id < 3",
            "UPDATE public.t SET v = 'rude' WHERE id = 3",
            "COMMIT",
        )
        daemon.until_said('cannot update public.t {"id": "3"}')
        sql(databases.slave, "ALTER TABLE public.t DROP CONSTRAINT polite")
        assert_same(made)


def test_a_partition_that_the_slave_lacks_is_named(databases: Databases) -> None:
    table = """
        CREATE TABLE public.p (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
        CREATE TABLE public.p_1 PARTITION OF public.p FOR VALUES FROM (0) TO (10);
    """
    second = "CREATE TABLE public.p_2 PARTITION OF public.p FOR VALUES FROM (10) TO (20)"
    made = copied(databases, table)
    with running(made) as daemon:
        sql(databases.master, second, "INSERT INTO public.p VALUES (1, 'x'), (11, 'y')")
        daemon.until_said('cannot insert public.p {"id": "11"}: no partition of relation')
        sql(databases.slave, second)
        assert_same(made)


def test_a_character_that_the_slaves_encoding_lacks_is_named(databases: Databases) -> None:
    databases.slave_cluster.drop_database(databases.name)
    databases.slave_cluster.psql(
        "-c",
        f"CREATE DATABASE \"{databases.name}\" TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'",
    )
    made = copied(databases, TABLES)
    with running(made) as daemon:
        sql(databases.master, "INSERT INTO public.t VALUES (30, 0, 'é')")
        assert_same(made)
        sql(databases.master, "INSERT INTO public.t VALUES (31, 0, '\u20ac')")
        daemon.until_said("has no equivalent in encoding")
        daemon.until_said("next try")
        assert daemon.error is None
        sql(databases.master, "UPDATE public.t SET v = 'euro' WHERE id = 31")
