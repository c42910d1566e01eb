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
    version_here constant integer := 2;   -- the same number as at the end of this script
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
SELECT 'master', 2, NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'plpython3u')
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

-- Version 2.
ALTER TABLE pyreplica.replica_slave
    -- the log is kept from here on as well, while a table is being added to the replication
    ADD COLUMN IF NOT EXISTS held pg_snapshot,
    -- whether it wants DDL that was not run by `pyreplica execute`
    ADD COLUMN IF NOT EXISTS ddl boolean NOT NULL DEFAULT false;

CREATE OR REPLACE VIEW pyreplica.changes AS
SELECT l.id, l.txid, l.at, format('%I.%I', t.schema_name, t.table_name) AS "table", l.op, l.key, l.row
FROM pyreplica.replica_log l JOIN pyreplica.replica_table t ON t.id = l.tab;
COMMENT ON VIEW pyreplica.changes IS 'the log with the names of the tables, to be read by people';


-- Capture -----------------------------------------------------------------------------------------------------

-- Called by the capture statements while a bit of the doorbell is set; answers the segment to write. A transaction
-- that rang cannot be prepared: who uses PREPARE TRANSACTION says `SET pyreplica.notify = off`, for instance with
-- ALTER ROLE, and is then noticed when the daemon next looks by itself.
CREATE OR REPLACE FUNCTION pyreplica.ring(doorbell bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('pyreplica.notify', true) IS DISTINCT FROM 'off' THEN
        PERFORM pg_notify('pyreplica', '');
    END IF;
    RETURN doorbell & 1;
END
$$;

-- The trigger function. It exists twice with the same body: capture() for tables whose columns print the same
-- under every setting, capture_text() for the others, which pins the settings (each costs some tenths of a
-- microsecond a statement).
DO $do$
DECLARE
    body constant text := $body$
# SD belongs to this function, this session and this table. The statements are built when the table is set up;
# all that happens here is to execute the plan of the event.
generation = TD["args"][0]
event = TD["event"] if TD["event"] != "TRUNCATE" else TD["when"] + " TRUNCATE " + TD["args"][1]
cached = SD.get(event)
if cached is None or cached[0] != generation:
    found = plpy.execute(
        "SELECT schema_name, table_name, ARRAY(SELECT jsonb_array_elements_text(statements -> '%s')) AS sql "
        "FROM pyreplica.replica_table WHERE id = %d" % (event, int(generation))
    )
    if not found:
        # triggers are seen as they are now, rows as they were at the transaction's snapshot
        plpy.error(
            "could not serialize access: the capture of table %s.%s was set up during the transaction"
            % (TD["table_schema"], TD["table_name"]),
            hint="Try the transaction again. Does that not help, then the record of it was deleted: "
            "SELECT pyreplica.add_table('%s.%s')." % (TD["table_schema"], TD["table_name"]),
            sqlstate="40001",
        )
    statements = found[0]["sql"]
    if not statements:
        plpy.error(
            "table %s.%s is replicated and has lost its primary key"
            % (found[0]["schema_name"], found[0]["table_name"]),
            hint="Give it a primary key, or stop replicating it: SELECT pyreplica.remove_table('%s.%s')."
            % (found[0]["schema_name"], found[0]["table_name"]),
        )
    if event == "BEFORE TRUNCATE partition":
        table = plpy.quote_ident(TD["table_schema"]) + "." + plpy.quote_ident(TD["table_name"])
        statements = ["WITH this_partition AS (TABLE " + table + ") " + s for s in statements]
    cached = SD[event] = (generation, [plpy.prepare(s) for s in statements])

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
        'SET extra_float_digits = 1 SET bytea_output = hex SET lc_monetary = ''C'' SET xmlbinary = base64 '
        'SET quote_all_identifiers = off';
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

-- The type that a domain is made over; any other type is its own.
CREATE OR REPLACE FUNCTION pyreplica.base_of(typ oid) RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE under(typ) AS (
        SELECT base_of.typ
        UNION ALL
        SELECT t.typbasetype FROM under u JOIN pg_type t ON t.oid = u.typ WHERE t.typtype = 'd'
    )
    SELECT u.typ FROM under u JOIN pg_type t ON t.oid = u.typ WHERE t.typtype <> 'd'
$$;

-- How an expression becomes a value of that type; a template for format(). Functions and operators that somebody
-- has made for his domain do not get hold of it then; they would run with our rights.
CREATE OR REPLACE FUNCTION pyreplica.as_base(typ oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN base = typ THEN '%s' ELSE '(%s)::' || replace(format_type(base, -1), '%', '%%') END
    FROM pyreplica.base_of(typ) base
$$;

-- How an expression becomes the text that the type's own output function makes of it; a template. Never a cast: a
-- cast to text can be another function (bpchar's drops blanks) or one that somebody defined, which would then run
-- with our rights.
CREATE OR REPLACE FUNCTION pyreplica.printed(typ oid) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    base constant oid := pyreplica.base_of(typ);
    value text := pyreplica.as_base(typ);
    t record;
BEGIN
    IF base = 'text'::regtype THEN
        RETURN value;
    END IF;
    SELECT format('%I.%I', n.nspname, p.proname) AS output, p.proargtypes[0] AS printable INTO t
    FROM pg_type y JOIN pg_proc p ON p.oid = y.typoutput JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE y.oid = base;
    IF t.printable <> base AND (SELECT typtype FROM pg_type WHERE oid = t.printable) <> 'p' THEN
        -- a type that borrows the output function of one with the same representation (refcursor: text)
        value := format('(%s)::%s', value, replace(format_type(t.printable, -1), '%', '%%'));
    END IF;
    RETURN format('textin(%s(%s))', replace(t.output, '%', '%%'), value);
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

-- The tables that a statement on one of them may change through inheritance or partitioning; itself, too.
CREATE OR REPLACE FUNCTION pyreplica.family_of(rel oid) RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE family(relid) AS (
        SELECT rel
        UNION
        SELECT i.relid FROM family f, LATERAL (
            SELECT inhparent FROM pg_inherits WHERE inhrelid = f.relid
            UNION ALL
            SELECT inhrelid FROM pg_inherits WHERE inhparent = f.relid) i(relid)
    )
    SELECT relid FROM family
$$;

-- What the capture of a table depends on; null when there is no such table.
CREATE OR REPLACE FUNCTION pyreplica.shape_of(rel oid) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off AS $$
    SELECT jsonb_build_object(
        'schema', n.nspname,
        'table', c.relname,
        'partitioned', c.relkind = 'p',
        -- tables of one family share a mark, see first_capture below; partitions have their root's statements
        'family', CASE WHEN c.relkind = 'p' THEN c.oid::bigint
            ELSE (SELECT min(f)::bigint FROM pyreplica.family_of(c.oid) f) END,
        -- whether two rows of one key may stand at the same time, until the constraint is checked
        'deferrable', NOT i.indimmediate,
        -- whether foreign keys update it: they may do so several times to a row in one statement
        'cascaded', EXISTS (
            SELECT FROM pg_constraint f
            WHERE f.contype = 'f' AND (f.confupdtype IN ('c', 'n', 'd') OR f.confdeltype IN ('n', 'd'))
                AND f.conrelid IN (SELECT c.oid UNION ALL SELECT pyreplica.descendants(c.oid))),
        'columns', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'name', a.attname, 'type', a.atttypid::bigint, 'typmod', a.atttypmod,
                'generated', a.attgenerated <> '', 'alike', pyreplica.prints_alike(a.atttypid),
                'same', pyreplica.equal_is_same(a.atttypid, a.attcollation),
                'base', pyreplica.as_base(a.atttypid), 'printed', pyreplica.printed(a.atttypid),
                'key', k.position, 'equal', (
                    -- the index's own equality, for looking rows up by key
                    SELECT format('OPERATOR(%I.%s)', opn.nspname, op.oprname)
                    FROM pg_opclass oc JOIN pg_amop ao ON ao.amopfamily = oc.opcfamily
                        AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
                        AND ao.amopstrategy = 3
                    JOIN pg_operator op ON op.oid = ao.amopopr JOIN pg_namespace opn ON opn.oid = op.oprnamespace
                    WHERE oc.oid = i.indclass[k.position - 1]))
                ORDER BY a.attnum), '[]')
            FROM pg_attribute a
            LEFT JOIN LATERAL (
                SELECT u.position FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(attnum, position)
                WHERE u.attnum = a.attnum AND u.position <= i.indnkeyatts
            ) k ON true
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        -- the replicated ones of the tables that inherit from it (not partitions), null where there are none at
        -- all: a statement on the parent changes their rows too, and its transition tables do not say whose row
        -- is whose
        'children', CASE WHEN c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) THEN (
            SELECT coalesce(jsonb_agg(t.id ORDER BY t.id), '[]')
            FROM pyreplica.descendants(c.oid) d JOIN pyreplica.replica_table t ON t.relid = d AND t.active) END)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
    WHERE c.oid = rel
