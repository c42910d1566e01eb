-- Building the capture statements. A part of master-install.sql.

-- The columns of a shape that are its key, in the key's order, or the others that are logged; each with the alias
-- it has in the capture statements (k1, k2, ... and v1, v2, ...), where users' names cannot collide with ours.
CREATE OR REPLACE FUNCTION pyreplica.columns_of(shape jsonb, of_key boolean)
RETURNS TABLE (name text, alias text, same boolean, base text, printed text, equal text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c ->> 'name',
        CASE WHEN of_key THEN 'k' ELSE 'v' END || row_number() OVER (ORDER BY (c ->> 'key')::integer, n),
        (c ->> 'same')::boolean, c ->> 'base', c ->> 'printed', c ->> 'equal'
    FROM jsonb_array_elements(shape -> 'columns') WITH ORDINALITY e(c, n)
    WHERE CASE WHEN of_key THEN c ->> 'key' IS NOT NULL
        ELSE c ->> 'key' IS NULL AND NOT (c ->> 'generated')::boolean END
    ORDER BY (c ->> 'key')::integer, n
$$;

-- The generations of the tables that inherit from the one of a shape: shape_of()'s 'children'.
CREATE OR REPLACE FUNCTION pyreplica.children_of(shape jsonb) RETURNS SETOF integer
LANGUAGE sql STABLE ROWS 10 SET search_path = pg_catalog, pg_temp AS $$
    SELECT c::integer
    FROM jsonb_array_elements(CASE jsonb_typeof(shape -> 'children') WHEN 'array' THEN shape -> 'children' END) c
$$;

-- A jsonb object of the key's or the other columns' values as text, out of the row with the alias `source`; or, where
-- that is not there, out of the row `otherwise`.
CREATE OR REPLACE FUNCTION pyreplica.object_of(
    shape jsonb, of_key boolean, source text, otherwise text DEFAULT NULL
) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN count(*) = 0 THEN quote_literal('{}') || '::jsonb' ELSE
        format('jsonb_object(%L::text[], ARRAY[%s])', array_agg(name),
            string_agg(format(printed, CASE WHEN otherwise IS NULL THEN source || '.' || alias
                ELSE format('CASE WHEN %1$s.here THEN %1$s.%3$s ELSE %2$s.%3$s END', source, otherwise, alias) END),
                ', ')) END
    FROM pyreplica.columns_of(shape, of_key)
$$;

-- The bits of the slaves whose filters choose changes: see changes.sql.
CREATE OR REPLACE FUNCTION pyreplica.change_bits(shape jsonb) RETURNS bigint
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(bit_or(1::bigint << (f ->> 'bit')::integer), 0)
    FROM jsonb_array_elements(shape -> 'filters') f WHERE jsonb_typeof(f -> 'changes') = 'object'
$$;

-- What these are given of a row, as columns with the aliases c5_1, c5_2, ... where 5 is the bit.
CREATE OR REPLACE FUNCTION pyreplica.change_arguments(shape jsonb) RETURNS TABLE (expression text, alias text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT a.expression, format('c%s_%s', f ->> 'bit', a.n)
    FROM jsonb_array_elements(shape -> 'filters') f,
        jsonb_array_elements_text(CASE jsonb_typeof(f -> 'changes') WHEN 'object' THEN f -> 'changes' -> 'arguments' END)
            WITH ORDINALITY a(expression, n)
    ORDER BY (f ->> 'bit')::integer, a.n
$$;

-- The bits of the slaves that a row is for, as an expression over the table's own columns; null where it is for all.
-- Bits that no filter is for are always set, those of slaves whose filter chooses changes never. A condition that is
-- null is taken for false.
CREATE OR REPLACE FUNCTION pyreplica.slaves_of(shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT '~(' || string_agg(format('CASE WHEN %s THEN 0::bigint ELSE %s::bigint END',
        CASE WHEN jsonb_typeof(f -> 'changes') = 'object' THEN 'false' ELSE f ->> 'condition' END, 1::bigint << (f ->> 'bit')::integer), ' | ') || ')'
    FROM jsonb_array_elements(shape -> 'filters') f
$$;

-- A FROM item with the logged columns of a relation (a table, a transition table) under their aliases; and, where there
-- are filters, `slaves` and the arguments of those over changes.
CREATE OR REPLACE FUNCTION pyreplica.rows_of(shape jsonb, relation text, of_key_only boolean DEFAULT false)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('(SELECT %s%s FROM %s r)',
        string_agg(format('r.%I AS %s', name, alias), ', '),
        CASE WHEN of_key_only THEN '' ELSE ', true AS here'
            || coalesce(', ' || pyreplica.slaves_of(shape) || ' AS slaves', '')
            || coalesce((SELECT string_agg(format(', (%s) AS %s', a.expression, a.alias), '')
                FROM pyreplica.change_arguments(shape) a), '') END, relation)
    FROM (
        SELECT name, alias FROM pyreplica.columns_of(shape, true)
        UNION ALL
        SELECT name, alias FROM pyreplica.columns_of(shape, false) WHERE NOT of_key_only
    ) c
$$;

-- The condition under which two rows have the same key, to the letter. With `by_index` also the index's own
-- equality, so that the planner can look the row up.
CREATE OR REPLACE FUNCTION pyreplica.same_key(shape jsonb, a text, b text, by_index boolean) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(concat_ws(' AND ',
        CASE WHEN by_index THEN
            concat_ws(' ', format(base, a_value), coalesce(equal, '='), format(base, b_value)) END,
        CASE WHEN NOT same THEN format('%s = %s COLLATE "C"', format(printed, a_value), format(printed, b_value))
            WHEN NOT by_index THEN a_value || ' = ' || b_value END), ' AND ')
    FROM pyreplica.columns_of(shape, true), LATERAL (SELECT a || '.' || alias, b || '.' || alias) v(a_value, b_value)
$$;

-- What rows are grouped by so that those of one key come together, also to the letter.
CREATE OR REPLACE FUNCTION pyreplica.key_groups(shape jsonb, source text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(concat_ws(', ', source || '.' || alias,
        CASE WHEN NOT same THEN format(printed, source || '.' || alias) || ' COLLATE "C"' END), ', ')
    FROM pyreplica.columns_of(shape, true)
$$;

-- SELECT of the keys that are in a relation more than once.
CREATE OR REPLACE FUNCTION pyreplica.repeated_keys(shape jsonb, relation text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('SELECT FROM %s t GROUP BY %s HAVING count(*) > 1',
        pyreplica.rows_of(shape, relation, true), pyreplica.key_groups(shape, 't'))
$$;

-- Of an updated row: columns "changed_v1 ..." that say which values differ to the byte (all, if it was not there), ...
CREATE OR REPLACE FUNCTION pyreplica.change_flags(shape jsonb, old text, new text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(string_agg(', ' || format(
        CASE WHEN same THEN '(%1$s.here IS NULL OR %1$s.%2$s IS DISTINCT FROM %3$s.%2$s) AS changed_%2$s'
            ELSE '(%1$s.here IS NULL OR record_image_ne(ROW(%1$s.%2$s), ROW(%3$s.%2$s))) AS changed_%2$s' END,
        old, alias, new), ''), '')
    FROM pyreplica.columns_of(shape, false)
$$;

-- ... whether any of them is set, ...
CREATE OR REPLACE FUNCTION pyreplica.changed(shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(string_agg('c.changed_' || alias, ' OR '), 'false') FROM pyreplica.columns_of(shape, false)
$$;

-- ... and the object of just those columns. A value that did not change is not even printed.
CREATE OR REPLACE FUNCTION pyreplica.changed_object(shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN count(*) = 0 THEN quote_literal('{}') || '::jsonb' ELSE
        format('jsonb_object(%L::text[], ARRAY[%s]) - ARRAY[%s]::text[]', array_agg(name),
            string_agg(format('CASE WHEN c.changed_%s THEN %s END', alias, format(printed, 'c.' || alias)), ', '),
            string_agg(format('CASE WHEN NOT c.changed_%s THEN %L END', alias, name), ', ')) END
    FROM pyreplica.columns_of(shape, false)
$$;

-- ... and the object of what stood in them before, by which the slave tells whether its row is the one that the master
-- changed. Long values are left out, they would make the log twice as large; and all of them in a table so wide that a
-- query could not hold them besides.
CREATE OR REPLACE FUNCTION pyreplica.old_object(shape jsonb) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN count(*) = 0 OR count(*) > 500 THEN 'NULL::jsonb' ELSE
        format('jsonb_object(%L::text[], ARRAY[%s]) - ARRAY[%s]::text[]', array_agg(name),
            string_agg(format('CASE WHEN %s THEN %s END', logged, format(printed, 'c.old_' || alias)), ', '),
            string_agg(format('CASE WHEN %s THEN NULL ELSE %L END', logged, name), ', ')) END
    FROM (
        SELECT k.name, k.alias, k.printed, format(CASE WHEN t.typlen > 0 THEN 'c.changed_%1$s'
            ELSE 'c.changed_%1$s AND coalesce(pg_column_size(c.old_%1$s), 0) <= 1000' END, k.alias) AS logged
        FROM pyreplica.columns_of(shape, false) k
        JOIN jsonb_array_elements(shape -> 'columns') c ON c ->> 'name' = k.name
        JOIN pg_type t ON t.oid = (c ->> 'type')::oid
    ) l
$$;

-- SELECT of log rows that restate a table: for each key in the relation `touched` the row as it stands now, or
-- that there is none. With `against_old`, after an UPDATE, only the columns that changed; but the whole row of a key
-- that was touched more than once, where the old row may be one that was never logged, and of a key that the
-- statement took away and that stands all the same: it was logged as inserted before this delete of it.
--
-- With filters a slave has the row restated if it is for it, and is told that there is none if it is not; which
-- columns have changed is of no use then, because it may not have had the row before. Those whose filters choose changes
-- are told nothing here. `with_slaves`: with the column
-- `slaves` also where there are none.
--
-- The plan is made for the first statement of a session, often of a single row, and kept for one of a million. So it
-- must not depend on the number of rows: a FULL JOIN is never a nested loop, a LATERAL one always is.
CREATE OR REPLACE FUNCTION pyreplica.restating(
    generation integer, shape jsonb, standing text, touched text, against_old boolean, with_slaves boolean
) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(
        'SELECT %s FROM (SELECT %s AS key, m.* %s '
        'FROM (SELECT %s, count(*) AS images FROM %s t GROUP BY %s) k '
        '%s LEFT JOIN LATERAL (SELECT * FROM %s m WHERE %s OFFSET 0) m ON true OFFSET 0) c%s',
        CASE WHEN shape ? 'filters' THEN
            format('%s, s.op, c.key, CASE WHEN s.op = ''i'' THEN %s END, nullif(s.slaves, -1)', generation,
                pyreplica.object_of(shape, false, 'c'))
        ELSE
            format('%s, CASE WHEN c.here IS NULL THEN ''d'' %s ELSE ''i'' END::"char", c.key, '
                'CASE WHEN c.here IS NULL THEN NULL %s ELSE %s END%s', generation,
                CASE WHEN against_old THEN 'WHEN c.there THEN ''u''' END,
                CASE WHEN against_old THEN 'WHEN c.there THEN ' || pyreplica.changed_object(shape) END,
                pyreplica.object_of(shape, false, 'c'), CASE WHEN with_slaves THEN ', NULL::bigint' END)
        END,
        pyreplica.object_of(shape, true, 'k'),
        CASE WHEN against_old THEN
            ', o.here AND k.images = 2 AS there' || pyreplica.change_flags(shape, 'o', 'm') END,
        (SELECT string_agg('t.' || alias, ', ') FROM pyreplica.columns_of(shape, true)),
        pyreplica.rows_of(shape, touched, true), pyreplica.key_groups(shape, 't'),
        CASE WHEN against_old THEN
            format('FULL JOIN %s o ON %s', pyreplica.rows_of(shape, 'old_rows'),
                pyreplica.same_key(shape, 'o', 'k', false)) END,
        pyreplica.rows_of(shape, standing), pyreplica.same_key(shape, 'm', 'k', true),
        concat(
            CASE WHEN shape ? 'filters' THEN ', LATERAL (VALUES (''i''::"char", coalesce(c.slaves, 0)), '
                '(''d'', ~coalesce(c.slaves, 0)' || coalesce(' & ' || nullif(~pyreplica.change_bits(shape), -1), '')
                || ')) s(op, slaves) WHERE s.slaves <> 0' END,
            CASE WHEN against_old THEN
                format(' %s (c.there IS NOT TRUE OR c.here IS NULL OR %s)',
                    CASE WHEN shape ? 'filters' THEN 'AND' ELSE 'WHERE' END, pyreplica.changed(shape)) END))
$$;

-- SELECT of the log rows (tab, op, key, row, old, slaves) of an UPDATE of a table with filters, of which a row is for
-- some slaves before and for others after it. Those that have the row and keep it are told what has changed; of those
-- that do not keep it, it is deleted; those that had not get all of it.
CREATE OR REPLACE FUNCTION pyreplica.updating(generation integer, shape jsonb, old_ text, new_ text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(
        'SELECT %s, s.op, c.key, CASE s.op WHEN ''U'' THEN %s WHEN ''D'' THEN NULL ELSE %s END, '
        'CASE WHEN s.op = ''U'' THEN %s END, nullif(s.slaves, -1) '
        'FROM (SELECT o.here AS there, coalesce(o.slaves, 0) AS before, coalesce(n.slaves, 0) AS after, %s AS key%s%s '
        'FROM %s o FULL JOIN %s n ON %s OFFSET 0) c, '
        'LATERAL (VALUES (''U''::"char", c.before & c.after), (''D'', c.before & ~c.after), '
        '(CASE WHEN c.there THEN ''i'' ELSE ''I'' END::"char", ~c.before & c.after)) s(op, slaves) '
        'WHERE s.slaves <> 0 AND (s.op <> ''U'' OR %s)',
        generation, pyreplica.changed_object(shape), pyreplica.object_of(shape, false, 'c'),
        pyreplica.old_object(shape), pyreplica.object_of(shape, true, 'n', otherwise => 'o'),
        (SELECT string_agg(', n.' || alias, '')
                || CASE WHEN count(*) > 500 THEN '' ELSE string_agg(format(', o.%1$s AS old_%1$s', alias), '') END
            FROM pyreplica.columns_of(shape, false)),
        pyreplica.change_flags(shape, 'o', 'n'), old_, new_, pyreplica.same_key(shape, 'o', 'n', false),
        pyreplica.changed(shape))
$$;

-- The statement that logs the rows of a query (tab, op, key, row). The doorbell is read once, at the first row: it says
-- which segment is written, and is rung if somebody sleeps. It is read only after the transaction has its id: a daemon
-- that falls asleep waits for those who had one. The column's default would come too late, and not everybody has
-- written before: not TRUNCATE, some DDL, restate(). Between two readings a daemon may set its bit: it waits for us then.
--
-- A text in jsonb may grow sevenfold until COPY has printed it: a control character becomes \\u0001. What could not be
-- read from the log any more is refused here, while the writer can still be told.
CREATE OR REPLACE FUNCTION pyreplica.logging(
    rows_ text, at_ text DEFAULT 'statement_timestamp()', columns_ text DEFAULT 'tab, op, key, row',
    segment_ smallint DEFAULT NULL
) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('INSERT INTO pyreplica.replica_log%1$s (at, segment, %2$s%6$s) '
        'SELECT %3$s, %4$s, l.*%7$s FROM (%5$s OFFSET 0) l(%2$s) '
        'WHERE pg_column_size(l.row) > 150000000 IS NOT TRUE OR pyreplica.is_printable(l.row)',
        '_' || segment_, columns_, at_,
        coalesce(segment_ || '::smallint',
            format('(SELECT CASE WHEN pg_current_xact_id() IS NULL THEN NULL WHEN %1$s > 1 THEN pyreplica.ring(%1$s) '
                'ELSE coalesce(%1$s & 1, 0) END)::smallint', 'pg_sequence_last_value(''pyreplica.doorbell''::regclass)')),
        rows_, CASE WHEN c.forwarding THEN ', origin' END, CASE WHEN c.forwarding THEN ', (SELECT pyreplica.origin())' END)
    -- an old snapshot may see no row there
    FROM (SELECT (SELECT k.forwarding FROM pyreplica.replica_capture k) AS forwarding) c
$$;

-- The columns of the log that a capture fills.
CREATE OR REPLACE FUNCTION pyreplica.log_columns(with_slaves boolean, with_old boolean DEFAULT false) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT concat('tab, op, key, row', CASE WHEN with_old THEN ', old' END, CASE WHEN with_slaves THEN ', slaves' END)
$$;

-- Whether the TRUNCATE of a partition is not one of its whole table: the condition.
CREATE OR REPLACE FUNCTION pyreplica.root_stays(generation integer) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('NOT coalesce((SELECT l.op = ''T'' AND l.tab = %s FROM pyreplica.replica_log l '
        'WHERE l.txid = pg_current_xact_id() ORDER BY l.id DESC LIMIT 1), false)', generation)
$$;

-- What the capture of a generation logs, for each event: event -> what there is of
--   plain    the rows, as a query
--   first    the rows that the transition tables tell, which can be trusted only by the first capture of a table inside a
--            client statement: a statement trigger fires after all the row triggers, cascades and functions of its
--            statement, and what these did to the same table was logged before it
--   unless   a condition under which they cannot be trusted even so
--   again    the rows as they stand now
--   before   what comes before the statement that logs `again`
--   columns  of the log, that `plain` or `first` gives
--   again_columns  the same of `again`
CREATE OR REPLACE FUNCTION pyreplica.capture_parts(generation integer, shape jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    table_ constant text := format('%I.%I', shape ->> 'schema', shape ->> 'table');
    standing constant text := CASE WHEN (shape ->> 'partitioned')::boolean THEN '' ELSE 'ONLY ' END || table_;
    old_ constant text := pyreplica.rows_of(shape, 'old_rows');
    new_ constant text := pyreplica.rows_of(shape, 'new_rows');
    only_old constant text := 'WITH touched AS (TABLE old_rows) ';
    old_and_new constant text := 'WITH touched AS (TABLE old_rows UNION ALL TABLE new_rows) ';
    filtered constant boolean := shape ? 'filters';
    -- a statement on a parent logs its children's rows, too
    with_slaves constant boolean := filtered OR EXISTS (SELECT FROM pyreplica.children_of(shape) c
        JOIN pyreplica.replica_table t ON t.id = c WHERE t.shape ? 'filters');
    of_new constant text := CASE WHEN filtered THEN ', nullif(n.slaves, -1)' ELSE '' END;
    of_old constant text := CASE WHEN filtered THEN ', nullif(o.slaves, -1)' ELSE '' END;
    truncated constant text := format('SELECT %s, ''T''::"char", NULL::jsonb, NULL::jsonb%s', generation,
        CASE WHEN filtered THEN ', NULL::bigint' END);
    usual constant text := pyreplica.log_columns(filtered);
    restated text;
    parts jsonb;
BEGIN
    parts := jsonb_build_object(
        'INSERT', jsonb_build_object(
            'first', format('SELECT %s, ''I''::"char", %s, %s%s FROM %s n', generation,
                pyreplica.object_of(shape, true, 'n'), pyreplica.object_of(shape, false, 'n'), of_new, new_),
            'again', pyreplica.restating(generation, shape, standing, 'new_rows', false, filtered),
            'columns', usual, 'again_columns', usual),
        'DELETE', jsonb_build_object(
            'first', format('SELECT %s, ''D''::"char", %s, NULL::jsonb%s FROM %s o', generation,
                pyreplica.object_of(shape, true, 'o'), of_old, old_),
            'again', pyreplica.restating(generation, shape, standing, 'old_rows', false, filtered),
            'columns', usual, 'again_columns', usual),
        -- Old and new rows come unpaired. Joined by key, a key only in old is a delete, one only in new an
        -- insert: that is how changes of the key are logged. Rows that did not change are not logged.
        'UPDATE', jsonb_build_object(
            'first', CASE WHEN filtered THEN pyreplica.updating(generation, shape, old_, new_) ELSE format(
                'SELECT %s, c.op, c.key, CASE WHEN c.op <> ''D'' THEN %s END, CASE WHEN c.op = ''U'' THEN %s END '
                'FROM (SELECT CASE WHEN o.here IS NULL THEN ''I'' WHEN n.here IS NULL THEN ''D'' '
                'ELSE ''U'' END::"char" AS op, %s AS key%s%s '
                'FROM %s o FULL JOIN %s n ON %s OFFSET 0) c WHERE c.op <> ''U'' OR %s',
                generation, pyreplica.changed_object(shape), pyreplica.old_object(shape),
                pyreplica.object_of(shape, true, 'n', otherwise => 'o'),
                (SELECT string_agg(', n.' || alias, '')
                        || CASE WHEN count(*) > 500 THEN '' ELSE string_agg(format(', o.%1$s AS old_%1$s', alias), '') END
                    FROM pyreplica.columns_of(shape, false)),
                pyreplica.change_flags(shape, 'o', 'n'), old_, new_, pyreplica.same_key(shape, 'o', 'n', false),
                pyreplica.changed(shape)) END,
            -- Foreign keys may update a row that the statement has updated before, or they themselves: the transition
            -- tables then hold several images of it, and nothing tells which is the last.
            'unless', CASE WHEN (shape ->> 'cascaded')::boolean THEN format('EXISTS (%s) OR EXISTS (%s)',
                pyreplica.repeated_keys(shape, 'old_rows'), pyreplica.repeated_keys(shape, 'new_rows')) END,
            'again', pyreplica.restating(generation, shape, standing, 'touched', true, filtered),
            'before', old_and_new,
            'columns', pyreplica.log_columns(filtered, with_old => true), 'again_columns', usual),
        -- Rows that stand after a TRUNCATE were put there by its other triggers.
        'AFTER TRUNCATE table', jsonb_build_object(
            'plain', truncated || format(' UNION ALL SELECT %s, ''i'', %s, %s%s FROM %s n', generation,
                pyreplica.object_of(shape, true, 'n'), pyreplica.object_of(shape, false, 'n'), of_new,
                pyreplica.rows_of(shape, standing)),
            'columns', usual),
        -- TRUNCATE of a partition alone takes its rows out of the root, the slave may be partitioned otherwise.
        -- TRUNCATE of the root comes here for each partition as well: nothing more to say then.
        'BEFORE TRUNCATE root', jsonb_build_object('plain', truncated, 'columns', usual),
        'BEFORE TRUNCATE partition', jsonb_build_object(
            'plain', format('SELECT %s, ''d''::"char", %s, NULL::jsonb%s FROM %s n WHERE %s',
                generation, pyreplica.object_of(shape, true, 'n'), of_new,
                -- the trigger function says which one that is
                pyreplica.rows_of(shape, 'this_partition'), pyreplica.root_stays(generation)),
            'columns', usual));

    -- Where the transition tables do not tell which rows stand under a key afterwards, or whose they are, the
    -- table alone is asked.
    IF (shape ->> 'deferrable')::boolean OR shape -> 'children' <> 'null' THEN
        SELECT string_agg(pyreplica.restating(m.id, m.shape, m.standing, 'touched', false, with_slaves), ' UNION ALL ')
        INTO restated
        FROM (
            SELECT generation, capture_parts.shape, standing
            UNION ALL
            SELECT t.id, t.shape, format('ONLY %I.%I', t.shape ->> 'schema', t.shape ->> 'table')
            FROM pyreplica.replica_table t
            WHERE capture_parts.shape -> 'children' @> to_jsonb(t.id)
        ) m(id, shape, standing);
        parts := parts || jsonb_build_object(
            'DELETE', jsonb_build_object('again', restated, 'before', only_old,
                'again_columns', pyreplica.log_columns(with_slaves)),
            'UPDATE', jsonb_build_object('again', restated, 'before', old_and_new,
                'again_columns', pyreplica.log_columns(with_slaves)));
    END IF;
    IF shape ? 'merge' THEN
        parts := pyreplica.merged_parts(generation, shape);
    ELSIF pyreplica.change_bits(shape) <> 0 THEN
        parts := pyreplica.with_changes(generation, shape, standing, parts);
    END IF;
    RETURN parts;
END
$$;

-- The mark that tells the first capture of a table inside a client statement: a setting of the session, with this value.
-- It falls back with a savepoint as the log's rows do. Tables of one family share it; partitions have their root's.
CREATE OR REPLACE FUNCTION pyreplica.mark_of(shape jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT quote_literal(format('pyreplica.t%s', shape ->> 'family'))
$$;

-- A daemon sends several statements in one message, at one time. Where its changes are captured it numbers them.
CREATE OR REPLACE FUNCTION pyreplica.client_statement(shape jsonb) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'interval_hash(statement_timestamp() - ''epoch''::timestamptz)::text'
        || CASE WHEN shape ? 'forwarding' THEN ' || coalesce(current_setting(''pyreplica.statement'', true), '''')'
            ELSE '' END
$$;

-- The capture statements of a generation: event -> [statement, statement that restates]. The second is executed
-- when the first logs nothing.
CREATE OR REPLACE FUNCTION pyreplica.capture_statements(generation integer, shape jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_object_agg(event, CASE
        WHEN part ? 'plain' THEN jsonb_build_array(pyreplica.logging(part ->> 'plain', columns_ => part ->> 'columns'))
        WHEN part ? 'first' THEN jsonb_build_array(
            pyreplica.logging(format('SELECT * FROM (%s) f WHERE %s', part ->> 'first',
                CASE WHEN part ? 'unless' THEN format('(SELECT CASE WHEN %s THEN NOT (%s) ELSE false END)',
                    first_capture, part ->> 'unless') ELSE first_capture END), columns_ => part ->> 'columns'),
            coalesce(part ->> 'before', '')
                || pyreplica.logging(part ->> 'again', columns_ => part ->> 'again_columns'))
        ELSE jsonb_build_array(coalesce(part ->> 'before', '')
            || pyreplica.logging(format('SELECT * FROM (%s) u WHERE %s', part ->> 'again', set_mark),
                columns_ => part ->> 'again_columns')) END)
    FROM (
        SELECT event, jsonb_strip_nulls(part),
            format('(SELECT CASE WHEN current_setting(%1$s, true) IS DISTINCT FROM %2$s '
                'THEN set_config(%1$s, %2$s, false) IS NOT NULL ELSE false END)', mark, now_),
            format('(SELECT set_config(%s, %s, false) IS NOT NULL)', mark, now_)
        FROM jsonb_each(pyreplica.capture_parts(generation, shape)) e(event, part),
            pyreplica.mark_of(shape) mark, pyreplica.client_statement(shape) now_
    ) p(event, part, first_capture, set_mark)
$$;
