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