$$;

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

-- A jsonb object of the key's or the other columns' values as text, out of the row with the alias `source`.
CREATE OR REPLACE FUNCTION pyreplica.object_of(shape jsonb, of_key boolean, source text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN count(*) = 0 THEN quote_literal('{}') || '::jsonb' ELSE
        format('jsonb_object(%L::text[], ARRAY[%s])', array_agg(name),
            string_agg(format(printed, source || '.' || alias), ', ')) END
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
            string_agg(format('CASE WHEN c.changed_%s THEN %s END', alias, format(printed, 'c.' || alias)), ', '),
            string_agg(format('CASE WHEN NOT c.changed_%s THEN %L END', alias, name), ', ')) END
    FROM pyreplica.columns_of(shape, false)
$$;

-- SELECT of log rows that restate a table: for each key in the relation `touched` the row as it stands now, or
-- that there is none. With `against_old`, after an UPDATE, only the columns that changed; but the whole row of a key
-- that was touched more than once, where the old row may be one that was never logged.
--
-- The plan is made for the first statement of a session, often of a single row, and kept for one of a million. So it
-- must not depend on the number of rows: a FULL JOIN is never a nested loop, a LATERAL one always is.
CREATE OR REPLACE FUNCTION pyreplica.restating(
    generation integer, shape jsonb, standing text, touched text, against_old boolean, segment text
) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(
        'SELECT %s, %s, CASE WHEN c.here IS NULL THEN ''d'' %s ELSE ''i'' END::"char", c.key, '
        'CASE WHEN c.here IS NULL THEN NULL %s ELSE %s END '
        'FROM (SELECT %s AS key, m.* %s '
        'FROM (SELECT %s, count(*) AS images FROM %s t GROUP BY %s) k '
        '%s LEFT JOIN LATERAL (SELECT * FROM %s m WHERE %s OFFSET 0) m ON true OFFSET 0) c %s',
        segment, generation,
        CASE WHEN against_old THEN 'WHEN c.there THEN ''u''' END,
        CASE WHEN against_old THEN 'WHEN c.there THEN ' || pyreplica.changed_object(shape) END,
        pyreplica.object_of(shape, false, 'c'),
        pyreplica.object_of(shape, true, 'k'),
        CASE WHEN against_old THEN
            ', o.here AND k.images <= 2 AS there' || pyreplica.change_flags(shape, 'o', 'm') END,
        (SELECT string_agg('t.' || alias, ', ') FROM pyreplica.columns_of(shape, true)),
        pyreplica.rows_of(shape, touched, true), pyreplica.key_groups(shape, 't'),
        CASE WHEN against_old THEN
            format('FULL JOIN %s o ON %s', pyreplica.rows_of(shape, 'old_rows'),
                pyreplica.same_key(shape, 'o', 'k', false)) END,
        pyreplica.rows_of(shape, standing), pyreplica.same_key(shape, 'm', 'k', true),
        CASE WHEN against_old THEN
            format('WHERE c.there IS NOT TRUE OR c.here IS NULL OR %s', pyreplica.changed(shape)) END)
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
    set_mark constant text := format('(SELECT set_config(%L, '
        'interval_hash(statement_timestamp() - ''epoch''::timestamptz)::text, false) IS NOT NULL)', mark);
    table_ constant text := format('%I.%I', shape ->> 'schema', shape ->> 'table');
    standing constant text := CASE WHEN (shape ->> 'partitioned')::boolean THEN '' ELSE 'ONLY ' END || table_;
    old_ constant text := pyreplica.rows_of(shape, 'old_rows');
    new_ constant text := pyreplica.rows_of(shape, 'new_rows');
    old_and_new constant text := 'WITH touched AS (TABLE old_rows UNION ALL TABLE new_rows) ';
    -- Foreign keys may update a row that the statement has updated before, or they themselves: the transition
    -- tables then hold several images of it, and nothing tells which is the last.
    first_update constant text := CASE WHEN (shape ->> 'cascaded')::boolean THEN
        format('(SELECT CASE WHEN %s THEN NOT EXISTS (%s) AND NOT EXISTS (%s) ELSE false END)', first_capture,
            pyreplica.repeated_keys(shape, 'old_rows'), pyreplica.repeated_keys(shape, 'new_rows'))
        ELSE first_capture END;
    truncated constant text := into_log
        || format('SELECT %s, %s, ''T''::"char", NULL::jsonb, NULL::jsonb', segment, generation);
    restated text;
    statements jsonb;
