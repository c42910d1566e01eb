"""What pg_restore writes is taken apart entry by entry, whatever names and constants look like."""

from __future__ import annotations

from pyreplica.replication.scripts import contents, statements, use_list

LIST = """\
;
; Archive created at 2026-03-01 12:00:00 UTC
;     TOC Entries: 3
;
3219; 2606 16404 CONSTRAINT public c c_pkey postgres
3224; 0 0 INDEX ATTACH public p 1 pkey some_role
"""
SCRIPT = r"""--
-- PostgreSQL database dump
--

\restrict abcDEF1

-- Started on 2026-03-01

SET statement_timeout = 0;
SET default_tablespace = '';

--
-- TOC entry 12 (class 2606 OID 99)
-- Dependencies: 3 4 3
-- Name: it's "x; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public."--
-- TOC entry 13 (class 2606 OID 99)
" ADD CONSTRAINT a PRIMARY KEY (x);


SET default_tablespace = "o'x ""y";

--
-- TOC entry 14 (class 1259 OID 98)
--

CREATE INDEX i ON t ((x || E'a\\\'
--
-- TOC entry 15 (class 1259 OID 98)
' || '--
-- TOC entry 16 (class 1259 OID 98)
\'));


--
-- TOC entry 17 (class 1255 OID 97)
--

CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $_$ SELECT 'it''s $1 $$
--
-- TOC entry 18 (class 1259 OID 98)
\unrestrict other
SET default_tablespace = wrong;
' $_$;


SET default_tablespace = '';

--
-- TOC entry 19 (class 1259 OID 98)
--

CREATE INDEX j ON t (x);

-- Completed on 2026-03-01

--
-- PostgreSQL database dump complete
--

\unrestrict abcDEF1

"""


def test_each_entry_has_its_own_statements_and_tablespace() -> None:
    read = statements(SCRIPT)
    assert [one.id for one in read] == [12, 14, 17, 19]
    assert [one.needs for one in read] == [{3, 4}, set(), set(), set()]
    key, index, function, last = (one.sql for one in read)
    assert key.startswith("SET LOCAL default_tablespace = '';\n--\n-- TOC entry 12")
    assert key.rstrip().endswith('" ADD CONSTRAINT a PRIMARY KEY (x);')
    assert index.startswith('SET LOCAL default_tablespace = "o\'x ""y";\n')
    assert index.rstrip().endswith("\\'));")
    assert "\\unrestrict other\nSET default_tablespace = wrong;\n' $_$;" in function
    assert last.startswith("SET LOCAL default_tablespace = '';\n")
    assert "restrict" not in last
    for one in read:
        assert "\nSET default_tablespace = ''" not in one.sql


def test_a_script_of_a_release_without_commands_for_psql_is_read_alike() -> None:
    older = SCRIPT.replace("\\restrict abcDEF1\n", "").replace("\\unrestrict abcDEF1\n", "")
    assert statements(older) == statements(SCRIPT)


def test_the_contents_of_a_dump_are_its_entries() -> None:
    key, attachment = contents(LIST)
    assert (key.id, key.catalog, key.oid, str(key)) == (
        3219,
        2606,
        16404,
        "CONSTRAINT public c c_pkey",
    )
    assert (attachment.id, attachment.catalog, attachment.oid) == (3224, 0, 0)
    assert contents(use_list([attachment])) == [attachment]


def test_a_name_with_a_line_separator_is_no_further_entry() -> None:
    """pg_restore writes a line break in a name as a space, but there are more that Python knows."""
    forged = "7; 1259 1 TABLE public x\u20288; 1259 2 TABLE public y postgres\n"
    assert [entry.id for entry in contents(forged)] == [7]
