-- PyReplica, master side: the change log, the capture triggers' function and the functions a person calls.
--
--   psql -v ON_ERROR_STOP=1 -d shop -f sql/master-install.sql
--
-- Run it as a superuser (plpython3u is an untrusted language). It is one transaction, may be run again and
-- again, and upgrades an older install. Everything lives in the schema pyreplica; nobody else gets rights on it.
-- A database that is a slave already is refused unless PGOPTIONS='-c pyreplica.both=on' says that it is meant.

BEGIN;

SET LOCAL client_min_messages = warning;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL standard_conforming_strings = on;

DO $$
DECLARE
    version_here constant integer := 1;   -- the same number as at the end of this script
    version_found integer;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'database % is a hot standby and cannot be changed', current_database()
            USING HINT = 'Run master-install.sql on the primary server.';
    END IF;
    IF current_setting('server_version_num')::integer < 130000 THEN
        RAISE EXCEPTION 'PostgreSQL % is too old for PyReplica', current_setting('server_version')
            USING HINT = 'Use PostgreSQL 13 or later.';
    END IF;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        RAISE EXCEPTION 'role % may not install PyReplica on a master: it is no superuser', current_user
            USING HINT = 'plpython3u functions can only be created by a superuser: run the script as one. '
                'Afterwards nobody needs to be superuser to write the tables.';
    END IF;
    IF to_regclass('pyreplica.replica_cursor') IS NOT NULL
        AND to_regclass('pyreplica.replica_log') IS NULL
        AND coalesce(current_setting('pyreplica.both', true), '') <> 'on'
    THEN
        RAISE EXCEPTION 'database % is installed as a slave of PyReplica, this is the script for the master',
            current_database()
            USING HINT = 'Run it on the master. If this database is to be both, '
                'run it with PGOPTIONS=''-c pyreplica.both=on''.';
    END IF;
    IF to_regclass('pyreplica.replica_version') IS NOT NULL THEN
        EXECUTE 'SELECT version FROM pyreplica.replica_version WHERE side = ''master''' INTO version_found;
        IF version_found > version_here THEN
            RAISE EXCEPTION 'database % has version % of PyReplica''s master side, this script is version %',
                current_database(), version_found, version_here
                USING HINT = 'Use the scripts of the newer release.';
        END IF;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'plpython3u') THEN
        RAISE EXCEPTION 'the server of database % does not have the language plpython3u', current_database()
            USING HINT = format('Install it on the server, on Debian: apt-get install postgresql-plpython3-%s',
                current_setting('server_version_num')::integer / 10000);
    END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS pyreplica;
COMMENT ON SCHEMA pyreplica IS 'PyReplica: asynchronous replication';

CREATE TABLE IF NOT EXISTS pyreplica.replica_version (
    side text PRIMARY KEY CHECK (side IN ('master', 'slave')),
    version integer NOT NULL,
    -- whether this install made the extension, so that the uninstall takes it away again
    made_plpython3u boolean NOT NULL DEFAULT false,
    installed_at timestamptz NOT NULL DEFAULT now()
);

INSERT INTO pyreplica.replica_version (side, version, made_plpython3u)
SELECT 'master', 1, NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'plpython3u')
ON CONFLICT (side) DO UPDATE
    SET version = excluded.version,
        installed_at = CASE WHEN replica_version.version = excluded.version
            THEN replica_version.installed_at ELSE excluded.installed_at END;

CREATE EXTENSION IF NOT EXISTS plpython3u;


-- Tables ------------------------------------------------------------------------------------------------------