BEGIN
    statements := jsonb_build_object(
        'INSERT', jsonb_build_array(
            into_log || format('SELECT %s, %s, ''I'', %s, %s FROM %s n WHERE %s', segment, generation,
                pyreplica.object_of(shape, true, 'n'), pyreplica.object_of(shape, false, 'n'), new_, first_capture),
            into_log || pyreplica.restating(generation, shape, standing, 'new_rows', false, segment)),
        'DELETE', jsonb_build_array(
            into_log || format('SELECT %s, %s, ''D'', %s, NULL FROM %s o WHERE %s', segment, generation,
                pyreplica.object_of(shape, true, 'o'), old_, first_capture),
            into_log || pyreplica.restating(generation, shape, standing, 'old_rows', false, segment)),
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
                first_update, pyreplica.changed(shape)),
            old_and_new || into_log || pyreplica.restating(generation, shape, standing, 'touched', true, segment)),
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
                -- the trigger function says which one that is
                pyreplica.rows_of(shape, 'this_partition'))));

    -- Where the transition tables do not tell which rows stand under a key afterwards, or whose they are, the
    -- table alone is asked.
    IF (shape ->> 'deferrable')::boolean OR shape -> 'children' <> 'null' THEN
        SELECT string_agg(pyreplica.restating(m.id, m.shape, m.standing, 'touched', false, segment), ' UNION ALL ')
        INTO restated
        FROM (
            SELECT generation, capture_statements.shape, standing
            UNION ALL
            SELECT t.id, t.shape, format('ONLY %I.%I', t.shape ->> 'schema', t.shape ->> 'table')
            FROM pyreplica.replica_table t
            WHERE capture_statements.shape -> 'children' @> to_jsonb(t.id)
        ) m(id, shape, standing);
        restated := format('%s SELECT * FROM (%s) u WHERE %s', into_log, restated, set_mark);
        statements := statements || jsonb_build_object(
            'DELETE', jsonb_build_array('WITH touched AS (TABLE old_rows) ' || restated),
            'UPDATE', jsonb_build_array(old_and_new || restated));
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
    THEN
        reason := format('there are names with other letters than ASCII''s in its definition, and PL/Python cannot '
            'prepare statements with such in a database with the encoding %s', getdatabaseencoding());
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
    PERFORM set_config('pyreplica.refreshing', 'on', true);   -- follow_ddl() is not to follow this
    FOR t IN
        SELECT g.name, n.nspname, c.relname
        FROM pyreplica.capture_trigger g JOIN pg_class c ON c.oid = g.relid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE g.relid = rel
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %I.%I', t.name, t.nspname, t.relname);
    END LOOP;
    PERFORM set_config('pyreplica.refreshing', '', true);
