-- The statements of pyreplica/slave/stage.py, by name: the staging tables, and the net change of each key.

-- Unlogged: a batch that was not committed is fetched again. Not temporary: a prepared transaction must not touch
-- temporary tables. Keys sort and hash fastest as bytes. k1 to k4 are in the place of key where the master has folded
-- the changes: the values of its columns by themselves.
-- name: create_staging
CREATE UNLOGGED TABLE IF NOT EXISTS {stage} (
    id bigint, tab integer, op "char", key text COLLATE "C", row jsonb, old jsonb
);
CREATE UNLOGGED TABLE IF NOT EXISTS {net} (
    tab integer, kind "char", key text COLLATE "C", row jsonb, old jsonb, id bigint,
    k1 text, k2 text, k3 text, k4 text
)

-- name: index_staging
CREATE INDEX IF NOT EXISTS {stage_by_tab} ON {stage} (tab, id);
CREATE INDEX IF NOT EXISTS {net_by_tab} ON {net} (tab)

-- name: staging_sizes
SELECT pg_relation_size(%(stage)s), pg_relation_size(%(net)s)

-- Whether the staging tables are those of the statement above: an older release may have made other ones.
-- name: staging_made
SELECT bool_and(obj_description(to_regclass(t), 'pg_class') IS NOT DISTINCT FROM %(made)s)
FROM unnest(%(tables)s::text[]) t

-- What each table of the staged batch has to be done to it.
-- name: staged_tables
SELECT tab, count(*), coalesce(max(id) FILTER (WHERE op = 'T'), 0),
    coalesce(bool_and(op = 'I'), false), coalesce(bool_and(op = 'D'), false), coalesce(bool_and(op = 'U'), false)
FROM {stage} WHERE id > %(after)s AND id < %(before)s GROUP BY tab ORDER BY min(id)

-- The columns that the changes of a table set, if all set the same; and whether all tell what was in them before.
-- name: same_columns
SELECT f.columns, s.known FROM (
    SELECT ARRAY(SELECT jsonb_object_keys(row)) AS columns
    FROM {stage} WHERE id > %(after)s AND id < %(before)s AND tab = %(tab)s LIMIT 1
) f, LATERAL (
    SELECT bool_and(row ?& f.columns AND row - f.columns = '{{}}') AS same,
        coalesce(bool_and(coalesce(old ?& f.columns, false)), false) AS known
    FROM {stage} WHERE id > %(after)s AND id < %(before)s AND tab = %(tab)s
) s
WHERE s.same

-- What fold does, for updates that all set the same columns: the last one of a key tells what is there now, the first
-- one what there was.
-- name: fold_updates
INSERT INTO {net} (tab, kind, key, row, old, id)
SELECT %(tab)s, 'U', k.key, n.row, o.old, k.first
FROM (
    SELECT key, min(id) AS first, max(id) AS last
    FROM {stage} WHERE id > %(after)s AND id < %(before)s AND tab = %(tab)s GROUP BY key
) k
JOIN {stage} o ON o.tab = %(tab)s AND o.id = k.first JOIN {stage} n ON n.tab = %(tab)s AND n.id = k.last

-- Whether the net changes that the master has read of a table are what they should be, and whether all of them tell
-- what was in these columns before.
-- name: net_updates
SELECT coalesce(bool_and(kind = 'U'), true), coalesce(bool_and(coalesce(old ?& %(columns)s::text[], false)), false)
FROM {net} WHERE tab = %(tab)s

-- How many net changes of which kind there are.
-- name: net_kinds
SELECT tab, kind::text, count(*) FROM {net} GROUP BY tab, kind

-- What was staged, all of it or only some operations.
-- name: staged_changes
SELECT id, tab, op::text, key, row::text, old::text FROM {stage}
WHERE %(ops)s::text[] IS NULL OR op::text = ANY (%(ops)s)
ORDER BY id

-- A small batch that is to be judged, in the place of a large one.
-- name: put_into_stage
INSERT INTO {stage} (id, tab, op, key, row, old)
SELECT * FROM unnest(%(ids)s::bigint[], %(tabs)s::integer[], %(ops)s::"char"[], %(keys)s::text[], %(rows)s::jsonb[],
    %(olds)s::jsonb[])

-- One net change for each key. kind: I insert, U update, D delete; r replace, u, d: the same without expecting
-- that the row is there or not. old: of a U, what each column had before the first change of it, where that is known;
-- a column whose first change does not tell is marked with false until all are merged, so that no later one speaks for
-- it. See pyreplica/slave/fold.py, which does the same for small batches.
-- name: fold
INSERT INTO {net} (tab, kind, key, row, old, id)
SELECT tab, kind, key, merged, CASE WHEN kind = 'U' THEN CASE WHEN many
    THEN (SELECT jsonb_object_agg(o.key, o.value) FROM jsonb_each(was) o WHERE o.value <> 'false') ELSE was END END, id
FROM (
    SELECT tab, key, merged, was, many, id,
        CASE
            WHEN base IS NULL THEN CASE WHEN strict THEN 'U' ELSE 'u' END
            WHEN base_op IN ('D', 'd') THEN
                CASE WHEN NOT strict THEN 'd' WHEN first_op = 'I' THEN NULL ELSE 'D' END
            WHEN strict AND first_op = 'I' THEN 'I'
            ELSE 'r'
        END::"char" AS kind
    FROM (
        SELECT tab, key, base, n > 1 AS many, min(id) AS id, bool_and(op IN ('I', 'U', 'D')) AS strict,
            (array_agg(op ORDER BY id))[1] AS first_op,
            (array_agg(op ORDER BY id) FILTER (WHERE id = base))[1] AS base_op,
            pyreplica.merge(row ORDER BY id) FILTER (WHERE base IS NULL OR id >= base) AS merged,
            pyreplica.merge(CASE WHEN n = 1 THEN old ELSE
                (SELECT jsonb_object_agg(k, false) FROM jsonb_object_keys(row) k) || coalesce(old, '{{}}') END
                ORDER BY id DESC) FILTER (WHERE base IS NULL AND op = 'U') AS was
        FROM (
            SELECT *, max(id) FILTER (WHERE op IN ('I', 'D', 'i', 'd')) OVER key AS base, count(*) OVER key AS n
            FROM {stage} WHERE tab = %(tab)s AND id > %(after)s AND id < %(before)s
            WINDOW key AS (PARTITION BY key)
        ) s
        GROUP BY tab, key, base, n
    ) g
) k
WHERE kind IS NOT NULL
