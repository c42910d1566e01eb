-- The statements of pyreplica/slave/versions.py, by name: merging the rows of other nodes with our own.

-- Whether this database is a node.
-- name: is_node
SELECT to_regclass('pyreplica.replica_merge') IS NOT NULL

-- How a table is merged here, and what this node is called.
-- name: merge
SELECT m.way, m.counters, m.priority, n.name FROM pyreplica.replica_merge m, pyreplica.replica_node n WHERE m.relid = %(relid)s

-- Of each row the last version of the batch: it has come from all before it. Answers how many rows there are, and whether
-- any version was made by a node of our own name.
-- name: latest
WITH latest AS (
    INSERT INTO {net} (tab, kind, key, row, old, id)
    SELECT DISTINCT ON (key) tab, 'v', key, row, old, id FROM {stage}
    WHERE tab = {tab} AND id > {after} AND id < {before} ORDER BY key, id DESC
    RETURNING old
)
SELECT count(*), coalesce(bool_or(old ->> 'node' = {node}), false) FROM latest

-- First the rows, as who writes them does; so the versions of those that stand cannot change any more. In an order.
-- name: lock_rows
SELECT count(*) FROM (SELECT FROM {source} c JOIN {table} t ON {same_key} ORDER BY c.text FOR UPDATE OF t) l

-- What becomes of each row; conflicts are written down. The net changes become of the kinds that merge_versions() answers;
-- old is the new version then, and k1 the one that it is for.
-- name: decide
WITH met AS MATERIALIZED (
    SELECT c.id, c.text, c.row AS came_row, c.old AS came, r.version AS known, t.tableoid IS NOT NULL AS stands,
        {slave_row} AS slave_row, {here_row} AS here_row
    FROM {source} c
    -- by their indexes, whatever the planner takes the batch for; the texts of the stage have another collation
    LEFT JOIN LATERAL (SELECT t.tableoid, t.* FROM {table} t WHERE {same_key} OFFSET 0) t ON true
    LEFT JOIN LATERAL (SELECT k.version FROM pyreplica.replica_row k
        WHERE k.relid = {relid} AND md5(k.key::text) = md5(c.key::text) AND k.key = c.key OFFSET 0) r ON true
), decided AS MATERIALIZED (
    SELECT m.*, d.action, d.merged, d.version, d.conflict, d.won
    FROM met m, LATERAL pyreplica.merge_versions(
        {way}, {counters}, {priority}, m.known, m.stands, m.here_row, m.came, m.came_row) d
), put AS (
    INSERT INTO pyreplica.replica_conflict (replication, batch, change_id, conflict, master_relid, schema_name,
        table_name, generation, op, key, row, old, slave_row, resolution, settled_at)
    SELECT {replication}, {batch}, id, conflict, {master_relid}, {schema}, {name}, {tab}, 'v', text, came_row,
        jsonb_build_object('came', came, 'known', known), slave_row,
        CASE won WHEN 'local' THEN 'skipped' ELSE 'applied' END, clock_timestamp()
    FROM decided WHERE conflict IS NOT NULL AND action <> 'x' ORDER BY id
), marked AS (
    UPDATE {net} n SET kind = d.action::"char", row = d.merged, old = d.version, k1 = d.known::text
    FROM decided d WHERE n.tab = {tab} AND n.kind = 'v' AND n.key = d.text
)
SELECT action, conflict, won, count(*), (array_agg(text ORDER BY id))[1] FROM decided
GROUP BY action, conflict, won ORDER BY conflict, won, action

-- The versions that have come, if those here are still what they were when it was decided: who inserts a row that was not
-- there could not be kept from that. Answers how many there are now.
-- name: put_versions
WITH changed AS (
    UPDATE pyreplica.replica_row r SET version = n.old FROM {net} n
    WHERE n.tab = {tab} AND n.kind IN ('i', 'u', 'd', 'k') AND n.k1 IS NOT NULL
        AND r.relid = {relid} AND md5(r.key::text) = md5(n.key::jsonb::text) AND r.key = n.key::jsonb AND r.version = n.k1::jsonb
    RETURNING 1
), added AS (
    INSERT INTO pyreplica.replica_row (relid, key, version)
    SELECT {relid}, n.key::jsonb, n.old FROM {net} n
    WHERE n.tab = {tab} AND n.kind IN ('i', 'u', 'd', 'k') AND n.k1 IS NULL
    ORDER BY n.key
    RETURNING 1
)
SELECT (SELECT count(*) FROM changed) + (SELECT count(*) FROM added)

-- The siblings of the rows that the user's function is to decide on.
-- name: undecided
SELECT n.key, n.key::jsonb, n.old -> 'siblings', (n.k1::jsonb ? 'deleted') IS NOT TRUE FROM {net} n
WHERE n.tab = {tab} AND n.kind = 'f' ORDER BY n.id

-- What it has decided.
-- name: decided
UPDATE {net} n SET kind = d.kind::"char", row = d.row, old = n.old || CASE WHEN d.row IS NULL
    THEN jsonb_build_object('deleted', true) ELSE '{{}}' END
FROM unnest(%(keys)s::text[], %(kinds)s::text[], %(rows)s::jsonb[]) d(key, kind, row)
WHERE n.tab = {tab} AND n.kind = 'f' AND n.key = d.key

-- The rows that somebody is to settle: what either side has seen, and what both have, as text.
-- name: unsettled
SELECT n.key, n.k1::jsonb -> 'seen', (n.old -> 'seen')::text, n.id FROM {net} n
WHERE n.tab = {tab} AND n.kind = 'e' ORDER BY n.id

-- Those that somebody has: a later version comes.
-- name: settled
UPDATE {net} n SET kind = 'n' WHERE n.tab = {tab} AND n.kind = 'e'

-- The versions that rows have on the master now.
-- name: versions_now
SELECT k.key, r.version -> 'seen' FROM unnest(%(keys)s::text[]) k(key)
JOIN pyreplica.replica_row r ON r.relid = %(relid)s AND md5(r.key::text) = md5(k.key::jsonb::text) AND r.key = k.key::jsonb
