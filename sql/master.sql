-- The statements of pyreplica/master/, by name. {log} is what the replication's slave gets of the log.

-- name: identity
SELECT system_identifier::text, current_database()::text FROM pg_control_system()

-- name: server
SELECT current_setting('server_version_num')::integer, pg_is_in_recovery(),
    current_setting('max_prepared_transactions')::integer,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), current_user::text,
    pg_encoding_to_char((SELECT encoding FROM pg_database WHERE datname = current_database()))::text

-- name: version
SELECT version FROM pyreplica.replica_version WHERE side = 'master'

-- name: lock
SELECT pg_try_advisory_lock(hashtext('pyreplica'), hashtext(%(replication)s))

-- name: tables
SELECT id, relid::bigint, schema_name, table_name, key_columns, columns, (shape ->> 'partitioned')::boolean, active,
    shape ? 'merge',
    (SELECT jsonb_object_agg(c ->> 'name', format_type((c ->> 'type')::oid, (c ->> 'typmod')::integer))
        FROM jsonb_array_elements(shape -> 'columns') c),
    (SELECT jsonb_object_agg(c ->> 'name', (c ->> 'type')::bigint) FROM jsonb_array_elements(shape -> 'columns') c),
    (SELECT jsonb_build_array(f.condition, f.columns) FROM pyreplica.replica_filter f
        WHERE f.replication = %(replication)s AND f.relid = t.relid)
FROM pyreplica.replica_table t
WHERE %(ids)s::integer[] IS NULL AND active OR id = ANY (%(ids)s)
ORDER BY schema_name, table_name, id

-- name: slave
SELECT bit, slave_system, slave_database, state = 'ready', batch, snapshot::text, log_id, snapshot_at, dropped_at,
    dropped_why
FROM pyreplica.replica_slave WHERE replication = %(replication)s

-- A slave begins with a snapshot from before its copy, so that the log is kept from now on.
-- name: mask
SELECT 1::bigint << bit FROM pyreplica.replica_slave WHERE replication = %(replication)s

-- name: register
INSERT INTO pyreplica.replica_slave (replication, bit, slave_system, slave_database, log_id)
SELECT %(replication)s,
    pyreplica.bit_for(%(replication)s),
    %(system)s, %(database)s, (SELECT last_value FROM pyreplica.replica_log_id)
ON CONFLICT (replication) DO UPDATE
    SET slave_system = excluded.slave_system, slave_database = excluded.slave_database, state = 'copying',
        snapshot = excluded.snapshot, log_id = excluded.log_id, snapshot_at = excluded.snapshot_at,
        confirmed_at = NULL, dropped_at = NULL, dropped_why = NULL, held = NULL, held_log_id = NULL

-- name: set_limits
UPDATE pyreplica.replica_slave SET max_log_size = %(size)s, max_log_age = %(age)s::interval
WHERE replication = %(replication)s
    AND (max_log_size, max_log_age) IS DISTINCT FROM (%(size)s, %(age)s::interval)

-- name: log_kept
SELECT bytes, extract(epoch FROM age)::double precision, max_log_size,
    extract(epoch FROM max_log_age)::double precision, state = 'dropped'
FROM pyreplica.log_kept() WHERE replication = %(replication)s

-- name: want_ddl
UPDATE pyreplica.replica_slave SET ddl = %(wanted)s WHERE replication = %(replication)s AND ddl <> %(wanted)s

-- name: forwards
SELECT pyreplica.forwards()

-- name: set_forwarding
SELECT pyreplica.set_forwarding(%(forwards)s, renew := false)

-- Whether the slave has had all that was forwarded since it was copied.
-- name: has_forwarded
SELECT forward FROM pyreplica.replica_slave WHERE replication = %(replication)s

-- name: want_forwarded
UPDATE pyreplica.replica_slave SET forward = %(wanted)s WHERE replication = %(replication)s AND forward <> %(wanted)s

-- name: received
SELECT origin, replication, master_system, master_database, source_system, source_database FROM pyreplica.received()

