-- The statements of pyreplica/slave/judge.py and conflicts.py, by name: conflicts, and what becomes of them.

-- Finds the conflicts of one step before it is executed, writes them down, and marks their net changes: '-' is left
-- out. What is in braces depends on the table, the step and the policies.
-- name: judge
WITH met AS MATERIALIZED (
    SELECT c.id, c.kind, c.text AS key, c.row, c.old, f.conflict, {slave_row} AS slave_row,
        CASE f.conflict {resolutions} END AS resolution, CASE f.conflict {errors} END AS error
    FROM {source} c LEFT JOIN {table} t ON {same_key}, LATERAL (SELECT {conflict} AS conflict) f
    WHERE f.conflict IS NOT NULL
), put AS (
    INSERT INTO pyreplica.replica_conflict (replication, batch, change_id, conflict, master_relid, schema_name,
        table_name, generation, op, key, row, old, slave_row, resolution, error, settled_at)
    SELECT {replication}, {batch}, id, conflict, {relid}, {schema}, {name}, {tab}, kind, key, row, old, slave_row,
        resolution, error, CASE WHEN resolution IN ('applied', 'skipped') THEN clock_timestamp() END
    FROM met ORDER BY id
    RETURNING conflict, resolution, change_id, key
), marked AS (
    UPDATE {net} n SET kind = CASE met.resolution WHEN 'applied' THEN {applied} ELSE '-' END
    FROM met WHERE n.tab = {tab} AND n.kind = met.kind AND n.key = met.key
)
SELECT conflict, resolution, count(*), min(change_id), (array_agg(key ORDER BY change_id))[1]
FROM put GROUP BY conflict, resolution ORDER BY conflict

-- Marks the conflicts of a kind that the transform is to be asked about, where the slave has the row: that is locked, and
-- looked at as it is then. Answers how many there are. (slave/asking.py)
-- name: ask_of_rows
WITH met AS MATERIALIZED (
    SELECT c.text FROM {source} c JOIN {table} t ON {same_key} WHERE NOT ({as_it_was}) ORDER BY c.text FOR UPDATE OF t
), marked AS (
    UPDATE {net} n SET k3 = 'asked' FROM met WHERE n.tab = {tab} AND n.kind = {kind} AND n.key = met.text RETURNING 1
)
SELECT count(*) FROM marked

-- And where it has none.
-- name: ask_of_none
WITH met AS MATERIALIZED (
    SELECT c.text FROM {source} c WHERE NOT EXISTS (SELECT FROM {table} t WHERE {same_key})
), marked AS (
    UPDATE {net} n SET k3 = 'asked' FROM met WHERE n.tab = {tab} AND n.kind = {kind} AND n.key = met.text RETURNING 1
)
SELECT count(*) FROM marked

-- Some of these.
-- name: asked
SELECT c.id, c.text, c.row::text, c.old::text, ({whole})::text, ({shown})::text
FROM (
    SELECT id, key AS text, key::jsonb AS key, row, old FROM {net}
    WHERE tab = {tab} AND kind = {kind} AND k3 IS NOT NULL ORDER BY key LIMIT {most}
) c LEFT JOIN {table} t ON {same_key} ORDER BY c.text

-- What has become of these. A net change that was given another row keeps in k1 and k2 what it was.
-- name: answered
WITH answer AS (
    SELECT * FROM unnest(%(keys)s::text[], %(resolutions)s::text[], %(kinds)s::text[], %(rows)s::jsonb[],
        %(slave_rows)s::jsonb[], %(errors)s::text[]) a(key, resolution, becomes, row, slave_row, error)
), marked AS (
    UPDATE {net} n SET kind = a.becomes::"char", row = coalesce(a.row, n.row), k3 = NULL,
        k1 = coalesce(n.k1, CASE WHEN a.row IS NOT NULL THEN n.kind::text END),
        k2 = coalesce(n.k2, CASE WHEN a.row IS NOT NULL THEN n.row::text END)
    FROM answer a WHERE n.tab = %(tab)s AND n.kind = %(kind)s AND n.key = a.key
)
INSERT INTO pyreplica.replica_conflict (replication, batch, change_id, conflict, master_relid, schema_name,
    table_name, generation, op, key, row, old, slave_row, resolution, error, settled_at)
SELECT %(replication)s, %(batch)s, n.id, %(conflict)s, %(relid)s, %(schema)s, %(name)s, %(tab)s,
    coalesce(n.k1::"char", n.kind), n.key, CASE WHEN n.k1 IS NULL THEN n.row ELSE n.k2::jsonb END, n.old, a.slave_row,
    a.resolution, a.error, CASE WHEN a.resolution NOT IN ('waiting', 'restating') THEN clock_timestamp() END
FROM answer a JOIN {net} n ON n.tab = %(tab)s AND n.kind = %(kind)s AND n.key = a.key ORDER BY n.id

-- name: kinds
SELECT tab, array_agg(DISTINCT kind::text) FROM {net} GROUP BY tab

