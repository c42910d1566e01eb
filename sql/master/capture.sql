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
        "SELECT schema_name, table_name, ARRAY(SELECT jsonb_array_elements_text(statements -> '%s')) AS sql, "
        "pyreplica.filters_told(shape) AS filters FROM pyreplica.replica_table WHERE id = %d" % (event, int(generation))
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
    cached = SD[event] = (generation, [plpy.prepare(s) for s in statements], found[0]["filters"])

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
except plpy.SPIError as error:
    # of data, of a function's own, or that one is not there any more
    if cached[2] is None or error.sqlstate[:2] not in ("22", "38", "42", "P0"):
        raise
    name = plpy.quote_ident(TD["table_schema"]) + "." + plpy.quote_ident(TD["table_name"])
    why = str(error)
    if why.startswith("plpy.Error: "):
        why = why[len("plpy.Error: ") :]   # one in Python
    plpy.error(
        "a filter of table %s.%s failed: %s" % (TD["table_schema"], TD["table_name"], why),
        detail="Its filters are: " + cached[2],
        hint="A filter must have an answer for every row. Change the row; or take the filter away, "
        "after which the slave needs the table anew: SELECT pyreplica.set_filter('NAME', %s)."
        % plpy.quote_literal(name),
        sqlstate=error.sqlstate,
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
    IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'plpython3u')
        OR NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user)
    THEN
        RETURN;   -- tables are captured in PL/pgSQL
    END IF;
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
