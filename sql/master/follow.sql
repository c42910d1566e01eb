-- Following DDL. A part of master-install.sql.

-- Sessions that change captures do so one after another: side by side, each would build on what the other is
-- changing. Nobody else waits for this lock.
CREATE OR REPLACE FUNCTION pyreplica.lock_captures() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE pyreplica.replica_table IN SHARE ROW EXCLUSIVE MODE;
END
$$;

-- The tables whose capture may depend on the definitions of these, whether they are captured or not.
CREATE OR REPLACE FUNCTION pyreplica.near(changed oid[]) RETURNS oid[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    family constant oid[] := ARRAY(SELECT DISTINCT f FROM unnest(changed) c, pyreplica.family_of(c) f);
BEGIN
    RETURN ARRAY(
        SELECT unnest(family)
        UNION
        -- that were partitions of one when they were last looked at
        SELECT k.relid FROM pyreplica.replica_partition k WHERE k.root = ANY (family)
        UNION
        -- that had a child which is gone or does not inherit any more
        SELECT r.relid FROM pyreplica.replica_table r
        WHERE r.active AND jsonb_typeof(r.shape -> 'children') = 'array' AND EXISTS (
            SELECT FROM pyreplica.children_of(r.shape) c JOIN pyreplica.replica_table t ON t.id = c
            WHERE t.relid = ANY (changed)));
END
$$;

-- Brings captures in line with the catalog after the definitions of some tables have changed, or of any (null).
-- Answers how many it had to change. (jit = off, here and elsewhere: compiling such queries on the catalog takes ten times
-- as long as running them.)
CREATE OR REPLACE FUNCTION pyreplica.refresh(changed oid[] DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    -- Looked for by index in arrays, here and below: with a thousand tables that are added one after another, nothing
    -- may look at all of them each time.
    near constant oid[] := CASE WHEN changed IS NULL THEN ARRAY(
            SELECT r.relid FROM pyreplica.replica_table r WHERE r.active
            UNION
            SELECT g.tgrelid FROM pg_trigger g)
        ELSE pyreplica.near(changed) END;
    -- detached partitions that still log under their old root, and removed tables
    strays constant oid[] := ARRAY(
        SELECT DISTINCT g.relid FROM pyreplica.capture_trigger g JOIN pg_class c ON c.oid = g.relid
        WHERE g.relid = ANY (near) AND NOT EXISTS (SELECT FROM pyreplica.replica_table r WHERE r.active
            AND r.relid = CASE WHEN c.relispartition THEN pyreplica.root_of(g.relid) ELSE g.relid END));
    concerned constant oid[] := ARRAY(
        SELECT r.relid FROM pyreplica.replica_table r WHERE r.active AND r.relid = ANY (near));
    t record;
    newest integer;
    brought integer := 0;
    blind constant boolean := NOT pyreplica.sees_ddl();
    unlogged jsonb;
BEGIN
    IF strays = '{}' AND NOT EXISTS (SELECT FROM pyreplica.replica_table r
        WHERE r.active AND r.relid = ANY (concerned) AND (NOT pyreplica.stands(r.id)
            OR blind AND EXISTS (SELECT FROM pyreplica.moved_partitions(r.relid))))
    THEN
        RETURN 0;
    END IF;
    PERFORM pyreplica.lock_captures();
    IF blind THEN
        PERFORM pyreplica.lock_drifted(concerned, strays);
        unlogged := (SELECT jsonb_agg(u) FROM pyreplica.unlogged_of(concerned
            || ARRAY(SELECT k.root FROM pyreplica.replica_partition k WHERE k.relid = ANY (strays))) u);
    END IF;
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
        IF t.id IS NOT NULL AND NOT blind AND EXISTS (SELECT FROM pg_class WHERE oid = t.relid AND relkind = 'r') THEN
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
            PERFORM pyreplica.follow_partitions(t.relid, log_new := NOT blind);
        ELSE
            PERFORM pyreplica.build(t.relid);
        END IF;
        brought := brought + 1;
    END LOOP;
    PERFORM pyreplica.log_alteration(r.id) FROM pyreplica.replica_table r
    WHERE r.active AND r.id > newest AND r.key_columns <> '{}';
    FOR t IN
        SELECT DISTINCT r.id, r.relid, u ->> 'bound' AS bound
        FROM jsonb_array_elements(unlogged) u JOIN pyreplica.replica_table r ON r.relid = (u ->> 'root')::oid
        WHERE r.active AND r.key_columns <> '{}'
    LOOP
        PERFORM pyreplica.follow_partitions(t.relid, log_new := false);
        PERFORM pyreplica.log_drifted(t.id, t.bound);
        brought := greatest(brought, 1);
    END LOOP;
    PERFORM pyreplica.drop_unused_captures();
    RETURN brought;
END
$$;

-- DDL by anybody keeps the capture right, with the rights of who installed PyReplica.
CREATE OR REPLACE FUNCTION pyreplica.follow_ddl() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off SET constraint_exclusion = off AS $$
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
        SELECT o.object_identity AS name, k.relid, k.root, k.bound, t.id,
            pyreplica.change_bits(t.shape) <> 0 AS of_changes FROM pg_event_trigger_dropped_objects() o
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
        IF gone.id IS NOT NULL AND gone.of_changes THEN
            RAISE EXCEPTION 'partition % of the replicated table % cannot be dropped at once: a filter chooses changes of '
                'the table, and the rows are there no more that it would have to be asked about', gone.name,
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
