-- PyReplica: the roles of the daemon, one for the master and one for the slave. Neither is a superuser.
--
--   psql -d shop -v side=master -f sql/roles.sql
--   psql -d shop -v side=slave -f sql/roles.sql
--
-- Run it as a superuser, in the database where master-install.sql or slave-install.sql was run before. It is one
-- transaction, says what it did, may be run again and again, and has to be after an upgrade, and when tables were made
-- that the roles do not own. It sets no passwords: \password pyreplica_master.
--
--   -v side=master|slave|both        default: what the database is installed as
--   -v master_role=pyreplica_master
--   -v slave_role=pyreplica_slave
--   -v database=shop                 default: the one that psql is connected to
--   -v tables=grant|own|none         on the slave. grant (the default): rights on the tables and sequences that are
--                                    there; own: they become the role's, which `guard: true` and `ddl: replicate` need;
--                                    none: it is seen to in another way
--   -v schemas=public,app            the schemas of these tables; default: all
--   -v create=on                     on the slave: the role may make schemas and tables, which `copy --schema` needs
-- On a master it may read all tables.

\set ON_ERROR_STOP on
\if :{?database}
\connect -reuse-previous=on dbname=:database
\endif
\if :{?side}
\else
\set side ''
\endif
\if :{?master_role}
\else
\set master_role pyreplica_master
\endif
\if :{?slave_role}
\else
\set slave_role pyreplica_slave
\endif
\if :{?tables}
\else
\set tables grant
\endif
\if :{?schemas}
\else
\set schemas ''
\endif
\if :{?create}
\else
\set create off
\endif
\set QUIET on
\pset tuples_only on
\pset format unaligned

BEGIN;

SET LOCAL client_min_messages = warning;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL standard_conforming_strings = on;

-- a DO block cannot see psql's variables
\o /dev/null
SELECT set_config('pyreplica_roles.side', :'side', true), set_config('pyreplica_roles.master', :'master_role', true),
    set_config('pyreplica_roles.slave', :'slave_role', true), set_config('pyreplica_roles.tables', :'tables', true),
    set_config('pyreplica_roles.schemas', :'schemas', true), set_config('pyreplica_roles.create', :'create', true),
    set_config('pyreplica_roles.said', '', true);
\o

DO $$
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'role % cannot make the roles of PyReplica: it is no superuser', current_user
            USING HINT = 'Run sql/roles.sql as one. What it makes are no superusers.';
    END IF;
END
$$;

DO $$
DECLARE
    version constant integer := current_setting('server_version_num')::integer;
    asked constant text := current_setting('pyreplica_roles.side');
    tables constant text := current_setting('pyreplica_roles.tables');
    schemas constant text[] := string_to_array(nullif(current_setting('pyreplica_roles.schemas'), ''), ',');
    may_create constant boolean := current_setting('pyreplica_roles.create') = 'on';
    is_master constant boolean := to_regclass('pyreplica.replica_log') IS NOT NULL;
    is_slave constant boolean := to_regclass('pyreplica.replica_cursor') IS NOT NULL;
    sides text[];
    side text;
    role_ text;
    said text[];
    o record;
    n integer;
