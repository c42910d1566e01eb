-- The statements of pyreplica/slave/, by name.

-- name: version
SELECT version FROM pyreplica.replica_version WHERE side = 'slave'

-- name: lock
SELECT pg_try_advisory_lock(hashtext('pyreplica'), hashtext(%(replication)s))

-- name: identity
SELECT system_identifier::text, current_database()::text FROM pg_control_system()

-- name: server
SELECT current_setting('server_version_num')::integer, pg_is_in_recovery(),
    current_setting('max_prepared_transactions')::integer,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), current_user::text,
    pg_encoding_to_char((SELECT encoding FROM pg_database WHERE datname = current_database()))::text

-- name: may_create
SELECT has_database_privilege(current_database(), 'CREATE')

-- name: cursor
SELECT id, master_system, master_database, state = 'ready', made_schema, batch, snapshot::text, log_id, snapshot_at,
    changes, last_batch_changes, applied_at
FROM pyreplica.replica_cursor WHERE replication = %(replication)s

-- name: prepared
SELECT gid FROM pg_prepared_xacts WHERE database = current_database() AND starts_with(gid, %(prefix)s)

-- The number that makes gids of two slaves in one server differ.
-- name: database_oid
SELECT oid::bigint FROM pg_database WHERE datname = current_database()

-- name: begin_copy
INSERT INTO pyreplica.replica_cursor (replication, master_system, master_database, made_schema)
VALUES (%(replication)s, %(system)s, %(database)s, %(made_schema)s)
ON CONFLICT (replication) DO UPDATE
    SET master_system = excluded.master_system, master_database = excluded.master_database,
        state = 'copying', snapshot = NULL,
        made_schema = replica_cursor.made_schema OR excluded.made_schema
RETURNING id

-- name: finish_copy
UPDATE pyreplica.replica_cursor
SET state = 'ready', made_schema = false, batch = %(batch)s, snapshot = %(snapshot)s, log_id = %(log_id)s,
    snapshot_at = %(at)s, changes = 0, last_batch_changes = 0, applied_at = now()
WHERE replication = %(replication)s;
DELETE FROM pyreplica.replica_status WHERE replication = %(replication)s

-- name: copying_table
INSERT INTO pyreplica.replica_copy (replication, master_relid, schema_name, table_name)
VALUES (%(replication)s, %(relid)s, %(schema)s, %(table)s)
ON CONFLICT (replication, master_relid) DO UPDATE
    SET schema_name = excluded.schema_name, table_name = excluded.table_name,
        state = 'copying', rows_copied = NULL, copied_at = NULL

-- name: copied_table
UPDATE pyreplica.replica_copy SET state = 'ready', rows_copied = %(rows)s, copied_at = now()
WHERE replication = %(replication)s AND master_relid = %(relid)s

-- name: forget_tables
DELETE FROM pyreplica.replica_copy WHERE replication = %(replication)s AND master_relid <> ALL (%(relids)s::oid[])

-- name: copied_tables
SELECT master_relid::bigint, state = 'ready' FROM pyreplica.replica_copy WHERE replication = %(replication)s

-- name: remove
DELETE FROM pyreplica.replica_copy WHERE replication = %(replication)s;
DELETE FROM pyreplica.replica_status WHERE replication = %(replication)s;
DELETE FROM pyreplica.replica_cursor WHERE replication = %(replication)s

-- name: other_cursors
SELECT count(*) FROM pyreplica.replica_cursor WHERE replication <> %(replication)s

-- Unlogged: a batch that was not committed is fetched again. Not temporary: a prepared transaction must not touch
-- temporary tables. Keys sort and hash fastest as bytes.
-- name: create_staging
CREATE UNLOGGED TABLE IF NOT EXISTS {stage} (
    id bigint, tab integer, op "char", key text COLLATE "C", row jsonb
);
CREATE UNLOGGED TABLE IF NOT EXISTS {net} (
    tab integer, kind "char", key text COLLATE "C", row jsonb
)

-- What each table of the staged batch has to be done to it.
-- name: staged_tables
SELECT tab, count(*) FILTER (WHERE op <> 'T'), coalesce(max(id) FILTER (WHERE op = 'T'), 0),
    coalesce(bool_and(op = 'I'), false), coalesce(bool_and(op = 'D'), false)
FROM {stage} GROUP BY tab ORDER BY min(id)

