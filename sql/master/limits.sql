-- How much log is kept for each slave, and what becomes of one that is past its limits. A part of master-install.sql.

-- The sessions of the daemon, or of the copy, that works for a replication. An advisory lock can be taken by anybody: it
-- counts only with those who have rights here.
CREATE OR REPLACE FUNCTION pyreplica.at_work(replication text) RETURNS TABLE (pid integer)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.pid FROM pg_locks l JOIN pg_stat_get_activity(NULL) a ON a.pid = l.pid
    WHERE has_schema_privilege(a.usesysid, 'pyreplica', 'USAGE') AND l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
        AND l.classid::bigint = hashtext('pyreplica')::bigint & 4294967295
        AND l.objid::bigint = hashtext(at_work.replication)::bigint & 4294967295
$$;

-- When the first change that is not in a snapshot was made; null when there is none. The first by its transaction's
-- number, which is about the oldest. What transactions have written that are still running may be very much: the
-- index is read between their numbers, never through them.
CREATE OR REPLACE FUNCTION pyreplica.waits_since(seen pg_snapshot) RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    own constant xid8 := pg_current_xact_id_if_assigned();
    present constant pg_snapshot := pg_current_snapshot();
    least_at timestamptz;
    found_at timestamptz;
    from_ xid8 := pg_snapshot_xmax(seen);
    running xid8;
    last constant xid8 := '18446744073709551615';
BEGIN
    FOR running IN SELECT x FROM pg_snapshot_xip(seen) x LOOP
        CONTINUE WHEN running = own OR NOT pg_visible_in_snapshot(running, present);
        SELECT l.at INTO found_at FROM pyreplica.replica_log l WHERE l.txid = running LIMIT 1;
        least_at := least(least_at, found_at);
    END LOOP;
    FOR running IN
        SELECT x FROM pg_snapshot_xip(present) x
        UNION SELECT own WHERE own IS NOT NULL
        UNION SELECT last
        ORDER BY 1
    LOOP
        CONTINUE WHEN running < from_;
        SELECT l.at INTO found_at FROM pyreplica.replica_log l
        WHERE l.txid >= from_ AND l.txid < running ORDER BY l.txid LIMIT 1;
        EXIT WHEN FOUND OR running = last;
        from_ := (running::text::numeric + 1)::text::xid8;
    END LOOP;
    RETURN least(least_at, found_at);
END
$$;

-- About how many bytes of the log were written after the sequence of its ids stood there. Segments as they lie on the
-- disk, with indexes and TOAST, each in proportion to the ids.
CREATE OR REPLACE FUNCTION pyreplica.log_bytes_after(after bigint) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(sum(pg_total_relation_size(format('pyreplica.replica_log_%s', g.segment)::regclass)
        * greatest(g.until_id - greatest(g.since_id, after), 0)::numeric / (g.until_id - g.since_id)), 0)::bigint
    FROM (
        SELECT w.segment, w.since_id, i.last_value AS until_id
        FROM pyreplica.doorbell d JOIN pyreplica.replica_segment w ON w.segment = d.last_value & 1,
            pyreplica.replica_log_id i
        UNION ALL
        SELECT r.segment, r.since_id, w.since_id
        FROM pyreplica.doorbell d JOIN pyreplica.replica_segment w ON w.segment = d.last_value & 1
        JOIN pyreplica.replica_segment r ON r.segment <> w.segment
    ) g
    WHERE g.until_id > g.since_id
$$;

-- How much log is kept for each slave, how old the oldest change is that it has not confirmed, and what part of its
-- limits that is: past 1 it is to be dropped. A change waits at the longest since the moment the slave last confirmed.
-- While somebody copies, time does not count.
CREATE OR REPLACE FUNCTION pyreplica.log_kept(with_limits boolean DEFAULT false) RETURNS TABLE (
    replication text, state text, bytes bigint, age interval, max_log_size bigint, max_log_age interval,
    used double precision
)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.replication, s.state, k.bytes, k.age, s.max_log_size, s.max_log_age, greatest(0,
        k.bytes::double precision / s.max_log_size,
        extract(epoch FROM k.age)::double precision / extract(epoch FROM s.max_log_age)::double precision)
    FROM pyreplica.replica_slave s, LATERAL (
        SELECT
            CASE WHEN s.state = 'dropped' THEN 0
                ELSE pyreplica.log_bytes_after(least(s.log_id, s.held_log_id)) END AS bytes,
            CASE WHEN s.state = 'dropped'
                    OR s.state = 'copying' AND EXISTS (SELECT FROM pyreplica.at_work(s.replication))
                THEN interval '0'
                ELSE coalesce(greatest(clock_timestamp() - CASE WHEN w.since > s.snapshot_at THEN w.since
                    WHEN w.since IS NOT NULL THEN s.snapshot_at END, interval '0'), interval '0') END AS age
        FROM (SELECT CASE WHEN s.state <> 'dropped' THEN pyreplica.waits_since(s.snapshot) END AS since) w
    ) k
    WHERE NOT with_limits OR s.max_log_size IS NOT NULL OR s.max_log_age IS NOT NULL
