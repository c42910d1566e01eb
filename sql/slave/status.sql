-- What the slave knows of its replications. A part of slave-install.sql.

-- The rows of the view replication_status, whose columns are explained in status.sql. SECURITY DEFINER, so that who may
-- read the view needs no rights on what is under it.
CREATE OR REPLACE FUNCTION pyreplica.slave_status() RETURNS TABLE (
    side text, replication text, state text, daemon boolean, batch bigint, as_of timestamptz, moved_at timestamptz,
    waiting interval, log_bytes bigint, log_percent integer, max_log_size bigint, max_log_age interval,
    changes bigint, last_batch_changes bigint, last_error text, last_error_at timestamptz, conflicts_waiting bigint,
    in_doubt bigint, in_doubt_since timestamptz, paused_at timestamptz, paused_by text, pause_reason text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'slave', c.replication,
        CASE
            WHEN c.state <> 'ready' THEN CASE WHEN w.daemon THEN 'copying' ELSE 'not copied' END
            WHEN p.replication IS NOT NULL
                THEN CASE WHEN w.daemon AND s.state IS DISTINCT FROM 'paused' THEN 'pausing' ELSE 'paused' END
            WHEN NOT w.daemon THEN CASE WHEN coalesce(s.state, 'stopped') = 'stopped' THEN 'stopped' ELSE 'died' END
            WHEN s.state = 'failed' THEN 'failing'
            ELSE 'running'
        END,
        w.daemon, c.batch, c.snapshot_at, c.applied_at, NULL::interval, NULL::bigint, NULL::integer, NULL::bigint,
        NULL::interval, c.changes, c.last_batch_changes, s.last_error, s.last_error_at,
        (SELECT count(*) FROM pyreplica.replica_conflict k
            WHERE k.replication = c.replication AND k.settled_at IS NULL),
        d.number, d.since, p.paused_at, p.paused_by, p.reason
    FROM pyreplica.replica_cursor c
    LEFT JOIN pyreplica.replica_status s USING (replication)
    LEFT JOIN pyreplica.replica_pause p USING (replication),
    LATERAL (
        SELECT EXISTS (
            SELECT FROM pg_locks l
            WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
                AND l.database = (SELECT b.oid FROM pg_database b WHERE b.datname = current_database())
                AND l.classid::bigint = hashtext('pyreplica')::bigint & 4294967295
                AND l.objid::bigint = hashtext(c.replication)::bigint & 4294967295
        ) AS daemon
    ) w,
    LATERAL (
        SELECT count(*) AS number, min(x.prepared) AS since FROM pg_prepared_xacts x
        WHERE x.database = current_database() AND starts_with(x.gid, format('pyreplica:%s:', c.replication))
    ) d
    ORDER BY c.replication
$$;
COMMENT ON FUNCTION pyreplica.slave_status() IS 'slave';
