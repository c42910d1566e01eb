-- The statements of pyreplica/slave/, by name.

-- name: version
SELECT version FROM pyreplica.replica_version WHERE side = 'slave'

-- name: lock
SELECT pg_try_advisory_lock(hashtext('pyreplica'), hashtext(%(replication)s))

-- Held by those who copy tables or remove them; the daemon goes on beside them.
-- name: lock_tables
SELECT pg_try_advisory_lock(hashtext('pyreplica.tables'), hashtext(%(replication)s))

-- name: unlock_tables
SELECT pg_advisory_unlock(hashtext('pyreplica.tables'), hashtext(%(replication)s))

-- name: identity
SELECT system_identifier::text, current_database()::text FROM pg_control_system()

-- name: server
SELECT current_setting('server_version_num')::integer, pg_is_in_recovery(),
    current_setting('max_prepared_transactions')::integer,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), current_user::text,
    pg_encoding_to_char((SELECT encoding FROM pg_database WHERE datname = current_database()))::text

-- name: may_create
SELECT has_database_privilege(current_database(), 'CREATE')

-- name: may_stage
SELECT has_schema_privilege('pyreplica', 'CREATE')

-- The guarded tables that do not belong to the session's role.
-- name: not_owned
SELECT c.oid::regclass::text FROM unnest(%(schemas)s::text[], %(names)s::text[]) w(schema, name)
JOIN pg_namespace n ON n.nspname = w.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
WHERE NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1

-- name: cursor
SELECT id, master_system, master_database, state = 'ready', made_schema, batch, snapshot::text, log_id, snapshot_at,
    changes, last_batch_changes, applied_at
FROM pyreplica.replica_cursor WHERE replication = %(replication)s

-- name: prepared
SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::double precision FROM pg_prepared_xacts
WHERE database = current_database() AND starts_with(gid, %(prefix)s)

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

-- The master is the one it was before, under another identity. Perhaps this database has moved, too: pg_upgrade keeps
-- the oids of its tables, a dump does not.
-- name: adopt
UPDATE pyreplica.replica_cursor SET master_system = %(system)s, master_database = %(database)s
WHERE replication = %(replication)s;
UPDATE pyreplica.replica_copy k SET slave_relid = to_regclass(format('%%I.%%I', w.schema, w.name))
FROM unnest(%(relids)s::bigint[], %(schemas)s::text[], %(names)s::text[]) w(relid, schema, name)
WHERE k.replication = %(replication)s AND k.master_relid::bigint = w.relid AND NOT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = k.slave_relid AND c.relname = w.name AND n.nspname = w.schema)

-- name: finish_copy
UPDATE pyreplica.replica_cursor
SET state = 'ready', made_schema = false, batch = %(batch)s, snapshot = %(snapshot)s, log_id = %(log_id)s,
    snapshot_at = %(at)s, changes = 0, last_batch_changes = 0, applied_at = now()
WHERE replication = %(replication)s;
UPDATE pyreplica.replica_conflict SET resolution = 'superseded', settled_at = now()
WHERE replication = %(replication)s AND settled_at IS NULL;
DELETE FROM pyreplica.replica_status WHERE replication = %(replication)s

-- name: copying_table
INSERT INTO pyreplica.replica_copy (replication, master_relid, schema_name, table_name)
VALUES (%(replication)s, %(relid)s, %(schema)s, %(table)s)
ON CONFLICT (replication, master_relid) DO UPDATE
    SET schema_name = excluded.schema_name, table_name = excluded.table_name,
        state = 'copying', rows_copied = NULL, copied_at = NULL, snapshot = NULL, problem = NULL, slave_relid = NULL;
UPDATE pyreplica.replica_conflict SET resolution = 'superseded', settled_at = now()
WHERE replication = %(replication)s AND master_relid = %(relid)s AND settled_at IS NULL

-- name: copied_table
UPDATE pyreplica.replica_copy SET state = 'ready', rows_copied = %(rows)s, copied_at = now(),
    slave_relid = to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text))
WHERE replication = %(replication)s AND master_relid = %(relid)s

-- name: forget_tables
DELETE FROM pyreplica.replica_copy WHERE replication = %(replication)s AND master_relid <> ALL (%(relids)s::oid[])

-- name: table_copies
SELECT c.tables, k.master_relid::bigint, k.schema_name, k.table_name, k.state, k.snapshot::text, k.rows_copied,
    k.problem, k.slave_relid::bigint
FROM pyreplica.replica_cursor c LEFT JOIN pyreplica.replica_copy k USING (replication)
WHERE c.replication = %(replication)s

