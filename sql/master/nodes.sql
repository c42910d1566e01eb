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
    way text NOT NULL CHECK (way IN ('row', 'columns')),
    counters text[] NOT NULL             -- columns of which what the nodes add is added up
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
    SELECT jsonb_build_object('relid', m.relid::bigint, 'way', m.way, 'counters', m.counters) FROM pyreplica.replica_merge m WHERE m.relid = rel
$$;
