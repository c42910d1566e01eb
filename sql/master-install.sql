-- PyReplica, master side: the log, the capture, and the functions that the daemon and people call.
--
--   psql -v ON_ERROR_STOP=1 -d shop -f sql/master-install.sql
--
-- Run it as a superuser (plpython3u is an untrusted language). It is one transaction, may be run again and
-- again, and upgrades an older install. Everything lives in the schema pyreplica; nobody else gets rights on it.
-- A role that is no superuser, and has CREATE on the database and owns the tables, can run it as well, with
-- PGOPTIONS='-c pyreplica.capture=plpgsql': tables are captured in PL/pgSQL then, and the language plpython3u is not
-- needed. There are no event triggers then; docs/limits.md says what that means.
-- A database that is a slave already is refused unless PGOPTIONS='-c pyreplica.both=on' says that it is meant.
-- Its parts are in the folder master beside it.

\set ON_ERROR_STOP on

BEGIN;

SET LOCAL client_min_messages = warning;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL standard_conforming_strings = on;

DO $$
DECLARE
    version_here constant integer := 5;   -- the same number as at the end of this script
    version_found integer;
    is_superuser constant boolean := (SELECT rolsuper FROM pg_roles WHERE rolname = current_user);
    language text := nullif(current_setting('pyreplica.capture', true), '');
    stranger text;
    tries integer := 0;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'database % is a hot standby and cannot be changed', current_database()
            USING HINT = 'Run master-install.sql on the primary server.';
    END IF;
    IF current_setting('server_version_num')::integer < 130000 THEN
        RAISE EXCEPTION 'PostgreSQL % is too old for PyReplica', current_setting('server_version')
            USING HINT = 'Use PostgreSQL 13 or later.';
    END IF;
    IF language IS NULL AND to_regclass('pyreplica.replica_capture') IS NOT NULL THEN
        EXECUTE 'SELECT language FROM pyreplica.replica_capture' INTO language;
    END IF;
    language := coalesce(language, 'plpython3u');
    IF language NOT IN ('plpython3u', 'plpgsql') THEN
        RAISE EXCEPTION 'tables cannot be captured in %', quote_literal(language)
            USING HINT = 'pyreplica.capture is plpython3u or plpgsql.';
    END IF;
    IF NOT is_superuser AND language = 'plpython3u' THEN
        RAISE EXCEPTION 'role % may not install PyReplica on a master: it is no superuser', current_user
            USING HINT = 'plpython3u functions can only be created by a superuser: run the script as one; afterwards nobody '
                'needs to be superuser to write the tables. Or do without plpython3u: `capture: plpgsql` in the '
                'configuration, or with psql PGOPTIONS=''-c pyreplica.capture=plpgsql''.';
    END IF;
    -- Who owns the schema, or what is in it, decides what the capture does: it must not get a superuser's rights by that.
    SELECT r.rolname INTO stranger FROM (
        SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'pyreplica'
        UNION SELECT c.relowner FROM pg_class c WHERE c.oid = to_regclass('pyreplica.replica_table')
    ) o(owner) JOIN pg_roles r ON r.oid = o.owner
    WHERE r.rolname <> current_user AND NOT (is_superuser AND r.rolsuper) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the schema pyreplica of database %, or what is in it, belongs to role %', current_database(),
            stranger
            USING HINT = CASE WHEN is_superuser THEN 'Capture would do what that role likes, with a superuser''s rights. '
                    'If that role is trusted: ALTER SCHEMA pyreplica OWNER TO a superuser. Else let that role uninstall '
                    'it, or install it itself with PGOPTIONS=''-c pyreplica.capture=plpgsql''.'
                ELSE 'Run the script as that role.' END;
    END IF;
    IF NOT has_database_privilege(current_database(), 'CREATE') AND to_regnamespace('pyreplica') IS NULL THEN
        RAISE EXCEPTION 'role % may not create a schema in database %', current_user, current_database()
            USING HINT = format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user);
    END IF;
    PERFORM set_config('pyreplica.capture', language, false);
    IF to_regclass('pyreplica.replica_cursor') IS NOT NULL
        AND to_regclass('pyreplica.replica_log') IS NULL
        AND coalesce(current_setting('pyreplica.both', true), '') <> 'on'
    THEN
        RAISE EXCEPTION 'database % is installed as a slave of PyReplica, this is the script for the master',
            current_database()
            USING HINT = 'Run it on the master. If this database is to be both, '
                'run it with PGOPTIONS=''-c pyreplica.both=on''.';
    END IF;
    IF to_regclass('pyreplica.replica_version') IS NOT NULL THEN
        EXECUTE 'SELECT version FROM pyreplica.replica_version WHERE side = ''master''' INTO version_found;
        IF version_found > version_here THEN
            RAISE EXCEPTION 'database % has version % of PyReplica''s master side, this script is version %',
                current_database(), version_found, version_here
                USING HINT = 'Use the scripts of the newer release.';
        END IF;
        IF version_found < version_here THEN
            -- All that writers and daemons may hold while they wait for something that is altered below; each of them
            -- locks in an order of its own. Tried for less than deadlock_timeout, so that it is never they who fail.
            SET LOCAL lock_timeout = '200ms';
            LOOP
                BEGIN
                    LOCK TABLE pyreplica.replica_slave, pyreplica.replica_table, pyreplica.replica_log;
                    EXIT;
                EXCEPTION
                    WHEN lock_not_available THEN
                        tries := tries + 1;
                        IF tries >= 30 THEN
                            RAISE EXCEPTION 'the log of PyReplica in database % could not be locked for the upgrade',
                                current_database()
                                USING DETAIL = (
                                    SELECT 'Processes that have it locked: ' || string_agg(DISTINCT pid::text, ', ')
                                    FROM pg_locks WHERE granted AND pid <> pg_backend_pid() AND relation IN
                                        ('pyreplica.replica_slave'::regclass, 'pyreplica.replica_table'::regclass,
                                        'pyreplica.replica_log'::regclass)),
                                HINT = 'A transaction that has written replicated tables is still open; or a daemon '
                                    'reads a large backlog. Nothing was changed. Run it again when that has ended.';
                        END IF;
                        PERFORM pg_sleep(0.3);
                END;
            END LOOP;
        END IF;
    END IF;
    PERFORM set_config('pyreplica.upgraded', (version_found < version_here)::text, false);
    IF language = 'plpython3u' AND NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'plpython3u') THEN
        RAISE EXCEPTION 'the server of database % does not have the language plpython3u', current_database()
            USING HINT = format('Install it on the server, on Debian: apt-get install postgresql-plpython3-%s; or do '
                'without it: `capture: plpgsql` in the configuration, or with psql '
                'PGOPTIONS=''-c pyreplica.capture=plpgsql''', current_setting('server_version_num')::integer / 10000);
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS pyreplica;
COMMENT ON SCHEMA pyreplica IS 'PyReplica: asynchronous replication';

