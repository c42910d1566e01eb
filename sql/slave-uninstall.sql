-- PyReplica, slave side: takes everything away that slave-install.sql and the daemon made, in one transaction.
-- The replicated tables stay as they are.
--
--   psql -v ON_ERROR_STOP=1 -d shop -f sql/slave-uninstall.sql

BEGIN;

SET LOCAL client_min_messages = warning;
SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
DECLARE
    is_master boolean := to_regclass('pyreplica.replica_log') IS NOT NULL;
    prepared text;
    t record;
BEGIN
    IF to_regclass('pyreplica.replica_cursor') IS NULL THEN
        RAISE EXCEPTION 'database % has no slave side of PyReplica to uninstall', current_database()
            USING HINT = CASE WHEN is_master THEN 'It is a master: use master-uninstall.sql.'
                ELSE 'Is it the right database?' END;
    END IF;
    SELECT gid INTO prepared FROM pg_prepared_xacts
    WHERE database = current_database() AND starts_with(gid, 'pyreplica:') LIMIT 1;
    IF prepared IS NOT NULL THEN
        RAISE EXCEPTION 'a batch of replication is prepared and not decided: %', prepared
            USING HINT = format('Run the daemon once so that it is decided, or give it up: ROLLBACK PREPARED %L;',
                prepared);
    END IF;
    IF is_master THEN
        FOR t IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'pyreplica'::regnamespace
            AND c.relkind = 'r' AND c.relname ~ '^(stage|net)_\d+$'
        LOOP
            EXECUTE format('DROP TABLE pyreplica.%I', t.relname);
        END LOOP;
        DROP FUNCTION IF EXISTS pyreplica.refuse_write() CASCADE;   -- and with it the guards
        CREATE OR REPLACE VIEW pyreplica.replication_status AS SELECT * FROM pyreplica.master_status();
        DROP FUNCTION pyreplica.slave_status(), pyreplica.pause(text, text, text), pyreplica.resume(text);
        DROP TABLE pyreplica.replica_cursor, pyreplica.replica_copy, pyreplica.replica_status,
            pyreplica.replica_conflict, pyreplica.replica_pause, pyreplica.replica_source;
        DROP AGGREGATE pyreplica.merge(jsonb);
        DROP FUNCTION pyreplica.move_cursor(text, bigint, pg_snapshot, bigint, timestamptz, bigint, bigint, integer),
            pyreplica.expect(bigint, bigint, text, text), pyreplica.failing(text, text, text[], integer),
            pyreplica.run_ddl(text, text, text);
        DELETE FROM pyreplica.replica_version WHERE side = 'slave';
    ELSE
        DROP SCHEMA pyreplica CASCADE;
    END IF;
END
$$;

COMMIT;
