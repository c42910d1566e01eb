-- The statements of pyreplica/master/log.py about the tables of a large batch, one by one, by name.
-- {log} is what the replication's slave gets of the log.

-- What there is between two snapshots, by generation: which operations, how many, the first and the last of them.
-- name: contents
SELECT tab, op::text, changes, last FROM (
    SELECT tab, op, count(*) AS changes, min(id) AS first, max(id) AS last FROM (
        SELECT id, tab, op FROM {log} l
        WHERE txid = ANY (%(running)s::xid8[]) AND pg_visible_in_snapshot(txid, %(until)s)
        UNION ALL
        SELECT id, tab, op FROM {log} l
        WHERE txid >= %(xmax)s::xid8 AND txid < pg_snapshot_xmax(%(until)s) AND pg_visible_in_snapshot(txid, %(until)s)
    ) l
    GROUP BY tab, op
) o
ORDER BY first

-- The rows of a generation that has been inserted into and nothing else, for the slave's table itself. || and OFFSET
-- read a row out of TOAST once, and not for each of its columns.
-- name: inserted
SELECT %(columns)s FROM (
    SELECT key, row || '{}' AS row FROM {log} l
    WHERE txid = ANY (%(running)s::xid8[]) AND pg_visible_in_snapshot(txid, %(until)s) AND tab = %(generation)s
    UNION ALL
    SELECT key, row || '{}' AS row FROM {log} l
    WHERE txid >= %(xmax)s::xid8 AND txid < pg_snapshot_xmax(%(until)s) AND pg_visible_in_snapshot(txid, %(until)s)
        AND tab = %(generation)s
    OFFSET 0
) c

-- The keys of a generation that has been deleted from and nothing else.
-- name: deleted
SELECT %(generation)s, 'D', %(key)s FROM (
    SELECT key FROM {log} l
    WHERE txid = ANY (%(running)s::xid8[]) AND pg_visible_in_snapshot(txid, %(until)s) AND tab = %(generation)s
    UNION ALL
    SELECT key FROM {log} l
    WHERE txid >= %(xmax)s::xid8 AND txid < pg_snapshot_xmax(%(until)s) AND pg_visible_in_snapshot(txid, %(until)s)
        AND tab = %(generation)s
) c

-- The columns that one of the updates of a generation sets.
-- name: columns_set
SELECT ARRAY(SELECT jsonb_object_keys(c.row)) FROM (
    SELECT row FROM {log} l
    WHERE txid = ANY (%(running)s::xid8[]) AND pg_visible_in_snapshot(txid, %(until)s) AND tab = %(generation)s
    UNION ALL
    SELECT row FROM {log} l
    WHERE txid >= %(xmax)s::xid8 AND txid < pg_snapshot_xmax(%(until)s) AND pg_visible_in_snapshot(txid, %(until)s)
        AND tab = %(generation)s
    LIMIT 1
) c

-- The net changes of a generation that has been updated and nothing else: the last change of a key tells what is there
-- now, the first one what there was. That is so where all of them set the given columns; a key with others is marked
-- with '?'. (Of two objects the one with more members is the greater; `more` has one more than there are columns.)
-- Behind an id of always 19 digits the text of the first change is the least and that of the last one the greatest. So
-- one pass is enough, and no join, which might be planned by what was known of the log before it grew. Large rows are
-- marked as well: this has two of each key in memory, and may begin with small ones.
-- name: updated
SELECT %(generation)s, CASE WHEN same THEN 'U' ELSE '?' END, %(names)s, substr(last, 20), nullif(substr(first, 20), '')
FROM (
    SELECT %(key)s,
        bool_and(pg_column_size(c.row) <= %(longest)s AND coalesce(pg_column_size(c.old), 0) <= %(longest)s
            AND c.row ?& %(columns)s::text[] AND c.row < %(more)s::jsonb) AS same,
        max(CASE WHEN pg_column_size(c.row) <= %(longest)s
            THEN (c.id + 1000000000000000000)::text || c.row::text COLLATE "C" END) AS last,
        min(CASE WHEN coalesce(pg_column_size(c.old), 0) <= %(longest)s
            THEN (c.id + 1000000000000000000)::text || coalesce(c.old::text, '') COLLATE "C" END) AS first
    FROM (
        SELECT id, key, row || '{}' AS row, old || '{}' AS old FROM {log} l
        WHERE txid = ANY (%(running)s::xid8[]) AND pg_visible_in_snapshot(txid, %(until)s) AND tab = %(generation)s
        UNION ALL
        SELECT id, key, row || '{}' AS row, old || '{}' AS old FROM {log} l
        WHERE txid >= %(xmax)s::xid8 AND txid < pg_snapshot_xmax(%(until)s)
            AND pg_visible_in_snapshot(txid, %(until)s) AND tab = %(generation)s
        OFFSET 0
    ) c
    GROUP BY %(names)s
) n