-- The slave is where it was before, under another identity.
-- name: adopt
UPDATE pyreplica.replica_slave SET slave_system = %(system)s, slave_database = %(database)s
WHERE replication = %(replication)s

-- Captured tables that are not under the oid they were recorded with.
-- name: moved_tables
SELECT quote_ident(t.schema_name) || '.' || quote_ident(t.table_name) FROM pyreplica.replica_table t
WHERE t.active AND NOT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = t.relid AND c.relname = t.table_name AND n.nspname = t.schema_name)
ORDER BY 1

-- name: unregister
DELETE FROM pyreplica.replica_slave WHERE replication = %(replication)s

-- name: other_slaves
SELECT count(*) FROM pyreplica.replica_slave WHERE replication <> %(replication)s

-- The decision of a batch. It must find the batch before it, or somebody else has been at work. A slave that was
-- dropped may have been read an empty log: its batch is not confirmed. Nor is one that was made from the log of another
-- version.
-- name: prepare_confirm
PREPARE pyreplica_confirm (text, bigint, pg_snapshot, bigint, timestamptz, integer) AS
UPDATE pyreplica.replica_slave
SET batch = $2, snapshot = $3, log_id = $4, snapshot_at = $5, confirmed_at = now()
WHERE replication = $1 AND batch = $2 - 1 AND state = 'ready'
    AND (SELECT version FROM pyreplica.replica_version WHERE side = 'master') = $6

-- name: confirm
EXECUTE pyreplica_confirm (%(replication)s, %(batch)s, %(snapshot)s, %(log_id)s, %(at)s, %(version)s)

-- name: position
SELECT pg_current_snapshot()::text, (SELECT last_value FROM pyreplica.replica_log_id), now()

-- All changes after a snapshot in one round trip, with the moment they were read at. Changes of a transaction are
-- found by its txid alone: those that were running at the snapshot and have ended, and those that came after it (what
-- one has written that still runs is not even looked at, it may be much). When there are too many, or they are too
-- long, only their number comes back. With the first row come the values of sequences ($5) and where all sequences
-- stand ($6). They are read after the snapshot was taken, so that none is behind a value that a row of the answer was
-- given.
-- name: prepare_fetch
PREPARE pyreplica_fetch (xid8[], xid8, integer, bigint, oid[], boolean) AS
SELECT pg_current_snapshot()::text, (SELECT last_value FROM pyreplica.replica_log_id), now(), c.many,
    CASE WHEN coalesce(c.n, 1) = 1 AND $5 <> '{}' THEN (SELECT pyreplica.sequence_values($5)) END,
    CASE WHEN coalesce(c.n, 1) = 1 AND $6 THEN (SELECT jsonb_agg(s) FROM pyreplica.sequences() s) END,
    c.id, c.tab, c.op, CASE WHEN NOT c.many THEN c.key::text END, CASE WHEN NOT c.many THEN c.row::text END,
    CASE WHEN NOT c.many THEN c.old::text END
FROM (VALUES (1)) one LEFT JOIN (
    SELECT *, row_number() OVER () AS n, count(*) OVER () >= $3
            OR coalesce(sum(octet_length(l.row::text)) OVER (), 0) > $4 AS many
    FROM (
        SELECT id, tab, op, key, row, old FROM {log} l
        WHERE txid = ANY (ARRAY(SELECT x FROM unnest($1) x WHERE pg_visible_in_snapshot(x, pg_current_snapshot())))
        UNION ALL
        SELECT id, tab, op, key, row, old FROM {log} l WHERE txid >= $2
        LIMIT $3
    ) l
) c ON true

-- name: fetch
EXECUTE pyreplica_fetch (%(running)s::xid8[], %(xmax)s, %(rows)s, %(bytes)s, %(sequences)s::oid[], %(look)s)

-- name: sequences
SELECT jsonb_agg(s) FROM pyreplica.sequences() s

-- Wakes the daemons for the sequences, a change of which rings no bell.
-- name: ring
SELECT pg_notify('pyreplica', %(payload)s)

