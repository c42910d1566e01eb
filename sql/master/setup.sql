-- Setting tables up and taking them away. A part of master-install.sql.

-- Why a table cannot be captured, with the cure; null when it can. `passed_over` tells those that nobody would
-- expect to be replicated (system, extension, temporary) from those that are refused.
CREATE OR REPLACE FUNCTION pyreplica.refusal(rel oid, OUT reason text, OUT passed_over boolean)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    c record;
BEGIN
    passed_over := false;
    SELECT r.relkind, r.relpersistence, r.relispartition, n.nspname, r.relname INTO c
    FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace WHERE r.oid = rel;
    IF NOT FOUND THEN
        reason := 'there is no such table';
    ELSIF c.nspname IN ('pg_catalog', 'information_schema', 'pg_toast', 'pyreplica') THEN
        reason := 'it belongs to the system or to PyReplica';
        passed_over := true;
    ELSIF EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = rel AND deptype = 'e') THEN
        reason := 'it belongs to an extension';
        passed_over := true;
    ELSIF c.relpersistence = 't' THEN
        reason := 'it is temporary';
        passed_over := true;
    ELSIF c.relkind = 'f' THEN
        reason := 'it is a foreign table; replicate it from where its rows live';
    ELSIF c.relkind NOT IN ('r', 'p') THEN
        reason := format('it is %s, not a table', CASE c.relkind WHEN 'v' THEN 'a view'
            WHEN 'm' THEN 'a materialized view' WHEN 'S' THEN 'a sequence' WHEN 'c' THEN 'a type' ELSE 'an index' END);
    ELSIF c.relispartition THEN
        reason := format('it is a partition; add %s, its partitions come along',
            pyreplica.root_of(rel)::regclass);
    ELSIF c.relpersistence = 'u' THEN
        reason := format('it is unlogged, a crash of the master would empty it unnoticed; '
            'ALTER TABLE %I.%I SET LOGGED', c.nspname, c.relname);
    ELSIF NOT EXISTS (SELECT FROM pg_index WHERE indrelid = rel AND indisprimary) THEN
        reason := format('it has no primary key; ALTER TABLE %I.%I ADD PRIMARY KEY (...)', c.nspname, c.relname);
    ELSIF getdatabaseencoding() NOT IN ('UTF8', 'SQL_ASCII') AND (pyreplica.shape_of(rel)::text ~ '[^ -~]'
        OR EXISTS (SELECT FROM pyreplica.descendants(rel) d WHERE d::regclass::text ~ '[^ -~]'))
        AND (SELECT k.language FROM pyreplica.replica_capture k) = 'plpython3u'
    THEN
        reason := format('there are names with other letters than ASCII''s in its definition, and PL/Python cannot '
            'prepare statements with such in a database with the encoding %s; '
            'SELECT pyreplica.set_capture(''plpgsql'')', getdatabaseencoding());
    ELSIF (SELECT count(*) FROM pg_attribute WHERE attrelid = rel AND attnum > 0 AND NOT attisdropped) > 800 THEN
        reason := 'it has more than 800 columns; a query that compares two of its rows would be too wide';
    ELSE
        -- PostgreSQL does not let a parent's triggers know what a statement did in a foreign child
        SELECT format('%s under it is %s', d::regclass, CASE WHEN r.relkind = 'f' THEN 'a foreign table'
            WHEN r.relpersistence = 'u' THEN 'unlogged' ELSE 'temporary' END)
        INTO reason
        FROM pyreplica.descendants(rel) d JOIN pg_class r ON r.oid = d
        WHERE r.relkind = 'f' OR r.relispartition AND r.relpersistence <> 'p' LIMIT 1;
        IF reason IS NULL THEN
            reason := pyreplica.out_of_reach(rel);
        END IF;
        IF reason IS NULL THEN
            reason := pyreplica.merge_refusal(rel);
        END IF;
        IF reason IS NULL THEN
            reason := pyreplica.code_of_others(rel) || '; ALTER FUNCTION ... OWNER TO a superuser who has read it';
        END IF;
        IF reason IS NULL THEN
            reason := pyreplica.filter_misfit(rel);
        END IF;
        IF reason IS NULL THEN
            SELECT format('it inherits from %s, which is not added: a statement on that table would change rows '
                'here unnoticed; add that one first', a::regclass)
            INTO reason
            FROM pyreplica.ancestors(rel) a
            WHERE NOT EXISTS (SELECT FROM pyreplica.replica_table t WHERE t.relid = a AND t.active)
            LIMIT 1;
        END IF;
        IF reason IS NULL THEN
            SELECT format('its key column %I is not a column of %s, which it inherits from: a statement on that '
                'table could not tell which rows it changed here', k.attname, a::regclass)
            INTO reason
            FROM pg_index i JOIN pg_attribute k ON k.attrelid = rel AND k.attnum = ANY (i.indkey),
                pyreplica.ancestors(rel) a
            WHERE i.indrelid = rel AND i.indisprimary AND NOT EXISTS (SELECT FROM pg_attribute p
                WHERE p.attrelid = a AND p.attname = k.attname AND NOT p.attisdropped)
            LIMIT 1;
        END IF;
    END IF;