END
$$;

-- Makes the capture triggers of one table. A partition logs under its root's generation.
CREATE OR REPLACE FUNCTION pyreplica.set_triggers(rel oid, role_ text, generation integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    table_ constant text := (SELECT format('%I.%I', n.nspname, c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = rel);
    alike constant boolean := (SELECT bool_and((c ->> 'alike')::boolean)
        FROM pyreplica.replica_table t, jsonb_array_elements(t.shape -> 'columns') c WHERE t.id = generation);
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

-- What of a captured table has not all its triggers.
CREATE OR REPLACE FUNCTION pyreplica.unset_parts(generation integer) RETURNS TABLE (relid oid, role_ text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.relid, p.role_ FROM pyreplica.replica_table t, pyreplica.parts_of(t.relid) p
    WHERE t.id = unset_parts.generation
        AND (SELECT count(*) FROM pyreplica.capture_trigger g
            WHERE g.relid = p.relid AND g.enabled AND g.generation = t.id)
        <> CASE p.role_ WHEN 'root' THEN 5 ELSE 4 END
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
BEGIN
    UPDATE pyreplica.replica_table SET active = false WHERE relid = rel AND active;
    INSERT INTO pyreplica.replica_table
        (id, relid, schema_name, table_name, key_columns, columns, shape, statements)
    OVERRIDING SYSTEM VALUE
    SELECT next_id, rel, shape_ ->> 'schema', shape_ ->> 'table', key_,
        ARRAY(SELECT c ->> 'name' FROM jsonb_array_elements(shape_ -> 'columns') WITH ORDINALITY e(c, n)
            WHERE NOT (c ->> 'generated')::boolean ORDER BY n),
        shape_,
        CASE WHEN key_ = '{}' THEN '{}' ELSE pyreplica.capture_statements(next_id, shape_) END;
    PERFORM pyreplica.set_triggers(p.relid, p.role_, next_id) FROM pyreplica.parts_of(rel) p;
END
$$;

-- Sessions that change captures do so one after another: side by side, each would build on what the other is
-- changing. Nobody else waits for this lock.
CREATE OR REPLACE FUNCTION pyreplica.lock_captures() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE pyreplica.replica_table IN SHARE ROW EXCLUSIVE MODE;
END
$$;

-- Brings captures in line with the catalog after the definitions of some tables have changed, or of any (null).
-- Answers how many it had to change.
CREATE OR REPLACE FUNCTION pyreplica.refresh(changed oid[] DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- detached partitions that still log under their old root, and removed tables
    strays constant oid[] := ARRAY(
        SELECT DISTINCT g.relid FROM pyreplica.capture_trigger g JOIN pg_class c ON c.oid = g.relid
        WHERE NOT EXISTS (SELECT FROM pyreplica.replica_table r WHERE r.active
            AND r.relid = CASE WHEN c.relispartition THEN pyreplica.root_of(g.relid) ELSE g.relid END));
    concerned constant oid[] := ARRAY(
        SELECT r.relid FROM pyreplica.replica_table r
        WHERE r.active AND (changed IS NULL
            OR r.relid IN (SELECT pyreplica.family_of(c) FROM unnest(changed) c)
            -- it had a child that is gone or does not inherit any more
            OR EXISTS (SELECT FROM pyreplica.replica_table t
                WHERE t.relid = ANY (changed) AND r.shape -> 'children' @> to_jsonb(t.id))));
    t record;
    brought integer := 0;
BEGIN
    IF strays = '{}' AND NOT EXISTS (SELECT FROM pyreplica.replica_table r
        WHERE r.active AND r.relid = ANY (concerned) AND NOT pyreplica.stands(r.id))
    THEN
        RETURN 0;
    END IF;
    PERFORM pyreplica.lock_captures();
    UPDATE pyreplica.replica_table r SET active = false
    WHERE r.active AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.relid);
    PERFORM pyreplica.drop_triggers(s) FROM unnest(strays) s;
    -- parents after their children, whose generations they name
    FOR t IN
        SELECT r.relid, r.id, r.shape FROM pyreplica.replica_table r
        WHERE r.active AND r.relid = ANY (concerned)
        ORDER BY (SELECT count(*) FROM pyreplica.descendants(r.relid)), r.relid
    LOOP
        CONTINUE WHEN pyreplica.stands(t.id);
        IF t.shape = pyreplica.shape_of(t.relid) THEN
            -- a new partition; the others and who writes to them are left in peace
            PERFORM pyreplica.set_triggers(p.relid, p.role_, t.id) FROM pyreplica.unset_parts(t.id) p;
        ELSE
            PERFORM pyreplica.build(t.relid);
        END IF;
        brought := brought + 1;
    END LOOP;
    RETURN brought;
END
$$;

-- DDL by anybody keeps the capture right, with the rights of who installed PyReplica.
CREATE OR REPLACE FUNCTION pyreplica.follow_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed oid[];
    ours text;
    refused record;
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
        changed := ARRAY(
            SELECT CASE WHEN o.classid = 'pg_class'::regclass THEN o.objid
                -- a trigger may be ours in spite of its name: they can be renamed
                ELSE to_regclass(format('%I.%I', o.address_names[1], o.address_names[2]))::oid END
            FROM pg_event_trigger_dropped_objects() o
            WHERE NOT o.is_temporary
                AND (o.classid = 'pg_class'::regclass OR o.object_type IN ('table constraint', 'trigger')));
    ELSIF TG_TAG NOT IN ('ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN', 'ALTER EXTENSION') THEN
        changed := ARRAY(
            SELECT c.objid FROM pg_event_trigger_ddl_commands() c
            WHERE c.classid = 'pg_class'::regclass AND (c.schema_name IS DISTINCT FROM 'pg_temp'
                OR EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.objid)));
        SELECT r.relid::regclass AS name, f.reason INTO refused
        FROM pyreplica.replica_table r, pyreplica.refusal(r.relid) f
        WHERE r.active AND r.relid IN (SELECT pyreplica.family_of(c) FROM unnest(changed) c)
            AND f.reason IS NOT NULL
            -- who takes the primary key away may be about to make another; until then nobody can write
            AND EXISTS (SELECT FROM pg_index i WHERE i.indrelid = r.relid AND i.indisprimary)
        LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'table % is replicated, but could not be any more: %', refused.name, refused.reason
                USING HINT = format('If this is meant, stop replicating it first: SELECT pyreplica.remove_table(%L).',
                    refused.name);
        END IF;
    END IF;
    IF changed = '{}' THEN
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
    PERFORM pyreplica.refresh(changed);
END
$$;

CREATE OR REPLACE FUNCTION pyreplica.add_table("table" regclass) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
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

-- Whether a segment of the log holds a change that some slave has not confirmed. What is older than all that was
-- running when a slave confirmed need not be looked at.
CREATE OR REPLACE FUNCTION pyreplica.is_awaited(segment regclass) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    awaited boolean;
BEGIN
    EXECUTE format(
        'SELECT EXISTS (SELECT FROM pyreplica.replica_slave s, ONLY %s l '
        'WHERE l.txid >= pg_snapshot_xmin(s.snapshot) AND NOT pg_visible_in_snapshot(l.txid, s.snapshot))', segment)
    INTO awaited;
    RETURN awaited;
END
$$;

-- Log upkeep. The log has two segments, of which writers fill one. When that has grown past `rotate_at` bytes, they
-- are told to fill the other, and it is truncated once every slave has confirmed what is in it. Nobody waits for
-- anybody: what is locked now is left for next time. Answers "switched", "waiting" (for a slave to confirm),
-- "truncated", or null when there was nothing to do or something was locked.
CREATE OR REPLACE FUNCTION pyreplica.rotate_log(rotate_at bigint) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    written regclass;
    resting regclass;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the log cannot be rotated in a % transaction, which does not see the newest changes',
            current_setting('transaction_isolation')
            USING HINT = 'Call it in a READ COMMITTED transaction.';
    END IF;
    -- a slave that is being added was seen here, or waits for us
    LOCK TABLE pyreplica.replica_slave IN SHARE ROW EXCLUSIVE MODE NOWAIT;
    DELETE FROM pyreplica.replica_tick t
    WHERE NOT EXISTS (SELECT FROM pyreplica.replica_slave s WHERE t.xmax_ >= pg_snapshot_xmin(s.snapshot));
    SELECT format('pyreplica.replica_log_%s', b), format('pyreplica.replica_log_%s', 1 - b) INTO written, resting
    FROM (SELECT last_value & 1 AS b FROM pyreplica.doorbell) d;
    IF pg_relation_size(resting) > 0 THEN
        IF pyreplica.is_awaited(resting) THEN
            RETURN 'waiting';
        END IF;
        -- Who has written to it, before the switch or because he had read the doorbell before, has it locked until
        -- he commits: now all its changes can be seen, and no more come.
        EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE NOWAIT', resting);
        IF pyreplica.is_awaited(resting) THEN
            RETURN 'waiting';
        END IF;
        EXECUTE format('TRUNCATE ONLY %s', resting);
        RETURN 'truncated';
    END IF;
    IF pg_relation_size(written) < rotate_at THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('pyreplica.doorbell'));
    PERFORM setval('pyreplica.doorbell', d.last_value # 1) FROM pyreplica.doorbell d;
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
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE SCHEMA', 'ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN',
        'ALTER EXTENSION', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE',
        'ALTER INDEX')   -- which can rename a table, too
    EXECUTE FUNCTION pyreplica.follow_ddl();
CREATE EVENT TRIGGER pyreplica_drop ON sql_drop EXECUTE FUNCTION pyreplica.follow_ddl();

COMMIT;
