-- Pausing a replication, and going on. A part of slave-install.sql.

-- Version 4. A replication that has a row here is paused, whether or not a daemon is at work, until the row is gone. The
-- daemon is told by NOTIFY, and looks when it connects.
CREATE TABLE IF NOT EXISTS pyreplica.replica_pause (
    replication text PRIMARY KEY,
    paused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    paused_by text NOT NULL,
    reason text
);

-- Has the daemon finish the batch at hand and then rest. `who` is by default the role of the session. A replication
-- that is paused stays as it is, with whom and why it was paused first.
CREATE OR REPLACE FUNCTION pyreplica.pause(replication text, reason text DEFAULT NULL, who text DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before record;
BEGIN
    IF NOT EXISTS (SELECT FROM pyreplica.replica_cursor c WHERE c.replication = pause.replication) THEN
        RAISE EXCEPTION 'no replication named % has database % as its slave', pause.replication, current_database()
            USING HINT = 'SELECT replication FROM pyreplica.replica_cursor gives their names.';
    END IF;
    INSERT INTO pyreplica.replica_pause (replication, paused_by, reason)
    VALUES (pause.replication, coalesce(pause.who, session_user), nullif(pause.reason, ''))
    ON CONFLICT ON CONSTRAINT replica_pause_pkey DO NOTHING;
    IF NOT FOUND THEN
        SELECT * INTO before FROM pyreplica.replica_pause p WHERE p.replication = pause.replication;
        RETURN format('%s: is paused already, since %s by %s', pause.replication,
            date_trunc('second', before.paused_at), before.paused_by);
    END IF;
    PERFORM pg_notify('pyreplica_pause', pause.replication);
    RETURN format('%s: is to be paused', pause.replication);
END
$$;
COMMENT ON FUNCTION pyreplica.pause(text, text, text) IS 'slave';

CREATE OR REPLACE FUNCTION pyreplica.resume(replication text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM pyreplica.replica_pause p WHERE p.replication = resume.replication;
    IF NOT FOUND THEN
        RETURN format('%s: was not paused', resume.replication);
    END IF;
    PERFORM pg_notify('pyreplica_pause', resume.replication);
    RETURN format('%s: goes on', resume.replication);
END
$$;
COMMENT ON FUNCTION pyreplica.resume(text) IS 'slave';