-- The rows of a step that fail by themselves, with the ids of their changes.
-- name: failing
WITH found AS MATERIALIZED (SELECT * FROM pyreplica.failing({statement}, {given}, {classes}, {most}))
SELECT f.key, n.id, f.state, f.error, f.detail FROM found f JOIN {rows} n ON n.text = f.key ORDER BY n.id

-- Updated rows as they will be as a whole, with what only the slave has in them.
-- name: merge
UPDATE {net} n SET row = m.merged, kind = '+'
FROM (
    SELECT c.text, {slave_row} || coalesce(c.row, '{{}}') AS merged
    FROM {source} c JOIN {table} t ON {same_key}
) m
WHERE n.tab = {tab} AND n.kind IN ({kinds}) AND n.key = m.text

-- Changes that the slave has refused wait. An inserted row that was to replace another one (e) is still an insert, and one
-- that the transform has given another row is still what it was.
-- name: quarantine
WITH refused AS (
    SELECT n.*, g.error, g.conflict
    FROM unnest(%(refused)s::text[], %(errors)s::text[], %(conflicts)s::text[]) g(key, error, conflict)
    JOIN {net} n ON n.tab = %(tab)s AND n.kind::text = ANY (%(kinds)s) AND n.key = g.key
), marked AS (
    UPDATE {net} n SET kind = '-' FROM refused r WHERE n.tab = r.tab AND n.kind = r.kind AND n.key = r.key
)
INSERT INTO pyreplica.replica_conflict (replication, batch, change_id, conflict, master_relid, schema_name,
    table_name, generation, op, key, row, old, resolution, error)
SELECT %(replication)s, %(batch)s, id, conflict, %(relid)s, %(schema)s, %(name)s, tab,
    CASE WHEN k1 IS NOT NULL THEN k1::"char" WHEN kind = 'e' THEN 'I' ELSE kind END, key,
    CASE WHEN k1 IS NULL THEN row ELSE k2::jsonb END, old, 'waiting', error
FROM refused ORDER BY id

-- Updates of rows of which an earlier change waits have to wait as well (of changes that wait for the transform, aside.py
-- sees to that). What tells the whole row, or that it is
-- gone, comes in the place of all that waits, whatever the slave has now.
-- name: defer
WITH waiting AS (
    SELECT DISTINCT key FROM pyreplica.replica_conflict
    WHERE replication = %(replication)s AND master_relid = %(relid)s AND settled_at IS NULL
        AND resolution = 'waiting' AND NOT (untransformed AND %(transforms)s)
), later AS (
    SELECT n.* FROM {net} n JOIN waiting USING (key) WHERE n.tab = %(tab)s
), marked AS (
    UPDATE {net} n SET kind = CASE WHEN l.kind IN ('U', 'u') THEN '-' WHEN l.kind IN ('I', 'r') THEN 'r' ELSE 'd' END
    FROM later l WHERE n.tab = l.tab AND n.key = l.key
), superseded AS (
    UPDATE pyreplica.replica_conflict c SET resolution = 'superseded', settled_at = clock_timestamp()
    FROM later l
    WHERE l.kind NOT IN ('U', 'u') AND l.key = c.key AND c.replication = %(replication)s
        AND c.master_relid = %(relid)s AND c.settled_at IS NULL
        AND NOT (c.untransformed AND %(transforms)s)
), put AS (
    INSERT INTO pyreplica.replica_conflict (replication, batch, change_id, master_relid, schema_name, table_name,
        generation, op, key, row, old, resolution, error)
    SELECT %(replication)s, %(batch)s, id, %(relid)s, %(schema)s, %(name)s, tab, kind, key, row, old, 'waiting',
        'an earlier change of the row waits'
    FROM later WHERE kind IN ('U', 'u') ORDER BY id
    RETURNING change_id, key
)
SELECT count(*), min(change_id), (array_agg(key ORDER BY change_id))[1] FROM put

-- TRUNCATE takes away what waits. (What was put aside is there from the beginning of its batch.)
-- name: truncated
UPDATE pyreplica.replica_conflict SET resolution = 'truncated', settled_at = clock_timestamp()
WHERE replication = %(replication)s AND master_relid = %(relid)s AND settled_at IS NULL
    AND change_id < %(truncated)s

-- Changes that the transform has failed on wait as the log has them, and so do the later ones of their rows.
-- (replication/aside.py)
-- name: put_aside
INSERT INTO pyreplica.replica_conflict (replication, batch, change_id, master_relid, schema_name, table_name, generation,
    op, key, row, old, resolution, error, untransformed)
SELECT {replication}, {batch}, id, relid, schema, name, tab, op::"char", key, row, old, 'waiting', error, true
FROM unnest({ids}::bigint[], {relids}::bigint[], {schemas}::text[], {names}::text[], {tabs}::integer[], {ops}::text[],
    {keys}::text[], {rows}::jsonb[], {olds}::jsonb[], {errors}::text[])
    WITH ORDINALITY u(id, relid, schema, name, tab, op, key, row, old, error, n) ORDER BY n

