-- What the capture of a table depends on, as the catalog has it. A part of master-install.sql.

-- (Some functions here are in PL/pgSQL because its queries stay planned: these are called for every column of every table,
-- and to plan a query takes ten times as long as to run it.)

-- The types a type is made of, down to base types, enums and pseudo-types.
CREATE OR REPLACE FUNCTION pyreplica.base_types(of oid) RETURNS SETOF oid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
    WITH RECURSIVE parts(typ) AS (
        SELECT of
        UNION
        SELECT n.typ
        FROM parts p JOIN pg_type t ON t.oid = p.typ,
            LATERAL (
                SELECT t.typbasetype WHERE t.typtype = 'd'
                UNION ALL
                SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
                UNION ALL
                SELECT a.atttypid FROM pg_attribute a
                WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
                UNION ALL
                SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
                UNION ALL
                -- rngmultitypid came with PostgreSQL 14; a multirange's name is not enough to find its range
                SELECT (to_jsonb(r) ->> 'rngsubtype')::oid FROM pg_range r
                WHERE t.typtype = 'm' AND (to_jsonb(r) ->> 'rngmultitypid')::oid = t.oid
            ) n(typ)
    )
    SELECT p.typ FROM parts p JOIN pg_type t ON t.oid = p.typ
    WHERE t.typtype IN ('b', 'e', 'p') AND NOT (t.typcategory = 'A' AND t.typelem <> 0);
END
$$;

