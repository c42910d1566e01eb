-- Capture in PL/pgSQL: trigger functions of their own for each generation. A part of master-install.sql.

-- The settings under which values are printed: in the log they must not depend on the writer's.
CREATE OR REPLACE FUNCTION pyreplica.print_settings() RETURNS TABLE (name text, value text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    VALUES ('DateStyle', 'ISO, YMD'), ('IntervalStyle', 'postgres'), ('TimeZone', 'UTC'), ('extra_float_digits', '1'),
        ('bytea_output', 'hex'), ('lc_monetary', 'C'), ('xmlbinary', 'base64'), ('quote_all_identifiers', 'off')
$$;

-- The names of those that matter for a type; of one that is not known here, of all.
CREATE OR REPLACE FUNCTION pyreplica.settings_of(typ oid) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    base oid;
    settings text[] := '{}';
BEGIN
    FOR base IN SELECT b FROM pyreplica.base_types(typ) b LOOP
        settings := settings || CASE
            WHEN pyreplica.prints_alike(base) THEN '{}'
            WHEN base = ANY ('{date,timestamp,time}'::regtype[]) THEN '{DateStyle}'
            WHEN base = ANY ('{timestamptz,timetz}'::regtype[]) THEN '{DateStyle,TimeZone}'
            WHEN base = 'interval'::regtype THEN '{IntervalStyle}'
            WHEN base = ANY ('{float4,float8,point,lseg,path,box,polygon,line,circle}'::regtype[])
                THEN '{extra_float_digits}'
            WHEN base = 'bytea'::regtype THEN '{bytea_output}'
            WHEN base = 'money'::regtype THEN '{lc_monetary}'
            ELSE ARRAY(SELECT s.name FROM pyreplica.print_settings() s) END::text[];
    END LOOP;
    RETURN settings;
END
$$;

-- The name of the trigger function of a generation and an event.
CREATE OR REPLACE FUNCTION pyreplica.capture_name(generation integer, event text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('capture_%s_%s', generation, replace(lower(event), ' ', '_'))
$$;

-- What the body of such a function ends with where a table has filters: an error of one is told as such.
CREATE OR REPLACE FUNCTION pyreplica.filter_handler(shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format($code$EXCEPTION
    WHEN data_exception OR external_routine_exception OR syntax_error_or_access_rule_violation OR plpgsql_error THEN
        RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = %L || SQLERRM, DETAIL = %L, HINT = %L;
$code$,
        format('a filter of table %s.%s failed: ', shape ->> 'schema', shape ->> 'table'),
        'Its filters are: ' || pyreplica.filters_told(shape),
        format('A filter must have an answer for every row. Change the row; or take the filter away, '
            'after which the slave needs the table anew: SELECT pyreplica.set_filter(''NAME'', %L).',
            format('%I.%I', shape ->> 'schema', shape ->> 'table')))
    WHERE shape ? 'filters'
$$;

-- The body of such a function.
CREATE OR REPLACE FUNCTION pyreplica.capture_body(generation integer, event text, part jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t constant pyreplica.replica_table := (SELECT r FROM pyreplica.replica_table r WHERE r.id = generation);
    -- It tells the segment which is written by itself, and rings; needed where there is no transaction id before.
    plain constant text := pyreplica.logging(part ->> 'plain', columns_ => part ->> 'columns');
    again constant text[] := ARRAY(
        SELECT coalesce(part ->> 'before', '') || pyreplica.logging(part ->> 'again', segment_ => s::smallint,
            columns_ => part ->> 'again_columns')
        FROM generate_series(0, 1) s);
    first_ constant text[] := ARRAY(
        SELECT pyreplica.logging(part ->> 'first', segment_ => s::smallint,
            columns_ => part ->> 'columns')
        FROM generate_series(0, 1) s);
    -- A snapshot left behind now and then lets a backlog be cut there: by who logs each four thousandth row.
    tick constant text := $code$
    IF logged > 0 THEN
        last_id := currval('pyreplica.replica_log_id');
        IF last_id / 4000 <> (last_id - logged) / 4000 THEN
            PERFORM pyreplica.tick();
        END IF;
    END IF;
    RETURN NULL;
$code$ || coalesce(pyreplica.filter_handler(t.shape), '') || $code$END
$code$;
BEGIN
    IF t.key_columns = '{}' THEN
        RETURN format($code$
BEGIN
    RAISE EXCEPTION USING MESSAGE = %L, HINT = %L;
END
$code$,
            format('table %s.%s is replicated and has lost its primary key', t.schema_name, t.table_name),
            format('Give it a primary key, or stop replicating it: SELECT pyreplica.remove_table(''%s.%s'').',
                t.schema_name, t.table_name));
    END IF;
    IF part ? 'plain' THEN
        RETURN format($code$
#variable_conflict use_column
DECLARE
    logged bigint;
    last_id bigint;
BEGIN
    %s;
    GET DIAGNOSTICS logged = ROW_COUNT;%s$code$,
            CASE WHEN event = 'BEFORE TRUNCATE partition' THEN
                format('EXECUTE format(''WITH this_partition AS (TABLE %%I.%%I) '', TG_TABLE_SCHEMA, TG_TABLE_NAME) || %L',
                    plain)
            ELSE plain END,
            tick);
    END IF;
    -- What a statement needs only once is worked out in expressions: inside of the INSERT it costs more. That names the
    -- segment, so that PostgreSQL need not find it for each row.
    RETURN format($code$
#variable_conflict use_column
DECLARE
    mark constant text := %s;
    now_ text;
    is_first boolean := false;
    doorbell bigint;
    logged bigint;
    last_id bigint;
BEGIN
    IF pg_current_xact_id_if_assigned() IS NULL THEN
        RETURN NULL;   -- not a row was written
    END IF;
    doorbell := coalesce(pg_sequence_last_value('pyreplica.doorbell'), 0);
    now_ := %s;
    IF current_setting(mark, true) IS DISTINCT FROM now_ THEN
        is_first := set_config(mark, now_, false) IS NOT NULL%s;
    END IF;%s
    GET DIAGNOSTICS logged = ROW_COUNT;
    IF doorbell > 1 AND logged > 0 THEN
        PERFORM pyreplica.ring(doorbell);
    END IF;%s$code$,
        pyreplica.mark_of(t.shape), pyreplica.client_statement(t.shape), ' AND NOT (' || (part ->> 'unless') || ')',
        CASE WHEN part ? 'first' THEN format($code$
    IF is_first AND doorbell & 1 = 0 THEN
        %s;
    ELSIF is_first THEN
        %s;
    ELSIF doorbell & 1 = 0 THEN
        %s;
    ELSE
        %s;
    END IF;$code$, first_[1], first_[2], again[1], again[2])
        ELSE format($code$
    IF doorbell & 1 = 0 THEN
        %s;
    ELSE
        %s;
    END IF;$code$, again[1], again[2]) END,
        tick);
END
$$;

-- Makes the functions of a generation, or makes them anew.
CREATE OR REPLACE FUNCTION pyreplica.make_captures(generation integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names constant text[] := ARRAY(
        SELECT unnest(pyreplica.settings_of(typ)) FROM (
            SELECT DISTINCT (c ->> 'type')::oid AS typ
            FROM pyreplica.replica_table r, jsonb_array_elements(r.shape -> 'columns') c
            WHERE r.id = ANY (generation || ARRAY(
                SELECT pyreplica.children_of(t.shape) FROM pyreplica.replica_table t WHERE t.id = generation))) k);
    settings constant text := (
        SELECT string_agg(format('SET %I = %L', s.name, s.value), ' ')
        FROM pyreplica.print_settings() s WHERE s.name = ANY (names));
    -- a row that is hidden from who has installed this would be lost: an error is better
    sees_all constant text := (SELECT CASE WHEN NOT r.rolsuper AND NOT r.rolbypassrls THEN 'SET row_security = off' END
        FROM pg_roles r WHERE r.oid = pyreplica.installer());
    f record;
BEGIN
    PERFORM pyreplica.begin_refreshing();   -- this DDL is nobody else's
    FOR f IN
        SELECT pyreplica.capture_name(t.id, event) AS name,
            pyreplica.capture_body(t.id, event, jsonb_strip_nulls(part)) AS body
        FROM pyreplica.replica_table t, jsonb_each(pyreplica.capture_parts(t.id, t.shape)) e(event, part)
        WHERE t.id = generation AND (event NOT LIKE 'BEFORE%' OR (t.shape ->> 'partitioned')::boolean)
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION pyreplica.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
            'SET search_path = pg_catalog, pg_temp SET constraint_exclusion = off %s %s AS %L', f.name, settings, sees_all, f.body);
        EXECUTE format('REVOKE ALL ON FUNCTION pyreplica.%I() FROM PUBLIC', f.name);
    END LOOP;
    PERFORM pyreplica.end_refreshing();
END
$$;

-- All functions of that kind; `used`: some trigger has one of the generation.
CREATE OR REPLACE VIEW pyreplica.capture_function AS
SELECT k.name, k.generation, EXISTS (
    SELECT FROM pyreplica.capture_trigger g WHERE g.generation = k.generation AND g.language = 'plpgsql') AS used
FROM (
    SELECT p.proname AS name, substring(p.proname FROM '^capture_(\d{1,9})_')::integer AS generation
    FROM pg_proc p WHERE p.pronamespace = 'pyreplica'::regnamespace
) k
WHERE k.generation IS NOT NULL;

-- Takes away those of generations that capture nothing any more.
CREATE OR REPLACE FUNCTION pyreplica.drop_unused_captures() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unused text;
BEGIN
    PERFORM pyreplica.begin_refreshing();   -- follow_ddl() is not to follow this
    FOR unused IN SELECT f.name FROM pyreplica.capture_function f WHERE NOT f.used LOOP
        EXECUTE format('DROP FUNCTION pyreplica.%I()', unused);
    END LOOP;
    PERFORM pyreplica.end_refreshing();
END
$$;

-- In which language tables are captured from now on: plpython3u or plpgsql. With `renew` the triggers of all tables are
-- made anew at once, in this transaction, which keeps their writers out until it commits; else it is for add_table() to
-- do that, one table at a time.
CREATE OR REPLACE FUNCTION pyreplica.set_capture(language text, renew boolean DEFAULT true) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    known constant text := (SELECT c.language FROM pyreplica.replica_capture c);
    filtered record;
BEGIN
    IF language IS NULL OR language NOT IN ('plpython3u', 'plpgsql') THEN
        RAISE EXCEPTION 'tables cannot be captured in %', coalesce(quote_literal(language), 'NULL')
            USING HINT = 'It is ''plpython3u'' or ''plpgsql''.';
    END IF;
    IF language = 'plpython3u' AND to_regprocedure('pyreplica.capture()') IS NULL THEN
        RAISE EXCEPTION 'PyReplica was installed in database % without the language plpython3u', current_database()
            USING HINT = 'Have a superuser run `pyreplica install` with `capture: plpython3u`, or sql/master-install.sql with '
                'PGOPTIONS=''-c pyreplica.capture=plpython3u''.';
    END IF;
    PERFORM pyreplica.lock_captures();
    SELECT f.replication, f.relid::regclass AS name INTO filtered FROM pyreplica.replica_filter f
    WHERE f.on_error IS NOT NULL AND language <> 'plpython3u' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'tables cannot be captured in %: the filter of % for replication % is in Python, which needs '
            'plpython3u', language, filtered.name, filtered.replication
            USING HINT = 'Have it in SQL, `where:`, which takes a new copy of the table: see docs/filters.md. Of a '
                'replication that is given up: SELECT pyreplica.drop_filters(''NAME'').';
    END IF;
    UPDATE pyreplica.replica_capture c SET language = set_capture.language WHERE c.language <> set_capture.language;
    RETURN format('capture: %s%s', language,
        CASE WHEN renew THEN format(', the triggers of %s tables were made anew', pyreplica.refresh())
            WHEN known <> language THEN format(', it was %s', known) END);
END
$$;