-- One net change for each key. kind: I insert, U update, D delete; r replace, u, d: the same without expecting
-- that the row is there or not. See pyreplica/slave/fold.py, which does the same for small batches.
-- name: fold
INSERT INTO {net} (tab, kind, key, row)
SELECT tab, kind, key, merged FROM (
    SELECT tab, key, merged,
        CASE
            WHEN base IS NULL THEN CASE WHEN strict THEN 'U' ELSE 'u' END
            WHEN base_op IN ('D', 'd') THEN
                CASE WHEN NOT strict THEN 'd' WHEN first_op = 'I' THEN NULL ELSE 'D' END
            WHEN strict AND first_op = 'I' THEN 'I'
            ELSE 'r'
        END::"char" AS kind
    FROM (
        SELECT tab, key, base, bool_and(op IN ('I', 'U', 'D')) AS strict,
            (array_agg(op ORDER BY id))[1] AS first_op,
            (array_agg(op ORDER BY id) FILTER (WHERE id = base))[1] AS base_op,
            pyreplica.merge(row ORDER BY id) FILTER (WHERE base IS NULL OR id >= base) AS merged
        FROM (
            SELECT *, max(id) FILTER (WHERE op IN ('I', 'D', 'i', 'd')) OVER (PARTITION BY key) AS base
            FROM {stage} WHERE tab = %(tab)s AND id > %(after)s
        ) s
        GROUP BY tab, key, base
    ) g
) k
WHERE kind IS NOT NULL

-- name: set_status
INSERT INTO pyreplica.replica_status (replication, state) VALUES (%(replication)s, %(state)s)
ON CONFLICT (replication) DO UPDATE SET state = excluded.state, since = now()

-- name: set_error
INSERT INTO pyreplica.replica_status (replication, state, last_error, last_error_at)
VALUES (%(replication)s, %(state)s, %(error)s, now())
ON CONFLICT (replication) DO UPDATE SET
    state = excluded.state, last_error = excluded.last_error, last_error_at = excluded.last_error_at,
    since = CASE WHEN replica_status.state = excluded.state THEN replica_status.since ELSE excluded.since END

-- name: status
SELECT state, since, last_error, last_error_at FROM pyreplica.replica_status WHERE replication = %(replication)s

-- Whether a daemon (or a copy) holds the replication's lock.
-- name: locked
SELECT EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND classid::bigint = hashtext('pyreplica')::bigint & 4294967295
        AND objid::bigint = hashtext(%(replication)s)::bigint & 4294967295
)

-- name: describe
SELECT n.nspname::text, c.relname::text, c.relkind = 'p',
    (SELECT count(*) FROM pg_index u WHERE u.indrelid = c.oid AND (u.indisunique OR u.indisexclusion)
        AND u.indexrelid IS DISTINCT FROM k.indexrelid) > 0,
    k.indexrelid IS NOT NULL,
    ARRAY(SELECT fn.nspname || '.' || fc.relname FROM pg_constraint f
        JOIN pg_class fc ON fc.oid = f.conrelid JOIN pg_namespace fn ON fn.oid = fc.relnamespace
        WHERE f.contype = 'f' AND f.confrelid = c.oid AND f.conrelid <> c.oid AND f.conparentid = 0),
    (SELECT json_agg(json_build_array(
            a.attname, format_type(a.atttypid, -1), format_type(a.atttypid, a.atttypmod),
            -- a cast from text that is a function would not read the text as the type's input function does
            CASE WHEN EXISTS (SELECT FROM pg_cast WHERE castsource = 'text'::regtype AND casttarget = a.atttypid
                AND castmethod = 'f')
            THEN (SELECT format('%%I.%%I(%%s)', pn.nspname, p.proname,
                    'textout($)' || CASE WHEN p.pronargs > 1 THEN format(', %%s, -1',
                        CASE WHEN t.typelem <> 0 THEN t.typelem ELSE t.oid END) ELSE '' END)
                FROM pg_proc p JOIN pg_namespace pn ON pn.oid = p.pronamespace WHERE p.oid = t.typinput) END,
            (SELECT format('OPERATOR(%%I.%%s)', opn.nspname, op.oprname)
                FROM unnest(k.indkey::int2[], k.indclass::oid[]) i(attnum, opclass)
                JOIN pg_opclass oc ON oc.oid = i.opclass
                JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype
                    AND ao.amoprighttype = oc.opcintype AND ao.amopstrategy = 3
                JOIN pg_operator op ON op.oid = ao.amopopr JOIN pg_namespace opn ON opn.oid = op.oprnamespace
                WHERE i.attnum = a.attnum LIMIT 1),
            a.attgenerated <> '', a.attidentity = 'a',
            a.attnotnull AND NOT a.atthasdef AND a.attidentity = '') ORDER BY a.attnum)
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    has_schema_privilege(n.oid, 'USAGE')
        AND (SELECT bool_and(has_table_privilege(c.oid, p))
            FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) p)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    -- a unique index on just the key columns, the primary key first
    SELECT i.indexrelid, i.indkey, i.indclass FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid
        AND (SELECT array_agg(ka.attname::text ORDER BY ka.attname::text)
            FROM unnest(i.indkey::int2[]) WITH ORDINALITY ik(attnum, n)
            JOIN pg_attribute ka ON ka.attrelid = c.oid AND ka.attnum = ik.attnum
            WHERE ik.n <= i.indnkeyatts)
        = (SELECT array_agg(kc ORDER BY kc) FROM unnest(%(key)s::text[]) kc)
    ORDER BY i.indisprimary DESC LIMIT 1
) k ON true
WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND c.relkind IN ('r', 'p')

-- name: has_rows
SELECT EXISTS (SELECT FROM {table})