-- The rows of which such changes wait.
-- name: untransformed
SELECT DISTINCT master_relid::bigint, key FROM pyreplica.replica_conflict
WHERE replication = %(replication)s AND settled_at IS NULL AND resolution = 'waiting' AND untransformed

-- Whether changes of a row wait.
-- name: waits
SELECT EXISTS (SELECT FROM pyreplica.replica_conflict
    WHERE replication = %(replication)s AND master_relid = %(relid)s AND md5(key) = md5(%(key)s) AND key = %(key)s
        AND settled_at IS NULL AND resolution = 'waiting')

-- All rows of a table got values with a new column; so do those that wait to be there.
-- name: filled
UPDATE pyreplica.replica_conflict SET row = coalesce(row, '{}') || %(row)s::jsonb, generation = %(tab)s
WHERE replication = %(replication)s AND master_relid = %(relid)s AND resolution = 'waiting' AND op IN ('I', 'i', 'r')
    AND change_id < %(id)s

-- Whether anything waits, and whether the master is to be asked for rows.
-- name: open
SELECT coalesce(bool_or(resolution = 'waiting'), false), coalesce(bool_or(resolution = 'restating'), false)
FROM pyreplica.replica_conflict WHERE replication = %(replication)s AND settled_at IS NULL

-- Rows that the master is to log again.
-- name: restating
SELECT master_relid::bigint, array_agg(DISTINCT key) FROM pyreplica.replica_conflict
WHERE replication = %(replication)s AND settled_at IS NULL AND resolution = 'restating'
GROUP BY master_relid

-- name: restated
UPDATE pyreplica.replica_conflict SET resolution = %(resolution)s, settled_at = clock_timestamp()
WHERE replication = %(replication)s AND master_relid = %(relid)s AND settled_at IS NULL AND resolution = 'restating'
    AND key = ANY (%(keys)s)

-- The same as open, in the same round trip with forgetting what was settled long ago.
-- name: open_and_trim
WITH trimmed AS (
    DELETE FROM pyreplica.replica_conflict
    WHERE replication = %(replication)s AND settled_at < now() - %(keep)s * interval '1 second'
)
SELECT coalesce(bool_or(resolution = 'waiting'), false), coalesce(bool_or(resolution = 'restating'), false)
FROM pyreplica.replica_conflict WHERE replication = %(replication)s AND settled_at IS NULL

-- How many wait, since when, and how many were met within the last day.
-- name: count
SELECT count(*) FILTER (WHERE settled_at IS NULL), min(at) FILTER (WHERE settled_at IS NULL),
    count(*) FILTER (WHERE at > now() - interval '1 day')
FROM pyreplica.replica_conflict WHERE replication = %(replication)s

-- name: list
SELECT id, at, batch, change_id, conflict, schema_name || '.' || table_name, op::text, key::jsonb, row, old, slave_row,
    resolution, error, settled_at
FROM pyreplica.replica_conflict
WHERE replication = %(replication)s AND (%(all)s OR settled_at IS NULL)
ORDER BY id

-- The rows of which these changes, or any, wait.
-- name: waiting_rows
SELECT master_relid::bigint, key, array_agg(id ORDER BY id) FROM pyreplica.replica_conflict c
WHERE replication = %(replication)s AND settled_at IS NULL AND resolution = 'waiting'
    AND (%(ids)s::bigint[] IS NULL OR EXISTS (SELECT FROM pyreplica.replica_conflict a
        WHERE a.id = ANY (%(ids)s) AND a.replication = c.replication AND a.master_relid = c.master_relid
            AND a.key = c.key AND a.settled_at IS NULL AND a.resolution = 'waiting'))
GROUP BY master_relid, key ORDER BY min(id)

-- name: waiting_changes
SELECT id, change_id, generation, op::text, key, row::text, old::text, schema_name || '.' || table_name, untransformed
FROM pyreplica.replica_conflict
WHERE replication = %(replication)s AND master_relid = %(relid)s AND md5(key) = md5(%(key)s) AND key = %(key)s
    AND settled_at IS NULL AND resolution = 'waiting'
ORDER BY id FOR UPDATE

-- Gives up what waits of the rows of which these changes, or any, wait.
-- name: skip
UPDATE pyreplica.replica_conflict c SET resolution = 'skipped', settled_at = clock_timestamp()
WHERE replication = %(replication)s AND settled_at IS NULL AND resolution = 'waiting'
    AND (%(ids)s::bigint[] IS NULL OR EXISTS (SELECT FROM pyreplica.replica_conflict a
        WHERE a.id = ANY (%(ids)s) AND a.replication = c.replication AND a.master_relid = c.master_relid
            AND a.key = c.key))

-- name: settle
UPDATE pyreplica.replica_conflict
SET resolution = %(resolution)s, error = coalesce(%(error)s, error),
    settled_at = CASE WHEN %(resolution)s NOT IN ('waiting', 'restating') THEN clock_timestamp() END
WHERE replication = %(replication)s AND id = ANY (%(ids)s)
