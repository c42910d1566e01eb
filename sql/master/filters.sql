-- Filters: which rows and columns of a table a slave gets. A part of master-install.sql.

-- The bit of a replication's slave, in the doorbell and in replica_log.slaves; one that is free if it has none yet. A
-- filter keeps the bit of its replication even when the slave is forgotten: what was logged tells by it whom a row is
-- not for, and another slave must not come by it.
CREATE OR REPLACE FUNCTION pyreplica.bit_for(replication text) RETURNS smallint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_bit smallint;
BEGIN
    LOCK TABLE pyreplica.replica_filter IN SHARE ROW EXCLUSIVE MODE;   -- two at a time would find the same one
    SELECT s.bit INTO found_bit FROM pyreplica.replica_slave s WHERE s.replication = bit_for.replication;
    IF NOT FOUND THEN
        SELECT f.bit INTO found_bit FROM pyreplica.replica_filter f WHERE f.replication = bit_for.replication LIMIT 1;
    END IF;
    IF NOT FOUND THEN
        SELECT min(b) INTO found_bit FROM generate_series(1, 62) b
        WHERE b NOT IN (SELECT s.bit FROM pyreplica.replica_slave s UNION SELECT f.bit FROM pyreplica.replica_filter f);
    END IF;
    IF found_bit IS NULL THEN
        RAISE EXCEPTION 'database % has 62 slaves already, replication % would be one more', current_database(),
            replication
            USING HINT = 'Forget one that is given up: `pyreplica uninstall`, or DELETE FROM pyreplica.replica_slave '
                'and SELECT pyreplica.drop_filters(''NAME'').';
    END IF;
    RETURN found_bit;
END
$$;

-- The conditions of a table's filters, for messages; null when there are none.
CREATE OR REPLACE FUNCTION pyreplica.filters_told(shape jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('of replication %s: %s', f ->> 'replication', f ->> 'given'), '; ')
    FROM jsonb_array_elements(shape -> 'filters') f
$$;

-- Why a table cannot have a filter over changes; null when it can. A statement must tell for each key which change it is.
CREATE OR REPLACE FUNCTION pyreplica.change_misfit(rel oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                WHERE rel IN (i.inhparent, i.inhrelid) AND NOT c.relispartition)
            THEN 'a statement on a table that others inherit from does not tell whose rows it has changed'
        WHEN EXISTS (SELECT FROM pg_index i WHERE i.indrelid = rel AND i.indisprimary AND NOT i.indimmediate)
            THEN 'with a deferrable primary key a statement does not tell which row has become which' END
$$;