-- Where to cut a backlog: the last snapshot left behind within the wished number of rows, else the next one, else
-- here and now.
-- name: cut
WITH ticks AS (
    SELECT t.snapshot, t.log_id, t.xmax_, t.xmin_, t.running FROM pyreplica.replica_tick t
    WHERE (t.xmax_, t.xmin_, -t.running) > (%(xmax)s::xid8, %(xmin)s::xid8, -%(running)s)
)
SELECT snapshot::text, log_id FROM (
    (SELECT * FROM ticks WHERE log_id <= %(log_id)s ORDER BY xmax_ DESC, xmin_ DESC, running LIMIT 1)
    UNION ALL
    (SELECT * FROM ticks ORDER BY xmax_, xmin_, running DESC LIMIT 1)
) t
ORDER BY xmax_ DESC, xmin_ DESC, running LIMIT 1

-- The changes between two snapshots, in no order: the slave sorts them. Those of the given generations, or of all but
-- these.
-- name: changes
SELECT id, tab, op, coalesce(key::text, ''), row, old FROM {log} l
WHERE txid = ANY (%(running)s::xid8[]) AND pg_visible_in_snapshot(txid, %(until)s)
    AND (tab = ANY (%(generations)s::integer[])) = %(these)s
UNION ALL
SELECT id, tab, op, coalesce(key::text, ''), row, old FROM {log} l
WHERE txid >= %(xmax)s::xid8 AND txid < pg_snapshot_xmax(%(until)s) AND pg_visible_in_snapshot(txid, %(until)s)
    AND (tab = ANY (%(generations)s::integer[])) = %(these)s

-- All generations of tables, the first and the last.
-- name: generations
SELECT id FROM pyreplica.replica_table WHERE relid = ANY (%(relids)s::oid[])

-- All generations of tables, with their columns' numbers.
-- name: numbered_columns
SELECT id, relid::bigint, schema_name, table_name,
    (SELECT jsonb_object_agg(c ->> 'name', (c ->> 'number')::integer) FROM jsonb_array_elements(shape -> 'columns') c),
    key_columns
FROM pyreplica.replica_table ORDER BY id

-- name: pending
SELECT count(*), min(at) FROM (
    SELECT at FROM {log} l WHERE txid = ANY (%(running)s::xid8[])
    UNION ALL
    SELECT at FROM {log} l WHERE txid >= %(xmax)s::xid8
) l

-- Whether anything that was visible at one snapshot is still missing from another.
-- name: missing
SELECT EXISTS (
    SELECT FROM {log} l
    WHERE (txid = ANY (%(running)s::xid8[]) OR txid >= %(xmax)s::xid8)
        AND pg_visible_in_snapshot(txid, %(until)s)
)

-- What is in the log now stays there until the transaction ends.
-- name: keep_log
LOCK TABLE pyreplica.replica_log IN ACCESS SHARE MODE

-- What was logged of some keys of a table between two snapshots, and what concerns the table as a whole.
-- name: changes_of
SELECT l.id, l.tab, l.op, coalesce(l.key::text, ''), l.row::text FROM {log} l
WHERE (l.txid = ANY (%(running)s::xid8[]) OR l.txid >= %(xmax)s::xid8)
    AND pg_visible_in_snapshot(l.txid, %(until)s)
    AND (l.tab = 0 OR l.tab IN (SELECT id FROM pyreplica.replica_table WHERE relid = %(relid)s))
    AND (l.key IS NULL OR l.key = ANY (%(keys)s::jsonb[]))
ORDER BY l.id

-- name: restate
SELECT restated, busy::text[]
FROM pyreplica.restate(format('%%I.%%I', %(schema)s::text, %(table)s::text)::regclass, %(keys)s::jsonb[])

-- name: tick
SELECT pyreplica.tick()

-- name: truncated
SELECT EXISTS (
    SELECT FROM pyreplica.replica_log l JOIN pyreplica.replica_table t ON t.id = l.tab
    WHERE (l.txid = ANY (%(running)s::xid8[]) OR l.txid >= %(xmax)s::xid8) AND l.op = 'T'
        AND t.schema_name = %(schema)s AND t.table_name = %(table)s
)