END
$$;

-- A table's capture triggers, whatever table they are on. PostgreSQL itself makes those of partitions that go with a row
-- trigger of their root. `language`: of those that capture; the others go with either.
CREATE OR REPLACE VIEW pyreplica.capture_trigger AS
SELECT g.relid, g.name, g.fires IN ('O', 'A') AND (g.fires = 'A' OR t.shape ? 'forwarding' IS NOT TRUE) AS enabled,
    g.generation, g.language
FROM (
    SELECT g.tgrelid AS relid, g.tgname AS name, g.tgenabled AS fires,
        -- may be worked out for other triggers as well
        substring(encode(g.tgargs, 'escape') FROM '^(\d{1,9})\\000')::integer AS generation,
        CASE WHEN p.proname ~ '^capture' THEN l.lanname::text END AS language
    FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_language l ON l.oid = p.prolang
    WHERE p.pronamespace = 'pyreplica'::regnamespace
        AND p.proname ~ '^(capture($|_)|(before|after)_(merge|move)$)' AND g.tgparentid = 0
) g
LEFT JOIN pyreplica.replica_table t ON t.id = g.generation;

-- What comes between these two is DDL of ours, which the event triggers leave alone. Anybody can set the setting, so it
-- counts only with a secret that is in a table, and there only until the end: no code of others runs before that.
CREATE OR REPLACE FUNCTION pyreplica.begin_refreshing() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_secret constant uuid := gen_random_uuid();
BEGIN
    INSERT INTO pyreplica.replica_secret (secret) VALUES (new_secret);
    PERFORM set_config('pyreplica.refreshing', new_secret::text, true);
END
$$;

CREATE OR REPLACE FUNCTION pyreplica.end_refreshing() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM pyreplica.replica_secret;
    PERFORM set_config('pyreplica.refreshing', '', true);
END
$$;

CREATE OR REPLACE FUNCTION pyreplica.is_refreshing() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known constant text := coalesce(current_setting('pyreplica.refreshing', true), '');
BEGIN
    RETURN known <> '' AND EXISTS (SELECT FROM pyreplica.replica_secret s WHERE s.secret::text = known);
END
$$;

