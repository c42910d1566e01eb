-- Keeps the log from being emptied by hand. A part of master-install.sql.

-- A slave that is not told of a change goes on as if there had been none: nothing later shows the loss. So the log can
-- be emptied, by whomever, only of what every slave has confirmed; where that leaves a slave behind, the slave has to
-- be given up first, and needs a new copy.
CREATE OR REPLACE FUNCTION pyreplica.keep_log() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- an older snapshot would not see the newest changes
    IF current_setting('transaction_isolation') = 'read committed' AND NOT EXISTS (
        SELECT FROM generate_series(0, 1) g, to_regclass(format('pyreplica.replica_log_%s', g)) segment
        WHERE TG_RELID IN (segment, 'pyreplica.replica_log'::regclass) AND pyreplica.is_awaited(segment))
    THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'the log of PyReplica cannot be emptied by hand: a slave has not confirmed what is in it'
        USING ERRCODE = 'object_in_use',
            HINT = 'It is emptied by itself when every slave has. To give a slave up, which needs a new copy then: '
                'DELETE FROM pyreplica.replica_slave WHERE replication = ''...''; '
                'then SELECT pyreplica.rotate_log(0), perhaps twice.';
END
$$;

DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN SELECT t::regclass FROM unnest('{replica_log,replica_log_0,replica_log_1}'::text[]) n,
        concat('pyreplica.', n) t
    LOOP
        IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = part AND tgname = 'pyreplica_keep_log') THEN
            EXECUTE format('CREATE TRIGGER pyreplica_keep_log BEFORE DELETE OR TRUNCATE ON %s '
                'FOR EACH STATEMENT EXECUTE FUNCTION pyreplica.keep_log()', part);
            -- also in a session that has silenced its triggers
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER pyreplica_keep_log', part);
        END IF;
    END LOOP;
END
$$;
