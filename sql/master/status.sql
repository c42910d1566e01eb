-- What the master knows of its replications. A part of master-install.sql.

-- The rows of the view replication_status, whose columns are explained in status.sql. SECURITY DEFINER, so that who may
-- read the view needs no rights on what is under it.
CREATE OR REPLACE FUNCTION pyreplica.master_status() RETURNS TABLE (
    side text, replication text, state text, daemon boolean, batch bigint, as_of timestamptz, moved_at timestamptz,
    waiting interval, log_bytes bigint, log_percent integer, max_log_size bigint, max_log_age interval,
    changes bigint, last_batch_changes bigint, last_error text, last_error_at timestamptz, conflicts_waiting bigint,
    in_doubt bigint, in_doubt_since timestamptz, paused_at timestamptz, paused_by text, pause_reason text
)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'master', s.replication,
        CASE
            WHEN s.state = 'dropped' THEN 'needs a new copy'
            WHEN s.state = 'copying' THEN CASE WHEN w.daemon THEN 'copying' ELSE 'not copied' END
            WHEN NOT w.daemon THEN 'no daemon'
            WHEN k.age > interval '0' THEN 'catching up'
            ELSE 'in step'
        END,
        w.daemon, s.batch, s.snapshot_at, s.confirmed_at, k.age, k.bytes,
        CASE WHEN s.max_log_size IS NOT NULL OR s.max_log_age IS NOT NULL
            THEN round((k.used * 100)::numeric)::integer END,
        s.max_log_size, s.max_log_age, NULL::bigint, NULL::bigint, s.dropped_why, s.dropped_at, NULL::bigint,
        NULL::bigint, NULL::timestamptz, NULL::timestamptz, NULL::text, NULL::text
    FROM pyreplica.replica_slave s
    JOIN pyreplica.log_kept() k USING (replication),
    LATERAL (SELECT EXISTS (SELECT FROM pyreplica.at_work(s.replication)) AS daemon) w
    ORDER BY s.replication
$$;
