-- Sequences of databases that are all written. A part of master-install.sql.

-- Gives the sequences of captured tables numbers that no other node draws: node `number` of `nodes` has those that leave
-- the remainder `number` when they are divided by `nodes`. To be run on each of them, while nobody writes: they go on
-- behind what the tables have. Answers a line for each.
CREATE OR REPLACE FUNCTION pyreplica.interleave_sequences(number integer, nodes integer) RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    s record;
    c record;
    top bigint;
    found_ bigint;
BEGIN
    IF number IS NULL OR nodes IS NULL OR number NOT BETWEEN 1 AND nodes THEN
        RAISE EXCEPTION 'there is no node % of %', coalesce(number::text, 'NULL'), coalesce(nodes::text, 'NULL')
            USING HINT = 'The nodes are numbered from 1 on.';
    END IF;
    FOR s IN SELECT q.* FROM pyreplica.sequences() q WHERE q.columns @> '[{"captured": true}]' LOOP
        IF s.last_value IS NULL OR s.increment < 0 THEN
            RETURN NEXT format('%I.%I: left as it is, %s', s.schema_name, s.sequence_name,
                CASE WHEN s.increment < 0 THEN 'it goes down' ELSE 'it cannot be read now' END);
            CONTINUE;
        END IF;
        top := CASE WHEN s.is_called THEN s.last_value ELSE s.last_value - 1 END;
        FOR c IN SELECT k.schema, k."table", k."column" FROM jsonb_to_recordset(s.columns)
            AS k(schema text, "table" text, "column" text, captured boolean) WHERE k.captured
        LOOP
            EXECUTE format('SELECT max(%I)::bigint FROM %I.%I', c."column", c.schema, c."table") INTO found_;
            top := greatest(top, found_);
        END LOOP;
        top := greatest(top, s.minimum - 1);
        top := top + 1 + ((number - top - 1) % nodes + nodes) % nodes;
        EXECUTE format('ALTER SEQUENCE %I.%I INCREMENT BY %s RESTART WITH %s', s.schema_name, s.sequence_name, nodes, top);
        RETURN NEXT format('%I.%I: from %s by %s', s.schema_name, s.sequence_name, top, nodes);
    END LOOP;
END
$$;
