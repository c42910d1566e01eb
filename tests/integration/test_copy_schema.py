"""copy --schema makes what belongs to the tables after their rows: all of it, and each once."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pyreplica.config import ReplicationConfig
from pyreplica.errors import PyReplicaError
from pyreplica.replication.copy import Copy
from pyreplica.replication.report import report
from pyreplica.replication.setup import install
from tests.conftest import Databases
from tests.integration.stalling_copy import Watching
from tests.support import assert_same, blocked, config, connect, copy, eventually, sql, value

SCHEMA = r"""
CREATE SCHEMA "An ""odd"" one's";
CREATE TABLE public.kind (id integer PRIMARY KEY, name text CONSTRAINT named UNIQUE);
CREATE TABLE public.event (
    id integer, at integer, kind integer REFERENCES public.kind, cost money, during int4range,
    CONSTRAINT "the key" PRIMARY KEY (id, at), CHECK (id > 0)
) PARTITION BY RANGE (at);
CREATE TABLE public.event_1 PARTITION OF public.event FOR VALUES FROM (0) TO (100);
CREATE TABLE public.event_2 PARTITION OF public.event FOR VALUES FROM (100) TO (200)
    PARTITION BY LIST (at);
CREATE TABLE public.event_2_a PARTITION OF public.event_2 DEFAULT;
CREATE INDEX ON public.event (kind);
ALTER TABLE public.event_1 ADD EXCLUDE USING gist (during WITH &&);
CREATE INDEX only_here ON public.event_1 (kind) WHERE cost > '7.50';
CREATE TABLE public.seen (
    id integer PRIMARY KEY REFERENCES public.seen, event integer, at integer, note text,
    FOREIGN KEY (event, at) REFERENCES public.event DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX upper_note ON public.seen (upper(note));
CREATE INDEX "it's" ON public.seen (note) WHERE note <> E'a\n--\n-- TOC entry 1 (class 1 OID 1)\n';
ALTER INDEX public.upper_note ALTER COLUMN 1 SET STATISTICS 500;
CREATE UNIQUE INDEX seen_of ON public.seen (event, at, id) INCLUDE (note);
ALTER TABLE public.seen CLUSTER ON seen_pkey, ALTER at SET NOT NULL, ALTER event SET NOT NULL;
ALTER TABLE public.seen REPLICA IDENTITY USING INDEX seen_of;
CREATE STATISTICS public.together (dependencies) ON event, at FROM public.seen;
CREATE TABLE "An ""odd"" one's"."T'able" ("K' ey" integer PRIMARY KEY, seen integer);
ALTER TABLE "An ""odd"" one's"."T'able"
    ADD CONSTRAINT "f""k" FOREIGN KEY (seen) REFERENCES public.seen NOT VALID;
CREATE TABLE public.keyless (seen integer REFERENCES public.seen);
CREATE INDEX ON public.keyless (seen);
CREATE TABLE public.parent (id integer PRIMARY KEY, n integer CONSTRAINT small CHECK (n < 1000));
CREATE TABLE public.child (PRIMARY KEY (id)) INHERITS (public.parent);
CREATE VIEW public.by_key AS SELECT * FROM public.seen GROUP BY id;
CREATE MATERIALIZED VIEW public.counted AS SELECT count(*) AS n FROM public.seen;
CREATE INDEX ON public.counted (n);
CREATE FUNCTION public.mark() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE TRIGGER mark AFTER INSERT ON public.event FOR EACH ROW EXECUTE FUNCTION public.mark();
CREATE RULE twice AS ON UPDATE TO public.kind WHERE new.id < 0 DO ALSO (SELECT 1; SELECT 2);
ALTER TABLE public.kind ENABLE ROW LEVEL SECURITY;
CREATE POLICY everything ON public.kind USING (name <> 'a; b');
CREATE PUBLICATION published FOR TABLE public.kind;
COMMENT ON CONSTRAINT "the key" ON public.event IS 'of two columns';
COMMENT ON INDEX public.upper_note IS 'for searching; --';
COMMENT ON TRIGGER mark ON public.event IS 'it''s nothing';
"""
ROWS = """
INSERT INTO public.kind SELECT i, 'kind ' || i FROM generate_series(1, 50) i;
INSERT INTO public.event SELECT i, i % 200, 1 + i % 50, i, int4range(i, i + 1)
    FROM generate_series(1, 1000) i;
INSERT INTO public.seen SELECT i, i, i % 200, 'note ' || i FROM generate_series(1, 1000) i;
INSERT INTO "An ""odd"" one's"."T'able" SELECT i, i FROM generate_series(1, 100) i;
INSERT INTO public.parent SELECT i, i FROM generate_series(1, 100) i;
INSERT INTO public.child SELECT i, i FROM generate_series(1, 100) i;
"""
# oids differ, so everything is told by its name
OBJECTS = """
WITH object (class, oid, told) AS (
    SELECT 'pg_constraint'::regclass, oid,
        concat_ws(' ', pg_get_constraintdef(oid), convalidated, conislocal, coninhcount)
        FROM pg_constraint
    UNION ALL
    SELECT 'pg_class'::regclass, i.indexrelid, concat_ws(' ', pg_get_indexdef(i.indexrelid),
            i.indisvalid, i.indisclustered, i.indisreplident, p.inhparent::regclass,
            (SELECT array_agg(attstattarget) FROM pg_attribute WHERE attrelid = i.indexrelid))
        FROM pg_index i LEFT JOIN pg_inherits p ON p.inhrelid = i.indexrelid
    UNION ALL
    SELECT 'pg_class'::regclass, oid, concat_ws(' ', relkind, relrowsecurity, relreplident)
        FROM pg_class WHERE relkind NOT IN ('i', 'I', 't')
    UNION ALL SELECT 'pg_trigger'::regclass, oid, pg_get_triggerdef(oid) FROM pg_trigger
        WHERE NOT tgisinternal AND tgname NOT LIKE 'pyreplica%'
    UNION ALL SELECT 'pg_rewrite'::regclass, oid, pg_get_ruledef(oid) FROM pg_rewrite
    UNION ALL SELECT 'pg_policy'::regclass, oid, pg_get_expr(polqual, polrelid) FROM pg_policy
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid, pg_get_statisticsobjdef(oid)
        FROM pg_statistic_ext
    UNION ALL SELECT 'pg_publication_rel'::regclass, oid, '' FROM pg_publication_rel
)
SELECT i.type || ' ' || i.identity, told, obj_description(o.oid, class::text)
FROM object o, pg_identify_object(class, oid, 0) i
WHERE o.oid >= 16384 AND i.identity !~ '(^| on )pyreplica[.]' AND i.identity !~ 'pg_toast'
ORDER BY 1, 2
"""
INDEXES = "making indexes of public.event"
KEY = "making foreign key event_kind_fkey of public.event"
REST = "making the rest of the schema on the slave"


def objects(dsn: str) -> list[tuple[object, ...]]:
    with connect(dsn) as session:
        return session.query(OBJECTS)


def installed(databases: Databases, schema: str, **options: Any) -> ReplicationConfig:
    sql(databases.master, schema)
    made = config(databases, **options)
    install(made)
    return made


@pytest.mark.parametrize("workers", [1, 4])
def test_every_object_is_made_however_often_the_copy_breaks_off(
    databases: Databases, workers: int
) -> None:
    made = installed(databases, SCHEMA + ROWS, copy_workers=workers)
    wanted = objects(databases.master)
    assert len(wanted) > 50

    def interrupt() -> None:
        raise PyReplicaError("an interruption")

    for point in (INDEXES, KEY, REST):
        with pytest.raises(PyReplicaError, match="an interruption"):
            Copy(made, Watching(point, interrupt), schema=True).run()
        assert report(made).state == "not copied"
    copy(made, schema=True)
    assert objects(databases.slave) == wanted
    assert_same(made)


def test_statistics_are_those_of_indexes_and_extended_ones_as_well(databases: Databases) -> None:
    made = installed(databases, SCHEMA + ROWS)
    copy(made, schema=True)
    of_index = "SELECT count(*) FROM pg_stats WHERE tablename = 'upper_note'"
    extended = "SELECT count(*) FROM pg_stats_ext WHERE statistics_name = 'together'"
    assert value(databases.slave, of_index) == 1
    assert value(databases.slave, extended) == 1
    assert value(databases.slave, f"{extended} AND dependencies IS NOT NULL") == 1


def test_several_workers_make_the_indexes_of_one_table(databases: Databases) -> None:
    """Each waits here for somebody who holds all of them up, with a lock of its own."""
    gate = """
        CREATE FUNCTION public.gate(v integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$
        BEGIN
            IF current_query() LIKE '%CREATE INDEX%' THEN PERFORM pg_advisory_xact_lock_shared(1);
            END IF;
            RETURN v;
        END $$;
        CREATE TABLE public.t (id integer PRIMARY KEY, a integer);
        INSERT INTO public.t VALUES (1, 1);
        CREATE INDEX one ON public.t (public.gate(a));
        CREATE INDEX two ON public.t (public.gate(a + 1));
        CREATE INDEX three ON public.t (public.gate(a + 2));
        CREATE TABLE public.u (id integer PRIMARY KEY);
        CREATE TABLE public.v (id integer PRIMARY KEY);
    """
    made = installed(databases, gate, copy_workers=3)
    with connect(databases.slave) as somebody:
        somebody.execute("SELECT pg_advisory_lock(1)")
        thread = threading.Thread(target=copy, args=(made,), kwargs={"schema": True})
        thread.start()
        eventually(blocked(databases.slave, 3), "they are not made at a time")
        somebody.execute("SELECT pg_advisory_unlock(1)")
        thread.join()
    assert objects(databases.slave) == objects(databases.master)


def test_a_foreign_key_that_does_not_hold_stops_the_copy_and_is_named(databases: Databases) -> None:
    """The slave checks it, although its triggers are silent: the other table is not copied."""
    made = installed(
        databases,
        """
        CREATE TABLE public.one (id integer PRIMARY KEY);
        CREATE TABLE public.two (id integer PRIMARY KEY, one integer REFERENCES public.one);
        INSERT INTO public.one VALUES (1);
        INSERT INTO public.two VALUES (1, 1);
        """,
        tables=["public.two"],
    )
    with pytest.raises(PyReplicaError, match='"two" violates foreign key') as caught:
        copy(made, schema=True)
    assert caught.value.what.startswith("making FK CONSTRAINT public two two_one_fkey:")
    assert "`pyreplica copy shop`" in caught.value.hint
    assert report(made).state == "not copied"
    sql(databases.master, "ALTER TABLE public.two DROP CONSTRAINT two_one_fkey")
    copy(made, schema=True)
    assert_same(made)


def test_an_index_that_cannot_be_made_stops_the_copy_and_is_named(databases: Databases) -> None:
    made = installed(
        databases,
        """
        CREATE FUNCTION public.touchy(v integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$
        BEGIN
            IF current_setting('cluster_name') = 'slave' THEN RAISE 'not here'; END IF;
            RETURN v;
        END $$;
        CREATE TABLE public.t (id integer PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE public.t_1 PARTITION OF public.t DEFAULT;
        INSERT INTO public.t VALUES (1);
        CREATE INDEX touchy ON public.t_1 (public.touchy(id));
        """,
    )
    with pytest.raises(PyReplicaError, match="not here") as caught:
        copy(made, schema=True)
    assert caught.value.what.startswith("making indexes of public.t:")
    assert report(made).state == "not copied"
    # the keys are there, and not yet one of the other
    attached = "SELECT count(*) FROM pg_inherits WHERE inhrelid = 'public.t_1_pkey'::regclass"
    assert value(databases.slave, attached) == 0
    sql(databases.master, "DROP INDEX public.touchy")
    copy(made, schema=True)
    assert objects(databases.slave) == objects(databases.master)
    assert_same(made)


def test_an_index_of_another_table_with_the_same_name_is_in_the_way(databases: Databases) -> None:
    """It is not taken for the one that is to be made, also when the copy is begun again."""
    made = installed(
        databases, "CREATE TABLE public.t (id integer PRIMARY KEY); CREATE INDEX i ON public.t (id)"
    )
    sql(databases.slave, "CREATE TABLE public.own (n integer); CREATE INDEX i ON public.own (n)")
    for _ in range(2):
        with pytest.raises(PyReplicaError, match='relation "i" already exists') as caught:
            copy(made, schema=True)
        assert caught.value.what.startswith("making indexes of public.t:")
    sql(databases.slave, "DROP TABLE public.own")
    copy(made, schema=True)
    assert objects(databases.slave) == objects(databases.master)
