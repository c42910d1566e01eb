-- Filters with a condition in Python. A part of master-install.sql.

-- A condition in Python becomes a function of its own, which is called with the columns that it names. To everything
-- else it is a condition in SQL then: to the capture, and to what copies and compares. Only a superuser can make such
-- a function, whose code PostgreSQL runs with the rights of the server's account.

-- What both functions below begin with: the condition, which is an expression or the lines of a function, becomes the
-- syntax tree of a function. So its lines keep their numbers, and nothing in it is changed.
CREATE OR REPLACE FUNCTION pyreplica.python_reader() RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT $python$
import ast


def read(source):
    module = ast.parse("def passes(new, old=None, event=None):\n    pass")
    try:
        body = [ast.Return(ast.parse("(" + source + "\n)", "<filter>", "eval").body)]
    except SyntaxError:
        body = ast.parse(source, "<filter>").body
    module.body[0].body = body
    return ast.fix_missing_locations(module)
$python$
$$;

-- Reads a condition: the same without what it is indented by as a whole, and the columns that it names; or what is
-- wrong with it. One that uses `old` or `event` is over changes, any other over rows. As it has the rights of who has
-- installed this, it is granted to nobody: reading code takes memory.
DO $do$
DECLARE
    body constant text := pyreplica.python_reader() || $python$

import builtins
import textwrap



def wrong(problem):
    return {"given": None, "columns": None, "old_columns": None, "of_changes": None, "problem": problem}


given = textwrap.dedent(source).strip()
if not given:
    return wrong("it is empty")
try:
    module = read(given)
    compile(module, "<filter>", "exec")
except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    line = getattr(error, "lineno", None)
    said = getattr(error, "msg", None) or str(error) or type(error).__name__
    return wrong(said + (" (line %d)" % line if line else ""))

nodes = [node for statement in module.body[0].body for node in ast.walk(statement)]
bound = {"new"}
for node in nodes:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        bound.add(node.id)
    for attribute in ("name", "asname", "arg", "rest"):
        name = getattr(node, attribute, None)
        if isinstance(name, str):
            bound.add(name.partition(".")[0])
used = {node.id for node in nodes if isinstance(node, ast.Name)}
of_changes = not used.isdisjoint({"old", "event"} - bound)
images = {"new", "old"} if of_changes else {"new"}
if of_changes and not bound.isdisjoint({"old", "event"}):
    return wrong("it uses `old` or `event`, and gives one of them another meaning as well")

# of the function itself, not of those inside of it
answers, yields, inner = [], [], list(module.body[0].body)
while inner:
    node = inner.pop()
    if isinstance(node, (ast.Yield, ast.YieldFrom)):
        yields.append(node)
    elif isinstance(node, ast.Return) and node.value is not None:
        answers.append(node.value)
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
        inner.extend(ast.iter_child_nodes(node))


def constant(node):
    return getattr(node, "value", getattr(node, "s", None)) if type(node).__name__ in ("Constant", "Str") else None


def is_none(node):
    return type(node).__name__ in ("Constant", "NameConstant") and node.value is None


# A column may be named in one way only. So it is known which ones the condition needs: nobody can take them away.
columns, plain = {"new": {}, "old": {}}, set()


def asked(node):
    """Where nothing but the truth of an expression matters, a row may stand for its being there."""
    if isinstance(node, ast.Name):
        plain.add(node)
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            asked(value)
    elif isinstance(node, ast.IfExp):
        asked(node.body)
        asked(node.orelse)


for node in nodes:
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in images:
        index = node.slice
        if type(index).__name__ == "Index":   # before Python 3.9
            index = index.value
        name = constant(index)
        if isinstance(name, str) and isinstance(node.ctx, ast.Load):
            columns[node.value.id][name] = True
            plain.add(node.value)
    if not of_changes:
        continue
    if isinstance(node, (ast.If, ast.While, ast.IfExp)):
        asked(node.test)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        asked(node.operand)
    elif isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for value in node.values[:-1]:   # becomes the value of the whole only where it is false, and so no row
            asked(value)
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], (ast.Is, ast.IsNot)):
        if is_none(node.comparators[0]) and isinstance(node.left, ast.Name):
            plain.add(node.left)
if of_changes:
    for answer in answers:
        asked(answer)

