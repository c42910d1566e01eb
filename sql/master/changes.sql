-- Filters that choose changes: what the capture logs for them. A part of master-install.sql.

-- A slave with such a filter has rows of the log of its own. What passes must be right whatever the slave has of the
-- row, which may have missed others of its changes: so an INSERT or UPDATE goes as the whole row (op i), and a DELETE as
-- one of a row that need not be there (op d). These slaves are none of those that the other rows of the log are for.

-- The bits of those slaves whose filters let a change pass, as an expression. `event`: an expression. `old_`, `new_`:
-- what the aliases of change_arguments() come after; null where there is no such row.
CREATE OR REPLACE FUNCTION pyreplica.passing(shape jsonb, event text, old_ text, new_ text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(format('CASE WHEN pyreplica.%I(%s) THEN %s::bigint ELSE 0::bigint END',
        f -> 'changes' ->> 'function',
        concat_ws(', ', event,
            (SELECT string_agg(CASE WHEN old_ IS NULL THEN 'NULL' ELSE format('%sc%s_%s', old_, f ->> 'bit', i) END,
                    ', ' ORDER BY n)
                FROM jsonb_array_elements_text(f -> 'changes' -> 'old') WITH ORDINALITY e(i, n)),
            (SELECT string_agg(CASE WHEN new_ IS NULL THEN 'NULL' ELSE format('%sc%s_%s', new_, f ->> 'bit', i) END,
                    ', ' ORDER BY n)
                FROM jsonb_array_elements_text(f -> 'changes' -> 'new') WITH ORDINALITY e(i, n))),
        1::bigint << (f ->> 'bit')::integer), ' | ')
    FROM jsonb_array_elements(shape -> 'filters') f WHERE jsonb_typeof(f -> 'changes') = 'object'
$$;

-- A FROM item `c` with the changes of a statement: event, key and other columns under their aliases (of a DELETE the
-- old ones), the arguments of filters, `changed`, whether it is a change at all, and `many`, whether it is one of
-- several changes of its key, of which nothing tells the order. `once`: with one row for each key, even then.
CREATE OR REPLACE FUNCTION pyreplica.changes_in(shape jsonb, event text, old_ text, new_ text, once boolean)
RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    before_ text := CASE WHEN event <> 'INSERT' THEN pyreplica.rows_of(shape, old_) END;
    after_ text := CASE WHEN event <> 'DELETE' THEN pyreplica.rows_of(shape, new_) END;
    arguments text;
BEGIN
    IF once THEN
        SELECT format(each_key, groups, before_), format(each_key, groups, after_) INTO before_, after_
        FROM pyreplica.key_groups(shape, 't') groups, (VALUES ('(SELECT DISTINCT ON (%1$s) t.*, '
            'count(*) OVER (PARTITION BY %1$s) AS images FROM %2$s t)')) v(each_key);
    END IF;
    IF event <> 'UPDATE' THEN
        RETURN format('(SELECT %L::text AS event, true AS changed, false AS many, s.* FROM %s s OFFSET 0) c', event,
            CASE event WHEN 'INSERT' THEN after_ ELSE before_ END);
    END IF;
    -- old and new rows come unpaired
    SELECT string_agg(format(', o.%1$s AS o_%1$s, n.%1$s AS n_%1$s', a.alias), '') INTO arguments
    FROM pyreplica.change_arguments(shape) a;
    RETURN format('(SELECT CASE WHEN o.here IS NULL THEN ''INSERT'' WHEN n.here IS NULL THEN ''DELETE'' '
        'ELSE ''UPDATE'' END AS event, o.here IS NULL OR n.here IS NULL OR %s AS changed, %s AS many, %s%s%s '
        'FROM %s o FULL JOIN %s n ON %s OFFSET 0) c',
        (SELECT coalesce(string_agg(format(CASE WHEN same THEN 'o.%1$s IS DISTINCT FROM n.%1$s'
            ELSE 'record_image_ne(ROW(o.%1$s), ROW(n.%1$s))' END, alias), ' OR '), 'false')
            FROM pyreplica.columns_of(shape, false)),
        CASE WHEN once THEN 'coalesce(o.images > 1, false) OR coalesce(n.images > 1, false)' ELSE 'false' END,
        (SELECT string_agg(format('CASE WHEN n.here THEN n.%1$s ELSE o.%1$s END AS %1$s', alias), ', ')
            FROM pyreplica.columns_of(shape, true)),
        (SELECT string_agg(format(', n.%1$s', alias), '') FROM pyreplica.columns_of(shape, false)),
        arguments, before_, after_, pyreplica.same_key(shape, 'o', 'n', false));
END
$$;

-- SELECT of log rows (tab, op, key, row, slaves; with `with_old` also old, after row) of the changes that pass, of a
-- statement or part of one. `event`: INSERT, UPDATE or DELETE; `old_`, `new_`: relations with the rows before and after
-- it, as the event has them.
--
-- With `standing`, the table, as it stands now: other code of the same statement may have changed the row since, and
-- has logged that before this. Then each change is judged as it was, but the row goes as it stands. If it is gone, and
-- the slave was not told of its deletion, it goes as the change has left it; if a row that was deleted stands again, it is
-- put there again or deleted, as its insert passes or not.
CREATE OR REPLACE FUNCTION pyreplica.changing(
    generation integer, shape jsonb, event text, old_ text, new_ text, standing text DEFAULT NULL,
    with_old boolean DEFAULT false
) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changes constant text := pyreplica.changes_in(shape, event, old_, new_, standing IS NOT NULL);
    -- where nothing tells which row has become which, it passes
    asked constant text := format('CASE WHEN c.many AND c.event = ''UPDATE'' THEN %s::bigint WHEN c.changed THEN %s '
        'ELSE 0::bigint END', pyreplica.change_bits(shape),
        pyreplica.passing(shape, 'c.event',
            CASE event WHEN 'UPDATE' THEN 'c.o_' WHEN 'DELETE' THEN 'c.' END,
            CASE event WHEN 'UPDATE' THEN 'c.n_' WHEN 'INSERT' THEN 'c.' END));
    key_ constant text := pyreplica.object_of(shape, true, 'c');
    row_ constant text := CASE event WHEN 'DELETE' THEN 'NULL::jsonb' ELSE pyreplica.object_of(shape, false, 'c') END;
    no_old constant text := CASE WHEN with_old THEN ', NULL::jsonb' ELSE '' END;
BEGIN
    IF standing IS NULL THEN
        RETURN format('SELECT %s, CASE c.event WHEN ''DELETE'' THEN ''d'' ELSE ''i'' END::"char", %s, '
            'CASE WHEN c.event <> ''DELETE'' THEN %s END%s, p.slaves '
            'FROM %s, LATERAL (SELECT %s AS slaves OFFSET 0) p WHERE p.slaves <> 0',
            generation, key_, row_, no_old, changes, asked);
    END IF;
    RETURN format(
        'SELECT %s, s.op, %s, CASE s.source WHEN ''now'' THEN m.row_ WHEN ''then'' THEN %s END%s, s.slaves '
        'FROM %s LEFT JOIN LATERAL (SELECT m.here%s, %s AS row_ FROM %s m WHERE %s OFFSET 0) m ON true, '
        'LATERAL (SELECT %s AS passed OFFSET 0) p, '
        -- the change that came after it and has made it another row
        'LATERAL (SELECT CASE WHEN p.passed = 0 OR (m.here IS NULL) = (c.event = ''DELETE'') THEN 0::bigint '
        'WHEN m.here THEN %s ELSE %s END AS later OFFSET 0) q, '
        'LATERAL (VALUES (''i''::"char", ''now'', CASE WHEN m.here IS NULL THEN 0::bigint '
        'WHEN c.event = ''DELETE'' THEN p.passed & q.later ELSE p.passed END), '
        '(''i'', ''then'', CASE WHEN m.here IS NULL AND c.event <> ''DELETE'' THEN p.passed & ~q.later ELSE 0 END), '
        '(''d'', '''', CASE WHEN m.here IS NULL THEN '
        'CASE WHEN c.event = ''DELETE'' THEN p.passed ELSE p.passed & q.later END '
        'WHEN c.event = ''DELETE'' THEN p.passed & ~q.later ELSE 0 END)) s(op, source, slaves) WHERE s.slaves <> 0',
        generation, key_, row_, no_old, changes,
        (SELECT string_agg(', m.' || a.alias, '') FROM pyreplica.change_arguments(shape) a),
        pyreplica.object_of(shape, false, 'm'), pyreplica.rows_of(shape, standing),
        pyreplica.same_key(shape, 'm', 'c', true), asked,
        pyreplica.passing(shape, '''INSERT''', NULL, 'm.'),
        pyreplica.passing(shape, '''DELETE''', CASE event WHEN 'UPDATE' THEN 'c.n_' ELSE 'c.' END, NULL));
END
$$;

-- A part of a capture that is a plain query, with further rows.
CREATE OR REPLACE FUNCTION pyreplica.with_more(part jsonb, rows_ text) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT part || jsonb_build_object('plain', format('%s UNION ALL %s', part ->> 'plain', rows_))
$$;

-- The parts of a capture, see capture_parts(), with the rows of the log for such slaves.
CREATE OR REPLACE FUNCTION pyreplica.with_changes(generation integer, shape jsonb, standing text, parts jsonb)
RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- OFFSET 0: what asks once whether this is to be logged is not to be asked in each half of it
    SELECT parts || jsonb_object_agg(event, parts -> event
        || jsonb_build_object(
            'first', format('%s UNION ALL %s OFFSET 0', parts -> event ->> 'first',
                pyreplica.changing(generation, shape, event, 'old_rows', 'new_rows', with_old => event = 'UPDATE')),
            'again', format('%s UNION ALL %s', parts -> event ->> 'again',
                pyreplica.changing(generation, shape, event, 'old_rows', 'new_rows', standing))))
        || jsonb_build_object(
            'AFTER TRUNCATE table', pyreplica.with_more(parts -> 'AFTER TRUNCATE table',
                pyreplica.changing(generation, shape, 'INSERT', NULL, standing)),
            'BEFORE TRUNCATE partition', pyreplica.with_more(parts -> 'BEFORE TRUNCATE partition',
                format('%s AND %s', pyreplica.changing(generation, shape, 'DELETE', 'this_partition', NULL),
                    pyreplica.root_stays(generation))))
    FROM unnest('{INSERT,UPDATE,DELETE}'::text[]) event
$$;