-- A table is copied as of a snapshot of its own; from there the daemon brings it to where the others are.
-- name: joining_table
UPDATE pyreplica.replica_copy
SET state = 'joining', snapshot = %(snapshot)s, rows_copied = %(rows)s, copied_at = now(),
    slave_relid = to_regclass(format('%%I.%%I', %(schema)s::text, %(table)s::text))
WHERE replication = %(replication)s AND master_relid = %(relid)s

-- name: joined_tables
UPDATE pyreplica.replica_copy SET state = 'ready', snapshot = NULL
WHERE replication = %(replication)s AND master_relid = ANY (%(relids)s::oid[])

-- name: give_up_tables
UPDATE pyreplica.replica_copy SET state = 'copying', snapshot = NULL, problem = %(problem)s
WHERE replication = %(replication)s AND master_relid = ANY (%(relids)s::oid[])

-- name: remove_table
INSERT INTO pyreplica.replica_copy (replication, master_relid, schema_name, table_name, state)
VALUES (%(replication)s, %(relid)s, %(schema)s, %(table)s, 'removed')
ON CONFLICT (replication, master_relid) DO UPDATE
    SET state = 'removed', rows_copied = NULL, copied_at = NULL, snapshot = NULL, problem = NULL;
UPDATE pyreplica.replica_conflict SET resolution = 'skipped', settled_at = now()
WHERE replication = %(replication)s AND master_relid = %(relid)s AND settled_at IS NULL

-- name: forget_table
DELETE FROM pyreplica.replica_copy WHERE replication = %(replication)s AND master_relid = %(relid)s

-- Batches that were made before are made again. Last in its transaction: a batch locks this row last, too.
-- name: tables_changed
UPDATE pyreplica.replica_cursor SET tables = tables + 1 WHERE replication = %(replication)s

-- name: remove
DELETE FROM pyreplica.replica_conflict WHERE replication = %(replication)s;
DELETE FROM pyreplica.replica_copy WHERE replication = %(replication)s;
DELETE FROM pyreplica.replica_status WHERE replication = %(replication)s;
DELETE FROM pyreplica.replica_pause WHERE replication = %(replication)s;
DELETE FROM pyreplica.replica_source WHERE replication = %(replication)s;
DELETE FROM pyreplica.replica_cursor WHERE replication = %(replication)s

-- Whether this database is the master of others as well: then there is a function that says whether it forwards.
-- name: is_master
SELECT to_regprocedure('pyreplica.forwards()') IS NOT NULL

-- name: forwards
SELECT pyreplica.forwards()

-- Wakes the daemons that wait for changes made here. A queue of notifications that is half full is left alone, as
-- pyreplica.ring() does.
-- name: ring
SELECT pg_notify('pyreplica', '') WHERE pg_notification_queue_usage() < 0.5

-- name: rotate
SELECT pyreplica.rotate_log(%(bytes)s)

-- name: lock_sources
LOCK TABLE pyreplica.replica_source IN SHARE ROW EXCLUSIVE MODE

-- name: sources
SELECT system, database FROM pyreplica.replica_source WHERE replication = %(replication)s

-- Whose changes other replications bring to tables that this one brings as well, and one of these tables.
-- name: sources_of_others
SELECT s.replication, s.system, s.database, c.master_system, c.master_database,
    min(k.schema_name || '.' || k.table_name)
FROM pyreplica.replica_source s JOIN pyreplica.replica_cursor c ON c.replication = s.replication
JOIN pyreplica.replica_copy k ON k.replication = s.replication AND k.state <> 'removed'
WHERE s.replication <> %(replication)s AND (k.schema_name, k.table_name) IN (
    SELECT w.schema_name, w.table_name FROM unnest(%(schemas)s::text[], %(names)s::text[]) w(schema_name, table_name)
    UNION ALL
    SELECT o.schema_name, o.table_name FROM pyreplica.replica_copy o
    WHERE o.replication = %(replication)s AND o.state <> 'removed')
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3

-- name: forget_sources
DELETE FROM pyreplica.replica_source WHERE replication = %(replication)s

-- name: add_sources
INSERT INTO pyreplica.replica_source (replication, system, database)
SELECT %(replication)s, s.system, s.database
FROM unnest(%(systems)s::text[], %(databases)s::text[]) s(system, database)

-- name: other_cursors
SELECT count(*) FROM pyreplica.replica_cursor WHERE replication <> %(replication)s

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

-- name: listen_for_pauses
LISTEN pyreplica_pause

-- name: paused
SELECT paused_at, paused_by, reason FROM pyreplica.replica_pause WHERE replication = %(replication)s

-- name: pause
SELECT pyreplica.pause(%(replication)s, %(reason)s, %(who)s)

-- name: resume
SELECT pyreplica.resume(%(replication)s)

