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
CREATE INDEX IF NOT EXISTS replica_table_relid ON pyreplica.replica_table (relid);
-- those that others inherit from: few, if any
CREATE INDEX IF NOT EXISTS replica_table_parent ON pyreplica.replica_table (relid)
    WHERE active AND jsonb_typeof(shape -> 'children') = 'array';

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

-- Version 5.
DO $$
BEGIN
    IF EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'pyreplica.replica_log'::regclass AND attname = 'slaves')
    THEN
        RETURN;
    END IF;
    ALTER TABLE pyreplica.replica_log
        -- the bits (1 << replica_slave.bit) of the slaves that it is for; null: it is for all
        ADD COLUMN slaves bigint,
        -- replica_cursor.id of the replication that has applied the change here; null: it was made here
        ADD COLUMN origin integer;
END
$$;

-- The one language in which tables are captured: set_capture().
CREATE TABLE IF NOT EXISTS pyreplica.replica_capture (
    language text NOT NULL CHECK (language IN ('plpython3u', 'plpgsql')),
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only)
);
INSERT INTO pyreplica.replica_capture (language) VALUES (current_setting('pyreplica.capture')) ON CONFLICT DO NOTHING;

-- Version 5. What the daemons of other replications apply here goes on to this database's slaves: set_forwarding().
DO $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_attribute WHERE attrelid = 'pyreplica.replica_capture'::regclass AND attname = 'forwarding')
    THEN
        ALTER TABLE pyreplica.replica_capture ADD COLUMN forwarding boolean NOT NULL DEFAULT false;
        -- whether the slave has had all that was forwarded since it was copied
        ALTER TABLE pyreplica.replica_slave ADD COLUMN forward boolean NOT NULL DEFAULT false;
    END IF;
END
$$;

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

-- Which rows and columns of a table a slave gets, where that is not all: set_filter().
CREATE TABLE IF NOT EXISTS pyreplica.replica_filter (
    replication text NOT NULL,
    relid oid NOT NULL,
    bit smallint NOT NULL CHECK (bit BETWEEN 1 AND 62),   -- as in replica_slave, which may not know the slave yet
    given text,                          -- the condition in the words of who has set it; null: all rows
    condition text,                      -- as PostgreSQL has understood it; of one in Python the call of its function
    -- of a condition in Python, what becomes of a row for which it raises; null: the condition is SQL
    on_error text CHECK (on_error IN ('stop', 'pass')),
    -- of one over changes: its `function`; `arguments`, expressions over a row; and which of these it is given of the
    -- `old` row and of the `new` one, by their numbers. Null: it is over rows
    changes jsonb,
    columns text[],                      -- null: all columns
    uses jsonb NOT NULL,                 -- the columns that both name: the oid of the type, null where any will do
    PRIMARY KEY (replication, relid)
);

CREATE OR REPLACE VIEW pyreplica.changes AS
SELECT l.id, l.txid, l.at,
    CASE WHEN t.id IS NOT NULL THEN format('%I.%I', t.schema_name, t.table_name) END AS "table", l.op, l.key, l.row,
    l.old, l.slaves
FROM pyreplica.replica_log l LEFT JOIN pyreplica.replica_table t ON t.id = l.tab;
COMMENT ON VIEW pyreplica.changes IS 'the log with the names of the tables, to be read by people';