-- A row is a generation of a captured table: what its capture statements were built from. A DDL statement that
-- changes any of that makes a new generation; older ones stay, because log rows name them.
CREATE TABLE IF NOT EXISTS pyreplica.replica_table (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relid oid NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    key_columns text[] NOT NULL,         -- empty: the table has lost its primary key, writing to it is refused
    columns text[] NOT NULL,             -- what is logged; generated columns are not, the slave makes its own
    shape jsonb NOT NULL,                -- all that the statements below depend on
    statements jsonb NOT NULL,           -- event -> the statements of the capture function
    active boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX IF NOT EXISTS replica_table_active ON pyreplica.replica_table (relid) WHERE active;

-- Bit 0 names the segment of the log that is written; each other bit stands for a slave whose daemon sleeps and
-- wants to be woken by NOTIFY. It is a sequence because reading last_value is not bound to a snapshot: a writer
-- in REPEATABLE READ sees the bit that was set after its snapshot was taken.
CREATE SEQUENCE IF NOT EXISTS pyreplica.doorbell MINVALUE 0 START 0;

-- Never CACHE: the id is the order in which triggers ran, over all sessions.
CREATE SEQUENCE IF NOT EXISTS pyreplica.replica_log_id;

CREATE TABLE IF NOT EXISTS pyreplica.replica_log (
    id bigint NOT NULL DEFAULT nextval('pyreplica.replica_log_id'),
    txid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    at timestamptz NOT NULL DEFAULT statement_timestamp(),
    -- after txid: a writer that reads the doorbell must be visible as a running transaction before it does
    segment smallint NOT NULL,
    tab integer NOT NULL,                -- replica_table.id
    op "char" NOT NULL,                  -- I, U, D, T; i, u, d: restated, see docs/architecture.md
    key jsonb,                           -- the key columns' values as text
    row jsonb                            -- the other columns' values as text; of an update those that changed
) PARTITION BY LIST (segment);
CREATE TABLE IF NOT EXISTS pyreplica.replica_log_0 PARTITION OF pyreplica.replica_log FOR VALUES IN (0);
CREATE TABLE IF NOT EXISTS pyreplica.replica_log_1 PARTITION OF pyreplica.replica_log FOR VALUES IN (1);
CREATE INDEX IF NOT EXISTS replica_log_txid ON pyreplica.replica_log (txid);

-- The segment that is not written any more, waiting until every slave has confirmed what is in it.
CREATE TABLE IF NOT EXISTS pyreplica.replica_retired (
    segment smallint PRIMARY KEY,
    snapshot pg_snapshot NOT NULL
);

-- Snapshots of the past at which a backlog may be cut into batches.
CREATE TABLE IF NOT EXISTS pyreplica.replica_tick (
    snapshot pg_snapshot NOT NULL,
    xmax_ xid8 NOT NULL,
    xmin_ xid8 NOT NULL,
    running integer NOT NULL,
    log_id bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS replica_tick_order ON pyreplica.replica_tick (xmax_, xmin_, running DESC);

-- What each slave has confirmed. batch and snapshot are the decision of the two-phase commit.
CREATE TABLE IF NOT EXISTS pyreplica.replica_slave (
    replication text PRIMARY KEY,
    bit smallint NOT NULL UNIQUE CHECK (bit BETWEEN 1 AND 62),
    slave_system text NOT NULL,          -- system identifier and database of the slave
    slave_database text NOT NULL,
    state text NOT NULL DEFAULT 'copying' CHECK (state IN ('copying', 'ready')),
    batch bigint NOT NULL DEFAULT 0,
    snapshot pg_snapshot NOT NULL DEFAULT pg_current_snapshot(),
    log_id bigint NOT NULL DEFAULT 0,    -- where the sequence of the log's ids stood at that snapshot
    snapshot_at timestamptz NOT NULL DEFAULT now(),
    confirmed_at timestamptz,
    added_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 20);

CREATE OR REPLACE VIEW pyreplica.changes AS
SELECT l.id, l.txid, l.at, format('%I.%I', t.schema_name, t.table_name) AS "table", l.op, l.key, l.row
FROM pyreplica.replica_log l JOIN pyreplica.replica_table t ON t.id = l.tab;
COMMENT ON VIEW pyreplica.changes IS 'the log with the names of the tables, to be read by people';


-- Capture -----------------------------------------------------------------------------------------------------

-- Called by the capture statements while a bit of the doorbell is set; answers the segment to write.
CREATE OR REPLACE FUNCTION pyreplica.ring(doorbell bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('pyreplica', '');
    RETURN doorbell & 1;
END
$$;

-- The trigger function. It exists twice with the same body: capture() for tables whose columns print the same
-- under every setting, capture_text() for the others, which pins the settings (each costs some tenths of a
-- microsecond a statement).
DO $do$
DECLARE
    body constant text := $body$
import json

# SD belongs to this function, this session and this table. The statements are built when the table is set up;
# all that happens here is to execute the plan of the event.
generation = TD["args"][0]
event = TD["event"] if TD["event"] != "TRUNCATE" else TD["when"] + " TRUNCATE " + TD["args"][1]
cached = SD.get(event)
if cached is None or cached[0] != generation:
    found = plpy.execute(
        "SELECT statements, schema_name, table_name, key_columns FROM pyreplica.replica_table WHERE id = "
        + str(int(generation))
    )
    if not found:
        plpy.error(
            "PyReplica's record of table %s.%s is gone" % (TD["table_schema"], TD["table_name"]),
            hint="Take the table out and in again: pyreplica.remove_table(), pyreplica.add_table().",
        )
    if not found[0]["key_columns"]:
        plpy.error(
            "table %s.%s is replicated and has lost its primary key"
            % (found[0]["schema_name"], found[0]["table_name"]),
            hint="Give it a primary key, or stop replicating it: SELECT pyreplica.remove_table('%s.%s')."
            % (found[0]["schema_name"], found[0]["table_name"]),
        )
    table = plpy.quote_ident(TD["table_schema"]) + "." + plpy.quote_ident(TD["table_name"])
    statements = json.loads(found[0]["statements"])[event]
    cached = SD[event] = (generation, [plpy.prepare(s.replace("<<partition>>", table)) for s in statements])

# The first plan writes what the statement did, unless an earlier statement on the same table ran inside the
# same client statement (the first plan finds that out and then writes nothing): the second plan writes the
# rows as they stand now.
logged = 0
for plan in cached[1]:
    logged = plpy.execute(plan).nrows()
    if logged:
        break

# A snapshot left behind now and then lets a backlog be cut there.
since = GD.get("pyreplica", 0) + logged + 1
if since >= 4000:
    if "tick" not in SD:
        SD["tick"] = plpy.prepare("SELECT pyreplica.tick()")
    plpy.execute(SD["tick"])
    since = 0
GD["pyreplica"] = since
$body$;
    pinned constant text := 'SET search_path = pg_catalog, pg_temp';
    settings constant text := 'SET DateStyle = ''ISO, YMD'' SET IntervalStyle = postgres SET TimeZone = ''UTC'' '
        'SET extra_float_digits = 1 SET bytea_output = hex SET lc_monetary = ''C'' SET xmlbinary = base64';
BEGIN
    EXECUTE format('CREATE OR REPLACE FUNCTION pyreplica.capture() RETURNS trigger '
        'LANGUAGE plpython3u SECURITY DEFINER %s AS %L', pinned, body);
    EXECUTE format('CREATE OR REPLACE FUNCTION pyreplica.capture_text() RETURNS trigger '
        'LANGUAGE plpython3u SECURITY DEFINER %s %s AS %L', pinned, settings, body);
END
$do$;

-- Leaves the session's snapshot behind. pg_current_snapshot() does not list the session's own transaction as
-- running, although for everybody else it is: it is added here.
CREATE OR REPLACE FUNCTION pyreplica.tick() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seen constant pg_snapshot := pg_current_snapshot();
    own constant xid8 := pg_current_xact_id();
    running text[];
    seen_by_others pg_snapshot;
BEGIN
    SELECT array_agg(x::text ORDER BY x) INTO running
    FROM (
        SELECT x FROM pg_snapshot_xip(seen) x
        UNION
        SELECT own WHERE own < pg_snapshot_xmax(seen)
    ) r;
    seen_by_others := (least(pg_snapshot_xmin(seen), own)::text || ':' || pg_snapshot_xmax(seen)::text || ':'
        || coalesce(array_to_string(running, ','), ''))::pg_snapshot;
    INSERT INTO pyreplica.replica_tick (snapshot, xmax_, xmin_, running, log_id)
    SELECT seen_by_others, pg_snapshot_xmax(seen_by_others), pg_snapshot_xmin(seen_by_others),
        coalesce(cardinality(running), 0), s.last_value
    FROM pyreplica.replica_log_id s;
END
$$;


-- Building the capture statements -----------------------------------------------------------------------------

-- The types a type is made of, down to base types, enums and pseudo-types.
CREATE OR REPLACE FUNCTION pyreplica.base_types(of oid) RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE parts(typ) AS (
        SELECT of
        UNION
        SELECT n.typ
        FROM parts p JOIN pg_type t ON t.oid = p.typ,
            LATERAL (
                SELECT t.typbasetype WHERE t.typtype = 'd'
                UNION ALL
                SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
                UNION ALL
                SELECT a.atttypid FROM pg_attribute a
                WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
                UNION ALL
                SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
                UNION ALL
                -- rngmultitypid came with PostgreSQL 14; a multirange's name is not enough to find its range
                SELECT (to_jsonb(r) ->> 'rngsubtype')::oid FROM pg_range r
                WHERE t.typtype = 'm' AND (to_jsonb(r) ->> 'rngmultitypid')::oid = t.oid
            ) n(typ)
    )
    SELECT p.typ FROM parts p JOIN pg_type t ON t.oid = p.typ
    WHERE t.typtype IN ('b', 'e', 'p') AND NOT (t.typcategory = 'A' AND t.typelem <> 0)
$$;

-- Whether values of a type print the same whatever the session's settings are.
CREATE OR REPLACE FUNCTION pyreplica.prints_alike(typ oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT bool_and(t.typtype = 'e' OR t.oid = ANY ('{bool,int2,int4,int8,numeric,text,varchar,bpchar,name,"char",
        uuid,json,jsonb,oid,xid,xid8,inet,cidr,macaddr,macaddr8,bit,varbit,pg_lsn,tsvector,tsquery}'::regtype[]))
    FROM pyreplica.base_types(typ) b JOIN pg_type t ON t.oid = b
$$;

-- Whether equal values of a type are the same value in every byte (1.0 and 1.00 are not, nor are 0 and -0).
CREATE OR REPLACE FUNCTION pyreplica.equal_is_same(typ oid, collation_ oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (t.typtype = 'e' OR t.oid = ANY ('{bool,int2,int4,int8,text,varchar,name,"char",bytea,uuid,oid,date,
        timestamp,timestamptz,time,pg_lsn,xid8,macaddr,macaddr8}'::regtype[]))
        AND coalesce((SELECT c.collisdeterministic FROM pg_collation c WHERE c.oid = collation_), true)
    FROM pg_type t WHERE t.oid = typ
$$;

-- An expression's text as the type's own output function gives it. Never a cast: a cast to text can be another
-- function (bpchar's drops blanks) or one that somebody defined, which would then run with our rights.
CREATE OR REPLACE FUNCTION pyreplica.printed(expression text, typ oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    base oid := typ;
    t record;
BEGIN
    LOOP
        SELECT y.typtype, y.typbasetype, n.nspname, p.proname, p.proargtypes[0] AS printable INTO t
        FROM pg_type y JOIN pg_proc p ON p.oid = y.typoutput JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE y.oid = base;
        EXIT WHEN t.typtype <> 'd';
        base := t.typbasetype;
    END LOOP;
    IF base <> typ THEN
        expression := format('(%s)::%s', expression, format_type(base, -1));
    END IF;
    IF base = 'text'::regtype THEN
        RETURN expression;
    END IF;
    IF t.printable <> base AND (SELECT typtype FROM pg_type WHERE oid = t.printable) <> 'p' THEN
        -- a type that borrows the output function of one with the same representation (refcursor: text)
        expression := format('(%s)::%s', expression, format_type(t.printable, -1));
    END IF;
    RETURN format('textin(%I.%I(%s))', t.nspname, t.proname, expression);
END
$$;

-- The table whose name a table's changes carry: the root of its partition tree, or itself.
CREATE OR REPLACE FUNCTION pyreplica.root_of(rel oid) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN c.relispartition THEN coalesce(pg_partition_root(c.oid)::oid, c.oid) ELSE c.oid END
    FROM pg_class c WHERE c.oid = rel
$$;

-- All tables below one in an inheritance or partition tree.
CREATE OR REPLACE FUNCTION pyreplica.descendants(rel oid) RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE below(relid) AS (
        SELECT inhrelid FROM pg_inherits WHERE inhparent = rel
        UNION
        SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.relid
    )
    SELECT relid FROM below
$$;

-- All tables above one in an inheritance tree.
CREATE OR REPLACE FUNCTION pyreplica.ancestors(rel oid) RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE above(relid) AS (
        SELECT inhparent FROM pg_inherits WHERE inhrelid = rel
        UNION
        SELECT i.inhparent FROM above a JOIN pg_inherits i ON i.inhrelid = a.relid
    )
    SELECT relid FROM above
$$;

-- The least oid among the tables that a statement on one of them may change through inheritance. They share a
-- mark, see first_capture below.
CREATE OR REPLACE FUNCTION pyreplica.family_of(rel oid) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE family(relid) AS (
        SELECT rel
        UNION
        SELECT CASE WHEN i.inhrelid = f.relid THEN i.inhparent ELSE i.inhrelid END
        FROM family f JOIN pg_inherits i ON f.relid IN (i.inhrelid, i.inhparent)
    )
    SELECT min(relid) FROM family
$$;

-- What the capture of a table depends on; null when there is no such table.
CREATE OR REPLACE FUNCTION pyreplica.shape_of(rel oid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
        'schema', n.nspname,
        'table', c.relname,
        'partitioned', c.relkind = 'p',
        'family', pyreplica.family_of(c.oid)::bigint,
        'columns', (
            SELECT jsonb_agg(jsonb_build_object(
                'name', a.attname, 'type', a.atttypid::bigint, 'typmod', a.atttypmod,
                'collation', a.attcollation::bigint, 'generated', a.attgenerated <> '',
                'alike', pyreplica.prints_alike(a.atttypid),
                'key', k.position, 'equal', (
                    -- the index's own equality, for looking rows up by key
                    SELECT format('OPERATOR(%I.%s)', opn.nspname, op.oprname)
                    FROM pg_opclass oc JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily
                        AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
                        AND ao.amopstrategy = 3
                    JOIN pg_operator op ON op.oid = ao.amopopr JOIN pg_namespace opn ON opn.oid = op.oprnamespace
                    WHERE oc.oid = i.indclass[k.position - 1]))
                ORDER BY a.attnum)
            FROM pg_attribute a
            LEFT JOIN LATERAL (
                SELECT u.position FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(attnum, position)
                WHERE u.attnum = a.attnum AND u.position <= i.indnkeyatts
            ) k ON true
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        -- replicated tables that inherit from it (not partitions): a statement on the parent changes their rows
        -- too, and its transition tables do not say whose row is whose
        'children', CASE WHEN c.relkind = 'r' THEN (
            SELECT jsonb_agg(t.id ORDER BY t.id)
            FROM pyreplica.descendants(c.oid) d JOIN pyreplica.replica_table t ON t.relid = d AND t.active) END)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
    WHERE c.oid = rel
$$;

-- The columns of a shape that are its key, in the key's order, or the others that are logged; each with the alias
-- it has in the capture statements (k1, k2, ... and v1, v2, ...), where users' names cannot collide with ours.
CREATE OR REPLACE FUNCTION pyreplica.columns_of(shape jsonb, of_key boolean)
RETURNS TABLE (name text, alias text, typ oid, same boolean, equal text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c ->> 'name',
        CASE WHEN of_key THEN 'k' ELSE 'v' END || row_number() OVER (ORDER BY (c ->> 'key')::integer, n),
        (c ->> 'type')::oid,
        pyreplica.equal_is_same((c ->> 'type')::oid, (c ->> 'collation')::oid),
        c ->> 'equal'
    FROM jsonb_array_elements(shape -> 'columns') WITH ORDINALITY e(c, n)
    WHERE CASE WHEN of_key THEN c ->> 'key' IS NOT NULL
        ELSE c ->> 'key' IS NULL AND NOT (c ->> 'generated')::boolean END
    ORDER BY (c ->> 'key')::integer, n
$$;

-- A jsonb object of the key's or the other columns' values as text, out of the row with the alias `source`.
CREATE OR REPLACE FUNCTION pyreplica.object_of(shape jsonb, of_key boolean, source text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN count(*) = 0 THEN quote_literal('{}') || '::jsonb' ELSE
        format('jsonb_object(%L::text[], ARRAY[%s])', array_agg(name),
            string_agg(pyreplica.printed(source || '.' || alias, typ), ', ')) END
    FROM pyreplica.columns_of(shape, of_key)
$$;

-- A FROM item with the logged columns of a relation (a table, a transition table) under their aliases.
CREATE OR REPLACE FUNCTION pyreplica.rows_of(shape jsonb, relation text, of_key_only boolean DEFAULT false)
RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('(SELECT %s%s FROM %s r)',
        string_agg(format('r.%I AS %s', name, alias), ', '),
        CASE WHEN of_key_only THEN '' ELSE ', true AS here' END, relation)
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
        CASE WHEN by_index THEN format('%s.%s %s %s.%2$s', a, alias, coalesce(equal, '='), b) END,
        CASE WHEN NOT same THEN
            format('%s = %s', pyreplica.printed(a || '.' || alias, typ), pyreplica.printed(b || '.' || alias, typ))
        WHEN NOT by_index THEN format('%s.%s = %s.%2$s', a, alias, b) END), ' AND ')
    FROM pyreplica.columns_of(shape, true)
$$;

-- Of an updated row: columns "changed_v1 ..." that say which values differ to the byte, ...
CREATE OR REPLACE FUNCTION pyreplica.change_flags(shape jsonb, old text, new text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(string_agg(', ' || format(
        CASE WHEN same THEN '(%1$s.%2$s IS DISTINCT FROM %3$s.%2$s) AS changed_%2$s'
            ELSE 'record_image_ne(ROW(%1$s.%2$s), ROW(%3$s.%2$s)) AS changed_%2$s' END, old, alias, new), ''), '')
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
            string_agg(format('CASE WHEN c.changed_%s THEN %s END', alias,
                pyreplica.printed('c.' || alias, typ)), ', '),
            string_agg(format('CASE WHEN NOT c.changed_%s THEN %L END', alias, name), ', ')) END
    FROM pyreplica.columns_of(shape, false)
$$;

-- SELECT of log rows that restate a table: for each key in the transition tables the row as it stands now, or
-- that there is none. With `against_old`, after an UPDATE, only the columns that changed.
CREATE OR REPLACE FUNCTION pyreplica.restating(
    generation integer, shape jsonb, standing text, transition_tables text[], against_old boolean, segment text
) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(
        'SELECT %s, %s, CASE WHEN c.here IS NULL THEN ''d'' %s ELSE ''i'' END::"char", c.key, '
        'CASE WHEN c.here IS NULL THEN NULL %s ELSE %s END '
        'FROM (SELECT %s AS key, m.* %s '
        'FROM (SELECT DISTINCT %s FROM (%s) t) k %s LEFT JOIN %s m ON %s OFFSET 0) c %s',
        segment, generation,
        CASE WHEN against_old THEN 'WHEN c.there THEN ''u''' END,
        CASE WHEN against_old THEN 'WHEN c.there THEN ' || pyreplica.changed_object(shape) END,
        pyreplica.object_of(shape, false, 'c'),
        pyreplica.object_of(shape, true, 'k'),
        CASE WHEN against_old THEN ', o.here AS there' || pyreplica.change_flags(shape, 'o', 'm') END,
        (SELECT string_agg(concat_ws(', ', 't.' || alias,
            -- equal keys that print differently are two keys
            CASE WHEN NOT same THEN pyreplica.printed('t.' || alias, typ) || ' AS printed_' || alias END), ', ')
            FROM pyreplica.columns_of(shape, true)),
        (SELECT string_agg('SELECT * FROM ' || pyreplica.rows_of(shape, t, true) || ' x', ' UNION ALL ')
            FROM unnest(transition_tables) t),
        CASE WHEN against_old THEN
            format('LEFT JOIN %s o ON %s', pyreplica.rows_of(shape, 'old_rows'),
                pyreplica.same_key(shape, 'o', 'k', false)) END,
        pyreplica.rows_of(shape, standing), pyreplica.same_key(shape, 'm', 'k', true),
        CASE WHEN against_old THEN
            format('WHERE c.there IS NULL OR c.here IS NULL OR %s', pyreplica.changed(shape)) END)
$$;

-- The capture statements of a generation: event -> [statement, statement that restates]. The second is executed
-- when the first logs nothing.
CREATE OR REPLACE FUNCTION pyreplica.capture_statements(generation integer, shape jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    into_log constant text := 'INSERT INTO pyreplica.replica_log (segment, tab, op, key, row) ';
    -- Evaluated once a statement, at its first row: the segment; and the doorbell is rung if somebody sleeps.
    segment constant text := '(SELECT CASE WHEN d.last_value < 2 THEN d.last_value '
        'ELSE pyreplica.ring(d.last_value) END FROM pyreplica.doorbell d)::smallint';
    -- A statement trigger fires after all the row triggers, cascades and functions of its statement; what these
    -- did to the same table was logged before it. So the transition tables can be trusted only by the first
    -- capture of a table inside a client statement. The mark that says so falls back with a savepoint as the
    -- log rows do.
    mark constant text := format('pyreplica.t%s', shape ->> 'family');
    first_capture constant text := format(
        '(SELECT CASE WHEN current_setting(%1$L, true) IS DISTINCT FROM s.now '
        'THEN set_config(%1$L, s.now, false) IS NOT NULL ELSE false END '
        'FROM (SELECT interval_hash(statement_timestamp() - ''epoch''::timestamptz)::text AS now OFFSET 0) s)', mark);
    set_mark constant text := format(
        '(SELECT set_config(%1$L, interval_hash(statement_timestamp() - ''epoch''::timestamptz)::text, false) IS NOT NULL)', mark);
    table_ constant text := format('%I.%I', shape ->> 'schema', shape ->> 'table');
    standing constant text := CASE WHEN (shape ->> 'partitioned')::boolean THEN '' ELSE 'ONLY ' END || table_;
    old_ constant text := pyreplica.rows_of(shape, 'old_rows');
    new_ constant text := pyreplica.rows_of(shape, 'new_rows');
    truncated constant text := into_log
        || format('SELECT %s, %s, ''T''::"char", NULL::jsonb, NULL::jsonb', segment, generation);
    members text;
    statements jsonb;
BEGIN
    statements := jsonb_build_object(
        'INSERT', jsonb_build_array(
            into_log || format('SELECT %s, %s, ''I'', %s, %s FROM %s n WHERE %s', segment, generation,
                pyreplica.object_of(shape, true, 'n'), pyreplica.object_of(shape, false, 'n'), new_, first_capture),
            into_log || pyreplica.restating(generation, shape, standing, '{new_rows}', false, segment)),
        'DELETE', jsonb_build_array(
            into_log || format('SELECT %s, %s, ''D'', %s, NULL FROM %s o WHERE %s', segment, generation,
                pyreplica.object_of(shape, true, 'o'), old_, first_capture),
            into_log || pyreplica.restating(generation, shape, standing, '{old_rows}', false, segment)),
        -- Old and new rows come unpaired. Joined by key, a key only in old is a delete, one only in new an
        -- insert: that is how changes of the key are logged. Rows that did not change are not logged.
        'UPDATE', jsonb_build_array(
            into_log || format(
                'SELECT %s, %s, c.op, c.key, CASE c.op WHEN ''U'' THEN %s WHEN ''I'' THEN %s END '
                'FROM (SELECT CASE WHEN o.here IS NULL THEN ''I'' WHEN n.here IS NULL THEN ''D'' '
                'ELSE ''U'' END::"char" AS op, CASE WHEN n.here THEN %s ELSE %s END AS key%s%s '
                'FROM %s o FULL JOIN %s n ON %s OFFSET 0) c WHERE %s AND (c.op <> ''U'' OR %s)',
                segment, generation, pyreplica.changed_object(shape), pyreplica.object_of(shape, false, 'c'),
                pyreplica.object_of(shape, true, 'n'), pyreplica.object_of(shape, true, 'o'),
                (SELECT string_agg(', n.' || alias, '') FROM pyreplica.columns_of(shape, false)),
                pyreplica.change_flags(shape, 'o', 'n'), old_, new_, pyreplica.same_key(shape, 'o', 'n', false),
                first_capture, pyreplica.changed(shape)),
            into_log || pyreplica.restating(generation, shape, standing, '{old_rows,new_rows}', true, segment)),
        -- Rows that stand after a TRUNCATE were put there by its other triggers.
        'AFTER TRUNCATE table', jsonb_build_array(
            truncated || format(' UNION ALL SELECT %s, %s, ''i'', %s, %s FROM %s n', segment, generation,
                pyreplica.object_of(shape, true, 'n'), pyreplica.object_of(shape, false, 'n'),
                pyreplica.rows_of(shape, standing))),
        -- TRUNCATE of a partition alone takes its rows out of the root, the slave may be partitioned otherwise.
        -- TRUNCATE of the root comes here for each partition as well: nothing more to say then.
        'BEFORE TRUNCATE root', jsonb_build_array(truncated),
        'BEFORE TRUNCATE partition', jsonb_build_array(
            into_log || format('SELECT %s, %s, ''d'', %s, NULL FROM %s n WHERE NOT coalesce('
                '(SELECT l.op = ''T'' AND l.tab = %2$s FROM pyreplica.replica_log l '
                'WHERE l.txid = pg_current_xact_id() ORDER BY l.id DESC LIMIT 1), false)',
                segment, generation, pyreplica.object_of(shape, true, 'n'),
                pyreplica.rows_of(shape, '<<partition>>'))));

    IF shape -> 'children' <> 'null' THEN
        SELECT string_agg(pyreplica.restating(t.id, t.shape,
                format('ONLY %I.%I', t.shape ->> 'schema', t.shape ->> 'table'), '{<<rows>>}', false, segment),
            ' UNION ALL ' ORDER BY t.id)
        INTO members
        FROM pyreplica.replica_table t
        WHERE t.id IN (SELECT i::integer FROM jsonb_array_elements_text(capture_statements.shape -> 'children') i);
        members := format('%s SELECT * FROM (%s UNION ALL %s) u WHERE %s', into_log,
            pyreplica.restating(generation, shape, standing, '{<<rows>>}', false, segment), members, set_mark);
        statements := statements || jsonb_build_object(
            'DELETE', jsonb_build_array(replace(members, '<<rows>>', 'old_rows')),
            'UPDATE', jsonb_build_array(replace(members, '<<rows>>',
                '(SELECT * FROM old_rows UNION ALL SELECT * FROM new_rows)')));
    END IF;
    RETURN statements;
END
$$;


-- Setting tables up -------------------------------------------------------------------------------------------

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
        reason := format('it is a %s, not a table', CASE c.relkind WHEN 'v' THEN 'view'
            WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' ELSE 'relation of kind ' || c.relkind END);
    ELSIF c.relispartition THEN
        reason := format('it is a partition; add %s, its partitions come along',
            pyreplica.root_of(rel)::regclass);
    ELSIF c.relpersistence = 'u' THEN
        reason := format('it is unlogged, a crash of the master would empty it unnoticed; '
            'ALTER TABLE %I.%I SET LOGGED', c.nspname, c.relname);
    ELSIF NOT EXISTS (SELECT FROM pg_index WHERE indrelid = rel AND indisprimary) THEN
        reason := format('it has no primary key; ALTER TABLE %I.%I ADD PRIMARY KEY (...)', c.nspname, c.relname);
    ELSE
        SELECT format('its partition %s is %s', d::regclass, CASE WHEN r.relkind = 'f' THEN 'a foreign table'
            WHEN r.relpersistence = 'u' THEN 'unlogged' ELSE 'temporary' END)
        INTO reason
        FROM pyreplica.descendants(rel) d JOIN pg_class r ON r.oid = d
        WHERE r.relispartition AND (r.relkind = 'f' OR r.relpersistence <> 'p') LIMIT 1;
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

-- A table's capture triggers, whatever table they are on.
CREATE OR REPLACE VIEW pyreplica.capture_trigger AS
SELECT g.tgrelid AS relid, g.tgname AS name, g.tgenabled IN ('O', 'A') AS enabled,
    split_part(encode(g.tgargs, 'escape'), '\000', 1)::integer AS generation
FROM pg_trigger g
WHERE g.tgfoid IN ('pyreplica.capture()'::regprocedure, 'pyreplica.capture_text()'::regprocedure);

CREATE OR REPLACE FUNCTION pyreplica.drop_triggers(rel oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
BEGIN
    FOR t IN
        SELECT g.name, n.nspname, c.relname
        FROM pyreplica.capture_trigger g JOIN pg_class c ON c.oid = g.relid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE g.relid = rel
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %I.%I', t.name, t.nspname, t.relname);
    END LOOP;
END
$$;

-- Makes the capture triggers of one table. A partition logs under its root's generation.
CREATE OR REPLACE FUNCTION pyreplica.set_triggers(rel oid, generation integer, role_ text, alike boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    table_ constant text := (SELECT format('%I.%I', n.nspname, c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = rel);
    call constant text := format('FOR EACH STATEMENT EXECUTE FUNCTION pyreplica.%I (%L, ',
        CASE WHEN alike THEN 'capture' ELSE 'capture_text' END, generation);
BEGIN
    PERFORM pyreplica.drop_triggers(rel);
    EXECUTE format('CREATE TRIGGER pyreplica_insert AFTER INSERT ON %s '
        'REFERENCING NEW TABLE AS new_rows %s %L)', table_, call, role_);
    EXECUTE format('CREATE TRIGGER pyreplica_update AFTER UPDATE ON %s '
        'REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows %s %L)', table_, call, role_);
    EXECUTE format('CREATE TRIGGER pyreplica_delete AFTER DELETE ON %s '
        'REFERENCING OLD TABLE AS old_rows %s %L)', table_, call, role_);
    IF role_ IN ('root', 'partition') THEN
        EXECUTE format('CREATE TRIGGER pyreplica_before_truncate BEFORE TRUNCATE ON %s %s %L)', table_, call, role_);
    END IF;
    IF role_ IN ('root', 'table') THEN
        EXECUTE format('CREATE TRIGGER pyreplica_truncate AFTER TRUNCATE ON %s %s %L)', table_, call, 'table');
    END IF;
END
$$;

-- A captured table and its partitions, and the role of each.
CREATE OR REPLACE FUNCTION pyreplica.parts_of(root oid) RETURNS TABLE (relid oid, role_ text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid, CASE WHEN c.relkind = 'p' THEN 'root' ELSE 'table' END FROM pg_class c WHERE c.oid = root
    UNION ALL
    SELECT d, 'partition' FROM pyreplica.descendants(root) d JOIN pg_class c ON c.oid = d WHERE c.relispartition
$$;

-- Brings one table's capture in line with the catalog: a new generation and new triggers if anything it depends
-- on has changed. Answers whether it had to.
CREATE OR REPLACE FUNCTION pyreplica.refresh_table(rel oid) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shape_ constant jsonb := pyreplica.shape_of(rel);
    known pyreplica.replica_table;
    triggers_stand boolean;
    next_id integer;
    alike boolean;
    key_ text[];
BEGIN
    SELECT * INTO known FROM pyreplica.replica_table t WHERE t.relid = rel AND t.active;
    SELECT bool_and((SELECT count(*) FROM pyreplica.capture_trigger g
            WHERE g.relid = p.relid AND g.enabled AND g.generation = known.id)
            = CASE p.role_ WHEN 'root' THEN 5 ELSE 4 END)
    INTO triggers_stand FROM pyreplica.parts_of(rel) p;
    IF known.shape = shape_ AND triggers_stand THEN
        RETURN false;
    END IF;
    SELECT coalesce(array_agg(name), '{}') INTO key_ FROM pyreplica.columns_of(shape_, true);
    SELECT bool_and((c ->> 'alike')::boolean) INTO alike FROM jsonb_array_elements(shape_ -> 'columns') c;
    UPDATE pyreplica.replica_table SET active = false WHERE relid = rel AND active;
    next_id := nextval(pg_get_serial_sequence('pyreplica.replica_table', 'id'));
    INSERT INTO pyreplica.replica_table
        (id, relid, schema_name, table_name, key_columns, columns, shape, statements)
    OVERRIDING SYSTEM VALUE
    SELECT next_id, rel, shape_ ->> 'schema', shape_ ->> 'table', key_,
        ARRAY(SELECT c ->> 'name' FROM jsonb_array_elements(shape_ -> 'columns') WITH ORDINALITY e(c, n)
            WHERE NOT (c ->> 'generated')::boolean ORDER BY n),
        shape_,
        CASE WHEN key_ = '{}' THEN '{}' ELSE pyreplica.capture_statements(next_id, shape_) END;
    PERFORM pyreplica.set_triggers(p.relid, next_id, p.role_, alike) FROM pyreplica.parts_of(rel) p;
    RETURN true;
END
$$;

-- The same for all tables, parents after their children.
CREATE OR REPLACE FUNCTION pyreplica.refresh() RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t record;
    refreshed integer := 0;
BEGIN
    -- our own statements must not come back here through the event trigger
    PERFORM set_config('pyreplica.refreshing', 'on', true);
    -- tables that are gone, and partitions that were detached but still log under their old root
    UPDATE pyreplica.replica_table r SET active = false
    WHERE active AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.relid);
    PERFORM pyreplica.drop_triggers(g.relid)
    FROM (SELECT DISTINCT relid FROM pyreplica.capture_trigger) g
    WHERE NOT EXISTS (SELECT FROM pyreplica.replica_table r
        WHERE r.active AND r.relid = pyreplica.root_of(g.relid));
    FOR t IN
        SELECT relid FROM pyreplica.replica_table r WHERE active
        ORDER BY (SELECT count(*) FROM pyreplica.descendants(r.relid)), relid
    LOOP
        refreshed := refreshed + pyreplica.refresh_table(t.relid)::integer;
    END LOOP;
    PERFORM set_config('pyreplica.refreshing', '', true);
    RETURN refreshed;
END
$$;

-- DDL by anybody keeps the capture right, with the rights of who installed PyReplica.
CREATE OR REPLACE FUNCTION pyreplica.follow_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ours text;
BEGIN
    IF coalesce(current_setting('pyreplica.refreshing', true), '') = 'on' THEN
        RETURN;
    END IF;
    IF TG_EVENT = 'sql_drop' THEN
        SELECT o.object_identity INTO ours FROM pg_event_trigger_dropped_objects() o
        WHERE o.original AND o.object_type = 'trigger' AND o.address_names[3] LIKE 'pyreplica\_%'
        LIMIT 1;
        IF ours IS NOT NULL THEN
            RAISE EXCEPTION 'trigger % captures changes for PyReplica and cannot be dropped', ours
                USING HINT = 'Stop replicating the table with pyreplica.remove_table().';
        END IF;
        IF NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() o
            WHERE o.classid IN ('pg_class'::regclass, 'pg_constraint'::regclass) AND NOT o.is_temporary)
        THEN
            RETURN;
        END IF;
    ELSIF NOT EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c WHERE c.schema_name IS DISTINCT FROM 'pg_temp') THEN
        RETURN;
    END IF;
    IF TG_TAG = 'ALTER TABLE' THEN
        SELECT format('%s on %s', g.name, g.relid::regclass) INTO ours
        FROM pyreplica.capture_trigger g WHERE NOT g.enabled LIMIT 1;
        IF ours IS NOT NULL THEN
            RAISE EXCEPTION 'trigger % captures changes for PyReplica and cannot be disabled', ours
                USING HINT = 'Changes made meanwhile would be lost for the slaves. '
                    'Stop replicating the table with pyreplica.remove_table(), or disable other triggers by name.';
        END IF;
    END IF;
    PERFORM pyreplica.refresh();
END
$$;

CREATE OR REPLACE FUNCTION pyreplica.add_table("table" regclass) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel constant oid := "table"::oid;
    refused text;
BEGIN
    SELECT r.reason INTO refused FROM pyreplica.refusal(rel) r;
    IF refused IS NOT NULL THEN
        RETURN format('%s: not added: %s', "table", refused);
    END IF;
    PERFORM set_config('pyreplica.refreshing', 'on', true);
    IF EXISTS (SELECT FROM pyreplica.replica_table WHERE relid = rel AND active) THEN
        refused := format('%s: is added already%s', "table",
            CASE WHEN pyreplica.refresh_table(rel) THEN ', its triggers were renewed' END);
        PERFORM set_config('pyreplica.refreshing', '', true);
        RETURN refused;
    END IF;
    PERFORM pyreplica.refresh_table(rel);
    PERFORM pyreplica.refresh();   -- the tables that it inherits from
    RETURN format('%s: added, key (%s)', "table", (SELECT array_to_string(key_columns, ', ')
        FROM pyreplica.replica_table WHERE relid = rel AND active));
END
$$;

CREATE OR REPLACE FUNCTION pyreplica.remove_table("table" regclass) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE pyreplica.replica_table SET active = false WHERE relid = "table"::oid AND active;
    IF NOT FOUND THEN
        RETURN format('%s: not removed: it was not added', "table");
    END IF;
    PERFORM pyreplica.refresh();
    RETURN format('%s: removed; what was logged before still goes to the slaves', "table");
END
$$;

-- Every table that somebody may want replicated, and why it cannot be (null: it can).
CREATE OR REPLACE FUNCTION pyreplica.candidates(schema text DEFAULT NULL)
RETURNS TABLE (relid oid, schema_name text, table_name text, added boolean, reason text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.oid, n.nspname, c.relname,
        EXISTS (SELECT FROM pyreplica.replica_table t WHERE t.relid = c.oid AND t.active), r.reason
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pyreplica.refusal(c.oid) r
    WHERE c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND NOT r.passed_over
        AND n.nspname NOT LIKE 'pg\_%' AND (schema IS NULL OR n.nspname = schema)
    ORDER BY n.nspname, c.relname
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


-- What the daemon calls ---------------------------------------------------------------------------------------

-- Sets or clears the bit of a sleeping daemon. Daemons exclude each other; writers only read.
CREATE OR REPLACE FUNCTION pyreplica.set_doorbell(slave_bit integer, sleeping boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('pyreplica.doorbell'));
    PERFORM setval('pyreplica.doorbell', CASE WHEN sleeping THEN d.last_value | (1::bigint << slave_bit)
        ELSE d.last_value & ~(1::bigint << slave_bit) END)
    FROM pyreplica.doorbell d;
END
$$;

-- Log upkeep. The log has two segments; writers fill one. When it has grown past `rotate_at` bytes, they are told
-- to fill the other. A writer that read the old answer is in the snapshot taken after that, so once every slave
-- has confirmed a snapshot in which all of those have ended, the old segment is truncated. Nobody waits for
-- anybody: what is locked now is left for next time. Answers "switched", "waiting" (for a slave to confirm),
-- "truncated", or null when there was nothing to do.
CREATE OR REPLACE FUNCTION pyreplica.rotate_log(rotate_at bigint) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    retired pyreplica.replica_retired;
    confirmed xid8;
    current_segment smallint;
BEGIN
    -- a slave that is being added was seen here, or waits for us
    LOCK TABLE pyreplica.replica_slave IN SHARE ROW EXCLUSIVE MODE NOWAIT;
    confirmed := coalesce((SELECT min(pg_snapshot_xmin(snapshot)::text::numeric)::text::xid8
        FROM pyreplica.replica_slave), pg_snapshot_xmin(pg_current_snapshot()));
    DELETE FROM pyreplica.replica_tick WHERE xmax_ < confirmed;
    SELECT * INTO retired FROM pyreplica.replica_retired;
    IF FOUND THEN
        IF confirmed < pg_snapshot_xmax(retired.snapshot) THEN
            RETURN 'waiting';
        END IF;
        EXECUTE format('LOCK TABLE ONLY pyreplica.replica_log_%s IN ACCESS EXCLUSIVE MODE NOWAIT', retired.segment);
        EXECUTE format('TRUNCATE pyreplica.replica_log_%s', retired.segment);
        DELETE FROM pyreplica.replica_retired;
        RETURN 'truncated';
    END IF;
    SELECT d.last_value & 1 INTO current_segment FROM pyreplica.doorbell d;
    IF pg_relation_size(format('pyreplica.replica_log_%s', current_segment)::regclass) < rotate_at THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('pyreplica.doorbell'));
    PERFORM setval('pyreplica.doorbell', d.last_value # 1) FROM pyreplica.doorbell d;
    -- a new statement has a new snapshot, taken after the switch
    INSERT INTO pyreplica.replica_retired VALUES (current_segment, pg_current_snapshot());
    RETURN 'switched';
EXCEPTION
    WHEN lock_not_available THEN
        RETURN NULL;
END
$$;

REVOKE ALL ON SCHEMA pyreplica FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA pyreplica FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA pyreplica FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pyreplica FROM PUBLIC;

DROP EVENT TRIGGER IF EXISTS pyreplica_ddl;
DROP EVENT TRIGGER IF EXISTS pyreplica_drop;
DO $$ BEGIN PERFORM pyreplica.refresh(); END $$;
CREATE EVENT TRIGGER pyreplica_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER SCHEMA', 'ALTER TYPE',
        'ALTER DOMAIN', 'CREATE INDEX', 'ALTER INDEX')
    EXECUTE FUNCTION pyreplica.follow_ddl();
CREATE EVENT TRIGGER pyreplica_drop ON sql_drop EXECUTE FUNCTION pyreplica.follow_ddl();

COMMIT;