CREATE OR REPLACE FUNCTION pyreplica.drop_triggers(rel oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
BEGIN
    PERFORM pyreplica.begin_refreshing();   -- follow_ddl() is not to follow this
    FOR t IN
        SELECT g.name, n.nspname, c.relname
        FROM pyreplica.capture_trigger g JOIN pg_class c ON c.oid = g.relid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE g.relid = rel
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %I.%I', t.name, t.nspname, t.relname);
    END LOOP;
    PERFORM pyreplica.end_refreshing();
END
$$;

-- Makes the capture triggers of one table. A partition logs under its root's generation.
CREATE OR REPLACE FUNCTION pyreplica.set_triggers(rel oid, role_ text, generation integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    table_ constant text := (SELECT format('%I.%I', n.nspname, c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = rel);
    language constant text := (SELECT c.language FROM pyreplica.replica_capture c);
    -- capture() or capture_text()
    shared constant text := (SELECT CASE WHEN bool_and((c ->> 'alike')::boolean) THEN 'capture' ELSE 'capture_text' END
        FROM pyreplica.replica_table t, jsonb_array_elements(t.shape -> 'columns') c WHERE t.id = generation);
    g record;
BEGIN
    PERFORM pyreplica.drop_triggers(rel);
    IF language = 'plpgsql'
        AND to_regprocedure(format('pyreplica.%I()', pyreplica.capture_name(generation, 'INSERT'))) IS NULL
    THEN
        PERFORM pyreplica.make_captures(generation);
    END IF;
    PERFORM pyreplica.begin_refreshing();   -- this DDL is nobody else's
    FOR g IN
        SELECT * FROM (VALUES
            ('pyreplica_insert', 'AFTER INSERT', 'INSERT', 'REFERENCING NEW TABLE AS new_rows', role_),
            ('pyreplica_update', 'AFTER UPDATE', 'UPDATE', 'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows', role_),
            ('pyreplica_delete', 'AFTER DELETE', 'DELETE', 'REFERENCING OLD TABLE AS old_rows', role_),
            ('pyreplica_before_truncate', 'BEFORE TRUNCATE', 'BEFORE TRUNCATE ' || role_, '', role_),
            ('pyreplica_truncate', 'AFTER TRUNCATE', 'AFTER TRUNCATE table', '', 'table')
        ) v(name, fires, event, tables, said)
        WHERE v.event <> 'BEFORE TRUNCATE table' AND (v.fires <> 'AFTER TRUNCATE' OR role_ <> 'partition')
    LOOP
        EXECUTE format('CREATE TRIGGER %I %s ON %s %s FOR EACH STATEMENT EXECUTE FUNCTION pyreplica.%I (%L, %L)',
            g.name, g.fires, table_, g.tables,
            CASE WHEN language = 'plpgsql' THEN pyreplica.capture_name(generation, g.event) ELSE shared END,
            generation, g.said);
    END LOOP;
    IF pyreplica.merges(rel) THEN
        EXECUTE format('CREATE TRIGGER pyreplica_before_merge BEFORE UPDATE ON %s '
            'FOR EACH STATEMENT EXECUTE FUNCTION pyreplica.before_merge(%L)', table_, generation);
        EXECUTE format('CREATE TRIGGER pyreplica_z_after_merge AFTER UPDATE ON %s FOR EACH STATEMENT '
            'WHEN (current_setting(''pyreplica.merging'', true) = ''on'') '
            'EXECUTE FUNCTION pyreplica.after_merge(%L)', table_, generation);
        IF role_ = 'root' THEN
            EXECUTE format('CREATE TRIGGER pyreplica_before_move BEFORE DELETE ON %s FOR EACH ROW '
                'WHEN (current_setting(''pyreplica.merging'', true) = ''on'') '
                'EXECUTE FUNCTION pyreplica.before_move(%L)', table_, generation);
            EXECUTE format('CREATE TRIGGER pyreplica_after_move AFTER INSERT OR DELETE ON %s FOR EACH ROW '
                'WHEN (current_setting(''pyreplica.moving'', true) = ''on'') '
                'EXECUTE FUNCTION pyreplica.after_move(%L)', table_, generation);
        END IF;
    END IF;
    IF (SELECT t.shape ? 'forwarding' FROM pyreplica.replica_table t WHERE t.id = generation) THEN
        FOR g IN
            -- partitions have row triggers of their root's, and no others
            SELECT k.name, CASE WHEN t.tgtype & 1 = 0 THEN 'ONLY ' END AS only_
            FROM pyreplica.capture_trigger k JOIN pg_trigger t ON t.tgrelid = k.relid AND t.tgname = k.name
            WHERE k.relid = rel
        LOOP
            EXECUTE format('ALTER TABLE %s%s ENABLE ALWAYS TRIGGER %I', g.only_, table_, g.name);
        END LOOP;
    END IF;
    PERFORM pyreplica.end_refreshing();
END
$$;

-- Whether MERGE, which came with PostgreSQL 15, can move rows between the partitions of a table.
CREATE OR REPLACE FUNCTION pyreplica.merges(rel oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT current_setting('server_version_num')::integer >= 150000
        AND EXISTS (SELECT FROM pg_class WHERE oid = rel AND relkind = 'p')
$$;

-- A captured table and its partitions, and the role of each.
CREATE OR REPLACE FUNCTION pyreplica.parts_of(root oid) RETURNS TABLE (relid oid, role_ text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid, CASE WHEN c.relkind = 'p' THEN 'root' ELSE 'table' END FROM pg_class c WHERE c.oid = root
    UNION ALL
    SELECT d, 'partition' FROM pyreplica.descendants(root) d JOIN pg_class c ON c.oid = d WHERE c.relispartition
$$;

-- How many triggers such a part has.
CREATE OR REPLACE FUNCTION pyreplica.triggers_of(rel oid, role_ text) RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE role_ WHEN 'root' THEN 5 ELSE 4 END
        + CASE WHEN NOT pyreplica.merges(rel) THEN 0 WHEN role_ = 'root' THEN 4 ELSE 2 END
$$;

-- What of a captured table has not all its triggers.
CREATE OR REPLACE FUNCTION pyreplica.unset_parts(generation integer) RETURNS TABLE (relid oid, role_ text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.relid, p.role_
    FROM pyreplica.replica_capture c, pyreplica.replica_table t, pyreplica.parts_of(t.relid) p
    WHERE t.id = unset_parts.generation
        AND (SELECT count(*) FROM pyreplica.capture_trigger g
            WHERE g.relid = p.relid AND g.enabled AND g.generation = t.id
                AND (g.language = c.language) IS NOT FALSE)
        <> pyreplica.triggers_of(p.relid, p.role_)
$$;

-- Whether a generation is in line with the catalog: built from what is there now, and with all its triggers. One
-- query, so that it looks at both at the same moment.
CREATE OR REPLACE FUNCTION pyreplica.stands(generation integer) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(t.shape = pyreplica.shape_of(t.relid), false)
        AND NOT EXISTS (SELECT FROM pyreplica.unset_parts(t.id))
    FROM pyreplica.replica_table t WHERE t.id = generation
$$;

-- Makes a table's next generation and its triggers.
CREATE OR REPLACE FUNCTION pyreplica.build(rel oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shape_ constant jsonb := pyreplica.shape_of(rel);
    next_id constant integer := nextval(pg_get_serial_sequence('pyreplica.replica_table', 'id'));
    key_ constant text[] := ARRAY(SELECT name FROM pyreplica.columns_of(shape_, true));
    is_first boolean;
BEGIN
    UPDATE pyreplica.replica_table SET active = false WHERE relid = rel AND active;
    is_first := NOT FOUND;
    INSERT INTO pyreplica.replica_table
        (id, relid, schema_name, table_name, key_columns, columns, shape, statements)
    OVERRIDING SYSTEM VALUE
    SELECT next_id, rel, shape_ ->> 'schema', shape_ ->> 'table', key_,
        ARRAY(SELECT c ->> 'name' FROM jsonb_array_elements(shape_ -> 'columns') WITH ORDINALITY e(c, n)
            WHERE NOT (c ->> 'generated')::boolean ORDER BY n),
        shape_,
        CASE WHEN key_ = '{}' THEN '{}' ELSE pyreplica.capture_statements(next_id, shape_) END;
    PERFORM pyreplica.set_triggers(p.relid, p.role_, next_id) FROM pyreplica.parts_of(rel) p;
    -- where DDL is not seen, refresh() logs them
    PERFORM pyreplica.follow_partitions(rel, log_new := NOT is_first AND pyreplica.sees_ddl());
END
$$;

CREATE OR REPLACE FUNCTION pyreplica.add_table("table" regclass) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    rel constant oid := "table"::oid;
    refused text;
    renewed integer;
BEGIN
    PERFORM pyreplica.lock_captures();
    SELECT r.reason INTO refused FROM pyreplica.refusal(rel) r;
    IF refused IS NOT NULL THEN
        RETURN format('%s: not added: %s', "table", refused);
    END IF;
    IF EXISTS (SELECT FROM pyreplica.replica_table WHERE relid = rel AND active) THEN
        renewed := pyreplica.refresh(ARRAY[rel]);
        RETURN format('%s: is added already%s', "table", CASE WHEN renewed > 0 THEN ', its triggers were renewed' END);
    END IF;
    PERFORM pyreplica.build(rel);
    PERFORM pyreplica.refresh(ARRAY[rel]);   -- the tables that it inherits from
    RETURN format('%s: added, key (%s)', "table", (SELECT array_to_string(key_columns, ', ')
        FROM pyreplica.replica_table WHERE relid = rel AND active));
END
$$;

CREATE OR REPLACE FUNCTION pyreplica.remove_table("table" regclass) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    heir regclass;
BEGIN
    PERFORM pyreplica.lock_captures();
    SELECT t.relid INTO heir FROM pyreplica.replica_table t
    WHERE t.active AND t.relid IN (SELECT pyreplica.descendants("table"::oid)) LIMIT 1;
    IF heir IS NOT NULL THEN
        RETURN format('%s: not removed: %s inherits from it; remove that one first', "table", heir);
    END IF;
    UPDATE pyreplica.replica_table SET active = false WHERE relid = "table"::oid AND active;
    IF NOT FOUND THEN
        RETURN format('%s: not removed: it was not added', "table");
    END IF;
    PERFORM pyreplica.refresh(ARRAY["table"::oid]);
    RETURN format('%s: removed; what was logged before still goes to the slaves', "table");
END
$$;

-- Every table that somebody may want replicated, and why it cannot be (null: it can).
CREATE OR REPLACE FUNCTION pyreplica.candidates(schema text DEFAULT NULL)
RETURNS TABLE (relid oid, schema_name text, table_name text, added boolean, reason text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
    SELECT c.oid, n.nspname, c.relname,
        EXISTS (SELECT FROM pyreplica.replica_table t WHERE t.relid = c.oid AND t.active), r.reason
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pyreplica.refusal(c.oid) r
    WHERE c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND NOT r.passed_over
        AND n.nspname NOT LIKE 'pg\_%' AND (schema IS NULL OR n.nspname = schema)
    -- who inherits can be added only after those it inherits from
    ORDER BY (SELECT count(*) FROM pyreplica.ancestors(c.oid)), n.nspname, c.relname
$$;

CREATE OR REPLACE FUNCTION pyreplica.add_all_tables(schema text DEFAULT NULL) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
BEGIN
    IF schema IS NOT NULL AND to_regnamespace(quote_ident(schema)) IS NULL THEN
        RAISE EXCEPTION 'schema % does not exist in database %', quote_ident(schema), current_database();
    END IF;
    FOR t IN SELECT c.relid FROM pyreplica.candidates(schema) c LOOP
        RETURN NEXT pyreplica.add_table(t.relid::regclass);
    END LOOP;
    IF NOT FOUND THEN
        RETURN NEXT 'there are no tables';
    END IF;
END
$$;
