-- DDL that nobody has seen. A part of master-install.sql.

-- Only a superuser can make event triggers. Where an ordinary role has installed PyReplica, captures are brought in line
-- with the catalog when somebody calls refresh() or follow_drift(), which the daemons do once each keepalive. What was
-- captured between the DDL and then may lack something, so what may be missing is logged again, as it stands.

-- The rows of a table, or those of them that are within the bounds of a partition.
CREATE OR REPLACE FUNCTION pyreplica.rows_within(root oid, bound text DEFAULT NULL) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN bound IS NOT NULL THEN format('(SELECT * FROM %I.%I WHERE %s)', n.nspname, c.relname, bound)
        ELSE format('%s%I.%I', CASE WHEN c.relkind <> 'p' THEN 'ONLY ' END, n.nspname, c.relname) END
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = root
$$;

-- Which rows are in a partition; null where the columns alone do not say that.
CREATE OR REPLACE FUNCTION pyreplica.bound_of(part oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- a hash is of the table's oid, which is another one on the slave; functions may be missing there
    SELECT CASE WHEN NOT EXISTS (
        SELECT FROM pg_partition_ancestors(part) a JOIN pg_partitioned_table p ON p.partrelid = a
        WHERE a <> part AND (p.partstrat = 'h' OR 0 = ANY (p.partattrs::int2[])))
    THEN coalesce(pg_get_partition_constraintdef(part), 'true') END
$$;

-- The partitions of a captured table that have come or gone since they were taken down, and which rows were in each.
CREATE OR REPLACE FUNCTION pyreplica.moved_partitions(root_ oid) RETURNS TABLE (relid oid, bound text, gone boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT d, pyreplica.bound_of(d), false FROM pyreplica.descendants(root_) d JOIN pg_class c ON c.oid = d
    WHERE c.relispartition AND c.relkind = 'r'
        AND NOT EXISTS (SELECT FROM pyreplica.replica_partition k WHERE k.relid = d AND k.root = root_)
    UNION ALL
    SELECT k.relid, k.bound, true FROM pyreplica.replica_partition k
    WHERE k.root = root_ AND k.relid NOT IN (SELECT pyreplica.descendants(root_))
$$;

-- The parts of a captured table that had triggers and lack some now, in whatever language.
CREATE OR REPLACE FUNCTION pyreplica.untriggered_parts(generation integer) RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.relid FROM pyreplica.replica_table t, pyreplica.parts_of(t.relid) p
    WHERE t.id = generation
        AND (p.relid = t.relid OR EXISTS (
            SELECT FROM pyreplica.replica_partition k WHERE k.relid = p.relid AND k.root = t.relid))
        AND (SELECT count(*) FROM pyreplica.capture_trigger g WHERE g.relid = p.relid AND g.enabled AND g.generation = t.id)
            < pyreplica.triggers_of(p.relid, p.role_)
$$;

-- What of the captured tables is not as it was when they were set up, and whether follow_drift() can put it right.
CREATE OR REPLACE FUNCTION pyreplica.drift() RETURNS TABLE (relid oid, name text, what text, curable boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT t.relid, format('%s.%s', t.schema_name, t.table_name),
        coalesce(w.what || coalesce('; and '
            || CASE WHEN now.shape IS NOT NULL THEN pyreplica.filter_misfit(t.relid) END, ''), r.reason),
        w.what IS NOT NULL
    FROM pyreplica.replica_table t
    LEFT JOIN LATERAL (SELECT pyreplica.shape_of(t.relid) AS shape) now ON true
    LEFT JOIN LATERAL (
        SELECT CASE
            WHEN now.shape IS NULL THEN 'it was dropped'
            WHEN (now.shape ->> 'schema', now.shape ->> 'table') <> (t.schema_name, t.table_name)
                THEN format('it is called %s.%s now', now.shape ->> 'schema', now.shape ->> 'table')
            WHEN now.shape <> t.shape
                THEN 'it was altered: its columns, its key or the tables that inherit from it are not those that are captured'
            WHEN EXISTS (SELECT FROM pyreplica.untriggered_parts(t.id))
                THEN 'triggers that capture its changes were dropped or disabled'
            WHEN EXISTS (SELECT FROM pyreplica.moved_partitions(t.relid))
                THEN 'partitions have come or gone'
            WHEN EXISTS (SELECT FROM pyreplica.unset_parts(t.id))
                THEN 'its triggers are not those that capture its changes' END AS what
    ) w ON true
    LEFT JOIN LATERAL (SELECT f.reason FROM pyreplica.refusal(t.relid) f WHERE w.what IS NULL) r ON true
    WHERE t.active AND (w.what IS NOT NULL OR r.reason IS NOT NULL)
    ORDER BY 2
$$;

-- Changes whenever DDL may have changed what drift() looks at, which takes some milliseconds for each table; this is read
-- from the catalogs as a whole. A row of a catalog that is updated has another xmin.
CREATE OR REPLACE FUNCTION pyreplica.catalog_mark() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT string_agg(k.n || ':' || k.hash, ' ' ORDER BY k.catalog) FROM (
        SELECT r.catalog, count(*) AS n, sum(hashtextextended(r.oid || ' ' || r.xmin, 0)) AS hash
        FROM (
            SELECT 'class' AS catalog, oid::text, xmin::text FROM pg_class WHERE oid >= 16384 AND relpersistence <> 't'
            UNION ALL
            SELECT 'attribute', a.attrelid || '.' || a.attnum, a.xmin::text FROM pg_attribute a
            JOIN pg_class c ON c.oid = a.attrelid
            WHERE a.attrelid >= 16384 AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
            UNION ALL
            SELECT 'trigger', oid::text, xmin::text FROM pg_trigger
            UNION ALL
            SELECT 'inherits', inhrelid || '.' || inhseqno, xmin::text FROM pg_inherits
            UNION ALL
            SELECT 'namespace', oid::text, xmin::text FROM pg_namespace WHERE nspname NOT LIKE 'pg\_%temp\_%'
            UNION ALL
            SELECT 'type', t.oid::text, t.xmin::text FROM pg_type t
            WHERE t.oid >= 16384 AND t.typtype IN ('d', 'e', 'r')
            UNION ALL
            SELECT 'constraint', oid::text, xmin::text FROM pg_constraint
            UNION ALL
            SELECT 'index', i.indexrelid::text, i.xmin::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE i.indexrelid >= 16384 AND c.relpersistence <> 't'
            UNION ALL
            SELECT 'proc', oid::text, xmin::text FROM pg_proc WHERE oid >= 16384
        ) r(catalog, oid, xmin)
        GROUP BY r.catalog
    ) k
$$;

-- Keeps everybody else away from what refresh() is about to bring in line, so that nothing is written meanwhile. Whoever
-- has written to one of them is waited for, as long as lock_timeout says.
CREATE OR REPLACE FUNCTION pyreplica.lock_drifted(concerned oid[], strays oid[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'DDL cannot be followed in a % transaction, which does not see the newest rows',
            upper(current_setting('transaction_isolation'))
            USING HINT = 'Call it in a READ COMMITTED transaction.', ERRCODE = 'feature_not_supported';
    END IF;
    FOR t IN
        SELECT format('%s%I.%I', CASE WHEN c.relkind <> 'p' THEN 'ONLY ' END, n.nspname, c.relname) AS name
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = ANY (strays) OR c.oid IN (
            SELECT r.relid FROM pyreplica.replica_table r
            WHERE r.active AND (r.relid = ANY (concerned) AND (NOT pyreplica.stands(r.id)
                    OR EXISTS (SELECT FROM pyreplica.moved_partitions(r.relid)))
                OR r.relid IN (SELECT k.root FROM pyreplica.replica_partition k WHERE k.relid = ANY (strays))))
        ORDER BY c.oid
    LOOP
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', t.name);
    END LOOP;
END
$$;

-- What has to be logged again of these tables once they are captured as they are now: all rows of some (partition is
-- null), of others those of partitions that have come or gone. To be asked before anything is brought in line.
CREATE OR REPLACE FUNCTION pyreplica.unlogged_of(concerned oid[]) RETURNS TABLE (root oid, partition oid, bound text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT t.relid, CASE WHEN NOT whole.it THEN m.relid END, CASE WHEN NOT whole.it THEN m.bound END
    FROM pyreplica.replica_table t
    LEFT JOIN LATERAL pyreplica.moved_partitions(t.relid) m ON true,
    LATERAL (
        SELECT EXISTS (SELECT FROM pyreplica.untriggered_parts(t.id))
            OR EXISTS (SELECT FROM pyreplica.moved_partitions(t.relid) o
                -- bounds are of columns as they were called
                WHERE o.bound IS NULL OR t.shape <> pyreplica.shape_of(t.relid)) AS it
    ) whole
    WHERE t.active AND t.relid = ANY (concerned) AND (whole.it OR m.relid IS NOT NULL)
        AND EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relid)
$$;

-- Logs it: that the rows are gone, and then those that are there.
CREATE OR REPLACE FUNCTION pyreplica.log_drifted(generation integer, bound text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel constant oid := (SELECT t.relid FROM pyreplica.replica_table t WHERE t.id = generation);
BEGIN
    IF bound IS NULL THEN
        PERFORM pyreplica.log_table(generation, 'T');
    ELSE
        PERFORM pyreplica.log_table(generation, 'P', jsonb_build_object('where', bound));
    END IF;
    PERFORM pyreplica.log_rows(generation, 'i', pyreplica.rows_within(rel, bound));
END
$$;

-- What the daemons call: brings one captured table in line, and those that inherit. It waits for locks for a moment only,
-- with which others wait for it.
CREATE OR REPLACE FUNCTION pyreplica.follow_drift(rel oid) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET constraint_exclusion = off
SET lock_timeout = '200ms' AS $$
BEGIN
    RETURN pyreplica.refresh(ARRAY[rel]);
END
$$;
