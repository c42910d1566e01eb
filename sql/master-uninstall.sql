-- PyReplica, master side: takes everything away that master-install.sql made, in one transaction.
--
--   psql -v ON_ERROR_STOP=1 -d shop -f sql/master-uninstall.sql
--
-- Changes that a slave has not received yet are lost with the log. If the database is a slave too, that side
-- stays.

BEGIN;

SET LOCAL client_min_messages = warning;
SET LOCAL search_path = pg_catalog, pg_temp;

DROP EVENT TRIGGER IF EXISTS pyreplica_announce;
DROP EVENT TRIGGER IF EXISTS pyreplica_announce_drop;
DROP EVENT TRIGGER IF EXISTS pyreplica_ddl;
DROP EVENT TRIGGER IF EXISTS pyreplica_drop;
DROP EVENT TRIGGER IF EXISTS pyreplica_rewrite;

DO $$
DECLARE
    drop_plpython3u boolean;
    is_slave boolean := to_regclass('pyreplica.replica_cursor') IS NOT NULL;
    f record;
BEGIN
    IF to_regclass('pyreplica.replica_log') IS NULL THEN
        RAISE EXCEPTION 'database % has no master side of PyReplica to uninstall', current_database()
            USING HINT = CASE WHEN is_slave THEN 'It is a slave: use slave-uninstall.sql.'
                ELSE 'Is it the right database?' END;
    END IF;
    EXECUTE 'SELECT made_plpython3u FROM pyreplica.replica_version WHERE side = ''master''' INTO drop_plpython3u;
    -- with the functions go the triggers on the tables
    FOR f IN
        SELECT p.oid::regprocedure AS name FROM pg_proc p
        WHERE p.pronamespace = 'pyreplica'::regnamespace AND p.proname ~ '^(capture($|_text$|_\d+_)|(before|after)_(merge|move)$)'
    LOOP
        EXECUTE format('DROP FUNCTION %s CASCADE', f.name);
    END LOOP;
    IF is_slave THEN
        DELETE FROM pyreplica.replica_version WHERE side = 'master';
        CREATE OR REPLACE VIEW pyreplica.replication_status AS SELECT * FROM pyreplica.slave_status();
        DROP VIEW pyreplica.changes, pyreplica.capture_trigger, pyreplica.capture_function, pyreplica.hidden_columns;
        DROP TABLE pyreplica.replica_log, pyreplica.replica_table, pyreplica.replica_partition,
            pyreplica.replica_slave, pyreplica.replica_tick, pyreplica.replica_segment, pyreplica.replica_capture,
            pyreplica.replica_secret, pyreplica.replica_bell, pyreplica.replica_filter, pyreplica.replica_node,
            pyreplica.replica_merge, pyreplica.replica_row;
        DROP SEQUENCE pyreplica.replica_log_id, pyreplica.doorbell;
        FOR f IN
            SELECT p.oid::regprocedure AS name FROM pg_proc p
            WHERE p.pronamespace = 'pyreplica'::regnamespace
                AND coalesce(obj_description(p.oid, 'pg_proc'), '') <> 'slave'
        LOOP
            EXECUTE format('DROP FUNCTION %s', f.name);
        END LOOP;
    ELSE
        DROP SCHEMA pyreplica CASCADE;
    END IF;
    IF drop_plpython3u THEN
        BEGIN
            DROP EXTENSION IF EXISTS plpython3u;
        EXCEPTION WHEN dependent_objects_still_exist THEN
            RAISE WARNING 'the language plpython3u stays: functions that are not PyReplica''s use it';
        END;
    END IF;
END
$$;

COMMIT;
