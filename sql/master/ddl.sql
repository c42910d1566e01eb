-- DDL for the slaves. A part of master-install.sql.

-- Logs a statement that the slaves run (op S).
CREATE OR REPLACE FUNCTION pyreplica.log_ddl(script jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE pyreplica.logging('SELECT 0, ''S''::"char", NULL::jsonb, $1') USING script;
END
$$;

-- Whether a text from a client is a single DDL statement, and not a function or a block that does DDL among other things.
CREATE OR REPLACE FUNCTION pyreplica.is_plain_ddl(query text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- What may hold semicolons and words that mean nothing here. The shortest match counts (the {1,1}? says so for the
    -- whole expression): a text that goes on after a doubled quote is two such pieces.
    opaque constant text := $re$(?:--[^\n]*(?:\n|$)|/\*.*?\*/|"[^"]*"|\yE'(?:[^'\\]|''|\\.)*'(?!')|'[^']*'|(\$\w*\$).*?\1){1,1}?$re$;
    bare text := regexp_replace(query, opaque, ' ', 'gi');
BEGIN
    bare := regexp_replace(bare, '\yBEGIN\s+ATOMIC\y.*\yEND\y', ' ', 'i');
    RETURN rtrim(btrim(bare, E' \t\r\n'), E'; \t\r\n') !~ ';'
        AND bare ~* '^\s*(CREATE|ALTER|DROP|COMMENT|SECURITY|GRANT|REVOKE|REINDEX|CLUSTER)\y';
END
$$;

-- Logs the statement of the client that has just run DDL, once, when slaves want it. Called by the event triggers before
-- those that follow DDL, so that the slave's table is altered when rows come that were logged on the way. Who may
-- execute this has the slaves run whatever he likes: superusers, and whom they grant it to.
CREATE OR REPLACE FUNCTION pyreplica.announce(search_path_ text, query text, tag text, event text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- set by begin_script(): the replications whose slaves shall run it, null for all
    script constant text := nullif(current_setting('pyreplica.script', true), '');
    now_ constant text := statement_timestamp()::text;
    schemas text[];
BEGIN
    IF pyreplica.is_refreshing()
        OR current_setting('session_replication_role') = 'replica'      -- a slave's daemon
        OR current_setting('pyreplica.announced', true) = now_
        OR query IS NULL
        OR script IS NULL AND NOT EXISTS (SELECT FROM pyreplica.replica_slave WHERE ddl)
    THEN
        RETURN;
    END IF;
    IF event = 'sql_drop' THEN
        schemas := ARRAY(SELECT DISTINCT coalesce(o.schema_name, '') FROM pg_event_trigger_dropped_objects() o
            WHERE NOT o.is_temporary);
    ELSE
        schemas := ARRAY(SELECT DISTINCT coalesce(c.schema_name, '') FROM pg_event_trigger_ddl_commands() c
            WHERE c.schema_name IS DISTINCT FROM 'pg_temp');
    END IF;
    IF schemas = '{}' OR 'pyreplica' = ANY (schemas) THEN
        RETURN;
    END IF;
    IF script IS NULL THEN
        IF tag IN ('CREATE TABLE AS', 'SELECT INTO', 'REFRESH MATERIALIZED VIEW') OR NOT EXISTS (
            SELECT FROM pyreplica.replica_table t WHERE t.active AND t.schema_name = ANY (schemas))
        THEN
            RETURN;
        END IF;
        IF NOT pyreplica.is_plain_ddl(query) THEN
            RAISE WARNING 'this % is not sent to PyReplica''s slaves: it is part of a longer statement', tag
                USING HINT = 'Send DDL statements one by one, or run them with `pyreplica execute`.';
            RETURN;
        END IF;
    END IF;
    IF query ~* '\mconcurrently\M' THEN
        RAISE WARNING 'this % is not sent to PyReplica''s slaves: CONCURRENTLY cannot run in a transaction', tag
            USING HINT = 'Run it on the slaves, too.';
        RETURN;
    END IF;
    PERFORM set_config('pyreplica.announced', now_, true);
    PERFORM pyreplica.log_ddl(jsonb_build_object('sql', query, 'tag', tag, 'search_path', search_path_,
        'standard_conforming_strings', current_setting('standard_conforming_strings'),
        'by', CASE WHEN script IS NULL THEN 'ddl' ELSE 'execute' END, 'replications', script::jsonb));
END
$$;

-- With the rights of who runs the DDL, and without a search_path of its own: it has to see that of the session. What is
-- sent is the text of the client's statement. So it is not enough that the role may which runs this DDL, perhaps in a
-- SECURITY DEFINER function that somebody else has called: the role of the session must be allowed to as well.
CREATE OR REPLACE FUNCTION pyreplica.announce_ddl() RETURNS event_trigger
LANGUAGE plpgsql AS $$
DECLARE
    announce constant text := 'pyreplica.announce(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text)';
    client pg_catalog.name := pg_catalog.current_setting('role');
BEGIN
    IF client OPERATOR(pg_catalog.=) 'none'::pg_catalog.name THEN
        client := session_user;
    END IF;
    IF pg_catalog.has_schema_privilege('pyreplica', 'USAGE')
        AND pg_catalog.has_schema_privilege(client, 'pyreplica', 'USAGE')
    THEN
        IF pg_catalog.has_function_privilege(announce, 'EXECUTE')
            AND pg_catalog.has_function_privilege(client, announce, 'EXECUTE')
        THEN
            PERFORM pyreplica.announce(
                pg_catalog.array_to_string(ARRAY(
                    SELECT pg_catalog.quote_ident(s) FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) s),
                    ', '), pg_catalog.current_query(), TG_TAG, TG_EVENT);
        END IF;
    END IF;
END
$$;

-- Begins a script whose DDL the slaves run as well: those of the named replications, or all (null).
CREATE OR REPLACE FUNCTION pyreplica.begin_script(replications text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT pyreplica.sees_ddl() THEN
        RAISE EXCEPTION 'DDL cannot be sent to the slaves: there are no event triggers, which only superusers can make'
            USING HINT = 'Run the script on the slave, too, with psql.';
    END IF;
    PERFORM set_config('pyreplica.script', coalesce(to_jsonb(replications), 'null')::text, true);
END
$$;

-- Ends it. Answers how many statements go to the slaves.
CREATE OR REPLACE FUNCTION pyreplica.end_script() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mixed record;
    sent bigint;
BEGIN
    IF coalesce(current_setting('pyreplica.script', true), '') = '' THEN
        RAISE EXCEPTION 'the script has ended its transaction by itself: what came after that was not sent to the slaves'
            USING HINT = 'Take BEGIN, COMMIT and ROLLBACK out of it; a script is one transaction as a whole. '
                'Then see what master and slave have of it.';
    END IF;
    SELECT s.row ->> 'sql' AS sql, format('%I.%I', t.schema_name, t.table_name) AS name INTO mixed
    FROM pyreplica.replica_log s
    JOIN pyreplica.replica_log l ON l.txid = s.txid AND l.at = s.at AND l.op <> 'S'
    JOIN pyreplica.replica_table t ON t.id = l.tab
    WHERE s.txid = pg_current_xact_id() AND s.op = 'S' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'one statement does DDL and writes the replicated table %: %', mixed.name,
            left(regexp_replace(mixed.sql, '\s+', ' ', 'g'), 200)
            USING HINT = 'The slaves would get the rows twice. Write DDL and data changes as statements of their own.';
    END IF;
    PERFORM set_config('pyreplica.script', '', true);
    SELECT count(*) INTO sent FROM pyreplica.replica_log l WHERE l.txid = pg_current_xact_id() AND l.op = 'S';
    RETURN sent;
END
$$;