-- Whether the master's writers wake a daemon that sleeps, as far as this session can tell.
-- name: rings
SELECT pyreplica.rings()

-- name: sleep
SELECT pyreplica.set_doorbell(%(bit)s, true)

-- name: awake
SELECT pyreplica.set_doorbell(%(bit)s, false)

-- name: rotate
SELECT pyreplica.rotate_log(%(bytes)s)

-- name: candidates
SELECT relid::bigint, schema_name, table_name, added, reason FROM pyreplica.candidates()

-- name: set_capture
SELECT pyreplica.set_capture(%(language)s, renew := false)

-- name: sees_ddl
SELECT pyreplica.sees_ddl()

-- name: may_uninstall
SELECT rolsuper OR oid = pyreplica.installer() AND NOT EXISTS (
    SELECT FROM pg_event_trigger WHERE evtname = 'pyreplica_ddl')
FROM pg_roles WHERE rolname = current_user

-- name: drift
SELECT relid::bigint, name, what, curable FROM pyreplica.drift() WHERE NOT pyreplica.sees_ddl()

-- name: catalog_mark
SELECT CASE WHEN NOT pyreplica.sees_ddl() THEN pyreplica.catalog_mark() END

-- name: follow_drift
SELECT pyreplica.follow_drift(%(relid)s)

-- name: set_merge
SELECT pyreplica.set_merge(format('%%I.%%I', %(schema)s::text, %(table)s::text)::regclass, %(way)s, %(counters)s::text[],
    %(priority)s::text[])

-- name: add_table
SELECT pyreplica.add_table(format('%%I.%%I', %(schema)s::text, %(table)s::text)::regclass)

-- name: filters
SELECT relid::bigint, given, columns, on_error, changes IS NOT NULL FROM pyreplica.replica_filter WHERE replication = %(replication)s

-- name: set_filter
SELECT pyreplica.set_filter(%(replication)s, format('%%I.%%I', %(schema)s::text, %(table)s::text)::regclass,
    %(where)s, %(columns)s)

-- name: set_python_filter
SELECT pyreplica.set_python_filter(%(replication)s, format('%%I.%%I', %(schema)s::text, %(table)s::text)::regclass,
    %(python)s, %(on_error)s, %(columns)s)

-- name: python_filters
SELECT (SELECT language FROM pyreplica.replica_capture),
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), current_user::text

-- name: drop_filters
SELECT pyreplica.drop_filters(%(replication)s)

-- name: set_copied
UPDATE pyreplica.replica_slave
SET batch = %(batch)s, snapshot = %(snapshot)s, log_id = %(log_id)s, snapshot_at = %(at)s, confirmed_at = now(),
    state = 'ready', held = NULL, held_log_id = NULL
WHERE replication = %(replication)s AND state = 'copying'

-- name: hold
UPDATE pyreplica.replica_slave SET held = coalesce(held, pg_current_snapshot()), holds = holds + 1,
    held_log_id = CASE WHEN held IS NULL THEN (SELECT last_value FROM pyreplica.replica_log_id) ELSE held_log_id END
WHERE replication = %(replication)s AND state <> 'dropped'

-- name: held
SELECT holds FROM pyreplica.replica_slave WHERE replication = %(replication)s AND held IS NOT NULL

-- Unless somebody else has asked for it meanwhile.
-- name: release
UPDATE pyreplica.replica_slave SET held = NULL, held_log_id = NULL
WHERE replication = %(replication)s AND holds = %(holds)s

-- Has the daemons look at the tables anew.
-- name: announce_tables
SELECT pg_notify('pyreplica', 'tables')

-- name: remove_table
SELECT pyreplica.remove_table(format('%%I.%%I', %(schema)s::text, %(table)s::text)::regclass)

-- name: table_size
SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint, coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint,
    (SELECT r.relkind = 'p' FROM pg_class r WHERE r.oid = t.root)
