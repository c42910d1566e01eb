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
