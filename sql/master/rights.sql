-- What the role that has installed PyReplica may do. A part of master-install.sql.

-- The role that has installed PyReplica, whose rights the capture has. It may be an ordinary one where tables are
-- captured in PL/pgSQL.
CREATE OR REPLACE FUNCTION pyreplica.installer() RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT relowner FROM pg_class WHERE oid = 'pyreplica.replica_table'::regclass
$$;

-- Whether DDL is seen when it happens: by event triggers, which only a superuser can make. (While a superuser installs
-- again they are not there for a moment.)
CREATE OR REPLACE FUNCTION pyreplica.sees_ddl() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.rolsuper OR EXISTS (SELECT FROM pg_event_trigger WHERE evtname = 'pyreplica_ddl')
    FROM pg_roles r WHERE r.oid = pyreplica.installer()
$$;

-- Why a table cannot be captured with the rights of the role that has installed PyReplica, with the cure; null when it
-- can. An ordinary role has to own the table, to set triggers on it; and its partitions, so that nobody else puts code
-- there that would run with its rights, as others.sql says: no event trigger would keep him from it. It must see all
-- rows.
CREATE OR REPLACE FUNCTION pyreplica.out_of_reach(rel oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN c.relowner <> i.oid THEN format('%I.%I belongs to role %I, and PyReplica was installed by %I, who is no '
            'superuser; ALTER TABLE %1$I.%2$I OWNER TO %4$I', n.nspname, c.relname, pg_get_userbyid(c.relowner), i.rolname)
        WHEN NOT has_schema_privilege(i.oid, n.oid, 'USAGE') THEN format('%I, who has installed PyReplica, may not use its '
            'schema; GRANT USAGE ON SCHEMA %I TO %1$I', i.rolname, n.nspname)
        ELSE format('row-level security hides rows of it from its owner as well; ALTER TABLE %I.%I NO FORCE ROW LEVEL '
            'SECURITY', n.nspname, c.relname) END
    FROM (SELECT rel UNION SELECT pyreplica.descendants(rel)) p(relid)
    JOIN pg_class c ON c.oid = p.relid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_roles i ON i.oid = pyreplica.installer()
    WHERE NOT i.rolsuper AND (c.relowner <> i.oid OR NOT has_schema_privilege(i.oid, n.oid, 'USAGE')
        OR c.relrowsecurity AND c.relforcerowsecurity AND NOT i.rolbypassrls)
    ORDER BY c.oid LIMIT 1
$$;
