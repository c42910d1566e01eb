-- PyReplica, master side: the log, the capture, and the functions that the daemon and people call.
--
--   psql -v ON_ERROR_STOP=1 -d shop -f sql/master-install.sql
--
-- Run it as a superuser (plpython3u is an untrusted language). It is one transaction, may be run again and
-- again, and upgrades an older install. Everything lives in the schema pyreplica; nobody else gets rights on it.
-- A database that is a slave already is refused unless PGOPTIONS='-c pyreplica.both=on' says that it is meant.
-- Its parts are in the folder master beside it.



BEGIN;

SET LOCAL client_min_messages = warning;
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL standard_conforming_strings = on;

DO $$
DECLARE
    version_here constant integer := 4;   -- the same number as at the end of this script
    version_found integer;
    tries integer := 0;
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
        IF version_found < version_here THEN
            -- All that writers and daemons may hold while they wait for something that is altered below; each of them
            -- locks in an order of its own. Tried for less than deadlock_timeout, so that it is never they who fail.
            SET LOCAL lock_timeout = '200ms';
            LOOP
                BEGIN
                    LOCK TABLE pyreplica.replica_slave, pyreplica.replica_table, pyreplica.replica_log;
                    EXIT;
                EXCEPTION
                    WHEN lock_not_available THEN
                        tries := tries + 1;
                        IF tries >= 30 THEN
                            RAISE EXCEPTION 'the log of PyReplica in database % could not be locked for the upgrade',
                                current_database()
                                USING DETAIL = (
                                    SELECT 'Processes that have it locked: ' || string_agg(DISTINCT pid::text, ', ')
                                    FROM pg_locks WHERE granted AND pid <> pg_backend_pid() AND relation IN
                                        ('pyreplica.replica_slave'::regclass, 'pyreplica.replica_table'::regclass,
                                        'pyreplica.replica_log'::regclass)),
                                HINT = 'A transaction that has written replicated tables is still open; or a daemon '
                                    'reads a large backlog. Nothing was changed. Run it again when that has ended.';
                        END IF;
                        PERFORM pg_sleep(0.3);
                END;
            END LOOP;
        END IF;
    END IF;
    PERFORM set_config('pyreplica.upgraded', (version_found < version_here)::text, false);
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
SELECT 'master', 4, NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'plpython3u')
ON CONFLICT (side) DO UPDATE
    SET version = excluded.version,
        installed_at = CASE WHEN replica_version.version = excluded.version
            THEN replica_version.installed_at ELSE excluded.installed_at END;

CREATE EXTENSION IF NOT EXISTS plpython3u;

-- Their successors have one argument more, and calls would not tell them apart.
DROP FUNCTION IF EXISTS pyreplica.logging(text, text, text), pyreplica.object_of(jsonb, boolean, text);

-- The tables of the master side. A part of master-install.sql.

-- An upgrade beside daemons that run locks what they look after in the same order, rotate_log()'s.
DO $$
BEGIN
    IF to_regclass('pyreplica.replica_slave') IS NOT NULL AND NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = to_regclass('pyreplica.replica_slave') AND attname = 'dropped_at')
    THEN
        LOCK TABLE pyreplica.replica_slave;
    END IF;
END
$$;

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
    segment smallint NOT NULL,           -- from the doorbell: see pyreplica.logging()
    tab integer NOT NULL,                -- replica_table.id; 0 of a statement that is of no one table (S)
    op "char" NOT NULL,                  -- I, U, D, T, i, u, d, F, P, S: see docs/architecture.md
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

-- Version 2. Only where it is needed: ALTER TABLE makes writers and daemons wait.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'pyreplica.replica_slave'::regclass AND attname = 'holds')
    THEN
        RETURN;
    END IF;
    ALTER TABLE pyreplica.replica_table
        -- why ALTER TABLE has rewritten the table while this was its generation, and that is not in the log yet
        ADD COLUMN IF NOT EXISTS rewritten integer NOT NULL DEFAULT 0;
    ALTER TABLE pyreplica.replica_slave
        -- the log is kept from here on as well, while a table is being added to the replication
        ADD COLUMN IF NOT EXISTS held pg_snapshot,
        -- counts who asked for that; who lets go of it has to name the number
        ADD COLUMN IF NOT EXISTS holds bigint NOT NULL DEFAULT 0,
        -- whether it wants DDL that was not run by `pyreplica execute`
        ADD COLUMN IF NOT EXISTS ddl boolean NOT NULL DEFAULT false;
END
$$;

-- Where the sequence of the log's ids stood when writers were last told to fill a segment.
CREATE TABLE IF NOT EXISTS pyreplica.replica_segment (
    segment smallint PRIMARY KEY,
    since_id bigint NOT NULL
);

-- Version 3. A slave for which the log has grown past its limits is dropped: its log is not kept any more, and it needs
-- a new copy. Null is no limit.
DO $$
BEGIN
    -- ids of before the upgrade that every slave has confirmed count for nothing: that is on the safe side
    INSERT INTO pyreplica.replica_segment (segment, since_id)
    SELECT g, coalesce((SELECT min(s.log_id) FROM pyreplica.replica_slave s), i.last_value)
    FROM generate_series(0, 1) g, pyreplica.replica_log_id i
    ON CONFLICT DO NOTHING;
    IF EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'pyreplica.replica_slave'::regclass AND attname = 'dropped_at')
    THEN
        RETURN;
    END IF;
    ALTER TABLE pyreplica.replica_slave
        ADD COLUMN max_log_size bigint CHECK (max_log_size > 0),            -- bytes
        ADD COLUMN max_log_age interval CHECK (max_log_age > interval '0'),
        ADD COLUMN held_log_id bigint,   -- where the sequence of the log's ids stood at `held`
        ADD COLUMN dropped_at timestamptz,
        ADD COLUMN dropped_why text,
        DROP CONSTRAINT IF EXISTS replica_slave_state_check,
        ADD CONSTRAINT replica_slave_state_check CHECK (state IN ('copying', 'ready', 'dropped'));
    -- of an update: what stood in the columns that changed, as text, but for long values
    ALTER TABLE pyreplica.replica_log ADD COLUMN IF NOT EXISTS old jsonb;
END
$$;

-- The one language in which tables are captured: set_capture().
CREATE TABLE IF NOT EXISTS pyreplica.replica_capture (
    language text NOT NULL CHECK (language IN ('plpython3u', 'plpgsql')),
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only)
);
INSERT INTO pyreplica.replica_capture (language) VALUES ('plpython3u') ON CONFLICT DO NOTHING;

-- What tells our own DDL from that of others: is_refreshing(). A row is deleted in the transaction that has inserted it,
-- so nobody else ever sees one.
CREATE TABLE IF NOT EXISTS pyreplica.replica_secret (secret uuid NOT NULL);

-- Whoever has it locked may change the doorbell. Nothing is ever in it.
CREATE TABLE IF NOT EXISTS pyreplica.replica_bell ();

-- The partitions of the captured tables: when one is attached, detached or dropped, its rows come and go unnoticed by
-- any trigger.
CREATE TABLE IF NOT EXISTS pyreplica.replica_partition (
    relid oid PRIMARY KEY,
    root oid NOT NULL,
    bound text                           -- which rows are in it; null where the columns alone do not say that
);

CREATE OR REPLACE VIEW pyreplica.changes AS
SELECT l.id, l.txid, l.at,
    CASE WHEN t.id IS NOT NULL THEN format('%I.%I', t.schema_name, t.table_name) END AS "table", l.op, l.key, l.row,
    l.old
FROM pyreplica.replica_log l LEFT JOIN pyreplica.replica_table t ON t.id = l.tab;
COMMENT ON VIEW pyreplica.changes IS 'the log with the names of the tables, to be read by people';

-- Capture: the trigger function, and what it calls. A part of master-install.sql.

-- Whether this session's writes ring. A transaction that has executed NOTIFY cannot be prepared. So where the
-- server takes PREPARE TRANSACTION nobody rings, unless pyreplica.notify says that no application here uses it,
-- and the daemon looks at the log by itself. `SET pyreplica.notify = off`, for instance with ALTER ROLE, is for
-- those who prepare transactions where the others ring.
CREATE OR REPLACE FUNCTION pyreplica.rings() RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    said constant text := lower(current_setting('pyreplica.notify', true));
BEGIN
    RETURN CASE
        WHEN said IN ('on', 'true', 'yes', '1') THEN true
        WHEN said IN ('off', 'false', 'no', '0') THEN false
        ELSE current_setting('max_prepared_transactions') = '0' END;
END
$$;

