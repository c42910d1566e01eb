-- Forwarding: what the daemons of other replications apply here goes on to the slaves of this database. A part of
-- master-install.sql.

-- The capture triggers of a table whose shape says `forwarding` are ENABLE ALWAYS: they fire in a session with
-- session_replication_role = replica as well, which those of daemons are. What is logged there has an origin.

-- Whose changes this session writes: replica_cursor.id of the replication whose daemon, or command, it belongs to; 0 when
-- that is not known, null where it is nobody's. Anybody can set pyreplica.origin. It counts only in a session with
-- session_replication_role = replica, which PostgreSQL lets superusers set, and whom they allow to.
CREATE OR REPLACE FUNCTION pyreplica.origin() RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    replication_ constant text := nullif(current_setting('pyreplica.origin', true), '');
BEGIN
    IF replication_ IS NULL OR current_setting('session_replication_role') <> 'replica' THEN
        RETURN NULL;
    END IF;
    RETURN coalesce((SELECT c.id FROM pyreplica.replica_cursor c WHERE c.replication = replication_), 0);
END
$$;

-- Whether what daemons apply goes on from here on, or no more. With `renew` the triggers of all tables are made anew at
-- once, in this transaction, which keeps their writers out until it commits; else it is for add_table() to do that, one
-- table at a time.
CREATE OR REPLACE FUNCTION pyreplica.set_forwarding(forwards boolean, renew boolean DEFAULT true) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted_by text;
BEGIN
    IF forwards IS NULL THEN
        RAISE EXCEPTION 'whether changes are forwarded cannot be NULL' USING HINT = 'It is true or false.';
    END IF;
    -- who registers a slave that wants it was seen here, or waits for us
    LOCK TABLE pyreplica.replica_slave IN SHARE ROW EXCLUSIVE MODE;
    PERFORM pyreplica.lock_captures();
    SELECT string_agg(s.replication, ', ' ORDER BY s.replication) INTO wanted_by
    FROM pyreplica.replica_slave s WHERE s.forward;
    IF NOT forwards AND wanted_by IS NOT NULL THEN
        RAISE EXCEPTION 'changes are forwarded for the slaves of %, which would lose them', wanted_by
            USING HINT = 'Set `forward: false` there and restart the daemon, or take the replication away with '
                '`pyreplica uninstall`.', ERRCODE = 'object_in_use';
    END IF;
    IF forwards AND EXISTS (SELECT FROM pyreplica.replica_merge) THEN
        RAISE EXCEPTION 'changes cannot be forwarded by a database with merged tables: %',
            (SELECT string_agg(m.relid::regclass::text, ', ' ORDER BY m.relid::regclass::text)
                FROM pyreplica.replica_merge m)
            USING HINT = 'Each node of those gets them from each other node; leave out `forward: true`.';
    END IF;
    UPDATE pyreplica.replica_capture c SET forwarding = forwards WHERE c.forwarding <> forwards;
    RETURN format('what other replications apply here is %s%s', CASE WHEN forwards THEN 'forwarded' ELSE 'not forwarded' END,
        CASE WHEN renew THEN format(', the triggers of %s tables were made anew', pyreplica.refresh()) END);
END
$$;

-- Whether all captured tables forward.
CREATE OR REPLACE FUNCTION pyreplica.forwards() RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT c.forwarding FROM pyreplica.replica_capture c)
        AND NOT EXISTS (SELECT FROM pyreplica.replica_table t WHERE t.active AND NOT t.shape ? 'forwarding');
END
$$;

-- The replications into this database, and whose changes each of them brings.
CREATE OR REPLACE FUNCTION pyreplica.received() RETURNS TABLE (
    origin integer, replication text, master_system text, master_database text, source_system text, source_database text
)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    IF to_regclass('pyreplica.replica_source') IS NOT NULL THEN
        RETURN QUERY SELECT c.id, c.replication, c.master_system, c.master_database, s.system, s.database
            FROM pyreplica.replica_cursor c LEFT JOIN pyreplica.replica_source s ON s.replication = c.replication
            ORDER BY c.id, s.system, s.database;
    END IF;
END
$$;

-- The origins of the changes that a slave does not get: what came from it; where it does not want what is forwarded, all,
-- for which null stands.
CREATE OR REPLACE FUNCTION pyreplica.skipped(replication_ text) RETURNS integer[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s pyreplica.replica_slave := (SELECT r FROM pyreplica.replica_slave r WHERE r.replication = replication_);
BEGIN
    IF s.forward IS NOT TRUE THEN
        RETURN NULL;
    ELSIF to_regclass('pyreplica.replica_cursor') IS NULL THEN
        RETURN '{}';
    END IF;
    RETURN ARRAY(SELECT c.id FROM pyreplica.replica_cursor c
        WHERE (c.master_system, c.master_database) = (s.slave_system, s.slave_database));
END
$$;

-- Logs a DDL statement that a daemon is about to run here. In the log it is before what it does to rows. Who may execute
-- this has the slaves run whatever he likes: superusers, and whom they grant it to.
CREATE OR REPLACE FUNCTION pyreplica.forward_ddl(script jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pyreplica.origin() IS NULL THEN
        RAISE EXCEPTION 'DDL can be forwarded only by the daemon that runs it'
            USING HINT = 'To run DDL here and on the slaves of this database: `pyreplica execute FILE`.';
    END IF;
    IF (SELECT c.forwarding FROM pyreplica.replica_capture c) THEN
        -- the names of the replications that were to run it are those of another master's
        PERFORM pyreplica.log_ddl(script || '{"replications": null}');
    END IF;
END
$$;