for node in nodes:
    if not isinstance(node, ast.Name):
        continue
    at = " (line %d)" % node.lineno
    if node.id in images and (node not in plain or not isinstance(node.ctx, ast.Load)):
        return wrong(
            "it may use `%s` only as %s[\"column\"], with the name written out" % (node.id, node.id)
            + (", or to ask whether it is None" if of_changes else "") + at
        )
    if node.id == "event" and of_changes and not isinstance(node.ctx, ast.Load):
        return wrong("it may not change `event`" + at)
    if node.id not in bound and node.id not in images | {"event"} and not hasattr(builtins, node.id):
        return wrong("it uses the name %s, which means nothing; a column is new[\"column\"]" % node.id + at)

if yields:
    return wrong("it must return its answer and not yield it (line %d)" % yields[0].lineno)
if not answers:
    return wrong("it never returns anything: it is neither an expression nor lines with `return`")
return {
    "given": given,
    "columns": list(columns["new"]),
    "old_columns": list(columns["old"]),
    "of_changes": of_changes,
    "problem": None,
}
$python$;
BEGIN
    IF to_regprocedure('pyreplica.capture()') IS NULL
        OR NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user)
    THEN
        RETURN;   -- there are no such filters
    END IF;
    EXECUTE format('CREATE OR REPLACE FUNCTION pyreplica.read_python(source text, OUT given text, OUT columns text[], '
        'OUT old_columns text[], OUT of_changes boolean, OUT problem text) '
        'LANGUAGE plpython3u SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L', body);
END
$do$;

-- The items of a dictionary in Python: columns and the parameters that have their values.
CREATE OR REPLACE FUNCTION pyreplica.python_items(columns text[], prefix text) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    -- a string in JSON is one in Python
    SELECT string_agg(format('%s: %s%s', to_json(c), prefix, n), ', ' ORDER BY n)
    FROM unnest(columns) WITH ORDINALITY u(c, n)
$$;

-- The body of the function that a condition becomes. It is compiled when a session calls it first. No settings and no
-- statement of SQL: it is called for each row, twice for one that is updated; one over changes (`old_columns` is not
-- null) for each change. The row then has a key besides its columns, so that it is true even where none is named.
CREATE OR REPLACE FUNCTION pyreplica.python_filter_body(
    replication text, rel oid, given text, on_error text, columns text[], old_columns text[]
) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- a string in JSON is one in Python
    SELECT format($python$
passes = SD.get("passes")
if passes is None:
    %6$s
    space = {"__name__": "filter"}
    exec(compile(read(%5$s), "<filter>", "exec"), space)
    passes = SD["passes"] = space["passes"]
try:
    return bool(passes(%1$s))
except plpy.Error:
    raise   # of the server's: a statement that was cancelled must not go on
except Exception as error:
    if %4$s == "pass":
        if "now" not in SD:
            SD["now"] = plpy.prepare("SELECT pg_catalog.statement_timestamp()::pg_catalog.text AS now")
        now = plpy.execute(SD["now"])[0]["now"]
        if SD.get("told") == now:
            return True
        SD["told"] = now
    line, step = 1, error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == "<filter>":
            line = step.tb_lineno
        step = step.tb_next
    # its name of today
    table = plpy.execute(
        "SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name FROM pg_catalog.pg_class c "
        "JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace "
        "WHERE c.oid OPERATOR(pg_catalog.=) %2$s"
    )[0]["name"]
    said = "the Python filter of table %%s for replication %%s raised %%s: %%s (line %%d)" %% (
        table, %3$s, type(error).__name__, error, line)
    if %4$s == "stop":
        plpy.error(
            said,
            detail="The filter is: " + %5$s,
            hint="It must have an answer for every %7$s",
            sqlstate="38000",
        )
    plpy.warning(
        said,
        hint="The %8$s goes to the slave, and so does every other %8$s of this statement for which it raises.",
    )
    return True
$python$,
        CASE WHEN old_columns IS NULL THEN format('{%s}', pyreplica.python_items(columns, 'n'))
            ELSE format('None if event == "DELETE" else {%s}, None if event == "INSERT" else {%s}, event',
                concat_ws(', ', 'None: None', pyreplica.python_items(columns, 'n')),
                concat_ws(', ', 'None: None', pyreplica.python_items(old_columns, 'o'))) END,
        rel, to_json(replication), to_json(on_error), to_json(given),
        replace(pyreplica.python_reader(), E'\n', E'\n    '),
        CASE WHEN old_columns IS NULL THEN 'row, also where a column is NULL, which is None.'
            ELSE 'change: `old` is None for an INSERT, `new` is None for a DELETE, and a NULL is None.' END,
        CASE WHEN old_columns IS NULL THEN 'row' ELSE 'change' END)