$$;

-- The bits of the daemons that may want to be woken: who has no session, or whose slave was dropped, does not.
CREATE OR REPLACE FUNCTION pyreplica.listeners() RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(bit_or(1::bigint << s.bit), 0) FROM pyreplica.replica_slave s
    WHERE s.state <> 'dropped' AND EXISTS (SELECT FROM pyreplica.at_work(s.replication))
$$;

-- Clears the bits of all others: of a daemon that was killed in its sleep, or that did not know yet that its slave was
-- dropped when it set its bit. What counts is who is there once the lock is taken: who comes later sets its bit later.
CREATE OR REPLACE FUNCTION pyreplica.silence_doorbell() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT d.last_value > 1 AND d.last_value & ~(pyreplica.listeners() | 1) <> 0 FROM pyreplica.doorbell d)
        AND pyreplica.try_lock_doorbell()
    THEN
        PERFORM setval('pyreplica.doorbell', d.last_value & (pyreplica.listeners() | 1)) FROM pyreplica.doorbell d;
    END IF;
END
$$;

-- Drops the slaves that are past their limits. The session of such a daemon is ended: it may be reading the log, and
-- would keep it for as long as it is stuck. Called while nobody else can write replica_slave. Raises
-- lock_not_available when somebody has a row locked.
CREATE OR REPLACE FUNCTION pyreplica.drop_slaves() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s record;
    why text;
BEGIN
    FOR s IN SELECT * FROM pyreplica.log_kept(with_limits := true) k WHERE k.used > 1 LOOP
        PERFORM FROM pyreplica.replica_slave r WHERE r.replication = s.replication FOR UPDATE NOWAIT;
        why := CASE WHEN s.bytes > s.max_log_size
            THEN format('the log kept for it had grown to %s, past max_log_size (%s)', pg_size_pretty(s.bytes),
                pg_size_pretty(s.max_log_size))
            ELSE format('it had not confirmed for %s what was in the log, past max_log_age (%s)',
                date_trunc('second', s.age), s.max_log_age) END;
        UPDATE pyreplica.replica_slave r
        SET state = 'dropped', dropped_at = clock_timestamp(), dropped_why = why, held = NULL, held_log_id = NULL
        WHERE r.replication = s.replication;
        RAISE LOG 'PyReplica has dropped the slave of replication %: %', s.replication, why
            USING HINT = format('It needs a new copy: pyreplica copy %s --truncate', s.replication);
        BEGIN
            PERFORM pg_terminate_backend(w.pid) FROM pyreplica.at_work(s.replication) w
            WHERE s.state = 'ready' AND w.pid <> pg_backend_pid();
        EXCEPTION
            WHEN insufficient_privilege THEN
                NULL;
        END;
    END LOOP;
    PERFORM pyreplica.silence_doorbell();
END
$$;

-- Writers look after the log where no daemon does: when they ring for nobody, when a slave is past its limits, and
-- when nobody wants the log any more. Called at the end of a transaction that has left a tick behind, so that the
-- locks last no longer than its commit. Nothing here may make the writer wait or fail.
CREATE OR REPLACE FUNCTION pyreplica.after_tick() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1ms' AS $$
DECLARE
    own constant text := pg_current_xact_id()::text;
BEGIN
    -- Once a transaction. Not with an old snapshot, nor where serializable transactions might fail because of what
    -- is read here. Not before the end, to which the locks last: SET CONSTRAINTS would have us called early, and
    -- PREPARE TRANSACTION is no end.
    IF current_setting('transaction_isolation') <> 'read committed'
        OR current_setting('pyreplica.looked_after', true) = own
        OR pg_trigger_depth() > 1
        OR left(current_query(), 1000) ~* '\mset\M.*\mconstraints\M'
        OR current_setting('max_prepared_transactions') <> '0'
            AND coalesce(length(current_query()) > 1000000 OR current_query() ~* '\mprepare\M.*\mtransaction\M', true)
    THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('pyreplica.looked_after', own, true);
    BEGIN
        PERFORM pyreplica.silence_doorbell();
        IF EXISTS (SELECT FROM pyreplica.log_kept(with_limits := true) k WHERE k.used > 1)
            OR NOT EXISTS (SELECT FROM pyreplica.replica_slave s WHERE s.state <> 'dropped')
        THEN
            PERFORM pyreplica.rotate_log(8 << 20);
        END IF;
    EXCEPTION
        WHEN lock_not_available THEN
            NULL;   -- next time
        WHEN OTHERS THEN
            RAISE LOG 'PyReplica could not look after its log: %', SQLERRM;
    END;
    RETURN NULL;
END
$$;

DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = 'pyreplica.replica_tick'::regclass AND tgname = 'after_tick')
    THEN
        CREATE CONSTRAINT TRIGGER after_tick AFTER INSERT ON pyreplica.replica_tick
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pyreplica.after_tick();
    END IF;
END
$$;