-- Whether somebody holds a lock of the replication: the daemon's, or that of who copies tables.
-- name: locked
SELECT EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND classid::bigint = hashtext(%(lock)s)::bigint & 4294967295
        AND objid::bigint = hashtext(%(replication)s)::bigint & 4294967295
)

-- The triggers of a replication's guard that are to be made or taken away. Of each table the newest name that it is
-- known by here counts. Its partitions are guarded as well; and by row what can be written through a parent.
-- name: guards
WITH wanted AS (
    SELECT DISTINCT ON (w.relid) c.oid AS relid, c.relkind = 'p' AS partitioned
    FROM unnest(%(relids)s::bigint[], %(generations)s::integer[], %(schemas)s::text[], %(names)s::text[])
        w(relid, generation, schema, name)
    JOIN pg_namespace n ON n.nspname = w.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.name AND c.relkind IN ('r', 'p')
    ORDER BY w.relid, w.generation DESC
), due AS (
    SELECT c.oid AS relid, %(trigger)s::text AS name, false AS by_row FROM pg_class c
    WHERE c.relkind IN ('r', 'p') AND c.oid IN (
        SELECT w.relid FROM wanted w UNION SELECT t.relid FROM wanted w, pg_partition_tree(w.relid) t)
    UNION ALL
    SELECT DISTINCT w.relid, %(rows)s::text, true FROM wanted w
    WHERE (w.partitioned OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = w.relid))
        -- a partition has that of its root
        AND NOT EXISTS (SELECT FROM pg_partition_ancestors(w.relid) a JOIN wanted o ON o.relid = a.relid
            WHERE a.relid <> w.relid)
), there AS (
    SELECT t.tgrelid AS relid, t.tgname::text AS name, t.tgenabled = 'O' AS enabled, t.tgparentid = 0 AS own
    FROM pg_trigger t
    WHERE t.tgfoid = 'pyreplica.refuse_write()'::regprocedure AND t.tgname::text IN (%(trigger)s, %(rows)s)
)
SELECT n.nspname::text, c.relname::text, name, CASE
    WHEN due.name IS NULL THEN 'drop'
    WHEN there.name IS NULL THEN CASE WHEN due.by_row THEN 'create rows' ELSE 'create' END
    ELSE 'enable' END
FROM due FULL JOIN there USING (relid, name)
JOIN pg_class c ON c.oid = relid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE CASE WHEN due.name IS NULL THEN there.own ELSE there.enabled IS NOT TRUE END
ORDER BY 1, 2, 3

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
            -- How text becomes a value, what comes before it and what after it: as the type's input function reads
            -- it. A cast does so unless it is a function: then that of another string type, or the input function
            -- itself, if it is not one for a whole kind of types. A domain is read as its base.
            (SELECT json_build_array(r.before,
                    r.after || CASE WHEN b.base <> a.atttypid THEN '::' || format_type(b.base, -1) ELSE '' END
                        || '::' || format_type(a.atttypid, a.atttypmod))
                FROM (
                    SELECT 1 AS n, '' AS before, CASE string WHEN 'text' THEN '' ELSE '::' || string END AS after
                    FROM unnest('{text,varchar,bpchar}'::text[]) string
                    WHERE NOT EXISTS (SELECT FROM pg_cast WHERE castsource = to_regtype(string)
                            AND casttarget = b.base AND castmethod = 'f')
                        AND (string = 'text' OR p.prorettype <> b.base)
                    UNION ALL
                    SELECT 2, format('%%I.%%I(textout(', pn.nspname, p.proname),
                        CASE WHEN p.pronargs > 1 THEN format('), %%s, -1)',
                            CASE WHEN t.typelem <> 0 THEN t.typelem ELSE t.oid END) ELSE '))' END
                ) r
                ORDER BY r.n LIMIT 1),
            (SELECT format('OPERATOR(%%I.%%s)', opn.nspname, op.oprname)
                FROM unnest(k.indkey::int2[], k.indclass::oid[]) i(attnum, opclass)
                JOIN pg_opclass oc ON oc.oid = i.opclass
                JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily AND ao.amoplefttype = oc.opcintype
                    AND ao.amoprighttype = oc.opcintype AND ao.amopstrategy = 3
                JOIN pg_operator op ON op.oid = ao.amopopr JOIN pg_namespace opn ON opn.oid = op.oprnamespace
                WHERE i.attnum = a.attnum LIMIT 1),
            a.attgenerated <> '', a.attidentity = 'a',
            a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', a.atttypid::bigint) ORDER BY a.attnum)
        FROM pg_attribute a
        JOIN LATERAL (
            WITH RECURSIVE under(typ) AS (
                SELECT a.atttypid
                UNION ALL
                SELECT d.typbasetype FROM under u JOIN pg_type d ON d.oid = u.typ WHERE d.typtype = 'd'
            )
            SELECT u.typ AS base FROM under u JOIN pg_type d ON d.oid = u.typ WHERE d.typtype <> 'd'
        ) b ON true
        JOIN pg_type t ON t.oid = b.base
        JOIN pg_proc p ON p.oid = t.typinput JOIN pg_namespace pn ON pn.oid = p.pronamespace
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    has_schema_privilege(n.oid, 'USAGE')
        AND (SELECT bool_and(has_table_privilege(c.oid, p))
            FROM unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE}'::text[]) p),
    EXISTS (SELECT FROM pg_class u WHERE u.relpersistence = 'u'
        AND (u.oid = c.oid OR u.oid IN (SELECT relid FROM pg_partition_tree(c.oid)))),
    EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type = '3' AND r.ev_enabled IN ('A', 'R')),
    c.oid::bigint
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN LATERAL (
    -- a unique index on just the key columns, and perhaps on columns that are constants; the primary key first
    SELECT i.indexrelid, i.indkey, i.indclass FROM pg_index i
    WHERE i.indrelid = c.oid AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid
        AND (SELECT array_agg(ka.attname::text ORDER BY ka.attname::text)
                FILTER (WHERE ka.attname::text <> ALL (%(constants)s::text[]))
            FROM unnest(i.indkey::int2[]) WITH ORDINALITY ik(attnum, n)
            JOIN pg_attribute ka ON ka.attrelid = c.oid AND ka.attnum = ik.attnum
            WHERE ik.n <= i.indnkeyatts)
        = (SELECT array_agg(kc ORDER BY kc) FROM unnest(%(key)s::text[]) kc)
    ORDER BY i.indisprimary DESC LIMIT 1
) k ON true
WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND c.relkind IN ('r', 'p')

