-- Merging: what the capture of merged tables logs, and what becomes of it on another node. A part of
-- master-install.sql; the tables, which are merged and how, and what a version is, are in nodes.sql.

-- What the capture of a merged table logs, for capture_parts(): each row as it stands when its statement is over, with
-- its new version in the place of `old`. Rows that are as they were are not logged.
CREATE OR REPLACE FUNCTION pyreplica.merged_parts(generation integer, shape jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_object_agg(event, jsonb_build_object('again_columns', 'tab, op, key, row, old', 'again', format(
            'SELECT %s, ''v''::"char", c.key, c.now, pyreplica.next_version(%s, c.key, c.was, c.now) '
            'FROM (SELECT %s AS key, CASE WHEN m.here THEN %s END AS now, k.was '
            'FROM (SELECT %s, array_agg(t.was) FILTER (WHERE t.was IS NOT NULL) AS was FROM (%s) t GROUP BY %s) k '
            -- a plan that does not depend on the number of rows, as in restating()
            'LEFT JOIN LATERAL (SELECT * FROM %s m WHERE %s OFFSET 0) m ON true OFFSET 0) c '
            'WHERE CASE WHEN c.was IS NULL THEN c.now IS NOT NULL ELSE (c.now = ALL (c.was)) IS NOT TRUE END',
            generation, shape -> 'merge' ->> 'relid',
            pyreplica.object_of(shape, true, 'k'), pyreplica.object_of(shape, false, 'm'),
            (SELECT string_agg('t.' || alias, ', ') FROM pyreplica.columns_of(shape, true)),
            touched, pyreplica.key_groups(shape, 't'),
            pyreplica.rows_of(shape, format('ONLY %I.%I', shape ->> 'schema', shape ->> 'table')),
            pyreplica.same_key(shape, 'm', 'k', true))))
        || jsonb_build_object('AFTER TRUNCATE table', jsonb_build_object('columns', 'tab, op, key, row', 'plain', format(
            'SELECT %s, ''T''::"char", NULL::jsonb, NULL::jsonb WHERE pyreplica.refuse_truncate(%L)', generation,
            format('%I.%I', shape ->> 'schema', shape ->> 'table'))))
    FROM (
        SELECT format('SELECT %s, %s AS was FROM %s o', keys, pyreplica.object_of(shape, false, 'o'),
                pyreplica.rows_of(shape, 'old_rows')) AS gone,
            format('SELECT %s, NULL::jsonb AS was FROM %s o', keys, pyreplica.rows_of(shape, 'new_rows', true)) AS came
        FROM (SELECT string_agg('o.' || alias, ', ') AS keys FROM pyreplica.columns_of(shape, true)) k
    ) f, LATERAL (VALUES ('INSERT', came), ('UPDATE', gone || ' UNION ALL ' || came), ('DELETE', gone)) e(event, touched)
$$;

CREATE OR REPLACE FUNCTION pyreplica.refuse_truncate(tab text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'table % is merged with those of other nodes and cannot be truncated', tab
        USING ERRCODE = 'feature_not_supported', HINT = format('DELETE FROM %s', tab);
END
$$;

-- Microseconds; a function of its own, so that tests can have a clock that is wrong.
CREATE OR REPLACE FUNCTION pyreplica.wall_clock() RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$$;

-- Gives a row its next version and answers it; called by the capture, whose transaction has the row locked. `was`: how
-- the statement found the row, null if there was none; several ways if it came by more than once. `now`: as it stands,
-- null if it is gone. `more`: stamps that it has seen besides.
CREATE OR REPLACE FUNCTION pyreplica.next_version(
    rel oid, key_ jsonb, was jsonb[], now jsonb, more jsonb DEFAULT NULL
) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known jsonb;
    made jsonb;
BEGIN
    LOOP
        SELECT r.version INTO known FROM pyreplica.replica_row r
        WHERE r.relid = rel AND md5(r.key::text) = md5(key_::text) AND r.key = key_ FOR UPDATE;
        made := (SELECT pyreplica.version_after(CASE WHEN more IS NULL THEN known ELSE pyreplica.having_seen(known, more) END,
                n.name, pyreplica.wall_clock(), m.way, m.counters, m.priority, was, now)
            FROM pyreplica.replica_merge m, pyreplica.replica_node n WHERE m.relid = rel);
        IF made IS NULL THEN
            RAISE EXCEPTION 'could not serialize access: the merging of table % was set during the transaction',
                rel::regclass USING ERRCODE = 'serialization_failure', HINT = 'Try the transaction again.';
        END IF;
        IF known IS NOT NULL THEN
            UPDATE pyreplica.replica_row r SET version = made
            WHERE r.relid = rel AND md5(r.key::text) = md5(key_::text) AND r.key = key_;
            RETURN made;
        END IF;
        INSERT INTO pyreplica.replica_row (relid, key, version) VALUES (rel, key_, made) ON CONFLICT DO NOTHING;
        IF FOUND THEN
            RETURN made;
        END IF;
        -- the deletion of a row that was not here has just come from another node
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION pyreplica.version_after(
    known jsonb, node text, clock bigint, way text, counters text[], priority text[], was jsonb[], now jsonb
) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at constant bigint := greatest(clock, (known ->> 'at')::bigint + 1);
    stamp constant jsonb := jsonb_build_array(at, node);
    made jsonb := jsonb_build_object('at', at, 'node', node, 'way', way,
        'seen', coalesce(known -> 'seen', '{}') || jsonb_build_object(node, at))
        || CASE way WHEN 'priority' THEN jsonb_build_object('priority', priority)
            WHEN 'function' THEN pyreplica.begun_from(known, node, was) ELSE '{}' END;
    stood constant boolean := was IS NOT NULL AND NOT coalesce(known ? 'deleted', false)
        AND (known IS NOT NULL OR counters = '{}');
    counted jsonb := coalesce(known -> 'counters', '{}');
    counter text;
    total numeric;
BEGIN
    IF now IS NULL THEN
        RETURN made || jsonb_build_object('deleted', true)
            || CASE WHEN known ? 'life' THEN jsonb_build_object('life', known -> 'life') ELSE '{}' END;
    END IF;
    IF NOT stood THEN
        made := made || jsonb_build_object('life', stamp);
        counted := '{}';
    ELSIF known ? 'life' THEN
        made := made || jsonb_build_object('life', known -> 'life');
    END IF;
    IF way <> 'columns' THEN
        RETURN made;
    END IF;
    IF stood THEN
        made := made || jsonb_build_object('columns', coalesce(known -> 'columns', '{}') || coalesce((
            SELECT jsonb_object_agg(n.key, stamp) FROM jsonb_each(now) n
            WHERE n.key <> ALL (counters)
                AND EXISTS (SELECT FROM unnest(was) w WHERE (w -> n.key) IS DISTINCT FROM n.value)), '{}'));
    END IF;
    FOREACH counter IN ARRAY counters LOOP
        IF ((now ->> counter) ~ '^-?[0-9]') IS NOT TRUE THEN
            RAISE EXCEPTION 'column % is a counter and cannot be %', quote_ident(counter),
                coalesce(now ->> counter, 'NULL') USING ERRCODE = 'check_violation';
        END IF;
        -- what stands there that neither was there at first nor has come from the others
        total := (now ->> counter)::numeric - coalesce((counted #>> ARRAY[counter, 'base'])::numeric, 0) - coalesce((
            SELECT sum((o.value ->> 0)::numeric) FROM jsonb_each(counted #> ARRAY[counter, 'of']) o
            WHERE o.key <> node), 0);
        IF total IS DISTINCT FROM coalesce((counted #>> ARRAY[counter, 'of', node, '0'])::numeric, 0) OR NOT stood THEN
            counted := counted || jsonb_build_object(counter, coalesce(counted -> counter, '{}')
                || jsonb_build_object('of', coalesce(counted #> ARRAY[counter, 'of'], '{}')
                    || jsonb_build_object(node, jsonb_build_array(total, at))));
        END IF;
    END LOOP;
    RETURN made || CASE WHEN counters = '{}' THEN '{}' ELSE jsonb_build_object('counters', counted) END;
END
$$;

-- Whether one stamp, [at, node], is later than another; null is before all.
CREATE OR REPLACE FUNCTION pyreplica.is_later(a jsonb, b jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN a IS NULL THEN false WHEN b IS NULL THEN true
        ELSE ((a ->> 0)::bigint, (a ->> 1) COLLATE "C") > ((b ->> 0)::bigint, (b ->> 1) COLLATE "C") END
$$;

-- Whether a version has come from all that another one has come from.
CREATE OR REPLACE FUNCTION pyreplica.has_seen(a jsonb, b jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT EXISTS (SELECT FROM jsonb_each_text(b -> 'seen') s
        WHERE coalesce((a -> 'seen' ->> s.key)::bigint, 0) < s.value::bigint)
$$;

-- What two versions have come from.
CREATE OR REPLACE FUNCTION pyreplica.seen_of_both(a jsonb, b jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_object_agg(s.key, s.at), '{}') FROM (
        SELECT e.key, max(e.value::bigint) AS at FROM (
            SELECT * FROM jsonb_each_text(a -> 'seen') UNION ALL SELECT * FROM jsonb_each_text(b -> 'seen')) e
        GROUP BY e.key) s
$$;

-- The latest stamps of both of two objects, name -> [.., at] or [at, ..]; `place` is where the stamp is.
CREATE OR REPLACE FUNCTION pyreplica.latest_of(a jsonb, b jsonb, place integer) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(jsonb_object_agg(coalesce(x.key, y.key), CASE
        WHEN x.value IS NULL OR (y.value ->> place)::bigint > (x.value ->> place)::bigint THEN y.value
        ELSE x.value END), '{}')
    FROM jsonb_each(a) x FULL JOIN jsonb_each(b) y ON x.key = y.key
$$;

-- What becomes of a row when a version of it has come from another node. `known` is the version here, null if there is
-- none; `stands`: there is a row here, and `here_row` is it, where siblings are kept; `came_row`: null if it is gone there.
-- action: n nothing at all, k the row stays and the version changes, i insert, u update, d delete; x the row here is not
-- what its version says; f the user's function is to say what of the siblings becomes, e somebody is to settle it.
-- merged: the row; of an update the columns that change, at least. With a conflict its name; won: whose change counts,
-- "local", "remote", or both, or a third, "merged".
--
-- Whichever nodes and in which order, but for keep_local and apply_remote: the versions and rows that come of it are the
-- least that is above both, in an order of all versions of a row; so all nodes end with the same. By last_update_wins that
-- order is the stamps'. By columns the later life of the row is above all of an earlier one; within a life, the deletion
-- is above all updates; and of these the later change of each column is above the earlier one, and of each counter and
-- node the later total. The others choose among all versions that no other one has seen: siblings.sql.
CREATE OR REPLACE FUNCTION pyreplica.merge_versions(
    way text, counters text[], priority text[], known jsonb, stands boolean, here_row jsonb, came jsonb, came_row jsonb,
    OUT action text, OUT merged jsonb, OUT version jsonb, OUT conflict text, OUT won text
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    same_life boolean;
    is_last constant boolean := pyreplica.is_later(jsonb_build_array(came -> 'at', came -> 'node'),
        jsonb_build_array(known -> 'at', known -> 'node'));
    by_node constant text[] := '{keep_local,apply_remote}';
    c record;
    value_ text;
BEGIN
    IF NOT (way = came ->> 'way' OR way = ANY (by_node) AND came ->> 'way' = ANY (by_node))
        OR to_jsonb(priority) <> coalesce(came -> 'priority', '[]')
        OR NOT came ? 'deleted' AND counters IS DISTINCT FROM ARRAY(
            SELECT k FROM jsonb_object_keys(came -> 'counters') k ORDER BY k COLLATE "C")
    THEN
        RAISE EXCEPTION 'the table is not merged in the same way here and on node %: % here, % there', came ->> 'node',
            concat_ws(' ', way, nullif(priority, '{}'), nullif(counters, '{}')),
            concat_ws(' ', came ->> 'way', came ->> 'priority', (
                SELECT array_agg(k ORDER BY k COLLATE "C") FROM jsonb_object_keys(came -> 'counters') k))
            USING ERRCODE = 'PY005', HINT = 'Give it the same `merge:` in all replications, and run `pyreplica install`.';
    END IF;
    IF known IS NOT NULL AND known ? 'seen' AND pyreplica.has_seen(known, came) THEN
        action := 'n';
        RETURN;
    END IF;
    same_life := known -> 'life' IS NOT DISTINCT FROM came -> 'life';
    FOR c IN SELECT k.key, k.value -> 'base' AS base, came #> ARRAY['counters', k.key, 'base'] AS other
        FROM jsonb_each(known -> 'counters') k
        WHERE same_life AND NOT came ? 'deleted' AND k.value -> 'base' IS DISTINCT FROM came #> ARRAY['counters', k.key, 'base']
    LOOP
        RAISE EXCEPTION 'counter % began at % here and at % on node %', quote_ident(c.key), c.base, c.other, came ->> 'node'
            USING ERRCODE = 'PY005', HINT = 'The rows were not the same when the table began to be merged. Copy them anew.';
    END LOOP;
    IF pyreplica.has_seen(came, coalesce(known, '{}')) THEN
        won := 'remote';
        version := came;
    ELSE
        conflict := CASE
            WHEN came ? 'deleted' AND known ? 'deleted' THEN 'delete_missing'
            WHEN came ? 'deleted' THEN 'delete_origin_differs'
            WHEN known ? 'deleted' THEN 'update_missing'
            WHEN same_life THEN 'update_origin_differs'
            ELSE 'insert_exists' END;
        IF stands = known ? 'deleted' AND pyreplica.keeps_siblings(way) THEN
            action := 'x';
            RETURN;
        ELSIF pyreplica.keeps_siblings(way) THEN
            SELECT s.won, s.version, s.shown INTO won, version, came_row
            FROM pyreplica.with_sibling(way, priority, known, here_row, came, came_row) s;
        ELSIF way = 'last_update_wins' OR way = 'error' AND conflict = 'delete_missing' THEN
            won := CASE WHEN is_last THEN 'remote' ELSE 'local' END;
        ELSIF way <> 'columns' THEN
            won := CASE WHEN way = 'apply_remote' THEN 'remote' ELSE 'local' END;
        ELSIF NOT same_life THEN
            won := CASE WHEN pyreplica.is_later(came -> 'life', known -> 'life') THEN 'remote' ELSE 'local' END;
        ELSIF came ? 'deleted' OR known ? 'deleted' THEN
            won := CASE WHEN came ? 'deleted' THEN 'remote' ELSE 'local' END;
        ELSE
            won := 'merged';
        END IF;
        version := coalesce(version, CASE won WHEN 'local' THEN known ELSE came END)
            || CASE WHEN is_last THEN jsonb_build_object('at', came -> 'at', 'node', came -> 'node')
                ELSE jsonb_build_object('at', known -> 'at', 'node', known -> 'node') END
            || jsonb_build_object('seen', pyreplica.seen_of_both(known, came));
    END IF;
    IF won <> 'remote' AND stands = known ? 'deleted' THEN
        action := 'x';
    ELSIF way = 'error' AND conflict <> 'delete_missing' THEN
        action := 'e';
    ELSIF way = 'function' AND conflict IS NOT NULL THEN
        action := 'f';
    ELSIF won = 'local' THEN
        action := 'k';
    ELSIF won = 'remote' OR way <> 'columns' THEN
        merged := came_row;
        action := CASE WHEN came_row IS NOT NULL AND stands THEN 'u' WHEN came_row IS NOT NULL THEN 'i'
            WHEN stands THEN 'd' ELSE 'k' END;
    ELSE
        merged := '{}';
        FOR c IN SELECT r.key, r.value, came #> ARRAY['columns', r.key] AS came_at, known #> ARRAY['columns', r.key] AS known_at
            FROM jsonb_each(came_row) r WHERE NOT coalesce(came -> 'counters' ? r.key, false)
        LOOP
            IF pyreplica.is_later(c.came_at, c.known_at) THEN
                merged := merged || jsonb_build_object(c.key, c.value);
            ELSIF c.known_at IS NOT NULL THEN
                version := jsonb_set(version, ARRAY['columns', c.key], c.known_at);
            END IF;
        END LOOP;
        -- also of columns that only this node has by now
        version := version || jsonb_build_object('columns',
            coalesce(known -> 'columns', '{}') || coalesce(version -> 'columns', '{}'));
        FOR c IN SELECT k.key, k.value -> 'base' AS base,
                pyreplica.latest_of(coalesce(k.value -> 'of', '{}'), coalesce(came #> ARRAY['counters', k.key, 'of'], '{}'), 1) AS of_
            FROM jsonb_each(known -> 'counters') k
        LOOP
            version := jsonb_set(version, ARRAY['counters', c.key],
                jsonb_strip_nulls(jsonb_build_object('base', c.base, 'of', nullif(c.of_, '{}'))));
            value_ := (coalesce((c.base #>> '{}')::numeric, 0)
                + coalesce((SELECT sum((o.value ->> 0)::numeric) FROM jsonb_each(c.of_) o), 0))::text;
            merged := merged || jsonb_build_object(c.key, value_);
        END LOOP;
        action := CASE WHEN merged = '{}' THEN 'k' ELSE 'u' END;
    END IF;
END
$$;
