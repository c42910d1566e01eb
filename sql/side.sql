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
