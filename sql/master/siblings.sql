-- Merging by a choice among whole rows that does not go by the latest stamp. A part of master-install.sql.

-- Two rows are not enough to choose from then. One node writes a row twice, another one once at the same time: who gets the
-- three changes one by one has the first two meet, and perhaps leaves out the one that, in the end, should have been
-- chosen. So all versions are kept of which none has seen another, each with its row. What comes of two such sets is all
-- that is in both, and what is in one and was not seen by the other: the same in any order, and however often. The row
-- is then a function of the set. The next change of the row, which has seen all, ends the conflict.

CREATE OR REPLACE FUNCTION pyreplica.keeps_siblings(way text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT way IN ('first_update_wins', 'priority', 'function')
$$;

-- Of siblings the one whose row is shown. No two are of the same node: its later change has seen the earlier one.
CREATE OR REPLACE FUNCTION pyreplica.shown_of(way text, priority text[], siblings jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT s FROM jsonb_array_elements(siblings) s
    ORDER BY CASE WHEN way = 'priority' THEN coalesce(array_position(priority, s ->> 'node'), cardinality(priority) + 1) END,
        CASE WHEN way <> 'priority' THEN (s ->> 'at')::bigint END, s ->> 'node' COLLATE "C"
    LIMIT 1
$$;

-- A version has come that has not seen all of those here, nor is seen by them. version: that of all together; shown: the
-- row that is to stand, null for none; won: as for merge_versions(). By "function" neither of these is decided here.
CREATE OR REPLACE FUNCTION pyreplica.with_sibling(
    way text, priority text[], known jsonb, here_row jsonb, came jsonb, came_row jsonb,
    OUT version jsonb, OUT shown jsonb, OUT won text
)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own_ constant text[] := '{way,priority}';
    here constant jsonb := coalesce(known -> 'siblings', jsonb_build_array(
        known - own_ || CASE WHEN here_row IS NULL THEN '{}' ELSE jsonb_build_object('row', here_row) END));
    there constant jsonb := came - own_ || CASE WHEN came_row IS NULL THEN '{}' ELSE jsonb_build_object('row', came_row) END;
    siblings constant jsonb := (
        SELECT jsonb_agg(s ORDER BY (s ->> 'at')::bigint, s ->> 'node' COLLATE "C") FROM (
            SELECT h AS s FROM jsonb_array_elements(here) h
            WHERE coalesce((came -> 'seen' ->> (h ->> 'node'))::bigint, 0) < (h ->> 'at')::bigint
            UNION ALL
            SELECT there) u);
    stood constant jsonb := pyreplica.shown_of(way, priority, here);
    one constant jsonb := pyreplica.shown_of(way, priority, siblings);
BEGIN
    version := jsonb_build_object('way', way, 'siblings', siblings)
        || CASE WHEN way = 'priority' THEN jsonb_build_object('priority', priority) ELSE '{}' END
        || CASE WHEN siblings -> -1 ? 'life' THEN jsonb_build_object('life', siblings -> -1 -> 'life') ELSE '{}' END
        || CASE WHEN one ? 'deleted' AND way <> 'function' THEN jsonb_build_object('deleted', true) ELSE '{}' END;
    shown := one -> 'row';
    won := CASE WHEN way = 'function' THEN 'merged' WHEN one = there THEN 'remote' WHEN one = stood THEN 'local'
        ELSE 'merged' END;
END
$$;

-- What a new version is said to have begun from, for the user's function: the row as it was when its node had not yet
-- changed it by itself alone. So, while nobody has seen what a node makes of a row, it is what the others have.
CREATE OR REPLACE FUNCTION pyreplica.begun_from(known jsonb, node text, was jsonb[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN known ->> 'node' = node AND known ? 'from' AND NOT known ? 'siblings'
        THEN jsonb_build_object('from', known -> 'from', 'was', known -> 'was')
        ELSE jsonb_build_object('from', coalesce(known -> 'seen', '{}'), 'was', was[1]) END
$$;

-- A version that has seen these stamps besides, for a person who settles a conflict.
CREATE OR REPLACE FUNCTION pyreplica.having_seen(known jsonb, more jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(known, '{}') || jsonb_build_object(
        'at', greatest((known ->> 'at')::bigint, (SELECT max(m.value::bigint) FROM jsonb_each_text(more) m)),
        'seen', pyreplica.seen_of_both(known, jsonb_build_object('seen', more)))
$$;

-- Settles a conflict of a merged table: the row as it stands here, or that there is none, gets a version that has seen what
-- is known here, and also what `seen` says, and goes to all nodes. `seen`, node -> stamp, is in the message of the
-- replication that has stopped; without it the row is sent to the others once more.
CREATE OR REPLACE FUNCTION pyreplica.settle_row("table" regclass, key jsonb, seen jsonb DEFAULT '{}') RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET constraint_exclusion = off AS $$
DECLARE
    t pyreplica.replica_table;
    found_ text;               -- the row that has the key $1, if there is one
    stands boolean;
    key_ jsonb;
    now_ jsonb;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a row cannot be settled in a % transaction, which does not see the newest one',
            upper(current_setting('transaction_isolation'))
            USING HINT = 'Call it in a READ COMMITTED transaction.';
    END IF;
    IF jsonb_typeof(seen) <> 'object' OR EXISTS (SELECT FROM jsonb_each_text(seen) s WHERE s.value !~ '^\d{1,18}$') THEN
        RAISE EXCEPTION 'these are no stamps: %', seen
            USING HINT = 'It is an object such as {"paris": 1767225600000000}, as the message of the daemon has it.';
    END IF;
    -- nobody alters it from here on
    EXECUTE format('LOCK TABLE ONLY %s IN ROW SHARE MODE', "table");
    SELECT * INTO t FROM pyreplica.replica_table r WHERE r.relid = "table"::oid AND r.active AND r.shape ? 'merge';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % is not merged', "table" USING HINT = 'Only conflicts of merged tables are settled by this.';
    END IF;
    IF seen <> '{}' AND t.shape #>> '{merge,way}' <> 'error' THEN
        RAISE EXCEPTION 'conflicts of table % are settled by its policy, and not by hand', "table"
            USING HINT = 'Without stamps the row as it is here is sent to the other nodes once more.';
    END IF;
    found_ := format('FROM %s k LEFT JOIN LATERAL (SELECT * FROM %s m WHERE %s %%s) m ON true',
        pyreplica.rows_of(t.shape, pyreplica.given_keys(t.shape), true),
        pyreplica.rows_of(t.shape, format('ONLY %I.%I', t.shape ->> 'schema', t.shape ->> 'table')),
        pyreplica.same_key(t.shape, 'm', 'k', true));
    -- the row first, as who writes it does; where there is none, all who could insert one
    EXECUTE format('SELECT m.here ' || found_, 'FOR UPDATE OF m') INTO stands USING ARRAY[key];
    IF stands IS NULL THEN
        EXECUTE format('LOCK TABLE ONLY %s IN SHARE MODE', "table");
    END IF;
    EXECUTE format('SELECT %s, CASE WHEN m.here THEN %s END %s', pyreplica.object_of(t.shape, true, 'k'),
        pyreplica.object_of(t.shape, false, 'm'), format(found_, ''))
    INTO key_, now_ USING ARRAY[key];
    IF EXISTS (SELECT FROM jsonb_each(key_) k WHERE k.value = 'null') THEN
        RAISE EXCEPTION '% is no key of table %', key, "table"
            USING HINT = format('It is an object of the columns %s.', array_to_string(t.key_columns, ', '));
    END IF;
    EXECUTE pyreplica.logging('SELECT $1, ''v''::"char", $2, $3, pyreplica.next_version($4, $2, $5, $3, $6)',
        columns_ => 'tab, op, key, row, old')
    USING t.id, key_, now_, t.relid, CASE WHEN now_ IS NOT NULL THEN ARRAY[now_] END, seen;
    RETURN format('%s %s: %s', "table", key_, CASE WHEN now_ IS NULL THEN 'there is no row, which goes to all nodes'
        ELSE 'the row as it is here goes to all nodes' END);
END
$$;
