-- Tables that several databases write, each of which replicates to all others, and that end up the same everywhere. A
-- part of master-install.sql. Such a database is a node.

-- A row's version says what it has come from. It goes with each change of the row, and two versions of a row tell
-- whether one was made in knowledge of the other; if neither was, there is a conflict, and one that both nodes settle in
-- the same way. Versions are objects:
--   at, node   the latest stamp of the row: microseconds, and the node that has given it
--   seen       node -> its latest stamp that this version has come from
--   life       [at, node] of the insert; none: a row that the nodes began with
--   deleted    the row is gone; the version stays
--   way        as in replica_merge
--   priority   as in replica_merge (way: priority)
--   siblings   where the row is in conflict, and its way keeps them: all versions of which none has seen another, each
--              with its `row` if it has one; in the order of their stamps. The above is of all of them together then
--   from, was  what the node has begun from: `seen` of that, and the row (way: function)
--   columns    column -> [at, node] of its latest change, if that is after the insert (way: columns)
--   counters   column -> base, of (node -> [what it has added in all, at])
-- A stamp is later than all that the row has seen, whatever the clock says. So clocks only decide between changes of
-- which neither has seen the other.

-- What this database is called among the nodes.
CREATE TABLE IF NOT EXISTS pyreplica.replica_node (
    name text NOT NULL CHECK (name <> '' AND length(name) <= 63),
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only)
);

-- The tables that are merged: set_merge().
CREATE TABLE IF NOT EXISTS pyreplica.replica_merge (
    relid oid PRIMARY KEY,
    way text NOT NULL CHECK (way IN ('error', 'apply_remote', 'keep_local', 'last_update_wins', 'first_update_wins',
        'priority', 'function', 'columns')),
    counters text[] NOT NULL,            -- columns of which what the nodes add is added up (way: columns)
    priority text[] NOT NULL             -- nodes, the first of which counts (way: priority)
);