-- Whether values of a type print the same whatever the session's settings are.
CREATE OR REPLACE FUNCTION pyreplica.prints_alike(typ oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT bool_and(t.typtype = 'e' OR t.oid = ANY ('{bool,int2,int4,int8,numeric,text,varchar,bpchar,name,
        "\"char\"",uuid,json,jsonb,oid,xid,xid8,inet,cidr,macaddr,macaddr8,bit,varbit,pg_lsn,tsvector,tsquery}'::regtype[]))
    FROM pyreplica.base_types(typ) b JOIN pg_type t ON t.oid = b
$$;

-- Whether equal values of a type are the same value in every byte (1.0 and 1.00 are not, nor are 0 and -0, nor is
-- a bpchar with blanks at its end).
CREATE OR REPLACE FUNCTION pyreplica.equal_is_same(typ oid, collation_ oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (t.typtype = 'e' OR t.oid = ANY ('{bool,int2,int4,int8,text,varchar,name,"\"char\"",bytea,uuid,oid,date,
        timestamp,timestamptz,time,pg_lsn,xid8,macaddr,macaddr8}'::regtype[]))
        AND coalesce((SELECT c.collisdeterministic FROM pg_collation c WHERE c.oid = collation_), true)
    FROM pg_type t WHERE t.oid = typ
$$;

-- The type that a domain is made over; any other type is its own.
CREATE OR REPLACE FUNCTION pyreplica.base_of(typ oid) RETURNS oid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    base oid := typ;
    under oid;
BEGIN
    LOOP
        SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype END INTO under FROM pg_type t WHERE t.oid = base;
        IF NOT FOUND THEN
            RETURN NULL;
        ELSIF under IS NULL THEN
            RETURN base;
        END IF;
        base := under;
    END LOOP;
END
$$;

-- How an expression becomes a value of that type; a template for format(). Functions and operators that somebody
-- has made for his domain do not get hold of it then; they would run with our rights.
CREATE OR REPLACE FUNCTION pyreplica.as_base(typ oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN base = typ THEN '%s' ELSE '(%s)::' || replace(format_type(base, -1), '%', '%%') END
    FROM pyreplica.base_of(typ) base
$$;

-- How an expression becomes the text that the type's own output function makes of it; a template. Never a cast: a
-- cast to text can be another function (bpchar's drops blanks) or one that somebody defined, which would then run
-- with our rights.
CREATE OR REPLACE FUNCTION pyreplica.printed(typ oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    base constant oid := pyreplica.base_of(typ);
    value text := pyreplica.as_base(typ);
    t record;
BEGIN
    IF base = 'text'::regtype THEN
        RETURN value;
    END IF;
    IF base = 'xml'::regtype THEN
        -- its output function leaves the encoding out of the XML declaration; this is no cast either
        RETURN format('XMLSERIALIZE(CONTENT %s AS text)', value);
    END IF;
    SELECT format('%I.%I', n.nspname, p.proname) AS output, p.proargtypes[0] AS printable INTO t
    FROM pg_type y JOIN pg_proc p ON p.oid = y.typoutput JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE y.oid = base;
    IF t.printable <> base AND (SELECT typtype FROM pg_type WHERE oid = t.printable) <> 'p' THEN
        -- a type that borrows the output function of one with the same representation (refcursor: text)
        value := format('(%s)::%s', value, replace(format_type(t.printable, -1), '%', '%%'));
    END IF;
    RETURN format('textin(%s(%s))', replace(t.output, '%', '%%'), value);
END
$$;

-- The table whose name a table's changes carry: the root of its partition tree, or itself.
CREATE OR REPLACE FUNCTION pyreplica.root_of(rel oid) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN c.relispartition THEN coalesce(pg_partition_root(c.oid)::oid, c.oid) ELSE c.oid END
    FROM pg_class c WHERE c.oid = rel
$$;

-- All tables below one in an inheritance or partition tree.
CREATE OR REPLACE FUNCTION pyreplica.descendants(rel oid) RETURNS SETOF oid
LANGUAGE sql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE below(relid) AS (
        SELECT inhrelid FROM pg_inherits WHERE inhparent = rel
        UNION
        SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.relid
    )
    SELECT relid FROM below
$$;

-- All tables above one in an inheritance tree.
CREATE OR REPLACE FUNCTION pyreplica.ancestors(rel oid) RETURNS SETOF oid
LANGUAGE sql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE above(relid) AS (
        SELECT inhparent FROM pg_inherits WHERE inhrelid = rel
        UNION
        SELECT i.inhparent FROM above a JOIN pg_inherits i ON i.inhrelid = a.relid
    )
    SELECT relid FROM above
$$;

-- The tables that a statement on one of them may change through inheritance or partitioning; itself, too.
CREATE OR REPLACE FUNCTION pyreplica.family_of(rel oid) RETURNS SETOF oid
LANGUAGE sql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE family(relid) AS (
        SELECT rel
        UNION
        SELECT i.relid FROM family f, LATERAL (
            SELECT inhparent FROM pg_inherits WHERE inhrelid = f.relid
            UNION ALL
            SELECT inhrelid FROM pg_inherits WHERE inhparent = f.relid) i(relid)
    )
    SELECT relid FROM family
$$;

-- What the capture of a table depends on; null when there is no such table.
CREATE OR REPLACE FUNCTION pyreplica.shape_of(rel oid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
    SELECT jsonb_build_object(
        'schema', n.nspname,
        'table', c.relname,
        'partitioned', c.relkind = 'p',
        -- tables of one family share a mark, see first_capture below; partitions have their root's statements
        'family', CASE WHEN c.relkind = 'p' THEN c.oid::bigint
            ELSE (SELECT min(f)::bigint FROM pyreplica.family_of(c.oid) f) END,
        -- whether two rows of one key may stand at the same time, until the constraint is checked
        'deferrable', NOT i.indimmediate,
        -- whether foreign keys update it: they may do so several times to a row in one statement
        'cascaded', EXISTS (
            SELECT FROM pg_constraint f
            WHERE f.contype = 'f' AND (f.confupdtype IN ('c', 'n', 'd') OR f.confdeltype IN ('n', 'd'))
                AND f.conrelid IN (SELECT c.oid UNION ALL SELECT pyreplica.descendants(c.oid))),
        'columns', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'name', a.attname, 'number', a.attnum, 'type', a.atttypid::bigint, 'typmod', a.atttypmod,
                'generated', a.attgenerated <> '', 'alike', pyreplica.prints_alike(a.atttypid),
                'same', pyreplica.equal_is_same(a.atttypid, a.attcollation),
                'base', pyreplica.as_base(a.atttypid), 'printed', pyreplica.printed(a.atttypid),
                'key', k.position, 'equal', (
                    -- the index's own equality, for looking rows up by key
                    SELECT format('OPERATOR(%I.%s)', opn.nspname, op.oprname)
                    FROM pg_opclass oc JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily
                        AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
                        AND ao.amopstrategy = 3
                    JOIN pg_operator op ON op.oid = ao.amopopr JOIN pg_namespace opn ON opn.oid = op.oprnamespace
                    WHERE oc.oid = i.indclass[k.position - 1]))
                ORDER BY a.attnum), '[]')
            FROM pg_attribute a
            LEFT JOIN LATERAL (
                SELECT u.position FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(attnum, position)
                WHERE u.attnum = a.attnum AND u.position <= i.indnkeyatts
            ) k ON true
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        -- the replicated ones of the tables that inherit from it (not partitions), null where there are none at
        -- all: a statement on the parent changes their rows too, and its transition tables do not say whose row
        -- is whose
        'children', CASE WHEN c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) THEN (
            SELECT coalesce(jsonb_agg(t.id ORDER BY t.id), '[]')
            FROM pyreplica.descendants(c.oid) d JOIN pyreplica.replica_table t ON t.relid = d AND t.active) END)
        -- the conditions of slaves that do not get all rows, if there are such
        || coalesce((
            SELECT jsonb_build_object('filters', jsonb_agg(jsonb_build_object('replication', f.replication,
                'bit', f.bit, 'given', f.given, 'condition', f.condition, 'on_error', f.on_error,
                'changes', f.changes) ORDER BY f.bit))
            FROM pyreplica.replica_filter f WHERE f.relid = c.oid AND f.condition IS NOT NULL
            HAVING count(*) > 0), '{}')
        -- what daemons apply is captured as well; not there where it is not
        || CASE WHEN (SELECT k.forwarding FROM pyreplica.replica_capture k) THEN '{"forwarding": true}' ELSE '{}' END::jsonb
        -- only of those that are merged: the others' generations stay what they are
        || coalesce((SELECT jsonb_build_object('merge', m) FROM pyreplica.merge_of(c.oid) m WHERE m IS NOT NULL), '{}')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
    WHERE c.oid = rel
$$;