$$;

CREATE OR REPLACE FUNCTION pyreplica.python_filter_name(rel oid, bit_ smallint) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('python_filter_%s_%s', rel, bit_)
$$;

-- Drops the functions of conditions that are not there any more.
CREATE OR REPLACE FUNCTION pyreplica.drop_unused_filters() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    unused text;
BEGIN
    PERFORM pyreplica.begin_refreshing();   -- follow_ddl() is not to follow this
    FOR unused IN
        SELECT p.oid::regprocedure FROM pg_proc p
        WHERE p.pronamespace = 'pyreplica'::regnamespace AND p.proname ~ '^python_filter_\d+_\d+$'
            AND NOT EXISTS (SELECT FROM pyreplica.replica_filter f
                WHERE f.on_error IS NOT NULL AND p.proname = pyreplica.python_filter_name(f.relid, f.bit))
    LOOP
        EXECUTE format('DROP FUNCTION %s', unused);
    END LOOP;
    PERFORM pyreplica.end_refreshing();
END
$$;

-- Sets which rows of a table a slave gets by a condition in Python over one row, `new`; or which changes, by one over
-- `event`, `old` and `new`; and which columns. `on_error`:
-- what becomes of a statement for a row of which the condition raises an exception; 'stop': it fails; 'pass': the row
-- counts as one that the slave gets. As with set_filter() what the slave has already stays as it is.
CREATE OR REPLACE FUNCTION pyreplica.set_python_filter(
    replication text, "table" regclass, condition text, on_error text DEFAULT 'stop', columns text[] DEFAULT NULL
) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rel constant oid := "table"::oid;
    source record;
    name text;
    names text[];              -- the columns that it names ...
    types text[];              -- ... what they are to its function ...
    arguments text[];          -- ... and the expressions for that
    news integer[];            -- their places among these, in the order of the function's parameters
    olds integer[];
    of_rows boolean;
    misfit text;
    uses_ jsonb;
    known text;
    grantee_ text;