CREATE TABLE IF NOT EXISTS pyreplica.replica_version (
    side text PRIMARY KEY CHECK (side IN ('master', 'slave')),
    version integer NOT NULL,
    -- whether this install made the extension, so that the uninstall takes it away again
    made_plpython3u boolean NOT NULL DEFAULT false,
    installed_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO pyreplica.replica_version (side, version, made_plpython3u)
SELECT 'master', 5, current_setting('pyreplica.capture') = 'plpython3u'
    AND NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'plpython3u')
ON CONFLICT (side) DO UPDATE
    SET version = excluded.version,
        made_plpython3u = replica_version.made_plpython3u OR excluded.made_plpython3u,
        installed_at = CASE WHEN replica_version.version = excluded.version
            THEN replica_version.installed_at ELSE excluded.installed_at END;

DO $$
BEGIN
    IF current_setting('pyreplica.capture') = 'plpython3u' THEN
        CREATE EXTENSION IF NOT EXISTS plpython3u;
    END IF;
END
$$;

-- Their successors have one argument more, and calls would not tell them apart.
DROP FUNCTION IF EXISTS pyreplica.logging(text, text, text), pyreplica.object_of(jsonb, boolean, text);

\ir master/tables.sql
\ir master/forward.sql
\ir master/nodes.sql
\ir master/capture.sql
\ir master/catalog.sql
\ir master/rights.sql
\ir master/statements.sql
\ir master/changes.sql
\ir master/versions.sql
\ir master/siblings.sql
\ir master/merge.sql
\ir master/others.sql
\ir master/filters.sql
\ir master/python.sql
\ir master/setup.sql
\ir master/plpgsql.sql
\ir master/unseen.sql
\ir master/drift.sql
\ir master/follow.sql
\ir master/ddl.sql
\ir master/repair.sql
\ir master/limits.sql
\ir master/upkeep.sql
\ir master/keep.sql
\ir master/sequences.sql
\ir master/interleave.sql
\ir master/status.sql
\ir status.sql

-- Versions 2 and 4 had these.
DROP FUNCTION IF EXISTS pyreplica.segment(), pyreplica.restating(integer, jsonb, text, text, boolean, text),
    pyreplica.restating(integer, jsonb, text, text, boolean), pyreplica.client_statement();

