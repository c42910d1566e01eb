-- What `pyreplica repair` calls. A part of master-install.sql.

-- A relation of the keys in $1, objects as in the log, typed as the table's columns are.
CREATE OR REPLACE FUNCTION pyreplica.given_keys(shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('(SELECT %s FROM unnest($1) u(key), LATERAL jsonb_to_record(u.key) AS r(%s))',
        -- of a text jsonb_to_record() makes what the type's input function does, but for jsonb
        string_agg(CASE WHEN base = 'jsonb'::regtype THEN format('r.%1$I::jsonb AS %1$I', name)
            ELSE format('r.%I', name) END, ', '),
        string_agg(format('%I %s', name, CASE WHEN base = 'jsonb'::regtype THEN 'text'
            ELSE format_type(base, -1) END), ', '))
    FROM (
        SELECT c ->> 'name' AS name, pyreplica.base_of((c ->> 'type')::oid) AS base
        FROM jsonb_array_elements(shape -> 'columns') c WHERE c ->> 'key' IS NOT NULL
    ) k
$$;

-- Logs rows of a captured table once more, as they stand now (op i) or that they are gone (d), which puts slaves right
-- that have others: `pyreplica repair`. A key is an object as in the log. Answers how many were logged, and the keys of
-- those that another transaction is just writing, for another try. It never waits with a row locked, so no writer runs
-- into a deadlock with it; a single key is waited for, as long as lock_timeout says.
--
-- In the log ids are the order. So nobody may be about to commit a change of a row that has a lower id than ours: rows
-- that stand are locked first. What does not stand cannot be locked; then the table is locked against all writers.
CREATE OR REPLACE FUNCTION pyreplica.restate("table" regclass, keys jsonb[], OUT restated bigint, OUT busy jsonb[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET constraint_exclusion = off AS $$
DECLARE
    t pyreplica.replica_table;
    standing text;
    given text;
    same text;
    some_missing boolean;
    wanted jsonb[];
    mine jsonb[];
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'rows cannot be logged again in a % transaction, which does not see the newest ones',
            upper(current_setting('transaction_isolation'))
            USING HINT = 'Call it in a READ COMMITTED transaction.';
    END IF;
    IF NOT EXISTS (SELECT FROM pyreplica.replica_table r WHERE r.relid = "table"::oid AND r.active) THEN
        RAISE EXCEPTION 'table % is not captured', "table"
            USING HINT = format('SELECT pyreplica.add_table(%L);', "table");
    END IF;
    -- nobody alters it from here on
    EXECUTE format('LOCK TABLE ONLY %s IN ROW SHARE MODE', "table");
    SELECT * INTO t FROM pyreplica.replica_table r
    WHERE r.relid = "table"::oid AND r.active AND r.key_columns <> '{}';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % has lost its primary key', "table"
            USING HINT = 'Give it a primary key.';
    END IF;
    IF t.shape ? 'merge' THEN
        RAISE EXCEPTION 'table % is merged with those of other nodes: its rows cannot be logged once more', "table"
            USING ERRCODE = 'feature_not_supported',
                HINT = 'Update the row on the node that is right, which goes to all others.';
    END IF;
    standing := CASE WHEN (t.shape ->> 'partitioned')::boolean THEN '' ELSE 'ONLY ' END
        || format('%I.%I', t.shape ->> 'schema', t.shape ->> 'table');
    given := pyreplica.given_keys(t.shape);
    same := pyreplica.same_key(t.shape, 'm', 'k', true);

    EXECUTE format('SELECT coalesce(array_agg(DISTINCT %s), ''{}''), coalesce(bool_or(m.here IS NULL), false) '
        'FROM %s k LEFT JOIN LATERAL (SELECT true AS here FROM %s m WHERE %s OFFSET 0) m ON true',
        pyreplica.object_of(t.shape, true, 'k'), pyreplica.rows_of(t.shape, given, true),
        pyreplica.rows_of(t.shape, standing, true), same)
    INTO wanted, some_missing USING keys;
    IF some_missing THEN
        EXECUTE format('LOCK TABLE %s IN SHARE MODE', standing);
        mine := wanted;
    ELSE
        EXECUTE format('SELECT coalesce(array_agg(l.key), ''{}'') FROM (SELECT %s AS key FROM %s k, '
            'LATERAL (SELECT FROM %s m WHERE %s FOR SHARE OF m %s) m) l',
            pyreplica.object_of(t.shape, true, 'k'), pyreplica.rows_of(t.shape, given, true),
            pyreplica.rows_of(t.shape, standing, true), same,
            CASE WHEN cardinality(wanted) > 1 THEN 'SKIP LOCKED' END)
        INTO mine USING wanted;
    END IF;
    EXECUTE pyreplica.logging(pyreplica.restating(t.id, t.shape, standing, given, false, t.shape ? 'filters'),
        columns_ => pyreplica.log_columns(t.shape ? 'filters')) USING mine;
    GET DIAGNOSTICS restated = ROW_COUNT;
    busy := ARRAY(SELECT unnest(wanted) EXCEPT SELECT unnest(mine));
END
$$;