-- Called by the capture statements while a bit of the doorbell is set; answers the segment to write. It rings for each
-- statement, not once a transaction: a savepoint that is rolled back takes its NOTIFY with it, and PostgreSQL leaves
-- out copies. All databases of the server share one queue of notifications, which a listener that is stuck fills; when
-- it is full, each transaction that has executed NOTIFY fails. So from the half on, where PostgreSQL begins to warn,
-- nobody rings, and the daemons look once each keepalive.
CREATE OR REPLACE FUNCTION pyreplica.ring(doorbell bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF pyreplica.rings() AND pg_notification_queue_usage() < 0.5 THEN
        PERFORM pg_notify('pyreplica', '');
    END IF;
    RETURN doorbell & 1;
END
$$;

-- Whether a large row of the log can be read again, with COPY as well, which writes a backslash twice. PostgreSQL puts
-- no text together that is longer than 1 GB, and raises the same error by itself on the way there.
CREATE OR REPLACE FUNCTION pyreplica.is_printable(row_ jsonb) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    printed constant text := row_::text;
    bytes constant bigint := 2 * octet_length(printed)::bigint - octet_length(replace(printed, '\', ''));
BEGIN
    IF bytes > 1060000000 THEN
        RAISE EXCEPTION 'the row takes % bytes when it is printed', bytes USING ERRCODE = 'program_limit_exceeded';
    END IF;
    RETURN true;
END
$$;

-- The trigger function. It exists twice with the same body: capture() for tables whose columns print the same
-- under every setting, capture_text() for the others, which pins the settings at the end of this script (each costs
-- some tenths of a microsecond a statement).
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
try:
    for plan in cached[1]:
        logged = plpy.execute(plan).nrows()
        if logged:
            break
except (plpy.spiexceptions.ProgramLimitExceeded, plpy.spiexceptions.InternalError) as error:
    # 54000 is what jsonb says of it, XX000 what the allocation of more than 1 GB says
    if isinstance(error, plpy.spiexceptions.InternalError) and "alloc request size" not in str(error):
        raise
    plpy.error(
        "a row of table %s.%s is too large to be replicated: its values are longer as text than the log can hold"
        % (TD["table_schema"], TD["table_name"]),
        detail="A row's values together may be 268435455 bytes of text; of an update normally only those that "
        "change count. A bytea takes two characters a byte. Control characters take seven bytes each, of "
        "1060000000. PostgreSQL says: " + str(error),
        hint="Store such values in parts, in several rows; or stop replicating the table: "
        "SELECT pyreplica.remove_table('%s.%s')." % (TD["table_schema"], TD["table_name"]),
        sqlstate="54000",
    )

# A snapshot left behind now and then lets a backlog be cut there. Not all sessions begin at nothing: many short ones
# leave as many behind as a long one.
since = GD.get("pyreplica")
if since is None:
    import os

    since = os.getpid() % 4000
since += logged + 1
if since >= 4000:
    if "tick" not in SD:
        SD["tick"] = plpy.prepare("SELECT pyreplica.tick()")
    plpy.execute(SD["tick"])
    since = 0
GD["pyreplica"] = since
$body$;
    name text;
BEGIN
    FOREACH name IN ARRAY '{capture,capture_text}'::text[] LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION pyreplica.%I() RETURNS trigger LANGUAGE plpython3u '
            'SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET constraint_exclusion = off AS %L', name, body);
    END LOOP;
END
$do$;

-- Leaves the session's snapshot behind. pg_current_snapshot() does not list the session's own transaction as
-- running, although for everybody else it is: it is added here.
CREATE OR REPLACE FUNCTION pyreplica.tick() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

-- What the capture of a table depends on, as the catalog has it. A part of master-install.sql.

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
    SELECT bool_and(t.typtype = 'e' OR t.oid = ANY ('{bool,int2,int4,int8,numeric,text,varchar,bpchar,name,
        "\"char\"",uuid,json,jsonb,oid,xid,xid8,inet,cidr,macaddr,macaddr8,bit,varbit,pg_lsn,tsvector,tsquery}'::regtype[]))
    FROM pyreplica.base_types(typ) b JOIN pg_type t ON t.oid = b
$$;

-- Whether equal values of a type are the same value in every byte (1.0 and 1.00 are not, nor are 0 and -0, nor is
-- a bpchar with blanks at its end).
CREATE OR REPLACE FUNCTION pyreplica.equal_is_same(typ oid, collation_ oid) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (t.typtype = 'e' OR t.oid = ANY ('{bool,int2,int4,int8,text,varchar,name,"\"char\"",bytea,uuid,oid,date,
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
    IF base = 'xml'::regtype THEN
        -- its output function leaves the encoding out of the XML declaration; this is no cast either
        RETURN format('XMLSERIALIZE(CONTENT %s AS text)', value);
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
                'name', a.attname, 'number', a.attnum, 'type', a.atttypid::bigint, 'typmod', a.atttypmod,
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
-- The plan is made for the first statement of a session, often of a single row, and kept for one of a million. So it
-- must not depend on the number of rows: a FULL JOIN is never a nested loop, a LATERAL one always is.
CREATE OR REPLACE FUNCTION pyreplica.restating(
    generation integer, shape jsonb, standing text, touched text, against_old boolean
) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format(
        'SELECT %s, CASE WHEN c.here IS NULL THEN ''d'' %s ELSE ''i'' END::"char", c.key, '
        'CASE WHEN c.here IS NULL THEN NULL %s ELSE %s END '
        'FROM (SELECT %s AS key, m.* %s '
        'FROM (SELECT %s, count(*) AS images FROM %s t GROUP BY %s) k '
        '%s LEFT JOIN LATERAL (SELECT * FROM %s m WHERE %s OFFSET 0) m ON true OFFSET 0) c %s',
        generation,
        CASE WHEN against_old THEN 'WHEN c.there THEN ''u''' END,
        CASE WHEN against_old THEN 'WHEN c.there THEN ' || pyreplica.changed_object(shape) END,
        pyreplica.object_of(shape, false, 'c'),
        pyreplica.object_of(shape, true, 'k'),
        CASE WHEN against_old THEN
            ', o.here AND k.images = 2 AS there' || pyreplica.change_flags(shape, 'o', 'm') END,
        (SELECT string_agg('t.' || alias, ', ') FROM pyreplica.columns_of(shape, true)),
        pyreplica.rows_of(shape, touched, true), pyreplica.key_groups(shape, 't'),
        CASE WHEN against_old THEN
            format('FULL JOIN %s o ON %s', pyreplica.rows_of(shape, 'old_rows'),
                pyreplica.same_key(shape, 'o', 'k', false)) END,
        pyreplica.rows_of(shape, standing), pyreplica.same_key(shape, 'm', 'k', true),
        CASE WHEN against_old THEN
            format('WHERE c.there IS NOT TRUE OR c.here IS NULL OR %s', pyreplica.changed(shape)) END)
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
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('INSERT INTO pyreplica.replica_log%s (at, segment, %s) SELECT %s, %s, l.* FROM (%s OFFSET 0) l(%2$s) '
        'WHERE pg_column_size(l.row) > 150000000 IS NOT TRUE OR pyreplica.is_printable(l.row)',
        '_' || segment_, columns_, at_,
        coalesce(segment_ || '::smallint',
            format('(SELECT CASE WHEN pg_current_xact_id() IS NULL THEN NULL WHEN %1$s > 1 THEN pyreplica.ring(%1$s) '
                'ELSE coalesce(%1$s & 1, 0) END)::smallint', 'pg_sequence_last_value(''pyreplica.doorbell''::regclass)')),
        rows_)
$$;

-- What the capture of a generation logs, for each event: event -> what there is of
--   plain    the rows, as a query
--   first    the rows that the transition tables tell, which can be trusted only by the first capture of a table inside a
--            client statement: a statement trigger fires after all the row triggers, cascades and functions of its
--            statement, and what these did to the same table was logged before it
--   unless   a condition under which they cannot be trusted even so
--   again    the rows as they stand now
--   before   what comes before the statement that logs `again`
--   columns  of the log, if they are not the usual ones
CREATE OR REPLACE FUNCTION pyreplica.capture_parts(generation integer, shape jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    table_ constant text := format('%I.%I', shape ->> 'schema', shape ->> 'table');
    standing constant text := CASE WHEN (shape ->> 'partitioned')::boolean THEN '' ELSE 'ONLY ' END || table_;
    old_ constant text := pyreplica.rows_of(shape, 'old_rows');
    new_ constant text := pyreplica.rows_of(shape, 'new_rows');
    only_old constant text := 'WITH touched AS (TABLE old_rows) ';
    old_and_new constant text := 'WITH touched AS (TABLE old_rows UNION ALL TABLE new_rows) ';
    truncated constant text := format('SELECT %s, ''T''::"char", NULL::jsonb, NULL::jsonb', generation);
    restated text;
    parts jsonb;
BEGIN
    parts := jsonb_build_object(
        'INSERT', jsonb_build_object(
            'first', format('SELECT %s, ''I''::"char", %s, %s FROM %s n', generation,
                pyreplica.object_of(shape, true, 'n'), pyreplica.object_of(shape, false, 'n'), new_),
            'again', pyreplica.restating(generation, shape, standing, 'new_rows', false)),
        'DELETE', jsonb_build_object(
            'first', format('SELECT %s, ''D''::"char", %s, NULL::jsonb FROM %s o', generation,
                pyreplica.object_of(shape, true, 'o'), old_),
            'again', pyreplica.restating(generation, shape, standing, 'old_rows', false)),
        -- Old and new rows come unpaired. Joined by key, a key only in old is a delete, one only in new an
        -- insert: that is how changes of the key are logged. Rows that did not change are not logged.
        'UPDATE', jsonb_build_object(
            'first', format(
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
                pyreplica.changed(shape)),
            -- Foreign keys may update a row that the statement has updated before, or they themselves: the transition
            -- tables then hold several images of it, and nothing tells which is the last.
            'unless', CASE WHEN (shape ->> 'cascaded')::boolean THEN format('EXISTS (%s) OR EXISTS (%s)',
                pyreplica.repeated_keys(shape, 'old_rows'), pyreplica.repeated_keys(shape, 'new_rows')) END,
            'again', pyreplica.restating(generation, shape, standing, 'touched', true),
            'before', old_and_new,
            'columns', 'tab, op, key, row, old'),
        -- Rows that stand after a TRUNCATE were put there by its other triggers.
        'AFTER TRUNCATE table', jsonb_build_object(
            'plain', truncated || format(' UNION ALL SELECT %s, ''i'', %s, %s FROM %s n', generation,
                pyreplica.object_of(shape, true, 'n'), pyreplica.object_of(shape, false, 'n'),
                pyreplica.rows_of(shape, standing))),
        -- TRUNCATE of a partition alone takes its rows out of the root, the slave may be partitioned otherwise.
        -- TRUNCATE of the root comes here for each partition as well: nothing more to say then.
        'BEFORE TRUNCATE root', jsonb_build_object('plain', truncated),
        'BEFORE TRUNCATE partition', jsonb_build_object(
            'plain', format('SELECT %s, ''d''::"char", %s, NULL::jsonb FROM %s n WHERE NOT coalesce('
                '(SELECT l.op = ''T'' AND l.tab = %1$s FROM pyreplica.replica_log l '
                'WHERE l.txid = pg_current_xact_id() ORDER BY l.id DESC LIMIT 1), false)',
                generation, pyreplica.object_of(shape, true, 'n'),
                -- the trigger function says which one that is
                pyreplica.rows_of(shape, 'this_partition'))));

    -- Where the transition tables do not tell which rows stand under a key afterwards, or whose they are, the
    -- table alone is asked.
    IF (shape ->> 'deferrable')::boolean OR shape -> 'children' <> 'null' THEN
        SELECT string_agg(pyreplica.restating(m.id, m.shape, m.standing, 'touched', false), ' UNION ALL ')
        INTO restated
        FROM (
            SELECT generation, capture_parts.shape, standing
            UNION ALL
            SELECT t.id, t.shape, format('ONLY %I.%I', t.shape ->> 'schema', t.shape ->> 'table')
            FROM pyreplica.replica_table t
            WHERE capture_parts.shape -> 'children' @> to_jsonb(t.id)
        ) m(id, shape, standing);
        parts := parts || jsonb_build_object(
            'DELETE', jsonb_build_object('again', restated, 'before', only_old),
            'UPDATE', jsonb_build_object('again', restated, 'before', old_and_new));
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

CREATE OR REPLACE FUNCTION pyreplica.client_statement() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'interval_hash(statement_timestamp() - ''epoch''::timestamptz)::text'
$$;

-- The capture statements of a generation: event -> [statement, statement that restates]. The second is executed
-- when the first logs nothing.
CREATE OR REPLACE FUNCTION pyreplica.capture_statements(generation integer, shape jsonb) RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_object_agg(event, CASE
        WHEN part ? 'plain' THEN jsonb_build_array(pyreplica.logging(part ->> 'plain'))
        WHEN part ? 'first' THEN jsonb_build_array(
            pyreplica.logging(format('SELECT * FROM (%s) f WHERE %s', part ->> 'first',
                CASE WHEN part ? 'unless' THEN format('(SELECT CASE WHEN %s THEN NOT (%s) ELSE false END)',
                    first_capture, part ->> 'unless') ELSE first_capture END), columns_ => coalesce(part ->> 'columns', 'tab, op, key, row')),
            coalesce(part ->> 'before', '') || pyreplica.logging(part ->> 'again'))
        ELSE jsonb_build_array(coalesce(part ->> 'before', '')
            || pyreplica.logging(format('SELECT * FROM (%s) u WHERE %s', part ->> 'again', set_mark))) END)
    FROM (
        SELECT event, jsonb_strip_nulls(part),
            format('(SELECT CASE WHEN current_setting(%1$s, true) IS DISTINCT FROM %2$s '
                'THEN set_config(%1$s, %2$s, false) IS NOT NULL ELSE false END)', mark, now_),
            format('(SELECT set_config(%s, %s, false) IS NOT NULL)', mark, now_)
        FROM jsonb_each(pyreplica.capture_parts(generation, shape)) e(event, part),
            pyreplica.mark_of(shape) mark, pyreplica.client_statement() now_
    ) p(event, part, first_capture, set_mark)
$$;

-- MERGE on partitioned tables. A part of master-install.sql.

-- A row that MERGE moves to another partition is in no transition table that a trigger of its UPDATE sees. Row triggers
-- do fire: one before the row leaves its partition, one when it has come to the other. They cost next to nothing while
-- their conditions, settings of the transaction, say that no MERGE is at work.

-- Before each UPDATE of a partitioned table: whether it may be part of a MERGE. That a statement may be one is told by
-- its text, or that of what called it; SQL functions and EXECUTE do not give theirs away.
CREATE OR REPLACE FUNCTION pyreplica.before_merge() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lc_messages = 'C' AS $$
DECLARE
    callers text;
BEGIN
    GET DIAGNOSTICS callers = PG_CONTEXT;
    IF callers ~* '\mmerge\M' OR callers ~ '(^|\n)SQL function' OR current_query() ~* '\m(merge|execute)\M' THEN
        PERFORM set_config('pyreplica.merging', 'on', true);
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION pyreplica.after_merge() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('pyreplica.merging', '', true), set_config('pyreplica.moving', '', true);
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION pyreplica.before_move() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('pyreplica.moving', 'on', true);
    RETURN OLD;
END
$$;

-- Restates a row that has left a partition, or come to one.
CREATE OR REPLACE FUNCTION pyreplica.after_move() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET constraint_exclusion = off AS $$
DECLARE
    log constant text := (
        SELECT pyreplica.logging(pyreplica.restating(t.id, t.shape,
            format('%I.%I', t.schema_name, t.table_name), format('(SELECT ($1::%s).*)', TG_RELID::regclass), false))
        FROM pyreplica.replica_table t WHERE t.id = TG_ARGV[0]::integer AND t.key_columns <> '{}');
BEGIN
    IF log IS NULL THEN
        RETURN NULL;
    ELSIF TG_OP = 'DELETE' THEN
        EXECUTE log USING OLD;
    ELSE
        EXECUTE log USING NEW;
    END IF;
    RETURN NULL;
END
$$;

-- Code of others that must not get the rights of the capture. A part of master-install.sql.

-- A function that somebody without superuser rights has made and that PostgreSQL may call when the capture, which has
-- the rights of who installed it, reads a table: it computes constant parts of the expressions of indexes, partition
-- keys and extended statistics whenever a query on the table is planned, SQL functions included, and checks domains when
-- restate() makes keys of texts. Null when there is none. (CHECK constraints would be planned with as well; that is
-- turned off by constraint_exclusion in the functions that read tables.)
CREATE OR REPLACE FUNCTION pyreplica.code_of_others(rel oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH RECURSIVE parts(relid) AS (
        SELECT rel
        UNION
        SELECT d FROM pyreplica.descendants(rel) d JOIN pg_class c ON c.oid = d WHERE c.relispartition
    ), key_types(typ) AS (
        SELECT pyreplica.base_of(a.atttypid)
        FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
        WHERE i.indrelid = rel AND i.indisprimary
        UNION
        SELECT n.typ FROM key_types k JOIN pg_type t ON t.oid = k.typ, LATERAL (
            SELECT t.typbasetype WHERE t.typtype = 'd'
            UNION ALL
            SELECT t.typelem WHERE t.typcategory = 'A' AND t.typelem <> 0
            UNION ALL
            SELECT a.atttypid FROM pg_attribute a
            WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
            SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
            UNION ALL
            SELECT (to_jsonb(r) ->> 'rngsubtype')::oid FROM pg_range r
            WHERE t.typtype = 'm' AND (to_jsonb(r) ->> 'rngmultitypid')::oid = t.oid
        ) n(typ)
    ), places(classid, objid, what) AS (
        SELECT 'pg_class'::regclass, i.indexrelid, 'index ' || i.indexrelid::regclass
        FROM parts p JOIN pg_index i ON i.indrelid = p.relid
        UNION ALL
        SELECT 'pg_class'::regclass, p.relid, 'partition key' FROM parts p
        UNION ALL
        SELECT 'pg_statistic_ext'::regclass, s.oid, format('statistics object %I', s.stxname)
        FROM parts p JOIN pg_statistic_ext s ON s.stxrelid = p.relid
        UNION ALL
        SELECT 'pg_constraint'::regclass, n.oid, 'domain ' || n.contypid::regtype
        FROM key_types k JOIN pg_constraint n ON n.contypid = k.typ
    )
    SELECT format('its %s calls %s of role %s, which would get the rights of PyReplica''s capture', l.what,
        f.oid::regprocedure, o.rolname)
    FROM places l
    JOIN pg_depend d ON d.classid = l.classid AND d.objid = l.objid
        AND d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
    LEFT JOIN pg_operator r ON d.refclassid = 'pg_operator'::regclass AND r.oid = d.refobjid
    JOIN pg_proc f ON f.oid = CASE d.refclassid WHEN 'pg_proc'::regclass THEN d.refobjid ELSE r.oprcode::oid END
    JOIN pg_roles o ON o.oid = f.proowner
    WHERE NOT o.rolsuper
    ORDER BY 1 LIMIT 1
$$;

-- After DDL: raises an error when it has put a function in the way of the capture, or another trigger in the place of
-- one of its own, which CREATE OR REPLACE TRIGGER can.
CREATE OR REPLACE FUNCTION pyreplica.refuse_code_of_others(tag text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    refused record;
BEGIN
    IF tag = 'CREATE TRIGGER' THEN
        SELECT g.tgname, g.tgrelid::regclass AS name INTO refused
        FROM pg_event_trigger_ddl_commands() c
        JOIN pg_trigger g ON c.classid = 'pg_trigger'::regclass AND g.oid = c.objid
        JOIN pg_proc p ON p.oid = g.tgfoid
        JOIN pyreplica.replica_table r ON r.active AND r.relid = pyreplica.root_of(g.tgrelid)
        WHERE g.tgname LIKE 'pyreplica\_%' AND p.pronamespace <> 'pyreplica'::regnamespace LIMIT 1;
        IF FOUND THEN
            RAISE EXCEPTION 'trigger % on %: names that begin with pyreplica_ are for the triggers that capture changes',
                refused.tgname, refused.name
                USING HINT = 'Give it another name.';
        END IF;
        RETURN;
    END IF;
    SELECT r.relid::regclass AS name, k.code INTO refused
    FROM pyreplica.replica_table r, pyreplica.code_of_others(r.relid) k(code)
    WHERE r.active AND k.code IS NOT NULL AND (tag LIKE 'ALTER%' OR r.relid IN (
        SELECT pyreplica.root_of(coalesce(i.indrelid, s.stxrelid)) FROM pg_event_trigger_ddl_commands() c
        LEFT JOIN pg_index i ON c.classid = 'pg_class'::regclass AND i.indexrelid = c.objid
        LEFT JOIN pg_statistic_ext s ON c.classid = 'pg_statistic_ext'::regclass AND s.oid = c.objid))
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'table % is replicated, but could not be any more: %', refused.name, refused.code
            USING HINT = 'Have a superuser look at the function and make it his: ALTER FUNCTION ... OWNER TO ...; or stop '
                'replicating the table: ' || format('SELECT pyreplica.remove_table(%L).', refused.name);
    END IF;
END
$$;

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
            reason := pyreplica.code_of_others(rel) || '; ALTER FUNCTION ... OWNER TO a superuser who has read it';
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
SELECT g.tgrelid AS relid, g.tgname AS name, g.tgenabled IN ('O', 'A') AS enabled,
    -- may be worked out for other triggers as well
    substring(encode(g.tgargs, 'escape') FROM '^(\d{1,9})\\000')::integer AS generation,
    CASE WHEN p.proname ~ '^capture' THEN l.lanname::text END AS language
FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_language l ON l.oid = p.prolang
WHERE p.pronamespace = 'pyreplica'::regnamespace AND p.proname ~ '^(capture($|_)|(before|after)_(merge|move)$)'
    AND g.tgparentid = 0;

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
        AND NOT EXISTS (SELECT FROM pyreplica.capture_function f WHERE f.generation = set_triggers.generation)
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

-- What of a captured table has not all its triggers.
CREATE OR REPLACE FUNCTION pyreplica.unset_parts(generation integer) RETURNS TABLE (relid oid, role_ text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.relid, p.role_
    FROM pyreplica.replica_capture c, pyreplica.replica_table t, pyreplica.parts_of(t.relid) p
    WHERE t.id = unset_parts.generation
        AND (SELECT count(*) FROM pyreplica.capture_trigger g
            WHERE g.relid = p.relid AND g.enabled AND g.generation = t.id
                AND (g.language = c.language) IS NOT FALSE)
        <> CASE p.role_ WHEN 'root' THEN 5 ELSE 4 END
            + CASE WHEN NOT pyreplica.merges(p.relid) THEN 0 WHEN p.role_ = 'root' THEN 4 ELSE 2 END
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
    PERFORM pyreplica.follow_partitions(rel, log_new := NOT is_first);
END
$$;

CREATE OR REPLACE FUNCTION pyreplica.add_table("table" regclass) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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

-- Capture in PL/pgSQL: trigger functions of their own for each generation. A part of master-install.sql.

-- The settings under which values are printed: in the log they must not depend on the writer's.
CREATE OR REPLACE FUNCTION pyreplica.print_settings() RETURNS TABLE (name text, value text)
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    VALUES ('DateStyle', 'ISO, YMD'), ('IntervalStyle', 'postgres'), ('TimeZone', 'UTC'), ('extra_float_digits', '1'),
        ('bytea_output', 'hex'), ('lc_monetary', 'C'), ('xmlbinary', 'base64'), ('quote_all_identifiers', 'off')
$$;

-- The names of those that matter for a type; of one that is not known here, of all.
CREATE OR REPLACE FUNCTION pyreplica.settings_of(typ oid) RETURNS text[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    base oid;
    settings text[] := '{}';
BEGIN
    FOR base IN SELECT b FROM pyreplica.base_types(typ) b LOOP
        settings := settings || CASE
            WHEN pyreplica.prints_alike(base) THEN '{}'
            WHEN base = ANY ('{date,timestamp,time}'::regtype[]) THEN '{DateStyle}'
            WHEN base = ANY ('{timestamptz,timetz}'::regtype[]) THEN '{DateStyle,TimeZone}'
            WHEN base = 'interval'::regtype THEN '{IntervalStyle}'
            WHEN base = ANY ('{float4,float8,point,lseg,path,box,polygon,line,circle}'::regtype[])
                THEN '{extra_float_digits}'
            WHEN base = 'bytea'::regtype THEN '{bytea_output}'
            WHEN base = 'money'::regtype THEN '{lc_monetary}'
            ELSE ARRAY(SELECT s.name FROM pyreplica.print_settings() s) END::text[];
    END LOOP;
    RETURN settings;
END
$$;

-- The name of the trigger function of a generation and an event.
CREATE OR REPLACE FUNCTION pyreplica.capture_name(generation integer, event text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('capture_%s_%s', generation, replace(lower(event), ' ', '_'))
$$;

-- The body of such a function.
CREATE OR REPLACE FUNCTION pyreplica.capture_body(generation integer, event text, part jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    t constant pyreplica.replica_table := (SELECT r FROM pyreplica.replica_table r WHERE r.id = generation);
    -- It tells the segment which is written by itself, and rings; needed where there is no transaction id before.
    plain constant text := pyreplica.logging(part ->> 'plain');
    again constant text[] := ARRAY(
        SELECT coalesce(part ->> 'before', '') || pyreplica.logging(part ->> 'again', segment_ => s::smallint)
        FROM generate_series(0, 1) s);
    first_ constant text[] := ARRAY(
        SELECT pyreplica.logging(part ->> 'first', segment_ => s::smallint,
            columns_ => coalesce(part ->> 'columns', 'tab, op, key, row'))
        FROM generate_series(0, 1) s);
    -- A snapshot left behind now and then lets a backlog be cut there: by who logs each four thousandth row.
    tick constant text := $code$
    IF logged > 0 THEN
        last_id := currval('pyreplica.replica_log_id');
        IF last_id / 4000 <> (last_id - logged) / 4000 THEN
            PERFORM pyreplica.tick();
        END IF;
    END IF;
    RETURN NULL;
END
$code$;
BEGIN
    IF t.key_columns = '{}' THEN
        RETURN format($code$
BEGIN
    RAISE EXCEPTION USING MESSAGE = %L, HINT = %L;
END
$code$,
            format('table %s.%s is replicated and has lost its primary key', t.schema_name, t.table_name),
            format('Give it a primary key, or stop replicating it: SELECT pyreplica.remove_table(''%s.%s'').',
                t.schema_name, t.table_name));
    END IF;
    IF part ? 'plain' THEN
        RETURN format($code$
#variable_conflict use_column
DECLARE
    logged bigint;
    last_id bigint;
BEGIN
    %s;
    GET DIAGNOSTICS logged = ROW_COUNT;%s$code$,
            CASE WHEN event = 'BEFORE TRUNCATE partition' THEN
                format('EXECUTE format(''WITH this_partition AS (TABLE %%I.%%I) '', TG_TABLE_SCHEMA, TG_TABLE_NAME) || %L',
                    plain)
            ELSE plain END,
            tick);
    END IF;
    -- What a statement needs only once is worked out in expressions: inside of the INSERT it costs more. That names the
    -- segment, so that PostgreSQL need not find it for each row.
    RETURN format($code$
#variable_conflict use_column
DECLARE
    mark constant text := %s;
    now_ text;
    is_first boolean := false;
    doorbell bigint;
    logged bigint;
    last_id bigint;
BEGIN
    IF pg_current_xact_id_if_assigned() IS NULL THEN
        RETURN NULL;   -- not a row was written
    END IF;
    doorbell := coalesce(pg_sequence_last_value('pyreplica.doorbell'), 0);
    now_ := %s;
    IF current_setting(mark, true) IS DISTINCT FROM now_ THEN
        is_first := set_config(mark, now_, false) IS NOT NULL%s;
    END IF;%s
    GET DIAGNOSTICS logged = ROW_COUNT;
    IF doorbell > 1 AND logged > 0 THEN
        PERFORM pyreplica.ring(doorbell);
    END IF;%s$code$,
        pyreplica.mark_of(t.shape), pyreplica.client_statement(), ' AND NOT (' || (part ->> 'unless') || ')',
        CASE WHEN part ? 'first' THEN format($code$
    IF is_first AND doorbell & 1 = 0 THEN
        %s;
    ELSIF is_first THEN
        %s;
    ELSIF doorbell & 1 = 0 THEN
        %s;
    ELSE
        %s;
    END IF;$code$, first_[1], first_[2], again[1], again[2])
        ELSE format($code$
    IF doorbell & 1 = 0 THEN
        %s;
    ELSE
        %s;
    END IF;$code$, again[1], again[2]) END,
        tick);
END
$$;

-- Makes the functions of a generation, or makes them anew.
CREATE OR REPLACE FUNCTION pyreplica.make_captures(generation integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    names constant text[] := ARRAY(
        SELECT unnest(pyreplica.settings_of(typ)) FROM (
            SELECT DISTINCT (c ->> 'type')::oid AS typ
            FROM pyreplica.replica_table t JOIN pyreplica.replica_table r
                ON r.id = t.id OR t.shape -> 'children' @> to_jsonb(r.id), jsonb_array_elements(r.shape -> 'columns') c
            WHERE t.id = generation) k);
    settings constant text := (
        SELECT string_agg(format('SET %I = %L', s.name, s.value), ' ')
        FROM pyreplica.print_settings() s WHERE s.name = ANY (names));
    f record;
BEGIN
    PERFORM pyreplica.begin_refreshing();   -- this DDL is nobody else's
    FOR f IN
        SELECT pyreplica.capture_name(t.id, event) AS name,
            pyreplica.capture_body(t.id, event, jsonb_strip_nulls(part)) AS body
        FROM pyreplica.replica_table t, jsonb_each(pyreplica.capture_parts(t.id, t.shape)) e(event, part)
        WHERE t.id = generation AND (event NOT LIKE 'BEFORE%' OR (t.shape ->> 'partitioned')::boolean)
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION pyreplica.%I() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER '
            'SET search_path = pg_catalog, pg_temp SET constraint_exclusion = off %s AS %L', f.name, settings, f.body);
        EXECUTE format('REVOKE ALL ON FUNCTION pyreplica.%I() FROM PUBLIC', f.name);
    END LOOP;
    PERFORM pyreplica.end_refreshing();
END
$$;

-- All functions of that kind; `used`: some trigger has one of the generation.
CREATE OR REPLACE VIEW pyreplica.capture_function AS
SELECT k.name, k.generation, EXISTS (
    SELECT FROM pyreplica.capture_trigger g WHERE g.generation = k.generation AND g.language = 'plpgsql') AS used
FROM (
    SELECT p.proname AS name, substring(p.proname FROM '^capture_(\d{1,9})_')::integer AS generation
    FROM pg_proc p WHERE p.pronamespace = 'pyreplica'::regnamespace
) k
WHERE k.generation IS NOT NULL;

-- Takes away those of generations that capture nothing any more.
CREATE OR REPLACE FUNCTION pyreplica.drop_unused_captures() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unused text;
BEGIN
    PERFORM pyreplica.begin_refreshing();   -- follow_ddl() is not to follow this
    FOR unused IN SELECT f.name FROM pyreplica.capture_function f WHERE NOT f.used LOOP
        EXECUTE format('DROP FUNCTION pyreplica.%I()', unused);
    END LOOP;
    PERFORM pyreplica.end_refreshing();
END
$$;

-- In which language tables are captured from now on: plpython3u or plpgsql. With `renew` the triggers of all tables are
-- made anew at once, in this transaction, which keeps their writers out until it commits; else it is for add_table() to
-- do that, one table at a time.
CREATE OR REPLACE FUNCTION pyreplica.set_capture(language text, renew boolean DEFAULT true) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known constant text := (SELECT c.language FROM pyreplica.replica_capture c);
BEGIN
    IF language IS NULL OR language NOT IN ('plpython3u', 'plpgsql') THEN
        RAISE EXCEPTION 'tables cannot be captured in %', coalesce(quote_literal(language), 'NULL')
            USING HINT = 'It is ''plpython3u'' or ''plpgsql''.';
    END IF;
    PERFORM pyreplica.lock_captures();
    UPDATE pyreplica.replica_capture c SET language = set_capture.language WHERE c.language <> set_capture.language;
    RETURN format('capture: %s%s', language,
        CASE WHEN renew THEN format(', the triggers of %s tables were made anew', pyreplica.refresh())
            WHEN known <> language THEN format(', it was %s', known) END);
END
$$;

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

-- Logs all rows of a relation: as they stand ("i"), some columns of them ("u"), or that they are gone ("d").
CREATE OR REPLACE FUNCTION pyreplica.log_rows(
    generation integer, op "char", relation text, columns_ text[] DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shape_ jsonb := (SELECT t.shape FROM pyreplica.replica_table t WHERE t.id = generation);
BEGIN
    IF columns_ IS NOT NULL THEN
        shape_ := jsonb_set(shape_, '{columns}', (
            SELECT jsonb_agg(c) FROM jsonb_array_elements(shape_ -> 'columns') c
            WHERE c ->> 'key' IS NOT NULL OR c ->> 'name' = ANY (columns_)));
    END IF;
    EXECUTE pyreplica.logging(format('SELECT $1, $2, %s, %s FROM %s n', pyreplica.object_of(shape_, true, 'n'),
        CASE WHEN op = 'd' THEN 'NULL::jsonb' ELSE pyreplica.object_of(shape_, false, 'n') END,
        pyreplica.rows_of(shape_, relation, op = 'd')), 'clock_timestamp()')
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
    SELECT d, root_,
        -- a hash is of the table's oid, which is another one on the slave; functions may be missing there
        CASE WHEN NOT EXISTS (
            SELECT FROM pg_partition_ancestors(d) a JOIN pg_partitioned_table p ON p.partrelid = a
            WHERE a <> d AND (p.partstrat = 'h' OR 0 = ANY (p.partattrs::int2[])))
        THEN coalesce(pg_get_partition_constraintdef(d), 'true') END
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
    relation := CASE WHEN (t.shape ->> 'partitioned')::boolean THEN '' ELSE 'ONLY ' END
        || format('%I.%I', t.schema_name, t.table_name);
    IF anew OR reasons & 4 <> 0 OR added && t.key_columns THEN
        PERFORM pyreplica.log_table(generation, 'T');
        PERFORM pyreplica.log_rows(generation, 'i', relation);
    ELSIF added <> '{}' AND (computed OR reasons & 2 <> 0) THEN
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

-- Following DDL. A part of master-install.sql.

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
    newest integer;
    brought integer := 0;
BEGIN
    IF strays = '{}' AND NOT EXISTS (SELECT FROM pyreplica.replica_table r
        WHERE r.active AND r.relid = ANY (concerned) AND NOT pyreplica.stands(r.id))
    THEN
        RETURN 0;
    END IF;
    PERFORM pyreplica.lock_captures();
    newest := (SELECT max(r.id) FROM pyreplica.replica_table r);
    UPDATE pyreplica.replica_table r SET active = false
    WHERE r.active AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.relid);
    FOR t IN
        SELECT k.relid, k.root, r.id FROM pyreplica.replica_partition k
        JOIN pg_class c ON c.oid = k.relid
        LEFT JOIN pyreplica.replica_table r ON r.relid = k.root AND r.active AND r.key_columns <> '{}'
        WHERE k.relid = ANY (strays)
        ORDER BY c.relkind
    LOOP
        IF t.id IS NOT NULL AND EXISTS (SELECT FROM pg_class WHERE oid = t.relid AND relkind = 'r') THEN
            PERFORM pyreplica.log_partition(t.id, 'd', t.relid);
        END IF;
        DELETE FROM pyreplica.replica_partition k WHERE k.relid = t.relid;
        PERFORM pyreplica.follow_partitions(t.root, log_new := false) WHERE t.id IS NOT NULL;
    END LOOP;
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
            PERFORM pyreplica.follow_partitions(t.relid, log_new := true);
        ELSE
            PERFORM pyreplica.build(t.relid);
        END IF;
        brought := brought + 1;
    END LOOP;
    PERFORM pyreplica.log_alteration(r.id) FROM pyreplica.replica_table r
    WHERE r.active AND r.id > newest AND r.key_columns <> '{}';
    PERFORM pyreplica.drop_unused_captures();
    RETURN brought;
END
$$;

-- DDL by anybody keeps the capture right, with the rights of who installed PyReplica.
CREATE OR REPLACE FUNCTION pyreplica.follow_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET constraint_exclusion = off AS $$
DECLARE
    changed oid[];
    ours text;
    refused record;
BEGIN
    IF pyreplica.is_refreshing() THEN
        RETURN;
    END IF;
    IF TG_EVENT = 'ddl_command_end'
        AND TG_TAG IN ('CREATE TRIGGER', 'CREATE INDEX', 'CREATE STATISTICS', 'ALTER TYPE', 'ALTER DOMAIN')
    THEN
        PERFORM pyreplica.refuse_code_of_others(TG_TAG);
        IF TG_TAG LIKE 'CREATE%' THEN
            RETURN;
        END IF;
    END IF;
    IF TG_EVENT = 'sql_drop' THEN
        SELECT o.object_identity INTO ours FROM pg_event_trigger_dropped_objects() o
        WHERE o.original AND o.object_type = 'trigger' AND o.address_names[3] LIKE 'pyreplica\_%'
        LIMIT 1;
        IF ours IS NOT NULL THEN
            RAISE EXCEPTION 'trigger % captures changes for PyReplica and cannot be dropped', ours
                USING HINT = 'Stop replicating the table with pyreplica.remove_table().';
        END IF;
        PERFORM pyreplica.log_dropped_partitions();
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
        SELECT g.tgrelid::regclass INTO ours FROM pg_trigger g
        WHERE g.tgrelid = ANY (changed) AND g.tgname = 'pyreplica_keep_log' AND g.tgenabled <> 'A' LIMIT 1;
        IF ours IS NOT NULL THEN
            RAISE EXCEPTION 'trigger pyreplica_keep_log on % keeps the log of PyReplica and cannot be disabled', ours
                USING HINT = 'Slaves would lose what they have not confirmed.';
        END IF;
    END IF;
    PERFORM pyreplica.refresh(changed);
    -- rewritten, and still the same shape
    PERFORM pyreplica.log_alteration(r.id) FROM pyreplica.replica_table r
    WHERE r.active AND r.rewritten <> 0 AND r.key_columns <> '{}';
END
$$;

-- Dropped partitions take their rows along: the slave deletes those that were within the partition's bounds.
CREATE OR REPLACE FUNCTION pyreplica.log_dropped_partitions() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone record;
BEGIN
    FOR gone IN
        SELECT o.object_identity AS name, k.relid, k.root, k.bound, t.id FROM pg_event_trigger_dropped_objects() o
        JOIN pyreplica.replica_partition k ON o.classid = 'pg_class'::regclass AND o.objsubid = 0 AND k.relid = o.objid
        LEFT JOIN pyreplica.replica_table t ON t.relid = k.root AND t.active AND t.key_columns <> '{}'
            AND EXISTS (SELECT FROM pg_class c WHERE c.oid = k.root)
    LOOP
        IF gone.id IS NOT NULL AND gone.bound IS NULL THEN
            RAISE EXCEPTION 'partition % of the replicated table % cannot be dropped at once: which rows are in it is '
                'a matter of a hash or an expression, so the slaves could not know them', gone.name,
                gone.root::regclass
                USING HINT = format('Detach it first, which logs its rows as deleted: ALTER TABLE %s DETACH PARTITION '
                    '%s; then drop it.', gone.root::regclass, gone.name);
        END IF;
        DELETE FROM pyreplica.replica_partition k WHERE k.relid = gone.relid;
        IF gone.id IS NOT NULL THEN
            PERFORM pyreplica.log_table(gone.id, 'P', jsonb_build_object('where', gone.bound));
            PERFORM pyreplica.follow_partitions(gone.root, log_new := false);
        END IF;
    END LOOP;
END
$$;

-- A rewrite by ALTER TABLE is noted until the command is over.
CREATE OR REPLACE FUNCTION pyreplica.note_rewrite() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE pyreplica.replica_table t SET rewritten = t.rewritten | pg_event_trigger_table_rewrite_reason()
    WHERE t.active AND t.relid = pyreplica.root_of(pg_event_trigger_table_rewrite_oid());
END
$$;

-- DDL for the slaves. A part of master-install.sql.

-- Logs a statement that the slaves run (op S).
CREATE OR REPLACE FUNCTION pyreplica.log_ddl(script jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE pyreplica.logging('SELECT 0, ''S''::"char", NULL::jsonb, $1') USING script;
END
$$;

-- Whether a text from a client is a single DDL statement, and not a function or a block that does DDL among other things.
CREATE OR REPLACE FUNCTION pyreplica.is_plain_ddl(query text) RETURNS boolean
LANGUAGE plpython3u IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
import re

# what may hold semicolons and words that mean nothing here
opaque = r"""--[^\n]* | /\*.*?\*/ | "(?:[^"]|"")*" | \bE'(?:[^'\\]|''|\\.)*' | '(?:[^']|'')*' | (\$\w*\$).*?\1
    | \bBEGIN\s+ATOMIC\b.*\bEND\b"""
bare = re.sub(opaque, " ", query, flags=re.S | re.X | re.I).strip().rstrip("; \n")
words = "CREATE|ALTER|DROP|COMMENT|SECURITY|GRANT|REVOKE|REINDEX|CLUSTER"
return ";" not in bare and re.match(rf"(?:{words})\b", bare, re.I) is not None
$$;

-- Logs the statement of the client that has just run DDL, once, when slaves want it. Called by the event triggers before
-- those that follow DDL, so that the slave's table is altered when rows come that were logged on the way. Who may
-- execute this has the slaves run whatever he likes: superusers, and whom they grant it to.
CREATE OR REPLACE FUNCTION pyreplica.announce(search_path_ text, query text, tag text, event text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- set by begin_script(): the replications whose slaves shall run it, null for all
    script constant text := nullif(current_setting('pyreplica.script', true), '');
    now_ constant text := statement_timestamp()::text;
    schemas text[];
BEGIN
    IF pyreplica.is_refreshing()
        OR current_setting('session_replication_role') = 'replica'      -- a slave's daemon
        OR current_setting('pyreplica.announced', true) = now_
        OR query IS NULL
        OR script IS NULL AND NOT EXISTS (SELECT FROM pyreplica.replica_slave WHERE ddl)
    THEN
        RETURN;
    END IF;
    IF event = 'sql_drop' THEN
        schemas := ARRAY(SELECT DISTINCT coalesce(o.schema_name, '') FROM pg_event_trigger_dropped_objects() o
            WHERE NOT o.is_temporary);
    ELSE
        schemas := ARRAY(SELECT DISTINCT coalesce(c.schema_name, '') FROM pg_event_trigger_ddl_commands() c
            WHERE c.schema_name IS DISTINCT FROM 'pg_temp');
    END IF;
    IF schemas = '{}' OR 'pyreplica' = ANY (schemas) THEN
        RETURN;
    END IF;
    IF script IS NULL THEN
        IF tag IN ('CREATE TABLE AS', 'SELECT INTO', 'REFRESH MATERIALIZED VIEW') OR NOT EXISTS (
            SELECT FROM pyreplica.replica_table t WHERE t.active AND t.schema_name = ANY (schemas))
        THEN
            RETURN;
        END IF;
        IF NOT pyreplica.is_plain_ddl(query) THEN
            RAISE WARNING 'this % is not sent to PyReplica''s slaves: it is part of a longer statement', tag
                USING HINT = 'Send DDL statements one by one, or run them with `pyreplica execute`.';
            RETURN;
        END IF;
    END IF;
    IF query ~* '\mconcurrently\M' THEN
        RAISE WARNING 'this % is not sent to PyReplica''s slaves: CONCURRENTLY cannot run in a transaction', tag
            USING HINT = 'Run it on the slaves, too.';
        RETURN;
    END IF;
    PERFORM set_config('pyreplica.announced', now_, true);
    PERFORM pyreplica.log_ddl(jsonb_build_object('sql', query, 'tag', tag, 'search_path', search_path_,
        'standard_conforming_strings', current_setting('standard_conforming_strings'),
        'by', CASE WHEN script IS NULL THEN 'ddl' ELSE 'execute' END, 'replications', script::jsonb));
END
$$;

-- With the rights of who runs the DDL, and without a search_path of its own: it has to see that of the session. What is
-- sent is the text of the client's statement. So it is not enough that the role may which runs this DDL, perhaps in a
-- SECURITY DEFINER function that somebody else has called: the role of the session must be allowed to as well.
CREATE OR REPLACE FUNCTION pyreplica.announce_ddl() RETURNS event_trigger
LANGUAGE plpgsql AS $$
DECLARE
    announce constant text := 'pyreplica.announce(pg_catalog.text, pg_catalog.text, pg_catalog.text, pg_catalog.text)';
    client pg_catalog.name := pg_catalog.current_setting('role');
BEGIN
    IF client OPERATOR(pg_catalog.=) 'none'::pg_catalog.name THEN
        client := session_user;
    END IF;
    IF pg_catalog.has_schema_privilege('pyreplica', 'USAGE')
        AND pg_catalog.has_schema_privilege(client, 'pyreplica', 'USAGE')
    THEN
        IF pg_catalog.has_function_privilege(announce, 'EXECUTE')
            AND pg_catalog.has_function_privilege(client, announce, 'EXECUTE')
        THEN
            PERFORM pyreplica.announce(
                pg_catalog.array_to_string(ARRAY(
                    SELECT pg_catalog.quote_ident(s) FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) s),
                    ', '), pg_catalog.current_query(), TG_TAG, TG_EVENT);
        END IF;
    END IF;
END
$$;

-- Begins a script whose DDL the slaves run as well: those of the named replications, or all (null).
CREATE OR REPLACE FUNCTION pyreplica.begin_script(replications text[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM set_config('pyreplica.script', coalesce(to_jsonb(replications), 'null')::text, true);
END
$$;

-- Ends it. Answers how many statements go to the slaves.
CREATE OR REPLACE FUNCTION pyreplica.end_script() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    mixed record;
    sent bigint;
BEGIN
    IF coalesce(current_setting('pyreplica.script', true), '') = '' THEN
        RAISE EXCEPTION 'the script has ended its transaction by itself: what came after that was not sent to the slaves'
            USING HINT = 'Take BEGIN, COMMIT and ROLLBACK out of it; a script is one transaction as a whole. '
                'Then see what master and slave have of it.';
    END IF;
    SELECT s.row ->> 'sql' AS sql, format('%I.%I', t.schema_name, t.table_name) AS name INTO mixed
    FROM pyreplica.replica_log s
    JOIN pyreplica.replica_log l ON l.txid = s.txid AND l.at = s.at AND l.op <> 'S'
    JOIN pyreplica.replica_table t ON t.id = l.tab
    WHERE s.txid = pg_current_xact_id() AND s.op = 'S' LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'one statement does DDL and writes the replicated table %: %', mixed.name,
            left(regexp_replace(mixed.sql, '\s+', ' ', 'g'), 200)
            USING HINT = 'The slaves would get the rows twice. Write DDL and data changes as statements of their own.';
    END IF;
    PERFORM set_config('pyreplica.script', '', true);
    SELECT count(*) INTO sent FROM pyreplica.replica_log l WHERE l.txid = pg_current_xact_id() AND l.op = 'S';
    RETURN sent;
END
$$;

-- What `pyreplica repair` calls. A part of master-install.sql.

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
    given text;                -- a relation of the keys in $1, typed as the table's columns are
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
    standing := CASE WHEN (t.shape ->> 'partitioned')::boolean THEN '' ELSE 'ONLY ' END
        || format('%I.%I', t.shape ->> 'schema', t.shape ->> 'table');
    SELECT format('(SELECT %s FROM unnest($1) u(key), LATERAL jsonb_to_record(u.key) AS r(%s))',
        -- of a text jsonb_to_record() makes what the type's input function does, but for jsonb
        string_agg(CASE WHEN base = 'jsonb'::regtype THEN format('r.%1$I::jsonb AS %1$I', name)
            ELSE format('r.%I', name) END, ', '),
        string_agg(format('%I %s', name, CASE WHEN base = 'jsonb'::regtype THEN 'text'
            ELSE format_type(base, -1) END), ', '))
    INTO given
    FROM (
        SELECT c ->> 'name' AS name, pyreplica.base_of((c ->> 'type')::oid) AS base
        FROM jsonb_array_elements(t.shape -> 'columns') c WHERE c ->> 'key' IS NOT NULL
    ) k;
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
    EXECUTE pyreplica.logging(pyreplica.restating(t.id, t.shape, standing, given, false)) USING mine;
    GET DIAGNOSTICS restated = ROW_COUNT;
    busy := ARRAY(SELECT unnest(wanted) EXCEPT SELECT unnest(mine));
END
$$;

-- How much log is kept for each slave, and what becomes of one that is past its limits. A part of master-install.sql.

-- The sessions of the daemon, or of the copy, that works for a replication. An advisory lock can be taken by anybody: it
-- counts only with those who have rights here.
CREATE OR REPLACE FUNCTION pyreplica.at_work(replication text) RETURNS TABLE (pid integer)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT l.pid FROM pg_locks l JOIN pg_stat_get_activity(NULL) a ON a.pid = l.pid
    WHERE has_schema_privilege(a.usesysid, 'pyreplica', 'USAGE') AND l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
        AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
        AND l.classid::bigint = hashtext('pyreplica')::bigint & 4294967295
        AND l.objid::bigint = hashtext(at_work.replication)::bigint & 4294967295
$$;

-- When the first change that is not in a snapshot was made; null when there is none. The first by its transaction's
-- number, which is about the oldest. What transactions have written that are still running may be very much: the
-- index is read between their numbers, never through them.
CREATE OR REPLACE FUNCTION pyreplica.waits_since(seen pg_snapshot) RETURNS timestamptz
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    own constant xid8 := pg_current_xact_id_if_assigned();
    present constant pg_snapshot := pg_current_snapshot();
    least_at timestamptz;
    found_at timestamptz;
    from_ xid8 := pg_snapshot_xmax(seen);
    running xid8;
    last constant xid8 := '18446744073709551615';
BEGIN
    FOR running IN SELECT x FROM pg_snapshot_xip(seen) x LOOP
        CONTINUE WHEN running = own OR NOT pg_visible_in_snapshot(running, present);
        SELECT l.at INTO found_at FROM pyreplica.replica_log l WHERE l.txid = running LIMIT 1;
        least_at := least(least_at, found_at);
    END LOOP;
    FOR running IN
        SELECT x FROM pg_snapshot_xip(present) x
        UNION SELECT own WHERE own IS NOT NULL
        UNION SELECT last
        ORDER BY 1
    LOOP
        CONTINUE WHEN running < from_;
        SELECT l.at INTO found_at FROM pyreplica.replica_log l
        WHERE l.txid >= from_ AND l.txid < running ORDER BY l.txid LIMIT 1;
        EXIT WHEN FOUND OR running = last;
        from_ := (running::text::numeric + 1)::text::xid8;
    END LOOP;
    RETURN least(least_at, found_at);
END
$$;

-- About how many bytes of the log were written after the sequence of its ids stood there. Segments as they lie on the
-- disk, with indexes and TOAST, each in proportion to the ids.
CREATE OR REPLACE FUNCTION pyreplica.log_bytes_after(after bigint) RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(sum(pg_total_relation_size(format('pyreplica.replica_log_%s', g.segment)::regclass)
        * greatest(g.until_id - greatest(g.since_id, after), 0)::numeric / (g.until_id - g.since_id)), 0)::bigint
    FROM (
        SELECT w.segment, w.since_id, i.last_value AS until_id
        FROM pyreplica.doorbell d JOIN pyreplica.replica_segment w ON w.segment = d.last_value & 1,
            pyreplica.replica_log_id i
        UNION ALL
        SELECT r.segment, r.since_id, w.since_id
        FROM pyreplica.doorbell d JOIN pyreplica.replica_segment w ON w.segment = d.last_value & 1
        JOIN pyreplica.replica_segment r ON r.segment <> w.segment
    ) g
    WHERE g.until_id > g.since_id
$$;

-- How much log is kept for each slave, how old the oldest change is that it has not confirmed, and what part of its
-- limits that is: past 1 it is to be dropped. A change waits at the longest since the moment the slave last confirmed.
-- While somebody copies, time does not count.
CREATE OR REPLACE FUNCTION pyreplica.log_kept(with_limits boolean DEFAULT false) RETURNS TABLE (
    replication text, state text, bytes bigint, age interval, max_log_size bigint, max_log_age interval,
    used double precision
)
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.replication, s.state, k.bytes, k.age, s.max_log_size, s.max_log_age, greatest(0,
        k.bytes::double precision / s.max_log_size,
        extract(epoch FROM k.age)::double precision / extract(epoch FROM s.max_log_age)::double precision)
    FROM pyreplica.replica_slave s, LATERAL (
        SELECT
            CASE WHEN s.state = 'dropped' THEN 0
                ELSE pyreplica.log_bytes_after(least(s.log_id, s.held_log_id)) END AS bytes,
            CASE WHEN s.state = 'dropped'
                    OR s.state = 'copying' AND EXISTS (SELECT FROM pyreplica.at_work(s.replication))
                THEN interval '0'
                ELSE coalesce(greatest(clock_timestamp() - CASE WHEN w.since > s.snapshot_at THEN w.since
                    WHEN w.since IS NOT NULL THEN s.snapshot_at END, interval '0'), interval '0') END AS age
        FROM (SELECT CASE WHEN s.state <> 'dropped' THEN pyreplica.waits_since(s.snapshot) END AS since) w
    ) k
    WHERE NOT with_limits OR s.max_log_size IS NOT NULL OR s.max_log_age IS NOT NULL
$$;

-- The bits of the daemons that may want to be woken: who has no session, or whose slave was dropped, does not.
CREATE OR REPLACE FUNCTION pyreplica.listeners() RETURNS bigint
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(bit_or(1::bigint << s.bit), 0) FROM pyreplica.replica_slave s
    WHERE s.state <> 'dropped' AND EXISTS (SELECT FROM pyreplica.at_work(s.replication))
$$;

-- Clears the bits of all others: of a daemon that was killed in its sleep, or that did not know yet that its slave was
-- dropped when it set its bit. What counts is who is there once the lock is taken: who comes later sets its bit later.
CREATE OR REPLACE FUNCTION pyreplica.silence_doorbell() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT d.last_value > 1 AND d.last_value & ~(pyreplica.listeners() | 1) <> 0 FROM pyreplica.doorbell d)
        AND pyreplica.try_lock_doorbell()
    THEN
        PERFORM setval('pyreplica.doorbell', d.last_value & (pyreplica.listeners() | 1)) FROM pyreplica.doorbell d;
    END IF;
END
$$;

-- Drops the slaves that are past their limits. The session of such a daemon is ended: it may be reading the log, and
-- would keep it for as long as it is stuck. Called while nobody else can write replica_slave. Raises
-- lock_not_available when somebody has a row locked.
CREATE OR REPLACE FUNCTION pyreplica.drop_slaves() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s record;
    why text;
BEGIN
    FOR s IN SELECT * FROM pyreplica.log_kept(with_limits := true) k WHERE k.used > 1 LOOP
        PERFORM FROM pyreplica.replica_slave r WHERE r.replication = s.replication FOR UPDATE NOWAIT;
        why := CASE WHEN s.bytes > s.max_log_size
            THEN format('the log kept for it had grown to %s, past max_log_size (%s)', pg_size_pretty(s.bytes),
                pg_size_pretty(s.max_log_size))
            ELSE format('it had not confirmed for %s what was in the log, past max_log_age (%s)',
                date_trunc('second', s.age), s.max_log_age) END;
        UPDATE pyreplica.replica_slave r
        SET state = 'dropped', dropped_at = clock_timestamp(), dropped_why = why, held = NULL, held_log_id = NULL
        WHERE r.replication = s.replication;
        RAISE LOG 'PyReplica has dropped the slave of replication %: %', s.replication, why
            USING HINT = format('It needs a new copy: pyreplica copy %s --truncate', s.replication);
        BEGIN
            PERFORM pg_terminate_backend(w.pid) FROM pyreplica.at_work(s.replication) w
            WHERE s.state = 'ready' AND w.pid <> pg_backend_pid();
        EXCEPTION
            WHEN insufficient_privilege THEN
                NULL;
        END;
    END LOOP;
    PERFORM pyreplica.silence_doorbell();
END
$$;

-- Writers look after the log where no daemon does: when they ring for nobody, when a slave is past its limits, and
-- when nobody wants the log any more. Called at the end of a transaction that has left a tick behind, so that the
-- locks last no longer than its commit. Nothing here may make the writer wait or fail.
CREATE OR REPLACE FUNCTION pyreplica.after_tick() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1ms' AS $$
DECLARE
    own constant text := pg_current_xact_id()::text;
BEGIN
    -- Once a transaction. Not with an old snapshot, nor where serializable transactions might fail because of what
    -- is read here. Not before the end, to which the locks last: SET CONSTRAINTS would have us called early, and
    -- PREPARE TRANSACTION is no end.
    IF current_setting('transaction_isolation') <> 'read committed'
        OR current_setting('pyreplica.looked_after', true) = own
        OR pg_trigger_depth() > 1
        OR left(current_query(), 1000) ~* '\mset\M.*\mconstraints\M'
        OR current_setting('max_prepared_transactions') <> '0'
            AND coalesce(length(current_query()) > 1000000 OR current_query() ~* '\mprepare\M.*\mtransaction\M', true)
    THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('pyreplica.looked_after', own, true);
    BEGIN
        PERFORM pyreplica.silence_doorbell();
        IF EXISTS (SELECT FROM pyreplica.log_kept(with_limits := true) k WHERE k.used > 1)
            OR NOT EXISTS (SELECT FROM pyreplica.replica_slave s WHERE s.state <> 'dropped')
        THEN
            PERFORM pyreplica.rotate_log(8 << 20);
        END IF;
    EXCEPTION
        WHEN lock_not_available THEN
            NULL;   -- next time
        WHEN OTHERS THEN
            RAISE LOG 'PyReplica could not look after its log: %', SQLERRM;
    END;
    RETURN NULL;
END
$$;

DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_trigger WHERE tgrelid = 'pyreplica.replica_tick'::regclass AND tgname = 'after_tick')
    THEN
        CREATE CONSTRAINT TRIGGER after_tick AFTER INSERT ON pyreplica.replica_tick
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pyreplica.after_tick();
    END IF;
END
$$;

-- What the daemon calls: the doorbell, and the upkeep of the log. A part of master-install.sql.

-- Sets or clears the bit of a sleeping daemon. Daemons exclude each other; writers only read. Call it in a transaction
-- of its own: setval() takes the transaction's id while it has the sequence's page locked, so who has read the old
-- value has a lower one, and a snapshot lists all that run below the highest id that has ended. Had it an id from
-- before, then a writer could have read the old value and be in no list.
CREATE OR REPLACE FUNCTION pyreplica.set_doorbell(slave_bit integer, sleeping boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- No advisory lock, which everybody may take; and not ACCESS EXCLUSIVE, which gives the transaction its id.
    LOCK TABLE pyreplica.replica_bell IN EXCLUSIVE MODE;
    PERFORM setval('pyreplica.doorbell', CASE WHEN sleeping THEN d.last_value | (1::bigint << slave_bit)
        ELSE d.last_value & ~(1::bigint << slave_bit) END)
    FROM pyreplica.doorbell d;
END
$$;

-- The same lock for who does not wait for it: whether it was free.
CREATE OR REPLACE FUNCTION pyreplica.try_lock_doorbell() RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE pyreplica.replica_bell IN EXCLUSIVE MODE NOWAIT;
    RETURN true;
EXCEPTION
    WHEN lock_not_available THEN
        RETURN false;
END
$$;

-- Whether a segment of the log holds a change that some slave has not confirmed, or that a table being added to its
-- replication may still need; a dropped slave gets none. By the index: a segment may be large.
CREATE OR REPLACE FUNCTION pyreplica.is_awaited(segment regclass) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
    seen pg_snapshot;
    awaited boolean;
BEGIN
    FOR seen IN
        SELECT k FROM pyreplica.replica_slave s, unnest(ARRAY[s.snapshot, s.held]) k
        WHERE s.state <> 'dropped' AND k IS NOT NULL
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %1$s l WHERE l.txid >= $1) '
            'OR EXISTS (SELECT FROM ONLY %1$s l WHERE l.txid = ANY ($2))', segment)
        INTO awaited USING pg_snapshot_xmax(seen), ARRAY(SELECT pg_snapshot_xip(seen));
        IF awaited THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END
$$;

-- Log upkeep. The log has two segments, of which writers fill one. When that has grown past `rotate_at` bytes, they
-- are told to fill the other, and it is truncated once every slave has confirmed what is in it. Slaves past their
-- limits are dropped before that. Nobody waits for anybody: what is locked now is left for next time. Answers
-- "switched", "waiting" (for a slave to confirm), "truncated", or null when there was nothing to do or something was
-- locked.
CREATE OR REPLACE FUNCTION pyreplica.rotate_log(rotate_at bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
    PERFORM pyreplica.drop_slaves();
    -- a tick is where a batch may end: after the cursor, whatever the log is held for
    DELETE FROM pyreplica.replica_tick t
    WHERE NOT EXISTS (
        SELECT FROM pyreplica.replica_slave s WHERE s.state <> 'dropped' AND t.xmax_ >= pg_snapshot_xmin(s.snapshot));
    SELECT format('pyreplica.replica_log_%s', b), format('pyreplica.replica_log_%s', 1 - b) INTO written, resting
    FROM (SELECT last_value & 1 AS b FROM pyreplica.doorbell) d;
    IF pg_relation_size(resting) > 0 THEN
        IF pyreplica.is_awaited(resting) THEN
            RETURN 'waiting';
        END IF;
        BEGIN
            -- Who has written to it, before the switch or because he had read the doorbell before, has it locked until
            -- he commits: now all its changes can be seen, and no more come. Who reads it has it locked, too.
            EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE NOWAIT', resting);
            IF pyreplica.is_awaited(resting) THEN
                RETURN 'waiting';
            END IF;
            EXECUTE format('TRUNCATE ONLY %s', resting);
            RETURN 'truncated';
        EXCEPTION
            WHEN lock_not_available THEN
                RETURN NULL;   -- who was dropped stays so
        END;
    END IF;
    IF pg_relation_size(written) < rotate_at OR NOT pyreplica.try_lock_doorbell() THEN
        RETURN NULL;
    END IF;
    UPDATE pyreplica.replica_segment SET since_id = (SELECT last_value FROM pyreplica.replica_log_id)
    WHERE segment = 1 - (SELECT last_value & 1 FROM pyreplica.doorbell);
    PERFORM setval('pyreplica.doorbell', d.last_value # 1) FROM pyreplica.doorbell d;
    RETURN 'switched';
EXCEPTION
    WHEN lock_not_available THEN
        RETURN NULL;
END
$$;

-- Keeps the log from being emptied by hand. A part of master-install.sql.

-- A slave that is not told of a change goes on as if there had been none: nothing later shows the loss. So the log can
-- be emptied, by whomever, only of what every slave has confirmed; where that leaves a slave behind, the slave has to
-- be given up first, and needs a new copy.
CREATE OR REPLACE FUNCTION pyreplica.keep_log() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- an older snapshot would not see the newest changes
    IF current_setting('transaction_isolation') = 'read committed' AND NOT EXISTS (
        SELECT FROM generate_series(0, 1) g, to_regclass(format('pyreplica.replica_log_%s', g)) segment
        WHERE TG_RELID IN (segment, 'pyreplica.replica_log'::regclass) AND pyreplica.is_awaited(segment))
    THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'the log of PyReplica cannot be emptied by hand: a slave has not confirmed what is in it'
        USING ERRCODE = 'object_in_use',
            HINT = 'It is emptied by itself when every slave has. To give a slave up, which needs a new copy then: '
                'DELETE FROM pyreplica.replica_slave WHERE replication = ''...''; '
                'then SELECT pyreplica.rotate_log(0), perhaps twice.';
END
$$;

DO $$
DECLARE
    part regclass;
BEGIN
    FOR part IN SELECT t::regclass FROM unnest('{replica_log,replica_log_0,replica_log_1}'::text[]) n,
        concat('pyreplica.', n) t
    LOOP
        IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = part AND tgname = 'pyreplica_keep_log') THEN
            EXECUTE format('CREATE TRIGGER pyreplica_keep_log BEFORE DELETE OR TRUNCATE ON %s '
                'FOR EACH STATEMENT EXECUTE FUNCTION pyreplica.keep_log()', part);
            -- also in a session that has silenced its triggers
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER pyreplica_keep_log', part);
        END IF;
    END LOOP;
END
$$;

-- Where sequences stand. A part of master-install.sql.

-- The values that sequences handed out last, in the order of their oids: null where none was handed out yet. Also
-- null where that cannot be read: the sequence is gone, or a transaction has it locked (TRUNCATE ... RESTART IDENTITY,
-- ALTER SEQUENCE), which the daemons do not wait for. What it reads is not bound to a snapshot.
CREATE OR REPLACE FUNCTION pyreplica.sequence_values(sequences oid[]) RETURNS bigint[]
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '1ms' AS $$
DECLARE
    relid oid;
    handed_out bigint;
    all_of_them bigint[] := '{}';
BEGIN
    RETURN ARRAY(SELECT pg_sequence_last_value(s.relid) FROM unnest(sequences) s(relid));
EXCEPTION
    WHEN lock_not_available OR internal_error OR wrong_object_type OR insufficient_privilege THEN
        FOREACH relid IN ARRAY sequences LOOP
            BEGIN
                handed_out := pg_sequence_last_value(relid);
            EXCEPTION
                WHEN lock_not_available OR internal_error OR wrong_object_type OR insufficient_privilege THEN
                    handed_out := NULL;
            END;
            all_of_them := all_of_them || handed_out;
        END LOOP;
        RETURN all_of_them;
END
$$;

-- Every sequence that somebody may want on a slave, where it stands, and the columns that it belongs to ("owned")
-- or that have it in their default. last_value is null where it cannot be read now, see above.
CREATE OR REPLACE FUNCTION pyreplica.sequences() RETURNS TABLE (
    relid bigint, schema_name text, sequence_name text, type text, minimum bigint, maximum bigint,
    increment bigint, readable boolean, columns jsonb, last_value bigint, is_called boolean
)
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '1ms' AS $$
BEGIN
    FOR relid, schema_name, sequence_name, type, minimum, maximum, increment, readable, columns, last_value IN
        WITH used AS (
            SELECT d.objid AS relid, d.refobjid AS tab, d.refobjsubid AS col, true AS owned
            FROM pg_sequence s JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.seqrelid
            WHERE d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
            UNION ALL
            SELECT s.seqrelid, f.adrelid, f.adnum, false
            FROM pg_attrdef f JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid
            JOIN pg_sequence s ON d.refclassid = 'pg_class'::regclass AND s.seqrelid = d.refobjid
        ), serving AS (
            SELECT u.relid, n.nspname AS schema, r.relname AS "table", a.attname AS "column",
                bool_or(u.owned) AS owned, bool_or(t.relid IS NOT NULL) AS captured
            FROM used u JOIN pg_class c ON c.oid = u.tab
            JOIN pg_attribute a ON a.attrelid = u.tab AND a.attnum = u.col
            -- the log knows a partition's rows by its root
            JOIN pg_class r ON r.oid = CASE WHEN c.relispartition THEN pg_partition_root(c.oid) ELSE c.oid END
            JOIN pg_namespace n ON n.oid = r.relnamespace
            LEFT JOIN pyreplica.replica_table t ON t.relid = r.oid AND t.active
            GROUP BY u.relid, n.nspname, r.relname, a.attname
        ), wanted AS (
            SELECT c.oid, n.nspname, c.relname, format_type(s.seqtypid, NULL) AS type,
                s.seqmin, s.seqmax, s.seqincrement,
                has_sequence_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') AS readable
            FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relpersistence <> 't'
                AND n.nspname NOT LIKE 'pg\_%' AND n.nspname NOT IN ('information_schema', 'pyreplica')
                AND NOT EXISTS (SELECT FROM pg_depend e
                    WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
        ), ids AS (
            SELECT array_agg(w.oid) AS relids FROM wanted w WHERE w.readable
        )
        SELECT w.oid, w.nspname, w.relname, w.type, w.seqmin, w.seqmax, w.seqincrement, w.readable,
            coalesce(u.columns, '[]'), v.handed_out
        FROM wanted w
        LEFT JOIN (
            SELECT s.relid, jsonb_agg(to_jsonb(s) - 'relid' ORDER BY s.schema, s."table", s."column") AS columns
            FROM serving s GROUP BY s.relid
        ) u ON u.relid = w.oid
        LEFT JOIN (
            SELECT unnest(i.relids) AS relid, unnest(pyreplica.sequence_values(i.relids)) AS handed_out FROM ids i
        ) v ON v.relid = w.oid
        ORDER BY w.nspname, w.relname
    LOOP
        is_called := last_value IS NOT NULL;
        IF readable AND last_value IS NULL THEN
            BEGIN
                EXECUTE format('SELECT last_value, is_called FROM %I.%I', schema_name, sequence_name)
                INTO last_value, is_called;
            EXCEPTION
                WHEN lock_not_available OR undefined_table OR internal_error THEN NULL;
            END;
        END IF;
        RETURN NEXT;
    END LOOP;
END
$$;

-- What the master knows of its replications. A part of master-install.sql.

-- The rows of the view replication_status, whose columns are explained in status.sql. SECURITY DEFINER, so that who may
-- read the view needs no rights on what is under it.
CREATE OR REPLACE FUNCTION pyreplica.master_status() RETURNS TABLE (
    side text, replication text, state text, daemon boolean, batch bigint, as_of timestamptz, moved_at timestamptz,
    waiting interval, log_bytes bigint, log_percent integer, max_log_size bigint, max_log_age interval,
    changes bigint, last_batch_changes bigint, last_error text, last_error_at timestamptz, conflicts_waiting bigint,
    in_doubt bigint, in_doubt_since timestamptz, paused_at timestamptz, paused_by text, pause_reason text
)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'master', s.replication,
        CASE
            WHEN s.state = 'dropped' THEN 'needs a new copy'
            WHEN s.state = 'copying' THEN CASE WHEN w.daemon THEN 'copying' ELSE 'not copied' END
            WHEN NOT w.daemon THEN 'no daemon'
            WHEN k.age > interval '0' THEN 'catching up'
            ELSE 'in step'
        END,
        w.daemon, s.batch, s.snapshot_at, s.confirmed_at, k.age, k.bytes,
        CASE WHEN s.max_log_size IS NOT NULL OR s.max_log_age IS NOT NULL
            THEN round((k.used * 100)::numeric)::integer END,
        s.max_log_size, s.max_log_age, NULL::bigint, NULL::bigint, s.dropped_why, s.dropped_at, NULL::bigint,
        NULL::bigint, NULL::timestamptz, NULL::timestamptz, NULL::text, NULL::text
    FROM pyreplica.replica_slave s
    JOIN pyreplica.log_kept() k USING (replication),
    LATERAL (SELECT EXISTS (SELECT FROM pyreplica.at_work(s.replication)) AS daemon) w
    ORDER BY s.replication
$$;

-- The view replication_status, for people and programs that ask in SQL. A part of both install scripts: in a database
-- that is master and slave it has the rows of both.
DO $$
BEGIN
    EXECUTE 'CREATE OR REPLACE VIEW pyreplica.replication_status AS ' || (
        SELECT string_agg('SELECT * FROM ' || p, ' UNION ALL ' ORDER BY p)
        FROM unnest('{pyreplica.master_status(),pyreplica.slave_status()}'::text[]) p
        WHERE to_regprocedure(p) IS NOT NULL);
END
$$;

COMMENT ON VIEW pyreplica.replication_status IS
    'PyReplica: each replication as this database knows it; what only the other side knows is null';
COMMENT ON COLUMN pyreplica.replication_status.side IS 'what this database is to the replication: master or slave';
COMMENT ON COLUMN pyreplica.replication_status.replication IS 'its name';
COMMENT ON COLUMN pyreplica.replication_status.state IS
    'master: in step, catching up, no daemon, copying, not copied, needs a new copy; '
    'slave: running, failing, pausing, paused, stopped, died, copying, not copied';
COMMENT ON COLUMN pyreplica.replication_status.daemon IS 'whether a daemon, or a copy, is connected to this database';
COMMENT ON COLUMN pyreplica.replication_status.batch IS 'the last batch that was confirmed here, or applied';
COMMENT ON COLUMN pyreplica.replication_status.as_of IS 'when that batch was read, by the master''s clock';
COMMENT ON COLUMN pyreplica.replication_status.moved_at IS 'when it was confirmed here, or applied';
COMMENT ON COLUMN pyreplica.replication_status.waiting IS
    'master: how long the oldest change has waited that is not confirmed; 0 when all are';
COMMENT ON COLUMN pyreplica.replication_status.log_bytes IS 'master: about how much log is kept for the slave, bytes';
COMMENT ON COLUMN pyreplica.replication_status.log_percent IS
    'master: the part of max_log_size or max_log_age that is, the larger one; null without a limit';
COMMENT ON COLUMN pyreplica.replication_status.max_log_size IS 'master: past so many bytes the slave is dropped';
COMMENT ON COLUMN pyreplica.replication_status.max_log_age IS 'master: past so long a wait the slave is dropped';
COMMENT ON COLUMN pyreplica.replication_status.changes IS 'slave: the changes that were applied since the copy';
COMMENT ON COLUMN pyreplica.replication_status.last_batch_changes IS 'slave: how many of them the last batch had';
COMMENT ON COLUMN pyreplica.replication_status.last_error IS
    'slave: what failed last, also when it has passed; master: why the slave was dropped';
COMMENT ON COLUMN pyreplica.replication_status.last_error_at IS 'when that was';
COMMENT ON COLUMN pyreplica.replication_status.conflicts_waiting IS
    'slave: the changes that could not be applied and wait';
COMMENT ON COLUMN pyreplica.replication_status.in_doubt IS
    'slave: the batches that are prepared and not decided; one for a moment in each batch';
COMMENT ON COLUMN pyreplica.replication_status.in_doubt_since IS 'slave: since when the oldest of them is';
COMMENT ON COLUMN pyreplica.replication_status.paused_at IS 'slave: since when it is paused';
COMMENT ON COLUMN pyreplica.replication_status.paused_by IS 'slave: by whom';
COMMENT ON COLUMN pyreplica.replication_status.pause_reason IS 'slave: why';


-- Version 2 had these.
DROP FUNCTION IF EXISTS pyreplica.segment(), pyreplica.restating(integer, jsonb, text, text, boolean, text);

REVOKE ALL ON SCHEMA pyreplica FROM PUBLIC;
-- Only what default privileges have granted: in a database that is a slave as well REVOKE waits for a batch that is in
-- doubt, if that has emptied a staging table.
DO $$
DECLARE
    t record;
BEGIN
    FOR t IN SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.oid::regclass AS name
        FROM pg_class c
        WHERE c.relnamespace = 'pyreplica'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
            AND EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = 0)
    LOOP
        EXECUTE format('REVOKE ALL ON %s %s FROM PUBLIC', t.kind, t.name);
    END LOOP;
END
$$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pyreplica FROM PUBLIC;

-- Values are printed under settings of our own.
DO $$
DECLARE
    f text;
BEGIN
    FOREACH f IN ARRAY '{capture_text,after_move,log_rows,log_alteration,follow_partitions,restate}'::text[] LOOP
        EXECUTE format('ALTER FUNCTION pyreplica.%I %s', f,
            (SELECT string_agg(format('SET %I = %L', s.name, s.value), ' ') FROM pyreplica.print_settings() s));
    END LOOP;
END
$$;

DROP EVENT TRIGGER IF EXISTS pyreplica_announce;
DROP EVENT TRIGGER IF EXISTS pyreplica_announce_drop;
DROP EVENT TRIGGER IF EXISTS pyreplica_ddl;
DROP EVENT TRIGGER IF EXISTS pyreplica_drop;
DROP EVENT TRIGGER IF EXISTS pyreplica_rewrite;
DO $$
BEGIN
    -- version 1 did not know about them
    PERFORM pyreplica.follow_partitions(t.relid, log_new := false) FROM pyreplica.replica_table t
    WHERE t.active AND t.shape -> 'partitioned' = 'true'
        AND NOT EXISTS (SELECT FROM pyreplica.replica_partition k WHERE k.root = t.relid);
    PERFORM pyreplica.refresh();
    -- an older release has made other ones
    UPDATE pyreplica.replica_table t SET statements = pyreplica.capture_statements(t.id, t.shape)
    WHERE t.active AND t.key_columns <> '{}' AND t.statements <> pyreplica.capture_statements(t.id, t.shape);
    PERFORM pyreplica.make_captures(f.generation)
    FROM (SELECT DISTINCT k.generation FROM pyreplica.capture_function k WHERE k.used) f;
END
$$;
-- They fire in the order of their names.
CREATE EVENT TRIGGER pyreplica_announce ON ddl_command_end EXECUTE FUNCTION pyreplica.announce_ddl();
CREATE EVENT TRIGGER pyreplica_announce_drop ON sql_drop EXECUTE FUNCTION pyreplica.announce_ddl();
CREATE EVENT TRIGGER pyreplica_rewrite ON table_rewrite EXECUTE FUNCTION pyreplica.note_rewrite();
CREATE EVENT TRIGGER pyreplica_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE SCHEMA', 'ALTER SCHEMA', 'ALTER TYPE', 'ALTER DOMAIN',
        'ALTER EXTENSION', 'CREATE FOREIGN TABLE', 'ALTER FOREIGN TABLE',
        'CREATE TRIGGER', 'CREATE INDEX', 'CREATE STATISTICS',   -- what others must not do there
        'ALTER INDEX')   -- which can rename a table, too
    EXECUTE FUNCTION pyreplica.follow_ddl();
CREATE EVENT TRIGGER pyreplica_drop ON sql_drop EXECUTE FUNCTION pyreplica.follow_ddl();
DO $$
DECLARE
    name text;
BEGIN
    -- also what a slave's daemon applies, where a database is both
    FOREACH name IN ARRAY '{pyreplica_ddl,pyreplica_drop,pyreplica_rewrite}'::text[] LOOP
        EXECUTE format('ALTER EVENT TRIGGER %I ENABLE ALWAYS', name);
    END LOOP;
END
$$;

COMMIT;

-- Daemons of the older release are sent away: when they connect again they see that this is not theirs any more.
DO $$
BEGIN
    IF current_setting('pyreplica.upgraded') = 'true' THEN
        PERFORM pg_terminate_backend(l.pid) FROM pg_locks l
        WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
            AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
            AND l.classid::bigint = hashtext('pyreplica')::bigint & 4294967295;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        NULL;   -- they look at the version with each batch
END
$$;
