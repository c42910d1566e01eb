"""The section `map:` of a replication."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyreplica.config import load, parse
from pyreplica.errors import ConfigError
from pyreplica.model import Map, Mask, MaskKind

HEAD = """
replications:
  shop:
    master: dbname=a
    slave: dbname=b
"""
SECRET = "0123456789abcdef"


def read(text: str, head: str = HEAD) -> Map:
    """The mapping of this text, which stands below `map:`."""
    lines = "".join(f"      {line}\n" for line in text.splitlines())
    return parse(f"{head}    map:\n{lines}", "x.yaml", {"SECRET": SECRET}).select([])[0].map


def test_without_it_everything_is_called_as_on_the_master() -> None:
    made = parse(HEAD, "x.yaml", {}).select([])[0].map
    assert not made
    there = made.table("public", "a")
    assert (str(there), there.column("b"), there.logged("b")) == ("public.a", "b", "b")


def test_all_of_it_is_read() -> None:
    made = read(
        "schemas: {public: shop}\n"
        "tables: {public.a: archive.b}\n"
        "columns: {public.a: {price: amount}}\n"
        'constants: {public.a: {source: paris, n: 7, day: 2026-01-01, w: "07", t: true}}\n'
        'masks: {public.c: {e: hash, p: "null", q: null, n: {constant: x}}}\n'
        "secret: ${SECRET}\n"
    )
    assert str(made.table("public", "a")) == "archive.b"
    assert str(made.table("public", "c")) == "shop.c"
    assert str(made.table("other", "c")) == "other.c"
    table = made.table("public", "a")
    assert [table.column(name) for name in ("price", "id")] == ["amount", "id"]
    assert [table.logged(name) for name in ("amount", "id", "price", "source")] == [
        "price",
        "id",
        None,
        None,
    ]
    assert table.constants == {
        "source": "paris",
        "n": "7",
        "day": "2026-01-01",
        "w": "07",
        "t": "true",
    }
    assert made.table("public", "c").masks == {
        "e": Mask(MaskKind.HASH, SECRET),
        "p": Mask(MaskKind.NULL),
        "q": Mask(MaskKind.NULL),
        "n": Mask(MaskKind.CONSTANT, "x"),
    }


def test_columns_may_change_names_with_one_another() -> None:
    table = read("columns: {public.a: {b: c, c: b}}").table("public", "a")
    assert (table.column("b"), table.column("c")) == ("c", "b")
    assert (table.logged("b"), table.logged("c")) == ("c", "b")


def test_the_secret_is_not_shown() -> None:
    text = f"{HEAD}    map: {{masks: {{a.b: {{c: hash}}}}, secret: {SECRET}}}\n"
    assert SECRET not in repr(parse(text, "x.yaml", {}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("shcemas: {}", "unknown key"),
        ("schemas: [public]", "a mapping of schemas"),
        ("schemas: {public: 7}", "a name, as PostgreSQL stores it"),
        ("tables: {a: b.c}", "expected a table, schema.table"),
        ("tables: {a.b: c}", "expected a table, schema.table"),
        ("tables: {a.*: b.c}", "there are no patterns here"),
        ("tables: {'a.\"b\"': b.c}", "without quotes"),
        ("tables: {a.b: c.d, a.c: c.d}", "a.b and a.c would be the same table"),
        ("columns: {a.b: {c: x, d: x}}", "two columns would be called x"),
        ("columns: {a.b: c}", "a mapping of columns"),
        ("constants: {a.b: {c: null}}", "expected a value"),
        ("constants: {a.b: {c: [1]}}", "expected a value"),
        ("{columns: {a.b: {c: x}}, constants: {a.b: {x: 1}}}", "column x is a constant"),
        ("masks: {a.b: {c: hsah}}", "expected hash, null, or {constant: VALUE}"),
        ("masks: {a.b: {c: {constnat: x}}}", "unknown mask"),
        ("masks: {a.b: {c: {}}}", "expected hash, null, or {constant: VALUE}"),
        ("masks: {a.b: {c: hash}}", "there is no secret"),
        ("{masks: {a.b: {c: hash}}, secret: short}", "at least 16 characters"),
        ("{masks: {a.b: {c: null}}, secret: 0123456789abcdefg}", "of use only where"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert says in str(refused.value)
    assert refused.value.where.startswith("x.yaml:")


@pytest.mark.parametrize("where", ["    ddl: replicate\n", "defaults: {ddl: replicate}\n"])
def test_it_does_not_go_with_ddl(where: str) -> None:
    mapping = "    map: {schemas: {a: b}}\n"
    text = HEAD + (where + mapping if where.startswith(" ") else mapping + where)
    with pytest.raises(ConfigError, match="do not go together"):
        parse(text, "x.yaml", {})


@pytest.mark.parametrize(
    ("mapping", "secret"),
    [
        (f"{{masks: {{a.b: {{c: hash}}}}, secret: {SECRET}}}", True),
        ("{masks: {a.b: {c: hash}}, secret: '${SECRET}'}", False),
        ("{columns: {a.b: {password: secret, secret: password}}}", False),
        ("{masks: {a.password: {password: {constant: x}, secret: null}}}", False),
    ],
)
def test_a_file_with_the_secret_is_not_for_others_to_read(
    tmp_path: Path, mapping: str, secret: bool
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"{HEAD}    map: {mapping}\n")
    path.chmod(0o644)
    if secret:
        with pytest.raises(ConfigError, match="password"):
            load(path, {})
    else:
        load(path, {"SECRET": SECRET})