REVOKE ALL ON SCHEMA pyreplica FROM PUBLIC;
-- Only what default privileges have granted: in a database that is a slave as well REVOKE waits for a batch that is in
-- doubt, if that has emptied a staging table.
DO $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.oid::regclass AS name
        FROM pg_class c
        WHERE c.relnamespace = 'pyreplica'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
            AND EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = 0)
    LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM PUBLIC', t.kind, t.name);
    END LOOP;
END
$$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pyreplica FROM PUBLIC;

-- Values are printed under settings of our own.
DO $$
DECLARE
    f text;
BEGIN
    FOR f IN
        SELECT p.proname FROM pg_proc p
        WHERE p.pronamespace = 'pyreplica'::regnamespace AND p.proname = ANY (
            '{capture_text,after_move,log_rows,log_alteration,follow_partitions,restate,settle_row,set_filter,keep_filter}')
    LOOP
        -- a row that were hidden from the one who has installed this would be lost: an error is better
        EXECUTE format('ALTER FUNCTION pyreplica.%I %s SET row_security = off', f,
            (SELECT string_agg(format('SET %I = %L', s.name, s.value), ' ') FROM pyreplica.print_settings() s));
    END LOOP;
    IF (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        ALTER FUNCTION pyreplica.before_merge() SET lc_messages = 'C';
    END IF;
END
$$;

DROP EVENT TRIGGER IF EXISTS pyreplica_announce;
DROP EVENT TRIGGER IF EXISTS pyreplica_announce_drop;
DROP EVENT TRIGGER IF EXISTS pyreplica_ddl;
DROP EVENT TRIGGER IF EXISTS pyreplica_drop;
DROP EVENT TRIGGER IF EXISTS pyreplica_rewrite;
DO $$
BEGIN
    -- version 1 did not know about them
    PERFORM pyreplica.follow_partitions(t.relid, log_new := false) FROM pyreplica.replica_table t
    WHERE t.active AND t.shape -> 'partitioned' = 'true'
        AND NOT EXISTS (SELECT FROM pyreplica.replica_partition k WHERE k.root = t.relid);
    PERFORM pyreplica.refresh();
    -- an older release has made other ones
    UPDATE pyreplica.replica_table t SET statements = pyreplica.capture_statements(t.id, t.shape)
    WHERE t.active AND t.key_columns <> '{}' AND t.statements <> pyreplica.capture_statements(t.id, t.shape);
    PERFORM pyreplica.make_captures(f.generation)
    FROM (SELECT DISTINCT k.generation FROM pyreplica.capture_function k WHERE k.used) f;
END
$$;
DO $$
DECLARE
    name text;
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        RAISE WARNING 'DDL on replicated tables is not followed at once: role % is no superuser, and only superusers can '
            'make event triggers', current_user
            USING HINT = 'After such DDL, best in the same transaction: SELECT pyreplica.refresh(). The daemon looks once '
                'each keepalive; see docs/limits.md.';
        RETURN;
    END IF;
    -- They fire in the order of their names.
    CREATE EVENT TRIGGER pyreplica_announce ON ddl_command_end EXECUTE FUNCTION pyreplica.announce_ddl();
    CREATE EVENT TRIGGER pyreplica_announce_drop ON sql_drop EXECUTE FUNCTION pyreplica.announce_ddl();
    CREATE EVENT TRIGGER pyreplica_rewrite ON table_rewrite EXECUTE FUNCTION pyreplica.note_rewrite();
    CREATE EVENT TRIGGER pyreplica_ddl ON ddl_command_end
        WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE SCHEMA', 'ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN',
            'ALTER EXTENSION', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE',
            'CREATE TRIGGER', 'CREATE INDEX', 'CREATE STATISTICS',   -- what others must not do there
            'ALTER INDEX')   -- which can rename a table, too
        EXECUTE FUNCTION pyreplica.follow_ddl();
    CREATE EVENT TRIGGER pyreplica_drop ON sql_drop EXECUTE FUNCTION pyreplica.follow_ddl();
    -- also what a slave's daemon applies, where a database is both
    FOREACH name IN ARRAY '{pyreplica_ddl,pyreplica_drop,pyreplica_rewrite}'::text[] LOOP
        EXECUTE format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', name);
    END LOOP;
END
$$;

COMMIT;

-- Daemons of the older release are sent away: when they connect again they see that this is not theirs any more.
DO $$
BEGIN
    IF current_setting('pyreplica.upgraded') = 'true' THEN
        PERFORM pg_terminate_backend(l.pid) FROM pg_locks l
        WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
            AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
            AND l.classid::bigint = hashtext('pyreplica')::bigint & 4294967295;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        NULL;   -- they look at the version with each batch
END
$$;
