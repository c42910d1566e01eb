-- MERGE on partitioned tables. A part of master-install.sql.

-- A row that MERGE moves to another partition is in no transition table that a trigger of its UPDATE sees. Row triggers
-- do fire: one before the row leaves its partition, one when it has come to the other. They cost next to nothing while
-- their conditions, settings of the transaction, say that no MERGE is at work.

-- Before each UPDATE of a partitioned table: whether it may be part of a MERGE. That a statement may be one is told by
-- its text, or that of what called it; SQL functions and EXECUTE do not give theirs away. Where a superuser installs this,
-- the function has lc_messages = C; else, with messages that cannot be read, a caller of any kind may be one.
CREATE OR REPLACE FUNCTION pyreplica.before_merge() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    callers text;
BEGIN
    GET DIAGNOSTICS callers = PG_CONTEXT;
    IF callers ~* '\mmerge\M' OR callers ~ '(^|\n)SQL function' OR current_query() ~* '\m(merge|execute)\M'
        OR position(E'\n' IN callers) > 0 AND current_setting('lc_messages') !~ '^(C|POSIX|en)\M'
    THEN
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
        SELECT pyreplica.logging(pyreplica.restating(t.id, t.shape, standing, touched, false, t.shape ? 'filters')
            || CASE WHEN pyreplica.change_bits(t.shape) = 0 THEN ''
                -- nothing tells that the two are one row
                ELSE ' UNION ALL ' || pyreplica.changing(t.id, t.shape, TG_OP, touched, touched, standing) END,
            columns_ => pyreplica.log_columns(t.shape ? 'filters'))
        FROM pyreplica.replica_table t,
            LATERAL (SELECT format('%I.%I', t.schema_name, t.table_name),
                format('(SELECT ($1::%s).*)', TG_RELID::regclass)) r(standing, touched)
        WHERE t.id = TG_ARGV[0]::integer AND t.key_columns <> '{}');
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