BEGIN
    IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        RAISE EXCEPTION 'the filter of % for replication % cannot be set: it is in Python, and role % is no superuser',
            "table", replication, current_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'Its code runs as the server itself. Have a superuser run '
                '`pyreplica install`, or pyreplica.set_python_filter(); or write the condition in SQL, `where:`.';
    END IF;
    IF on_error IS NULL OR on_error NOT IN ('stop', 'pass') THEN
        RAISE EXCEPTION 'on_error cannot be %', coalesce(quote_literal(on_error), 'NULL')
            USING HINT = 'It is ''stop'' or ''pass''.';
    END IF;
    PERFORM pyreplica.lock_captures();
    IF (SELECT c.language FROM pyreplica.replica_capture c) <> 'plpython3u' THEN
        RAISE EXCEPTION 'the filter of % for replication % cannot be set: it is in Python, and tables are captured in '
            'PL/pgSQL here', "table", replication
            USING ERRCODE = 'feature_not_supported', HINT = 'It needs plpython3u: `capture: plpython3u`, which a superuser '
                'installs. Or write the condition in SQL, `where:`.';
    END IF;
    SELECT * INTO source FROM pyreplica.read_python(coalesce(condition, ''));
    IF source.problem IS NULL THEN
        SELECT 'there is no column ' || quote_ident(c) INTO source.problem
        FROM unnest(source.columns || source.old_columns) c
        WHERE NOT EXISTS (SELECT FROM pg_attribute a
            WHERE a.attrelid = rel AND a.attname = c AND a.attnum > 0 AND NOT a.attisdropped) LIMIT 1;
    END IF;
    of_rows := NOT source.of_changes;
    IF source.problem IS NULL AND cardinality(source.columns || source.old_columns)
        > (CASE WHEN of_rows THEN 100 ELSE 99 END)
    THEN
        source.problem := format('it names %s columns%s, and %s are the most',
            cardinality(source.columns || source.old_columns),
            CASE WHEN NOT of_rows THEN ' of `old` and `new`' END, CASE WHEN of_rows THEN 100 ELSE 99 END);
    END IF;
    misfit := CASE WHEN NOT of_rows THEN pyreplica.change_misfit(rel) END;
    IF source.problem IS NULL AND misfit IS NOT NULL THEN
        RAISE EXCEPTION 'the filter of % for replication % cannot be used: it is over changes, and %', "table",
            replication, misfit
            USING ERRCODE = 'feature_not_supported',
                HINT = 'Without `event` and `old` it is over rows, which can be told there. See docs/filters.md.';
    END IF;
    IF source.problem IS NOT NULL THEN
        RAISE EXCEPTION 'the filter of % for replication % cannot be used: %', "table", replication, source.problem
            USING ERRCODE = 'invalid_parameter_value', HINT = 'It is an expression in Python such as '
                'new["region"] == "eu", or lines with `return`. See docs/filters.md.';
    END IF;
    -- What comes with PostgreSQL goes to Python as PL/Python hands it over, anything else as its text. So the function
    -- depends on no type that somebody may want to drop.
    names := ARRAY(SELECT DISTINCT c FROM unnest(source.columns || source.old_columns) c);
    news := ARRAY(SELECT array_position(names, c) FROM unnest(source.columns) WITH ORDINALITY u(c, n) ORDER BY n);
    olds := ARRAY(SELECT array_position(names, c) FROM unnest(source.old_columns) WITH ORDINALITY u(c, n) ORDER BY n);
    SELECT coalesce(array_agg(CASE WHEN plain THEN format_type(base, -1) ELSE 'text' END ORDER BY n), '{}'),
        coalesce(array_agg(format(CASE WHEN plain THEN pyreplica.as_base(typ) ELSE pyreplica.printed(typ) END,
            quote_ident(attname)) ORDER BY n), '{}'),
        coalesce(jsonb_object_agg(attname, typ::bigint), '{}')
    INTO types, arguments, uses_
    FROM (
        SELECT u.n, a.attname, a.atttypid AS typ, t.oid AS base, t.oid < 16384 AND t.typtype <> 'c' AS plain
        FROM unnest(names) WITH ORDINALITY u(c, n)
        JOIN pg_attribute a ON a.attrelid = rel AND a.attname = u.c AND a.attnum > 0 AND NOT a.attisdropped
        JOIN pg_type t ON t.oid = pyreplica.base_of(a.atttypid)
    ) k;
    name := pyreplica.python_filter_name(rel, pyreplica.bit_for(replication));
    PERFORM pyreplica.begin_refreshing();   -- this DDL is nobody else's
    FOR known IN
        SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'pyreplica'::regnamespace AND p.proname = name
    LOOP
        EXECUTE format('DROP FUNCTION %s', known);
    END LOOP;
    EXECUTE format('CREATE FUNCTION pyreplica.%I(%s) RETURNS boolean LANGUAGE plpython3u STABLE AS %L',
        name,
        concat_ws(', ', CASE WHEN NOT of_rows THEN 'event text' END,
            (SELECT string_agg(format('o%s %s', n, types[i]), ', ' ORDER BY n) FROM unnest(olds) WITH ORDINALITY u(i, n)),
            (SELECT string_agg(format('n%s %s', n, types[i]), ', ' ORDER BY n) FROM unnest(news) WITH ORDINALITY u(i, n))),
        pyreplica.python_filter_body(replication, rel, source.given, on_error, source.columns,
            CASE WHEN NOT of_rows THEN source.old_columns END));
    EXECUTE format('REVOKE ALL ON FUNCTION pyreplica.%I FROM PUBLIC', name);
    -- the daemons' roles call it when they copy and compare
    FOR grantee_ IN
        SELECT DISTINCT a.grantee::regrole FROM pg_proc p, aclexplode(p.proacl) a
        WHERE p.pronamespace = 'pyreplica'::regnamespace AND p.proname = 'keep_filter' AND a.grantee NOT IN (0, p.proowner)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION pyreplica.%I TO %s', name, grantee_);
    END LOOP;
    PERFORM pyreplica.end_refreshing();
    -- over changes it is, of a row that is copied, the condition for its INSERT
    RETURN pyreplica.store_filter(replication, "table", source.given,
        format('pyreplica.%I(%s)', name, concat_ws(', ', CASE WHEN NOT of_rows THEN '''INSERT''' END,
            (SELECT string_agg('NULL', ', ') FROM unnest(olds)),
            (SELECT string_agg(arguments[i], ', ' ORDER BY n) FROM unnest(news) WITH ORDINALITY u(i, n)))),
        uses_, on_error, columns,
        CASE WHEN NOT of_rows THEN jsonb_build_object('function', name, 'arguments', arguments, 'old', olds, 'new', news)
        END);
END
$$;
