-- The statements of pyreplica/side.py, by name: what master and slave are asked alike.

-- What the types of users are made of, as far as a value's text does not tell: two types of one name could take
-- the same text for another value, or cut it. A label that an enum lacks is an error by itself.
-- name: definitions
SELECT of::bigint, (
    WITH RECURSIVE part(typ) AS (
        SELECT of
        UNION
        SELECT n.typ FROM part p JOIN pg_type t ON t.oid = p.typ, LATERAL (
            SELECT t.typbasetype WHERE t.typtype = 'd'
            UNION ALL
            SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
            UNION ALL
            SELECT a.atttypid FROM pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
            SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
            UNION ALL
            -- rngmultitypid came with PostgreSQL 14
            SELECT r.rngtypid FROM pg_range r
            WHERE t.typtype = 'm' AND (to_jsonb(r) ->> 'rngmultitypid')::oid = t.oid
        ) n(typ)
    )
    SELECT string_agg(d.name || ' is ' || d.made_of, ', ' ORDER BY d.name)
    FROM part p JOIN pg_type t ON t.oid = p.typ, LATERAL (
        SELECT format_type(t.oid, -1) AS name, CASE t.typtype
            WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod)
            WHEN 'c' THEN (
                SELECT format('(%%s)', string_agg(quote_ident(a.attname) || ' '
                    || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum))
                FROM pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped)
            WHEN 'r' THEN (
                SELECT 'a range of ' || format_type(r.rngsubtype, -1)
                    || coalesce(' COLLATE ' || quote_ident(c.collname), '')
                FROM pg_range r LEFT JOIN pg_collation c ON c.oid = r.rngcollation WHERE r.rngtypid = t.oid)
            END AS made_of
    ) d
    -- what initdb has made is the same everywhere
    WHERE t.oid >= 16384
)
FROM unnest(%(types)s::oid[]) of

-- Who holds the lock of a replication, by what they say of themselves. An address is shown to the same role only. Anybody
-- can take an advisory lock: whether it is a role that has rights on PyReplica at all.
-- name: holders
SELECT a.application_name, a.client_addr::text, a.pid, a.usename::text,
    coalesce(has_schema_privilege(a.usesysid, to_regnamespace('pyreplica'), 'USAGE'), false)
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND l.classid::bigint = hashtext('pyreplica')::bigint & 4294967295
    AND l.objid::bigint = hashtext(%(replication)s)::bigint & 4294967295

-- Whoever holds the lock says who it is, for those who wait.
-- name: say_who
SELECT set_config('application_name', left(current_setting('application_name'), %(room)s) || %(who)s, false)

-- What the session's role may not do in the schema pyreplica, as the GRANT that allows it.
-- name: missing_rights
SELECT format('GRANT %%s ON %%s pyreplica.%%I TO %%I', string_agg(p.privilege, ', ' ORDER BY p.n),
    CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.relname, current_user)
FROM pg_class c, unnest(CASE WHEN c.relname::text = ANY (%(writes)s) THEN '{SELECT,INSERT,UPDATE,DELETE}'
    ELSE '{SELECT}' END::text[]) WITH ORDINALITY p(privilege, n)
WHERE c.relnamespace = 'pyreplica'::regnamespace AND c.relname::text = ANY (%(reads)s::text[] || %(writes)s)
    AND NOT has_table_privilege(c.oid, p.privilege)
GROUP BY c.relkind, c.relname
UNION ALL
SELECT format('GRANT EXECUTE ON FUNCTION %%s TO %%I', f.oid::regprocedure, current_user) FROM pg_proc f
WHERE f.pronamespace = 'pyreplica'::regnamespace AND f.proname::text = ANY (%(calls)s)
    AND NOT has_function_privilege(f.oid, 'EXECUTE')
ORDER BY 1
