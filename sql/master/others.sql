-- Code of others that must not get the rights of the capture. A part of master-install.sql.

-- A function of somebody who is neither a superuser nor the one who has installed this, and that PostgreSQL may call when
-- the capture, which has that one's rights, reads a table: it computes constant parts of the expressions of indexes,
-- partition keys and extended statistics whenever a query on the table is planned, SQL functions included, and checks
-- domains when restate() makes keys of texts. Null when there is none. (CHECK constraints would be planned with as well;
-- that is turned off by constraint_exclusion in the functions that read tables.)
CREATE OR REPLACE FUNCTION pyreplica.code_of_others(rel oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE parts(relid) AS (
        SELECT rel
        UNION
        SELECT d FROM pyreplica.descendants(rel) d JOIN pg_class c ON c.oid = d WHERE c.relispartition
    ), key_types(typ) AS (
        SELECT pyreplica.base_of(a.atttypid)
        FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
        WHERE i.indrelid = rel AND i.indisprimary
        UNION
        SELECT n.typ FROM key_types k JOIN pg_type t ON t.oid = k.typ, LATERAL (
            SELECT t.typbasetype WHERE t.typtype = 'd'
            UNION ALL
            SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
            UNION ALL
            SELECT a.atttypid FROM pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
            SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
            UNION ALL
            SELECT (to_jsonb(r) ->> 'rngsubtype')::oid FROM pg_range r
            WHERE t.typtype = 'm' AND (to_jsonb(r) ->> 'rngmultitypid')::oid = t.oid
        ) n(typ)
    ), places(classid, objid, what) AS (
        SELECT 'pg_class'::regclass, i.indexrelid, 'index ' || i.indexrelid::regclass
        FROM parts p JOIN pg_index i ON i.indrelid = p.relid
        UNION ALL
        SELECT 'pg_class'::regclass, p.relid, 'partition key' FROM parts p
        UNION ALL
        SELECT 'pg_statistic_ext'::regclass, s.oid, format('statistics object %I', s.stxname)
        FROM parts p JOIN pg_statistic_ext s ON s.stxrelid = p.relid
        UNION ALL
        SELECT 'pg_constraint'::regclass, n.oid, 'domain ' || n.contypid::regtype
        FROM key_types k JOIN pg_constraint n ON n.contypid = k.typ
    )
    SELECT format('its %s calls %s of role %s, which would get the rights of PyReplica''s capture', l.what,
        f.oid::regprocedure, o.rolname)
    FROM places l
    JOIN pg_depend d ON d.classid = l.classid AND d.objid = l.objid
        AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
    LEFT JOIN pg_operator r ON d.refclassid = 'pg_operator'::regclass AND r.oid = d.refobjid
    JOIN pg_proc f ON f.oid = CASE d.refclassid WHEN 'pg_proc'::regclass THEN d.refobjid ELSE r.oprcode::oid END
    JOIN pg_roles o ON o.oid = f.proowner
    WHERE NOT o.rolsuper AND o.oid <> pyreplica.installer()
    ORDER BY 1 LIMIT 1
$$;

-- After DDL: raises an error when it has put a function in the way of the capture, or another trigger in the place of
-- one of its own, which CREATE OR REPLACE TRIGGER can.
CREATE OR REPLACE FUNCTION pyreplica.refuse_code_of_others(tag text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    refused record;
BEGIN
    IF tag = 'CREATE TRIGGER' THEN
        SELECT g.tgname, g.tgrelid::regclass AS name INTO refused
        FROM pg_event_trigger_ddl_commands() c
        JOIN pg_trigger g ON c.classid = 'pg_trigger'::regclass AND g.oid = c.objid
        JOIN pg_proc p ON p.oid = g.tgfoid
        JOIN pyreplica.replica_table r ON r.active AND r.relid = pyreplica.root_of(g.tgrelid)
        WHERE g.tgname LIKE 'pyreplica\_%' AND p.pronamespace <> 'pyreplica'::regnamespace LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'trigger % on %: names that begin with pyreplica_ are for the triggers that capture changes',
                refused.tgname, refused.name
                USING HINT = 'Give it another name.';
        END IF;
        RETURN;
    END IF;
    SELECT r.relid::regclass AS name, k.code INTO refused
    FROM pyreplica.replica_table r, pyreplica.code_of_others(r.relid) k(code)
    WHERE r.active AND k.code IS NOT NULL AND (tag LIKE 'ALTER%' OR r.relid IN (
        SELECT pyreplica.root_of(coalesce(i.indrelid, s.stxrelid)) FROM pg_event_trigger_ddl_commands() c
        LEFT JOIN pg_index i ON c.classid = 'pg_class'::regclass AND i.indexrelid = c.objid
        LEFT JOIN pg_statistic_ext s ON c.classid = 'pg_statistic_ext'::regclass AND s.oid = c.objid))
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'table % is replicated, but could not be any more: %', refused.name, refused.code
            USING HINT = 'Have a superuser look at the function and make it his: ALTER FUNCTION ... OWNER TO ...; or stop '
                'replicating the table: ' || format('SELECT pyreplica.remove_table(%L).', refused.name);
    END IF;
END
$$;
