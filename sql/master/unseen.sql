-- What no trigger sees. A part of master-install.sql.

-- Some DDL changes rows: a partition comes with its rows, ALTER TABLE computes values anew. It is logged here, at a
-- time (`at`) of its own, which tells it from what the statement wrote through triggers.

-- Logs something that concerns a whole table: op T, F or P.
CREATE OR REPLACE FUNCTION pyreplica.log_table(generation integer, op "char", row_ jsonb DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE pyreplica.logging('SELECT $1, $2, NULL::jsonb, $3', 'clock_timestamp()') USING generation, op, row_;
END
$$;

-- Logs all rows of a relation: as they stand ("i"), some columns of them ("u"), or that they are gone ("d"). Filters
-- that choose changes take them for inserts and deletes; and new columns' values are for all rows that these slaves have.
CREATE OR REPLACE FUNCTION pyreplica.log_rows(
    generation integer, op "char", relation text, columns_ text[] DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shape_ jsonb := (SELECT t.shape FROM pyreplica.replica_table t WHERE t.id = generation);
    filtered constant boolean := shape_ ? 'filters';
    bits constant bigint := pyreplica.change_bits(shape_);
BEGIN
    IF columns_ IS NOT NULL THEN
        shape_ := jsonb_set(shape_, '{columns}', (
            SELECT jsonb_agg(c) FROM jsonb_array_elements(shape_ -> 'columns') c
            WHERE c ->> 'key' IS NOT NULL OR c ->> 'name' = ANY (columns_)));
    END IF;
    EXECUTE pyreplica.logging(format('SELECT $1, $2, %s, %s%s FROM %s n', pyreplica.object_of(shape_, true, 'n'),
        CASE WHEN op = 'd' THEN 'NULL::jsonb' ELSE pyreplica.object_of(shape_, false, 'n') END,
        CASE WHEN filtered THEN format(', nullif(n.slaves | %s, -1)', CASE WHEN op = 'u' THEN bits ELSE 0 END) END,
        pyreplica.rows_of(shape_, relation, op = 'd' AND NOT filtered))
        || CASE WHEN bits = 0 OR op = 'u' THEN '' ELSE ' UNION ALL ' || pyreplica.changing(generation, shape_,
            CASE op WHEN 'd' THEN 'DELETE' ELSE 'INSERT' END, relation, relation) END,
        'clock_timestamp()', pyreplica.log_columns(filtered))
    USING generation, op;
END
$$;

-- Logs the rows that come to a table with a partition ("i"), or leave with it ("d").
CREATE OR REPLACE FUNCTION pyreplica.log_partition(generation integer, op "char", part oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pg_relation_size(part) = 0 THEN
        RETURN;
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a partition with rows cannot be attached or detached in a % transaction: % belongs to a '
            'replicated table, and rows that were committed meanwhile would be missed',
            upper(current_setting('transaction_isolation')), part::regclass
            USING HINT = 'Do it in a READ COMMITTED transaction.', ERRCODE = 'feature_not_supported';
    END IF;
    PERFORM pyreplica.log_rows(generation, op,
        (SELECT format('ONLY %I.%I', n.nspname, c.relname)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = part));
END
$$;

-- Takes down which partitions a captured table has and which rows are in each; with `log_new` the rows of those that
-- were not known are logged.
CREATE OR REPLACE FUNCTION pyreplica.follow_partitions(root_ oid, log_new boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF log_new THEN
        PERFORM pyreplica.log_partition(t.id, 'i', c.oid)
        FROM pyreplica.replica_table t, pyreplica.descendants(root_) d JOIN pg_class c ON c.oid = d
        WHERE t.relid = root_ AND t.active AND t.key_columns <> '{}' AND c.relispartition AND c.relkind = 'r'
            AND NOT EXISTS (SELECT FROM pyreplica.replica_partition k WHERE k.relid = d);
    END IF;
    DELETE FROM pyreplica.replica_partition k
    WHERE k.root = root_ AND k.relid NOT IN (SELECT pyreplica.descendants(root_));
    INSERT INTO pyreplica.replica_partition AS k (relid, root, bound)
    SELECT d, root_, pyreplica.bound_of(d)
    FROM pyreplica.descendants(root_) d JOIN pg_class c ON c.oid = d
    WHERE c.relispartition
    ON CONFLICT (relid) DO UPDATE SET root = excluded.root, bound = excluded.bound
        WHERE (k.root, k.bound) IS DISTINCT FROM (excluded.root, excluded.bound);
END
$$;

-- Logs what ALTER TABLE has done to the rows of a table whose generation this is: values of new columns ("F" when they
-- are the same in all rows), or all rows anew when values of other columns, or the key's, may have changed.
-- `SET pyreplica.log_rewrites = off` says that the slave's own ALTER TABLE computes the same values.
CREATE OR REPLACE FUNCTION pyreplica.log_alteration(generation integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t pyreplica.replica_table;
    relation text;
    was jsonb;                 -- the columns of the last generation that had a key
    reasons integer;           -- of pg_event_trigger_table_rewrite_reason(): 2 a default, 4 a type
    added text[];
    computed boolean;
    anew boolean;
BEGIN
    SELECT * INTO t FROM pyreplica.replica_table r WHERE r.id = generation;
    SELECT r.shape -> 'columns' INTO was FROM pyreplica.replica_table r
    WHERE r.relid = t.relid AND r.id < generation AND r.key_columns <> '{}' ORDER BY r.id DESC LIMIT 1;
    SELECT bit_or(r.rewritten) INTO reasons FROM pyreplica.replica_table r WHERE r.relid = t.relid;
    UPDATE pyreplica.replica_table r SET rewritten = 0 WHERE r.relid = t.relid AND r.rewritten <> 0;
    IF current_setting('pyreplica.log_rewrites', true) = 'off' OR was IS NULL AND reasons = 0 THEN
        RETURN;
    END IF;
    -- version 1 did not record the columns' numbers: nothing is taken for new then
    SELECT coalesce(array_agg(c ->> 'name') FILTER (WHERE o IS NULL OR (o ->> 'generated')::boolean), '{}'),
        coalesce(bool_or((o ->> 'generated')::boolean), false),
        coalesce(bool_or(o ->> 'type' <> c ->> 'type' AND NOT (
            y.typcategory = 'S' AND x.typcategory = 'S' OR pyreplica.base_of(x.oid) = pyreplica.base_of(y.oid))), false)
    INTO added, computed, anew
    FROM jsonb_array_elements(t.shape -> 'columns') c
    LEFT JOIN jsonb_array_elements(coalesce(was, t.shape -> 'columns')) o
        ON coalesce(o -> 'number', c -> 'number') = c -> 'number' AND (o ? 'number' OR o ->> 'name' = c ->> 'name')
    LEFT JOIN pg_type x ON x.oid = (o ->> 'type')::oid
    LEFT JOIN pg_type y ON y.oid = (c ->> 'type')::oid
    WHERE NOT (c ->> 'generated')::boolean;
    IF t.shape ? 'merge' THEN
        -- it would go over what the other nodes have changed meanwhile
        IF anew OR reasons <> 0 OR added <> '{}' THEN
            RAISE WARNING 'table % is merged with those of other nodes: the values that ALTER TABLE gives its rows are '
                'not sent to them', t.relid::regclass
                USING HINT = 'Run the same on every node.';
        END IF;
        RETURN;
    END IF;
    relation := CASE WHEN (t.shape ->> 'partitioned')::boolean THEN '' ELSE 'ONLY ' END
        || format('%I.%I', t.schema_name, t.table_name);
    IF anew OR reasons & 4 <> 0 OR added && t.key_columns THEN
        -- a slave that chooses changes may have rows that are not there any more
        EXECUTE pyreplica.logging('SELECT $1, ''T''::"char", NULL::jsonb, NULL::jsonb, $2', 'clock_timestamp()',
            pyreplica.log_columns(true)) USING generation, nullif(~pyreplica.change_bits(t.shape), -1);
        PERFORM pyreplica.log_rows(generation, 'i', relation);
    ELSIF added <> '{}' AND (computed OR reasons & 2 <> 0 OR NOT pyreplica.sees_ddl()) THEN
        -- where DDL is not seen rows may have changed since
        PERFORM pyreplica.log_rows(generation, 'u', relation, added);
    ELSIF added <> '{}' THEN
        PERFORM pyreplica.log_table(generation, 'F', (
            -- what rows from before the column read as
            SELECT jsonb_object_agg(a.attname, (a.attmissingval::text::text[])[1])
            FROM pg_attribute a
            WHERE a.attname = ANY (added) AND a.attrelid = coalesce(
                (SELECT d FROM pyreplica.descendants(t.relid) d JOIN pg_class c ON c.oid = d
                    WHERE (t.shape ->> 'partitioned')::boolean AND c.relkind = 'r' LIMIT 1), t.relid)));
    END IF;
END
$$;