FROM (SELECT format('%%I.%%I', %(schema)s::text, %(table)s::text)::regclass AS root) t,
    LATERAL (SELECT relid FROM pg_partition_tree(t.root) WHERE isleaf UNION SELECT t.root) p
LEFT JOIN pg_class c ON c.oid = p.relid AND c.relkind = 'r'
GROUP BY t.root

-- Whether ALTER TABLE or TRUNCATE has given the table, or a partition, a new file after this transaction's snapshot
-- was taken: a query finds that, but pg_relation_filenode() knows what is. The snapshot sees no row in a new file.
-- name: rewritten
SELECT EXISTS (
    SELECT FROM (SELECT format('%%I.%%I', %(schema)s::text, %(table)s::text)::regclass AS root) t,
        LATERAL (SELECT relid FROM pg_partition_tree(t.root) UNION SELECT t.root) p
    JOIN pg_class c ON c.oid = p.relid AND c.relkind = 'r'
    WHERE pg_relation_filenode(c.oid) <> c.relfilenode
)

-- What is made of tables after their rows, of the catalog entries that a dump names: keys, indexes, statistics, foreign
-- keys. Of a partition root is the table at the top.
-- name: table_parts
SELECT e.n, p.kind, tn.nspname::text, t.relname::text, p.schema, p.name, t.oid::bigint,
    t.relkind = 'p', coalesce(pg_partition_root(t.oid), t.oid)::bigint,
    nullif(coalesce(pg_partition_root(p.referenced), p.referenced), 0)::bigint
FROM unnest(%(classes)s::oid[], %(oids)s::oid[]) WITH ORDINALITY e(class, oid, n)
CROSS JOIN LATERAL (
    SELECT 'index', i.indrelid, 0::oid, n.nspname::text, c.relname::text
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE e.class = 'pg_class'::regclass AND i.indexrelid = e.oid
    UNION ALL
    SELECT CASE c.contype WHEN 'f' THEN 'foreign key' ELSE 'key' END, c.conrelid, c.confrelid, n.nspname, c.conname
    FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace
    WHERE e.class = 'pg_constraint'::regclass AND c.oid = e.oid AND c.contype IN ('p', 'u', 'x', 'f')
    UNION ALL
    SELECT 'statistics', s.stxrelid, 0::oid, n.nspname, s.stxname
    FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
    WHERE e.class = 'pg_statistic_ext'::regclass AND s.oid = e.oid
) p(kind, relid, referenced, schema, name)
JOIN pg_class t ON t.oid = p.relid JOIN pg_namespace tn ON tn.oid = t.relnamespace
ORDER BY e.n

-- Functions of others that could run with the rights of the capture, see others.sql: of tables captured by an older
-- release, which did not refuse them.
-- name: code_of_others
SELECT t.schema_name, t.table_name, c.code FROM pyreplica.replica_table t, pyreplica.code_of_others(t.relid) c(code)
WHERE t.active AND c.code IS NOT NULL ORDER BY 1, 2

-- name: plpython_available
SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'plpython3u')

-- Every table somebody may want replicated, as pyreplica.candidates() sees them, for a master where nothing is
-- installed yet.
-- name: all_tables
SELECT c.oid::bigint, n.nspname::text, c.relname::text,
    CASE
        WHEN c.relkind = 'f' THEN 'it is a foreign table'
        WHEN c.relpersistence = 'u' THEN 'it is unlogged'
        WHEN k.conkey IS NULL THEN 'it has no primary key'
    END,
    ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(attnum, n)
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.attnum ORDER BY u.n),
    ARRAY(SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum),
    (SELECT jsonb_object_agg(a.attname, format_type(a.atttypid, a.atttypmod)) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'p'
WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND NOT c.relispartition
    AND n.nspname NOT LIKE 'pg\_%' AND n.nspname NOT IN ('information_schema', 'pyreplica')
    AND NOT EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 2, 3

-- name: plpython_users
SELECT count(*) FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
WHERE l.lanname = 'plpython3u' AND p.pronamespace <> 'pyreplica'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