-- Which of these parts of tables are here, by their place in the list. One of another table is not meant, it is in
-- the way.
-- name: parts_here
SELECT p.n FROM unnest(%(kinds)s::text[], %(table_schemas)s::text[], %(tables)s::text[], %(schemas)s::text[],
    %(names)s::text[]) WITH ORDINALITY p(kind, table_schema, "table", schema, name, n)
JOIN pg_namespace tn ON tn.nspname = p.table_schema
JOIN pg_class t ON t.relnamespace = tn.oid AND t.relname = p."table"
JOIN pg_namespace n ON n.nspname = p.schema
WHERE CASE p.kind
    WHEN 'index' THEN EXISTS (
        SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        WHERE i.indrelid = t.oid AND c.relname = p.name AND c.relnamespace = n.oid)
    WHEN 'statistics' THEN EXISTS (
        SELECT FROM pg_statistic_ext s
        WHERE s.stxrelid = t.oid AND s.stxname = p.name AND s.stxnamespace = n.oid)
    ELSE EXISTS (SELECT FROM pg_constraint c WHERE c.conrelid = t.oid AND c.conname = p.name)
    END

-- The sequences that are to stand where the master's do: of the same name; where there is none, those of the
-- columns that the master's one belongs to or serves. None is given away twice.
-- name: find_sequences
WITH wanted AS (
    SELECT * FROM jsonb_to_recordset(%(wanted)s::jsonb) w(relid bigint, schema text, name text, columns jsonb)
), found AS (
    SELECT w.relid, true AS by_name, s.oid
    FROM wanted w JOIN pg_namespace n ON n.nspname = w.schema
    JOIN pg_class s ON s.relnamespace = n.oid AND s.relname = w.name AND s.relkind = 'S'
    UNION ALL
    SELECT w.relid, false, s.oid
    FROM wanted w, LATERAL jsonb_to_recordset(w.columns) u(schema text, "table" text, "column" text)
    JOIN pg_namespace n ON n.nspname = u.schema
    JOIN pg_class t ON t.relnamespace = n.oid AND t.relname = u."table"
    JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = u."column"
    JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.oid AND d.refobjsubid = a.attnum
        AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
)
SELECT DISTINCT ON (c.oid) f.relid, n.nspname::text, c.relname::text, format('%%I.%%I', n.nspname, c.relname),
    s.seqmin, s.seqmax, s.seqincrement,
    has_sequence_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE'),
    has_sequence_privilege(c.oid, 'UPDATE') AND has_schema_privilege(n.oid, 'USAGE')
FROM found f JOIN pg_class c ON c.oid = f.oid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_sequence s ON s.seqrelid = c.oid
WHERE f.by_name OR NOT EXISTS (SELECT FROM found b WHERE b.by_name AND b.relid = f.relid)
ORDER BY c.oid, f.by_name DESC, f.relid

-- name: has_rows
SELECT EXISTS (SELECT FROM {table} t WHERE {own})