-- The versions of the rows that were changed since their table is merged, and of those that are gone. A row without
-- one is as the nodes began with it.
CREATE TABLE IF NOT EXISTS pyreplica.replica_row (
    relid oid NOT NULL,
    key jsonb NOT NULL,                  -- as in the log
    version jsonb NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS replica_row_key ON pyreplica.replica_row (relid, md5(key::text));

-- What the capture of a merged table depends on besides the catalog; null for other tables.
CREATE OR REPLACE FUNCTION pyreplica.merge_of(rel oid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object('relid', m.relid::bigint, 'way', m.way, 'counters', m.counters, 'priority', m.priority)
    FROM pyreplica.replica_merge m WHERE m.relid = rel
$$;

-- Why a table cannot be merged, with the cure; null when it can, or is not to be.
CREATE OR REPLACE FUNCTION pyreplica.merge_refusal(rel oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    m pyreplica.replica_merge;
    shape jsonb;
    refused text;
BEGIN
    SELECT * INTO m FROM pyreplica.replica_merge r WHERE r.relid = rel;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    shape := pyreplica.shape_of(rel);
    IF (shape ->> 'partitioned')::boolean OR EXISTS (
        SELECT FROM pg_inherits i WHERE rel IN (i.inhrelid, i.inhparent))
    THEN
        RETURN 'tables with partitions, and tables that inherit, cannot be merged';
    END IF;
    IF EXISTS (SELECT FROM pyreplica.replica_filter f WHERE f.relid = rel) THEN
        RETURN 'it has a filter, and all nodes need all of a merged table';
    END IF;
    IF (SELECT c.forwarding FROM pyreplica.replica_capture c) THEN
        RETURN 'this database forwards what is applied to it, and a merged table goes from each node to each other';
    END IF;
    IF (shape ->> 'deferrable')::boolean THEN
        RETURN 'its primary key is deferrable, and a merged table''s must not be';
    END IF;
    SELECT format('its key column %I is of the type %s, in which values can be equal and not the same; a merged '
        'table''s key must be of integers, uuid, text, date, timestamp or the like', c ->> 'name',
        format_type((c ->> 'type')::oid, NULL))
    INTO refused
    FROM jsonb_array_elements(shape -> 'columns') c
    WHERE c ->> 'key' IS NOT NULL AND NOT (c ->> 'same')::boolean LIMIT 1;
    IF refused IS NOT NULL THEN
        RETURN refused;
    END IF;
    IF m.counters <> '{}' AND m.way <> 'columns' THEN
        RETURN 'counters go with tables that are merged by columns';
    END IF;
    IF (m.way = 'priority') <> (m.priority <> '{}') THEN
        RETURN 'a list of nodes, the first of which counts, goes with tables that are merged by priority, and has to';
    END IF;
    IF cardinality(m.priority) > (SELECT count(DISTINCT p) FILTER (WHERE p <> '') FROM unnest(m.priority) p) THEN
        RETURN 'a node is in the list twice, or has no name there';
    END IF;
    SELECT format('%I cannot be a counter: %s', k, CASE
        WHEN a.attname IS NULL THEN 'there is no such column'
        WHEN c ->> 'key' IS NOT NULL THEN 'it belongs to the key'
        WHEN a.attgenerated <> '' THEN 'it is generated'
        WHEN NOT a.attnotnull THEN 'it may be NULL; ALTER TABLE ... ALTER COLUMN ... SET NOT NULL'
        ELSE format('its type is %s; counters are smallint, integer, bigint, or numeric with a scale',
            format_type(a.atttypid, a.atttypmod)) END)
    INTO refused
    FROM unnest(m.counters) k
    LEFT JOIN pg_attribute a ON a.attrelid = rel AND a.attname = k AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN jsonb_array_elements(shape -> 'columns') c ON c ->> 'name' = k
    WHERE (a.attnotnull AND a.attgenerated = '' AND c ->> 'key' IS NULL
        AND (a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
            OR a.atttypid = 'numeric'::regtype AND a.atttypmod <> -1)) IS NOT TRUE
    LIMIT 1;
    RETURN refused;
END
$$;

-- Has a captured table be merged with the other nodes'; null: it is not merged any more. Of changes of a row at the same
-- time counts: "last_update_wins", the later one; "first_update_wins", the earlier one; "priority", that of the node that is
-- first in the list; "function", what a function of the user's makes of them, which the daemons have; "columns", the later
-- change of each column, and a row that was deleted stays so. "keep_local", the one of the node where the other one comes to,
-- and "apply_remote", the other one, are not the same everywhere. "error": none, somebody is to settle it, settle_row().
-- With counters every row gets a version, which tells what they counted from: the rows must be the same on all nodes then.
CREATE OR REPLACE FUNCTION pyreplica.set_merge(
    "table" regclass, merge text, counters text[] DEFAULT '{}', priority text[] DEFAULT '{}'
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ways constant text[] := '{error,apply_remote,keep_local,last_update_wins,first_update_wins,priority,function,columns}';
    rel constant oid := "table"::oid;
    sums constant text[] := ARRAY(SELECT DISTINCT c COLLATE "C" FROM unnest(set_merge.counters) c ORDER BY 1);
    known pyreplica.replica_merge;
    refused text;
    shape_ jsonb;
BEGIN
    PERFORM pyreplica.lock_captures();
    IF merge <> ALL (ways) THEN
        RAISE EXCEPTION 'tables are not merged by %', quote_literal(merge)
            USING HINT = format('It is one of %s.', array_to_string(ways, ', '));
    END IF;
    IF NOT EXISTS (SELECT FROM pyreplica.replica_table t WHERE t.relid = rel AND t.active AND t.key_columns <> '{}') THEN
        RAISE EXCEPTION 'table % is not captured', "table" USING HINT = format('SELECT pyreplica.add_table(%L);', "table");
    END IF;
    SELECT * INTO known FROM pyreplica.replica_merge m WHERE m.relid = rel;
    IF merge IS NOT DISTINCT FROM known.way
        AND (merge IS NULL OR known.counters = sums AND known.priority = set_merge.priority)
    THEN
        RETURN format('%s: %s', "table", CASE WHEN merge IS NULL THEN 'is not merged' ELSE 'is merged already' END);
    END IF;
    INSERT INTO pyreplica.replica_node (name)
    SELECT left(md5(s.system_identifier || '/' || current_database()), 8) FROM pg_control_system() s
    ON CONFLICT DO NOTHING;
    DELETE FROM pyreplica.replica_merge m WHERE m.relid = rel;
    IF merge IS NULL THEN
        PERFORM pyreplica.refresh(ARRAY[rel]);
        DELETE FROM pyreplica.replica_row r WHERE r.relid = rel;
        RETURN format('%s: is not merged any more', "table");
    END IF;
    INSERT INTO pyreplica.replica_merge (relid, way, counters, priority) VALUES (rel, merge, sums, set_merge.priority);
    refused := pyreplica.merge_refusal(rel);
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'table % cannot be merged: %', "table", refused;
    END IF;
    PERFORM pyreplica.refresh(ARRAY[rel]);   -- from here on nobody writes until we commit
    DELETE FROM pyreplica.replica_row r WHERE r.relid = rel;
    IF sums <> '{}' THEN
        shape_ := pyreplica.shape_of(rel);
        EXECUTE format('INSERT INTO pyreplica.replica_row (relid, key, version) SELECT $1, %s, jsonb_build_object('
            '''way'', $2, ''counters'', (SELECT jsonb_object_agg(c, jsonb_build_object(''base'', (r.row ->> c)::numeric)) '
            'FROM unnest($3) c)) FROM %s n, LATERAL (SELECT %s AS row OFFSET 0) r',
            pyreplica.object_of(shape_, true, 'n'), pyreplica.rows_of(shape_, 'ONLY ' || "table"),
            pyreplica.object_of(shape_, false, 'n'))
        USING rel, merge, sums;
    END IF;
    RETURN format('%s: is merged by %s%s%s', "table", merge,
        CASE WHEN sums <> '{}' THEN ', counters ' || array_to_string(sums, ', ') ELSE '' END,
        (SELECT format(': %s; this node is %s%s', array_to_string(set_merge.priority, ', '), n.name,
                CASE WHEN n.name <> ALL (set_merge.priority) THEN ', which is not listed and comes after these' ELSE '' END)
            FROM pyreplica.replica_node n WHERE merge = 'priority'));
END
$$;

-- Gives this node another name, for instance when the database is a copy of another node.
CREATE OR REPLACE FUNCTION pyreplica.set_node(name text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO pyreplica.replica_node AS n (name) VALUES (set_node.name)
    ON CONFLICT (is_only) DO UPDATE SET name = excluded.name
$$;
