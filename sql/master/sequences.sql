-- Where sequences stand. A part of master-install.sql.

-- The values that sequences handed out last, in the order of their oids: null where none was handed out yet. Also
-- null where that cannot be read: the sequence is gone, or a transaction has it locked (TRUNCATE ... RESTART IDENTITY,
-- ALTER SEQUENCE), which the daemons do not wait for. What it reads is not bound to a snapshot.
CREATE OR REPLACE FUNCTION pyreplica.sequence_values(sequences oid[]) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '1ms' AS $$
DECLARE
    relid oid;
    handed_out bigint;
    all_of_them bigint[] := '{}';
BEGIN
    RETURN ARRAY(SELECT pg_sequence_last_value(s.relid) FROM unnest(sequences) s(relid));
EXCEPTION
    WHEN lock_not_available OR internal_error OR wrong_object_type OR insufficient_privilege THEN
        FOREACH relid IN ARRAY sequences LOOP
            BEGIN
                handed_out := pg_sequence_last_value(relid);
            EXCEPTION
                WHEN lock_not_available OR internal_error OR wrong_object_type OR insufficient_privilege THEN
                    handed_out := NULL;
            END;
            all_of_them := all_of_them || handed_out;
        END LOOP;
        RETURN all_of_them;
END
$$;

-- Every sequence that somebody may want on a slave, where it stands, and the columns that it belongs to ("owned")
-- or that have it in their default. last_value is null where it cannot be read now, see above.
CREATE OR REPLACE FUNCTION pyreplica.sequences() RETURNS TABLE (
    relid bigint, schema_name text, sequence_name text, type text, minimum bigint, maximum bigint,
    increment bigint, readable boolean, columns jsonb, last_value bigint, is_called boolean
)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '1ms' AS $$
BEGIN
    FOR relid, schema_name, sequence_name, type, minimum, maximum, increment, readable, columns, last_value IN
        WITH used AS (
            SELECT d.objid AS relid, d.refobjid AS tab, d.refobjsubid AS col, true AS owned
            FROM pg_sequence s JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid
            WHERE d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
            UNION ALL
            SELECT s.seqrelid, f.adrelid, f.adnum, false
            FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
            JOIN pg_sequence s ON d.refclassid = 'pg_class'::regclass AND s.seqrelid = d.refobjid
        ), serving AS (
            SELECT u.relid, n.nspname AS schema, r.relname AS "table", a.attname AS "column",
                bool_or(u.owned) AS owned, bool_or(t.relid IS NOT NULL) AS captured
            FROM used u JOIN pg_class c ON c.oid = u.tab
            JOIN pg_attribute a ON a.attrelid = u.tab AND a.attnum = u.col
            -- the log knows a partition's rows by its root
            JOIN pg_class r ON r.oid = CASE WHEN c.relispartition THEN pg_partition_root(c.oid) ELSE c.oid END
            JOIN pg_namespace n ON n.oid = r.relnamespace
            LEFT JOIN pyreplica.replica_table t ON t.relid = r.oid AND t.active
            GROUP BY u.relid, n.nspname, r.relname, a.attname
        ), wanted AS (
            SELECT c.oid, n.nspname, c.relname, format_type(s.seqtypid, NULL) AS type,
                s.seqmin, s.seqmax, s.seqincrement,
                has_sequence_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') AS readable
            FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relpersistence <> 't'
                AND n.nspname NOT LIKE 'pg\_%' AND n.nspname NOT IN ('information_schema', 'pyreplica')
                AND NOT EXISTS (SELECT FROM pg_depend e
                    WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
        ), ids AS (
            SELECT array_agg(w.oid) AS relids FROM wanted w WHERE w.readable
        )
        SELECT w.oid, w.nspname, w.relname, w.type, w.seqmin, w.seqmax, w.seqincrement, w.readable,
            coalesce(u.columns, '[]'), v.handed_out
        FROM wanted w
        LEFT JOIN (
            SELECT s.relid, jsonb_agg(to_jsonb(s) - 'relid' ORDER BY s.schema, s."table", s."column") AS columns
            FROM serving s GROUP BY s.relid
        ) u ON u.relid = w.oid
        LEFT JOIN (
            SELECT unnest(i.relids) AS relid, unnest(pyreplica.sequence_values(i.relids)) AS handed_out FROM ids i
        ) v ON v.relid = w.oid
        ORDER BY w.nspname, w.relname
    LOOP
        is_called := last_value IS NOT NULL;
        IF readable AND last_value IS NULL THEN
            BEGIN
                EXECUTE format('SELECT last_value, is_called FROM %I.%I', schema_name, sequence_name)
                INTO last_value, is_called;
            EXCEPTION
                WHEN lock_not_available OR undefined_table OR internal_error THEN NULL;
            END;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;
