-- The statements of pyreplica/replication/checksums.py, by name. Master and slave are asked alike.

-- A test of whether the two servers hash alike: architectures may not.
-- name: probe
SELECT hashtextextended('PyReplica ' || repeat('0123456789 ', 10), 0)

-- Where a table's rows are: itself, or its partitions, each with its size in blocks, and whether ranges of blocks
-- can be read one by one.
-- name: parts
SELECT n.nspname::text, c.relname::text,
    CASE WHEN c.relkind = 'r' THEN pg_relation_size(c.oid) / current_setting('block_size')::bigint ELSE 0 END,
    c.relkind = 'r' AND current_setting('server_version_num')::integer >= 140000
FROM (SELECT format('%%I.%%I', %(schema)s::text, %(table)s::text)::regclass AS root) t,
    LATERAL (SELECT relid FROM pg_partition_tree(t.root) WHERE isleaf UNION SELECT t.root) p
JOIN pg_class c ON c.oid = p.relid AND c.relkind IN ('r', 'f') JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY 1, 2

-- For each bucket of keys the number of its rows and the sum of their hashes.
-- name: sums
SELECT (key_hash & {mask})::integer, count(*), sum(row_hash)
FROM (SELECT {key_hash} AS key_hash, {row_hash} AS row_hash FROM ONLY {part} t WHERE {blocks} AND {own}) r
GROUP BY 1

-- The rows of some buckets: their keys, their hashes, and where they are. Ordered by a number, which is the same
-- order on both sides whatever type and collation the key has.
-- name: rows
SELECT key_hash, row_hash, key, relation, place
FROM (
    SELECT {key_hash} AS key_hash, {row_hash} AS row_hash, ARRAY[{key}] AS key, tableoid::bigint AS relation,
        ctid::text AS place
    FROM {rows} t WHERE {own}
) r
WHERE get_bit({buckets}, (key_hash & {mask})::integer) = 1
ORDER BY key_hash

-- The values of the rows at some places. Null is told from '', also where a composite value has null fields only.
-- name: values
SELECT tableoid::bigint, ctid::text, ARRAY[{values}]::text[]
FROM {rows} t WHERE ctid = ANY ({places}::tid[])