BEGIN
    IF asked NOT IN ('', 'master', 'slave', 'both') OR tables NOT IN ('grant', 'own', 'none') THEN
        RAISE EXCEPTION 'there is no such side or way of having tables: side=%, tables=%', asked, tables
            USING HINT = 'side is master, slave or both; tables is grant, own or none.';
    END IF;
    sides := CASE asked WHEN 'both' THEN '{master,slave}'
        WHEN '' THEN ARRAY(SELECT s FROM (VALUES ('master', is_master), ('slave', is_slave)) v(s, here) WHERE here)
        ELSE ARRAY[asked] END;
    IF sides = '{}' OR 'master' = ANY (sides) AND NOT is_master OR 'slave' = ANY (sides) AND NOT is_slave THEN
        RAISE EXCEPTION 'PyReplica''s % side is not installed in database %',
            coalesce(nullif(array_to_string(sides, ' and '), ''), 'master or slave'), current_database()
            USING HINT = format('Run sql/%s-install.sql before, as a superuser; or look at side=.',
                coalesce(sides[1], 'master'));
    END IF;
    SELECT s INTO o FROM unnest(schemas) s WHERE to_regnamespace(quote_ident(s)) IS NULL;
    IF FOUND THEN
        RAISE EXCEPTION 'schema % does not exist in database %', quote_ident(o.s), current_database()
            USING HINT = 'Write schemas= as PostgreSQL stores their names, with commas and no blanks between them.';
    END IF;

    FOREACH side IN ARRAY sides LOOP
        role_ := current_setting('pyreplica_roles.' || side);
        IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role_) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE', role_);
            said := said || format('%s: role %I was made; it has no password yet: \password %2$I', side, role_);
        ELSIF (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = role_) THEN
            RAISE EXCEPTION 'role % is a superuser and needs no rights', role_
                USING HINT = 'Name another role: -v master_role=..., -v slave_role=...; or ALTER ROLE ... NOSUPERUSER.';
        ELSE
            said := said || format('%s: role %I was there', side, role_);
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role_);

        IF side = 'master' THEN
            -- It reads the log and writes what is confirmed. It cannot write the log, nor say what DDL slaves are to run.
            EXECUTE format('GRANT USAGE ON SCHEMA pyreplica TO %I', role_);
            FOR o IN SELECT c.oid::regclass AS name, c.relname FROM pg_class c
                WHERE c.relnamespace = 'pyreplica'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
                    AND c.relname NOT IN ('replica_secret', 'replica_bell', 'replica_cursor', 'replica_copy',
                        'replica_status', 'replica_conflict', 'replica_pause', 'replica_source')
                    AND c.relname !~ '^(stage|net)_\d+$'
            LOOP
                EXECUTE format('GRANT SELECT%s ON %s TO %I',
                    CASE WHEN o.relname = 'replica_slave' THEN ', INSERT, UPDATE, DELETE' END, o.name, role_);
            END LOOP;
            FOR o IN SELECT p.oid::regprocedure AS name FROM pg_proc p
                WHERE p.pronamespace = 'pyreplica'::regnamespace AND p.prokind = 'f'
                    AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
                    -- of those that run with other rights only these
                    AND (NOT p.prosecdef OR p.proname IN ('add_table', 'remove_table', 'set_capture', 'restate',
                        'rotate_log', 'set_doorbell', 'tick', 'master_status', 'bit_for', 'keep_filter',
                        'drop_filters', 'follow_drift', 'set_forwarding', 'forwards', 'received', 'skipped',
                        'set_merge'))
                    AND coalesce(obj_description(p.oid, 'pg_proc'), '') <> 'slave'
            LOOP
                EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', o.name, role_);
            END LOOP;
            said := said || format('%s: %I may read the log, confirm, and set captures', side, role_);
            IF version >= 140000 THEN
                EXECUTE format('GRANT pg_read_all_data TO %I', role_);
                said := said || format('%s: %I may read all tables (pg_read_all_data, in all databases that let it in)',
                    side, role_);
            ELSE
                FOR o IN SELECT s.oid, s.nspname AS name FROM pg_namespace s WHERE s.nspname NOT LIKE 'pg\_%'
                    AND s.nspname NOT IN ('information_schema', 'pyreplica')
                LOOP
                    EXECUTE format('GRANT USAGE ON SCHEMA %1$I TO %2$I', o.name, role_);
                    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %1$I TO %2$I', o.name, role_);
                    EXECUTE format('GRANT SELECT ON ALL SEQUENCES IN SCHEMA %1$I TO %2$I', o.name, role_);
                END LOOP;
                said := said || format('%s: %I may read the tables that are there; PostgreSQL 13 has no pg_read_all_data: '
                    'run this again when tables were made', side, role_);
            END IF;
        ELSE
            -- What PyReplica has there is the role's own: it makes and drops staging tables.
            IF NOT is_master THEN
                EXECUTE format('ALTER SCHEMA pyreplica OWNER TO %I', role_);
            ELSE
                EXECUTE format('GRANT USAGE, CREATE ON SCHEMA pyreplica TO %I', role_);
            END IF;
            FOR o IN SELECT c.oid::regclass AS name, c.relkind, c.relname FROM pg_class c
                WHERE c.relnamespace = 'pyreplica'::regnamespace AND c.relkind IN ('r', 'v')
                    AND (NOT is_master OR c.relname ~ '^(replica_(cursor|copy|status|conflict|pause|source)|(stage|net)_\d+)$')
                    AND c.relowner <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = role_)
            LOOP
                EXECUTE format('ALTER %s %s OWNER TO %I', CASE o.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, o.name,
                    role_);
            END LOOP;
            IF is_master THEN
                EXECUTE format('GRANT SELECT ON pyreplica.replica_version, pyreplica.replica_node, pyreplica.replica_merge '
                    'TO %I', role_);
                -- what it applies may have to go on to this database's slaves
                EXECUTE format('GRANT EXECUTE ON FUNCTION pyreplica.forwards(), pyreplica.forward_ddl(jsonb), '
                    'pyreplica.rotate_log(bigint) TO %I', role_);
                -- it settles conflicts of tables that are merged
                EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON pyreplica.replica_row TO %I', role_);
                FOR o IN SELECT p.oid::regprocedure AS name FROM pg_proc p
                    WHERE p.pronamespace = 'pyreplica'::regnamespace
                        AND p.proname IN ('merge_versions', 'has_seen', 'is_later', 'latest_of', 'seen_of_both',
                            'keeps_siblings', 'shown_of', 'with_sibling')
                LOOP
                    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', o.name, role_);
                END LOOP;
            END IF;
            FOR o IN SELECT p.oid::regprocedure AS name, p.prokind FROM pg_proc p
                WHERE p.pronamespace = 'pyreplica'::regnamespace
                    AND (NOT is_master OR obj_description(p.oid, 'pg_proc') = 'slave')
            LOOP
                EXECUTE format('ALTER %s %s OWNER TO %I', CASE o.prokind WHEN 'a' THEN 'AGGREGATE' ELSE 'FUNCTION' END,
                    o.name, role_);
            END LOOP;
            said := said || format('%s: what PyReplica has in schema pyreplica belongs to %I', side, role_);
            IF version >= 150000 THEN
                -- EXECUTE, because older servers cannot read it
                EXECUTE format('GRANT SET ON PARAMETER session_replication_role TO %I', role_);
                said := said || format('%s: %I may set session_replication_role', side, role_);
            ELSE
                EXECUTE format('ALTER ROLE %I IN DATABASE %I SET session_replication_role = replica', role_,
                    current_database());
                said := said || format('%s: sessions of %I begin with session_replication_role = replica: PostgreSQL 13 '
                    'and 14 cannot allow a role to set it. Use the role for nothing else', side, role_);
            END IF;
            IF may_create THEN
                EXECUTE format('GRANT CREATE ON DATABASE %I TO %I', current_database(), role_);
                FOR o IN SELECT s.nspname AS name FROM pg_namespace s WHERE s.nspname NOT LIKE 'pg\_%'
                    AND s.nspname NOT IN ('information_schema', 'pyreplica')
                    AND (schemas IS NULL OR s.nspname = ANY (schemas))
                LOOP
                    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO %I', o.name, role_);
                END LOOP;
                said := said || format('%s: %I may make schemas, and tables in those that are there', side, role_);
            END IF;
            n := 0;
            FOR o IN SELECT format('%I.%I', s.nspname, c.relname) AS name, s.nspname AS schema, c.relkind FROM pg_class c
                JOIN pg_namespace s ON s.oid = c.relnamespace
                WHERE tables <> 'none' AND c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't'
                    AND s.nspname NOT LIKE 'pg\_%' AND s.nspname NOT IN ('information_schema', 'pyreplica')
                    AND (schemas IS NULL OR s.nspname = ANY (schemas))
                    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                        AND d.deptype = 'e')
                    -- a sequence that belongs to a table goes with it
                    AND NOT (tables = 'own' AND c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d
                        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')))
                ORDER BY c.relkind = 'S', c.oid
            LOOP
                IF tables = 'own' THEN
                    EXECUTE format('ALTER %s %s OWNER TO %I', CASE o.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
                        o.name, role_);
                ELSIF o.relkind = 'S' THEN
                    EXECUTE format('GRANT SELECT, UPDATE ON SEQUENCE %s TO %I', o.name, role_);
                ELSE
                    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON %s TO %I', o.name, role_);
                END IF;
                EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', o.schema, role_);
                n := n + 1;
            END LOOP;
            said := said || CASE tables WHEN 'own' THEN format('%s: %s tables and sequences belong to %I', side, n, role_)
                WHEN 'grant' THEN format('%s: %I may write %s tables and sequences', side, role_, n)
                ELSE format('%s: nothing was done to tables', side) END;
        END IF;
    END LOOP;
    PERFORM set_config('pyreplica_roles.said', array_to_string(said, E'\n'), true);
END
$$;

SELECT current_setting('pyreplica_roles.said');

COMMIT;