-- What a filter names that its table does not have any more, or else does not go with it; null when there is nothing.
CREATE OR REPLACE FUNCTION pyreplica.filter_misfit(rel oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('the filter of replication %s names its column %I%s; SELECT pyreplica.set_filter(%L, %L) takes the '
        'filter away, after `pyreplica remove-table`', f.replication, u.name,
        CASE WHEN a.attname IS NOT NULL THEN ' and was made for its type ' || format_type(u.type::oid, NULL) END,
        f.replication, rel::regclass)
    FROM pyreplica.replica_filter f, jsonb_each_text(f.uses) u(name, type)
    LEFT JOIN pg_attribute a ON a.attrelid = rel AND a.attname = u.name AND a.attnum > 0 AND NOT a.attisdropped
    WHERE f.relid = rel AND (a.attname IS NULL OR a.atttypid <> u.type::oid)
    UNION ALL
    SELECT format('the filter of replication %s is over changes, and %s', f.replication, m.why)
    FROM pyreplica.replica_filter f, pyreplica.change_misfit(rel) m(why)
    WHERE f.relid = rel AND f.changes IS NOT NULL AND m.why IS NOT NULL
    ORDER BY 1 LIMIT 1
$$;

-- Sets which rows (those for which `condition` is true) and which columns of a table a slave gets; null: all of them.
-- What the slave has already stays as it is, so it is set before the table is copied: `pyreplica install`, `copy` and
-- `add-table` do that.
--
-- The condition is not parsed here. PostgreSQL makes it the predicate of an index on an empty table of the same
-- columns, and takes nothing for one but an expression over a single row that has the same value at any time. This is
-- done with the rights of who calls, and only what came out of it goes on.
CREATE OR REPLACE FUNCTION pyreplica.set_filter(
    replication text, "table" regclass, condition text DEFAULT NULL, columns text[] DEFAULT NULL
) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    likeness constant text := (SELECT format('pg_temp.%I', c.relname) FROM pg_class c WHERE c.oid = "table");
    probe refcursor;
    hint text;
    answer text;
BEGIN
    IF condition IS NULL THEN
        RETURN pyreplica.keep_filter(replication, "table", NULL, NULL, columns);
    END IF;
    BEGIN
        EXECUTE format('CREATE TEMPORARY TABLE %s (LIKE %s)', likeness, "table");
        -- a cursor takes one statement only; its end could not be commented out
        OPEN probe FOR EXECUTE format(E'SELECT FROM %s WHERE (%s\n)', likeness, condition);
        CLOSE probe;
        EXECUTE format(E'CREATE INDEX pyreplica_filter ON %s ((1)) WHERE (%s\n)', likeness, condition);
    EXCEPTION
        WHEN OTHERS THEN
            hint := CASE
                WHEN SQLERRM ~ 'IMMUTABLE' THEN 'Its value may depend on the row alone: not on the time, not on settings '
                    'of the session (as that of a date in another time zone does), not on other rows.'
                WHEN SQLSTATE = '42501' THEN 'Have a superuser run `pyreplica install`; or GRANT TEMPORARY ON DATABASE, '
                    'and SELECT on the table.'
                ELSE 'It is an expression over the columns of the table, as in CREATE INDEX ... WHERE; what is not in '
                    'pg_catalog is written with its schema.' END;
            RAISE EXCEPTION 'the filter of % for replication % cannot be used: %', "table", replication, SQLERRM
                USING ERRCODE = SQLSTATE, HINT = hint;
    END;
    answer := pyreplica.keep_filter(replication, "table", condition, 'pg_temp.pyreplica_filter'::regclass, columns);
    EXECUTE format('DROP TABLE %s', likeness);
    RETURN answer;
END
$$;

-- Keeps a filter. `predicate`: an index with the condition as its predicate, on a table with the columns that it
-- names. It is read from the catalog, where PostgreSQL itself has put it, and so it is what an index may have: called
-- by anybody with any index this does not become anything else.
CREATE OR REPLACE FUNCTION pyreplica.keep_filter(
    replication text, "table" regclass, given text, predicate regclass, columns text[]
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel constant oid := "table"::oid;
    condition_ text;
    uses_ jsonb;
    wrong text;
BEGIN
    PERFORM pyreplica.lock_captures();
    IF predicate IS NOT NULL THEN
        SELECT pg_get_expr(i.indpred, i.indrelid),
            (SELECT coalesce(jsonb_object_agg(a.attname, a.atttypid::bigint), '{}')
                FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                WHERE d.classid = 'pg_class'::regclass AND d.objid = predicate AND d.refclassid = 'pg_class'::regclass
                    AND d.refobjid = i.indrelid AND d.refobjsubid > 0),
            -- the names must mean the same in the table itself
            (SELECT format('column %I', a.attname)
                FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
                LEFT JOIN pg_attribute o ON o.attrelid = rel AND o.attname = a.attname AND NOT o.attisdropped
                WHERE d.classid = 'pg_class'::regclass AND d.objid = predicate AND d.refclassid = 'pg_class'::regclass
                    AND d.refobjid = i.indrelid AND d.refobjsubid > 0
                    AND (o.atttypid, o.attcollation) IS DISTINCT FROM (a.atttypid, a.attcollation) LIMIT 1)
        INTO condition_, uses_, wrong
        FROM pg_index i WHERE i.indexrelid = predicate;
        IF condition_ IS NULL OR wrong IS NOT NULL THEN
            RAISE EXCEPTION 'index % is not made for a filter of %', predicate, "table"
                USING HINT = 'Call pyreplica.set_filter(), which makes it.';
        END IF;
        -- What comes with PostgreSQL is not in pg_depend. All other code would get the rights of the capture.
        SELECT CASE WHEN d.refclassid = 'pg_type'::regclass THEN 'domain ' || d.refobjid::regtype
            ELSE f.oid::regprocedure::text END
        INTO wrong
        FROM pg_depend d
        LEFT JOIN pg_operator r ON d.refclassid = 'pg_operator'::regclass AND r.oid = d.refobjid
        LEFT JOIN pg_proc f
            ON f.oid = CASE d.refclassid WHEN 'pg_proc'::regclass THEN d.refobjid ELSE r.oprcode::oid END
        LEFT JOIN pg_roles o ON o.oid = f.proowner
        WHERE d.classid = 'pg_class'::regclass AND d.objid = predicate
            AND (d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND NOT (o.rolsuper AND EXISTS (
                    SELECT FROM pg_depend e
                    WHERE e.classid = 'pg_proc'::regclass AND e.objid = f.oid AND e.deptype = 'e'))
                OR d.refclassid = 'pg_type'::regclass
                    AND (SELECT t.typtype = 'd' FROM pg_type t WHERE t.oid = d.refobjid))
        LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'the filter of % for replication % cannot be used: it calls %', "table", replication, wrong
                USING HINT = 'Only functions and operators that come with PostgreSQL, or with an extension that a '
                    'superuser has created: others would get the rights of PyReplica''s capture.';
        END IF;
        BEGIN
            EXECUTE format('SELECT FROM ONLY %s r WHERE %s LIMIT 0', "table", condition_);   -- as it is used
        EXCEPTION
            WHEN syntax_error_or_access_rule_violation THEN
                RAISE EXCEPTION 'the filter of % for replication % cannot be used: %', "table", replication, SQLERRM
                    USING ERRCODE = SQLSTATE, HINT = 'It may name columns, but not the row as a whole.';
        END;
    END IF;
    RETURN pyreplica.store_filter(replication, "table", given, condition_, uses_, NULL, columns);
END
$$;

-- Writes a filter down, or that there is none, and has the table captured accordingly. It believes what it is told of
-- the condition, so nobody but these functions may call it.
CREATE OR REPLACE FUNCTION pyreplica.store_filter(
    replication text, "table" regclass, given text, condition text, uses jsonb, on_error text, columns text[],
    changes jsonb DEFAULT NULL
) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel constant oid := "table"::oid;
    wrong text;
BEGIN
    PERFORM pyreplica.lock_captures();
    IF (SELECT c.relkind NOT IN ('r', 'p') OR c.relispartition FROM pg_class c WHERE c.oid = rel) THEN
        RAISE EXCEPTION '% cannot have a filter: it is %', "table",
            CASE WHEN rel <> pyreplica.root_of(rel) THEN 'a partition' ELSE 'not a table' END
            USING HINT = 'Set it for the table that it belongs to.';
    END IF;
    IF (given IS NOT NULL OR columns IS NOT NULL)
        AND EXISTS (SELECT FROM pyreplica.replica_merge m WHERE m.relid = rel)
    THEN
        RAISE EXCEPTION '% cannot have a filter: it is merged with those of other nodes, which need all of it', "table"
            USING HINT = 'Leave it out of `filters:`, or out of `merge:`.';
    END IF;
    SELECT format('there is no column %I', c) INTO wrong FROM unnest(columns) c
    WHERE NOT EXISTS (SELECT FROM pg_attribute a
        WHERE a.attrelid = rel AND a.attname = c AND a.attnum > 0 AND NOT a.attisdropped) LIMIT 1;
    IF wrong IS NULL THEN
        SELECT format('column %I of the primary key is not among them', a.attname) INTO wrong
        FROM pg_index i JOIN pg_attribute a ON a.attrelid = rel AND a.attnum = ANY (i.indkey)
        WHERE i.indrelid = rel AND i.indisprimary AND a.attname <> ALL (columns) LIMIT 1;
    END IF;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'these columns of % cannot be those of replication %: %', "table", replication, wrong
            USING HINT = 'Look at `columns:` of its filter in the configuration.';
    END IF;
    IF given IS NULL AND columns IS NULL THEN
        DELETE FROM pyreplica.replica_filter f WHERE f.replication = store_filter.replication AND f.relid = rel;
    ELSE
        INSERT INTO pyreplica.replica_filter AS f (replication, relid, bit, given, condition, on_error, changes, columns, uses)
        VALUES (store_filter.replication, rel, pyreplica.bit_for(replication), store_filter.given,
            store_filter.condition, store_filter.on_error, store_filter.changes, store_filter.columns,
            coalesce((SELECT jsonb_object_agg(c, NULL) FROM unnest(store_filter.columns) c), '{}')
                || coalesce(store_filter.uses, '{}'))
        ON CONFLICT ON CONSTRAINT replica_filter_pkey DO UPDATE
            SET given = excluded.given, condition = excluded.condition, on_error = excluded.on_error,
                changes = excluded.changes, columns = excluded.columns, uses = excluded.uses;
    END IF;
    IF EXISTS (SELECT FROM pyreplica.replica_table t WHERE t.relid = rel AND t.active) THEN
        PERFORM pyreplica.refresh(ARRAY[rel]);
    END IF;
    PERFORM pyreplica.drop_unused_filters();
    RETURN format('%s: %s', "table", CASE WHEN given IS NULL AND columns IS NULL THEN 'its filter was taken away'
        ELSE 'filtered: ' || concat_ws('; ', CASE WHEN on_error IS NULL THEN 'where '
                WHEN changes IS NULL THEN 'in Python ' ELSE 'changes, in Python ' END || given,
            'columns ' || array_to_string(columns, ', ')) END);
END
$$;

-- Takes all filters of a replication away.
CREATE OR REPLACE FUNCTION pyreplica.drop_filters(replication text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    filtered oid[];
BEGIN
    PERFORM pyreplica.lock_captures();
    WITH gone AS (
        DELETE FROM pyreplica.replica_filter f WHERE f.replication = drop_filters.replication RETURNING f.relid
    )
    SELECT array_agg(g.relid) INTO filtered FROM gone g;
    IF filtered IS NOT NULL THEN
        PERFORM pyreplica.refresh(filtered);
    END IF;
    PERFORM pyreplica.drop_unused_filters();
END
$$;

-- The columns of the generations of tables that a replication does not get.
CREATE OR REPLACE VIEW pyreplica.hidden_columns AS
SELECT f.replication, t.id AS tab, ARRAY(
    SELECT c FROM unnest(t.columns) c WHERE c <> ALL (f.columns) AND c <> ALL (t.key_columns)) AS columns
FROM pyreplica.replica_filter f JOIN pyreplica.replica_table t ON t.relid = f.relid
WHERE f.columns IS NOT NULL;

-- The log as a replication's slave gets it: the rows that are for it, without the columns that it does not get and
-- updates of these alone, and without what other replications have brought that it does not get. It has no settings of its own, so
-- that the planner puts the query in the place where it is called. Where a slave gets all columns the program asks
-- the log itself, which takes no join.
CREATE OR REPLACE FUNCTION pyreplica.log_of(replication text)
RETURNS TABLE (id bigint, txid xid8, at timestamptz, tab integer, op "char", key jsonb, "row" jsonb, old jsonb)
LANGUAGE sql STABLE AS $$
    SELECT l.id, l.txid, l.at, l.tab, l.op, l.key,
        CASE WHEN h.tab IS NULL THEN l.row ELSE l.row - h.columns END,
        CASE WHEN h.tab IS NULL THEN l.old ELSE l.old - h.columns END
    FROM pyreplica.replica_log l
    LEFT JOIN (SELECT k.tab, k.columns FROM pyreplica.hidden_columns k WHERE k.replication = $1 OFFSET 0) h
        ON h.tab = l.tab
    WHERE (l.slaves IS NULL
            OR l.slaves & (SELECT 1::bigint << s.bit FROM pyreplica.replica_slave s WHERE s.replication = $1) <> 0)
        AND (l.origin IS NULL OR l.origin <> ALL ((SELECT pyreplica.skipped($1))::integer[]))
        AND (h.tab IS NULL OR l.op NOT IN ('U', 'u', 'F') OR l.row - h.columns <> '{}')
$$;
