"""The configuration file: what is accepted, what is refused and how, and that no password shows."""

from __future__ import annotations

import dataclasses
import re
import traceback
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2.extensions
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pyreplica.config import (
    CommitMode,
    Config,
    ReplicationConfig,
    dsn,
    load,
    parse,
    parse_duration,
    parse_size,
)
from pyreplica.config.dsn import redact
from pyreplica.config.policies import OnError, Policies, Policy
from pyreplica.errors import ConfigError
from pyreplica.model import TableFilter

UNHURRIED = settings(deadline=None)  # other tests keep the machine busy
NOTHING_SET: Mapping[str, str] = {}
SHOP = ReplicationConfig(
    "shop", "host=db1 dbname=shop user=pyreplica", "host=127.0.0.1 dbname=shop user=pyreplica"
)


def read(text: str, environ: Mapping[str, str] = NOTHING_SET) -> Config:
    return parse(text, "pyreplica.yaml", environ)


def with_settings(*lines: str) -> str:
    """Return a file with the replication shop and further lines in it, the first one in line 5."""
    return "\n".join(
        [
            "replications:",
            "  shop:",
            "    master: host=db1 dbname=shop user=pyreplica",
            "    slave: host=127.0.0.1 dbname=shop user=pyreplica",
            *(f"    {line}" for line in lines),
        ]
    )


def shop(*lines: str, environ: Mapping[str, str] = NOTHING_SET) -> ReplicationConfig:
    return read(with_settings(*lines), environ).replications["shop"]


def with_master(master: str, environ: Mapping[str, str] = NOTHING_SET) -> str:
    """Return the master's connection string as it is read from a file."""
    text = yaml.safe_dump({"replications": {"shop": {"master": master, "slave": "dbname=shop"}}})
    return read(text, environ).replications["shop"].master


def refusal(text: str, environ: Mapping[str, str] = NOTHING_SET) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(text, environ)
    return caught.value


# What is accepted


def test_two_connection_strings_are_enough_and_the_rest_has_defaults() -> None:
    config = read(with_settings())
    assert config.source == "pyreplica.yaml"
    assert config.log_level == "info"
    assert list(config.replications) == ["shop"]
    assert config.replications["shop"] == ReplicationConfig(
        name="shop",
        master="host=db1 dbname=shop user=pyreplica",
        slave="host=127.0.0.1 dbname=shop user=pyreplica",
        tables=None,
        commit=CommitMode.TWO_PHASE,
        batch_rows=200_000,
        copy_workers=4,
        keepalive=60.0,
        connect_timeout=10.0,
        retry_first=0.5,
        retry_max=30.0,
    )


def test_every_setting_of_a_replication_is_read() -> None:
    assert shop(
        'tables: ["public.*", billing.invoice]',
        "commit: one-phase",
        "batch_rows: 10_000",
        "copy_workers: 64",
        "keepalive: 2min",
        "connect_timeout: 1.5s",
        "retry_first: 250ms",
        "retry_max: 1h",
    ) == dataclasses.replace(
        SHOP,
        tables=("public.*", "billing.invoice"),
        commit=CommitMode.ONE_PHASE,
        batch_rows=10_000,
        copy_workers=64,
        keepalive=120.0,
        connect_timeout=1.5,
        retry_first=0.25,
        retry_max=3600.0,
    )


def test_defaults_hold_where_a_replication_says_nothing() -> None:
    text = "defaults: {copy_workers: 8, commit: one-phase}\n"
    replication = read(text + with_settings("copy_workers: 2")).replications["shop"]
    assert replication.copy_workers == 2
    assert replication.commit is CommitMode.ONE_PHASE


def test_defaults_may_come_after_the_replications() -> None:
    text = with_settings() + "\ndefaults: {copy_workers: 8}\n"
    assert read(text).replications["shop"].copy_workers == 8


def test_the_log_s_form_and_file_are_read() -> None:
    config = read("log_format: json\nlog_file: /var/log/x.log\n" + with_settings())
    assert (config.log_format, config.log_file) == ("json", Path("/var/log/x.log"))
    config = read("log_file: none\n" + with_settings())
    assert (config.log_format, config.log_file) == ("text", None)
    error = refusal("log_file: x.log\n" + with_settings())
    assert error.what.startswith("log_file: expected an absolute path, such as ")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_log_level_is_read(level: str) -> None:
    assert read(f"log_level: {level}\n" + with_settings()).log_level == level


@pytest.mark.parametrize("name", ["a", "shop_2-eu", "-", "2008", "on", "null", "0x1f", "n" * 63])
def test_a_name_is_taken_as_it_is_written_even_where_yaml_sees_something_else(name: str) -> None:
    config = read(f"replications: {{{name}: {{master: dbname=a, slave: dbname=b}}}}")
    assert list(config.replications) == [name]
    assert config.replications[name].name == name


@pytest.mark.parametrize(
    "master", ["dbname=shop", "service=shop", "postgresql://db1/shop", "postgres://", "a = b"]
)
def test_both_forms_of_connection_strings_are_accepted(master: str) -> None:
    assert with_master(master) == master


def test_an_alias_takes_the_settings_of_its_anchor() -> None:
    text = "replications: {shop: &it {master: dbname=a, slave: dbname=b}, copy: *it}"
    copy = read(text).replications["copy"]
    assert (copy.name, copy.master) == ("copy", "dbname=a")


# What is refused, and how


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_an_empty_file_is_refused(text: str) -> None:
    assert "replications" in refusal(text).what


@pytest.mark.parametrize("text", ["shop", "- shop", "5", "[replications]"])
def test_a_file_that_is_no_mapping_is_refused(text: str) -> None:
    assert refusal(text).what == "expected a mapping of settings"


def test_a_file_without_replications_is_refused() -> None:
    error = refusal("log_level: info")
    assert error.what == "replications: is missing"
    assert error.where == "pyreplica.yaml"


@pytest.mark.parametrize("value", ["{}", "[]", "shop", "", "~"])
def test_replications_that_name_none_are_refused(value: str) -> None:
    error = refusal(f"\nreplications: {value}")
    assert error.what.startswith("replications: ")
    assert "expected" in error.what
    assert error.where == "pyreplica.yaml:2"


def test_a_misspelt_key_is_named_with_its_line_and_the_key_that_was_meant() -> None:
    error = refusal(with_settings("batch_row: 5"))
    assert error.line == "pyreplica.yaml:5: replications.shop.batch_row: unknown key"
    assert error.hint == "did you mean batch_rows?"
    assert error.exit_code == 2
    assert not error.retry


@pytest.mark.parametrize(
    ("text", "path", "meant"),
    [
        ("replication: {}", "replication", "replications"),
        (with_settings() + "\nloglevel: info", "loglevel", "log_level"),
        (with_settings() + "\ndefaults: {keepalives: 5s}", "defaults.keepalives", "keepalive"),
        ("replications: {shop: {mastre: dbname=a}}", "replications.shop.mastre", "master"),
    ],
)
def test_misspelt_keys_are_found_at_every_level(text: str, path: str, meant: str) -> None:
    error = refusal(text)
    assert error.what == f"{path}: unknown key"
    assert error.hint == f"did you mean {meant}?"


def test_a_key_like_no_other_gets_the_list_of_the_known_ones() -> None:
    assert refusal("zzz: 1").hint.startswith("known: replications, defaults, alerts, ")


@pytest.mark.parametrize("key", ["master", "slave", "name"])
def test_the_defaults_take_only_optional_keys(key: str) -> None:
    error = refusal(with_settings() + f"\ndefaults: {{{key}: dbname=a}}")
    assert error.what == f"defaults.{key}: unknown key"


def test_a_merge_key_is_refused() -> None:
    error = refusal("replications: {a: {<<: {commit: one-phase}, master: a=b, slave: a=b}}")
    assert error.what == "replications.a.?: unknown key"


@pytest.mark.parametrize("key", ["master", "slave"])
def test_a_missing_connection_string_is_named(key: str) -> None:
    other = {"master": "slave", "slave": "master"}[key]
    error = refusal(f"replications:\n  shop:\n    {other}: dbname=shop\n")
    assert error.line == f"pyreplica.yaml:2: replications.shop.{key}: is missing"


@pytest.mark.parametrize(
    "key",
    ["tables", "commit", "batch_rows", "copy_workers", "keepalive", "retry_first", "retry_max"],
)
@pytest.mark.parametrize("nothing", ["", "~", "null"])
def test_a_key_without_a_value_is_refused(key: str, nothing: str) -> None:
    error = refusal(with_settings(f"{key}: {nothing}"))
    assert error.what.startswith(f"replications.shop.{key}: has no value; expected ")
    assert error.where == "pyreplica.yaml:5"


@pytest.mark.parametrize("text", ["replications: {shop: }", with_settings() + "\ndefaults:"])
def test_a_mapping_without_a_value_is_refused(text: str) -> None:
    assert "has no value; expected a mapping of settings" in refusal(text).what


@pytest.mark.parametrize(
    ("first", "second"), [("commit", "commit"), ("commit", '"commit"'), ("zzz", "zzz")]
)
def test_a_key_that_is_there_twice_is_refused_with_both_lines(first: str, second: str) -> None:
    error = refusal(with_settings(f"{first}: one-phase", "", f"{second}: two-phase"))
    assert error.where == "pyreplica.yaml:7"
    assert error.what == f"replications.shop.{first}: is there twice, first in line 5"


def test_two_replications_of_one_name_are_refused() -> None:
    error = refusal(with_settings() + "\n  shop: {master: dbname=a, slave: dbname=b}")
    assert error.what == "replications.shop: is there twice, first in line 2"
    assert error.where == "pyreplica.yaml:5"


@pytest.mark.parametrize("name", ["shop.eu", "my shop", "''", "n" * 64, "größe", "[a]", "{a: b}"])
def test_a_name_of_other_characters_is_refused(name: str) -> None:
    error = refusal(f"replications:\n  ? {name}\n  : {{master: dbname=a, slave: dbname=b}}\n")
    assert error.line == (
        "pyreplica.yaml:2: replications.?: expected a name of 1 to 63 letters, digits, _ and -"
    )


@pytest.mark.parametrize("value", ["shop", "5", "true", "", "[dbname=a]", "{dbname: a}", "''"])
def test_what_is_no_connection_string_is_refused(value: str) -> None:
    error = refusal(f"replications: {{shop: {{master: {value}, slave: dbname=b}}}}")
    assert "replications.shop.master: " in error.what
    assert "expected a libpq connection string or URI" in error.what


def test_a_bare_database_name_is_refused_with_the_way_to_write_it() -> None:
    error = refusal("replications: {shop: {master: shop, slave: dbname=b}}")
    assert error.hint == "a bare database name is not accepted: write dbname=NAME"


@pytest.mark.parametrize("value", ["tow-phase", "Two-Phase", "2", "true", "[one-phase]"])
def test_an_unknown_way_to_commit_is_refused(value: str) -> None:
    error = refusal(with_settings(f"commit: {value}"))
    assert error.what == "replications.shop.commit: expected two-phase or one-phase"


def test_a_misspelt_choice_gets_the_one_that_was_meant() -> None:
    assert refusal(with_settings("commit: tow-phase")).hint == "did you mean two-phase?"
    error = refusal("log_level: warn\n" + with_settings())
    assert error.what == "log_level: expected debug, info, warning or error"
    assert error.hint == "did you mean warning?"


@pytest.mark.parametrize(
    "value",
    ["0", "-1", "10000001", "9" * 5000, "5.0", "1e3", "true", "'5'", "010", "0x10", "1:30", "[5]"],
)
def test_what_is_no_whole_number_in_the_range_is_refused(value: str) -> None:
    error = refusal(with_settings(f"batch_rows: {value}"))
    assert error.line == (
        "pyreplica.yaml:5: replications.shop.batch_rows: "
        "expected a whole number from 1 to 10,000,000"
    )


@pytest.mark.parametrize(
    ("setting", "valid"),
    [
        ("batch_rows: 1", True),
        ("batch_rows: 10000000", True),
        ("copy_workers: 1", True),
        ("copy_workers: 64", True),
        ("copy_workers: 65", False),
        ("keepalive: 1s", True),
        ("keepalive: 999ms", False),
        ("keepalive: 1d", True),
        ("keepalive: 86401s", False),
        ("connect_timeout: 1s", True),
        ("connect_timeout: 0.9s", False),
        ("peer_timeout: 1s", True),
        ("peer_timeout: 0.9s", False),
        ("peer_timeout: 1d", True),
        ("in_doubt_alert: 1s", True),
        ("in_doubt_alert: 0.9s", False),
        ("lag_alert: 1s", True),
        ("lag_alert: none", True),
        ("lag_alert: 0.9s", False),
        ("retry_first: 1ms", True),
        ("retry_first: 0s", False),
    ],
)
def test_the_limits_of_a_range_belong_to_it(setting: str, valid: bool) -> None:
    if valid:
        shop(setting)
    else:
        assert "expected" in refusal(with_settings(setting)).what


@pytest.mark.parametrize(
    "value",
    [
        "60",
        "1.5",
        "5m",
        "s",
        "-5s",
        "5 S",
        "1h30min",
        "true",
        "1:30",
        "[5s]",
        "\N{ARABIC-INDIC DIGIT FIVE}s",
        "''",
    ],
)
def test_what_is_no_duration_is_refused_with_the_units(value: str) -> None:
    error = refusal(with_settings(f"keepalive: {value}"))
    assert error.what == (
        "replications.shop.keepalive: expected a duration from 1s to 1d, such as 60s"
    )
    assert error.hint == "a duration is a number and a unit: ms, s, min, h, d"


def test_a_first_delay_longer_than_the_longest_one_is_refused() -> None:
    error = refusal(with_settings("", "retry_first: 31s"))
    assert error.line == (
        "pyreplica.yaml:6: replications.shop.retry_first: "
        "retry_first (31 s) must not be longer than retry_max (30 s)"
    )


def test_delays_are_compared_as_they_hold_after_the_defaults() -> None:
    assert shop("retry_first: 31s", "retry_max: 31s").retry_first == 31.0
    defaults = "defaults: {retry_max: 2s}\n"
    assert read(defaults + with_settings()).replications["shop"].retry_max == 2.0
    error = refusal(defaults + with_settings("retry_first: 3s"))
    assert error.what.startswith("replications.shop.retry_first: ")


def test_delays_in_the_wrong_order_are_refused_where_they_are_written() -> None:
    both = refusal("defaults: {retry_first: 3s, retry_max: 2s}\n" + with_settings())
    assert both.line.startswith("pyreplica.yaml:1: defaults.retry_first: ")
    longest = refusal(with_settings("retry_max: 100ms"))
    assert longest.what.startswith("replications.shop.retry_max: ")
    inherited = refusal("defaults: {retry_first: 31s}\n" + with_settings())
    assert inherited.what.startswith("replications.shop: ")


@pytest.mark.parametrize("pattern", ["orders", "public.", ".orders", ".", "''", "5", "[a.b]", "~"])
def test_a_pattern_without_schema_or_table_is_refused(pattern: str) -> None:
    error = refusal(with_settings(f"tables: [public.*, {pattern}]"))
    assert error.what.startswith("replications.shop.tables[2]: ")
    assert error.what.endswith("expected a pattern schema.table, such as public.*")


def test_a_pattern_with_quotes_is_refused_because_it_would_match_nothing() -> None:
    error = refusal(with_settings("""tables: ['"Public".orders']"""))
    assert "without quotes" in error.hint


@pytest.mark.parametrize("value", ["public.*", "{public: orders}"])
def test_tables_that_are_no_list_are_refused(value: str) -> None:
    error = refusal(with_settings(f"tables: {value}"))
    assert (
        error.what == 'replications.shop.tables: expected a list of patterns, such as ["public.*"]'
    )


def test_an_empty_list_of_tables_is_refused() -> None:
    assert "at least one pattern" in refusal(with_settings("tables: []")).what


@pytest.mark.parametrize("tag", ["!!python/object:os.system", "!!binary", "!!set", "!mine"])
def test_tags_are_refused(tag: str) -> None:
    assert "expected" in refusal(with_settings(f"commit: {tag} {{}}")).what
    assert "expected" in refusal(f"replications: {tag} {{}}").what


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("replications: [", 1),
        ("replications:\n  shop:\n    master: a: b\n", 3),
        ("replications:\n\tshop: 5\n", 2),
        ("a: b\n---\nc: d\n", 2),
        ("replications: *nowhere\n", 1),
        ("a: b\nb: \x07\n", 2),
        ("%YAML 3.0\n---\na: b\n", 1),
    ],
)
def test_malformed_yaml_is_refused_with_the_line(text: str, line: int) -> None:
    error = refusal(text)
    assert error.what.startswith("cannot be read as YAML: ")
    assert error.where == f"pyreplica.yaml:{line}"


def test_endless_nesting_is_refused() -> None:
    assert refusal("[" * 100_000).what == "cannot be read as YAML: too many levels"


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.yaml", NOTHING_SET)
    assert (
        caught.value.line == f"{tmp_path / 'none.yaml'}: cannot be read: No such file or directory"
    )


def test_a_folder_is_refused_as_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path, NOTHING_SET)


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pyreplica.yaml"
    path.write_bytes("# größe".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not a text file in UTF-8"):
        load(path, NOTHING_SET)


def test_a_file_is_read_with_its_name_as_the_source(tmp_path: Path) -> None:
    path = tmp_path / "pyreplica.yaml"
    path.write_text("\N{ZERO WIDTH NO-BREAK SPACE}" + with_settings(), encoding="utf-8")
    config = load(path, NOTHING_SET)
    assert config.source == str(path)
    assert list(config.replications) == ["shop"]


# Variables


def test_the_environment_of_the_process_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_COMMIT", "one-phase")
    path = tmp_path / "pyreplica.yaml"
    path.write_text(with_settings("commit: ${SHOP_COMMIT}"))
    assert load(path).replications["shop"].commit is CommitMode.ONE_PHASE


def test_variables_are_filled_in_everywhere() -> None:
    environ = {"COMMIT": "one-phase", "ROWS": "5", "TIME": "7", "SCHEMA": "public"}
    replication = shop(
        "commit: ${COMMIT}",
        "batch_rows: ${ROWS}0",
        "keepalive: ${TIME}s",
        "tables: ['${SCHEMA}.*']",
        environ=environ,
    )
    assert replication.commit is CommitMode.ONE_PHASE
    assert replication.batch_rows == 50
    assert replication.keepalive == 7.0
    assert replication.tables == ("public.*",)


def test_an_unset_variable_is_named_with_the_key() -> None:
    error = refusal(with_settings("commit: ${SHOP_COMMIT}"))
    assert error.line == (
        "pyreplica.yaml:5: replications.shop.commit: "
        "the environment variable SHOP_COMMIT is not set"
    )


@pytest.mark.parametrize("value", ["${", "a${b", "${2}", "${a-b}", "${}", "$${A} ${"])
def test_an_unfinished_variable_is_refused_with_the_way_to_write_the_characters(value: str) -> None:
    error = refusal(with_settings(f"commit: '{value}'"))
    assert error.what == "replications.shop.commit: holds ${ without a name and }"
    assert "$${" in error.hint


@pytest.mark.parametrize(
    ("written", "read_as"),
    [("$${A}.*", "${A}.*"), ("$$${A}.*", "$${A}.*"), ("$A.$", "$A.$"), ("${A}.*", "${A}.*")],
)
def test_a_dollar_can_be_written(written: str, read_as: str) -> None:
    replication = shop(f"tables: ['{written}']", environ={"A": "${A}"})
    assert replication.tables == (read_as,)


def test_a_whole_connection_string_can_be_in_a_variable() -> None:
    master = r"host=db1 password='it\'s' dbname=shop"
    assert with_master("${SHOP}", {"SHOP": master}) == master
    uri = "postgresql://me:it%27s@db1:5432/shop?sslmode=require"
    assert with_master("${SHOP}", {"SHOP": uri}) == uri
    assert with_master("postgresql://${REST}", {"REST": uri[len("postgresql://") :]}) == uri
    assert with_master("host=db1 ${REST}", {"REST": "a=b c=d"}) == "host=db1 a=b c=d"


def test_hosts_in_a_uri_are_taken_as_they_are() -> None:
    uri = "postgresql://${USER}@${HOSTS}/shop"
    filled = with_master(uri, {"USER": "me@work", "HOSTS": "db1:5432,[::1]:5433"})
    assert filled == "postgresql://me%40work@db1:5432,[::1]:5433/shop"


def test_a_variable_cannot_add_a_parameter_to_a_connection_string() -> None:
    filled = with_master("password=${PW} dbname=shop", {"PW": "x host=elsewhere"})
    assert psycopg2.extensions.parse_dsn(filled) == {
        "password": "x host=elsewhere",
        "dbname": "shop",
    }


@pytest.mark.parametrize("value", ["shop", ""])
def test_a_variable_that_holds_no_connection_string_is_refused(value: str) -> None:
    error = refusal("replications: {a: {master: '${A}', slave: a=b}}", {"A": value})
    assert "expected a libpq connection string" in error.what


@pytest.mark.parametrize(
    "template",
    [
        "host=db1 password=${PW} dbname=shop",
        "host=db1 password = '${PW}' dbname=shop",
        "dbname=shop host=db1 password=${PW}",
        "postgresql://me:${PW}@db1/shop",
        "postgresql://db1/shop?sslmode=require&password=${PW}",
        "postgresql://db1/shop?password=${PW}&sslmode=require",
    ],
)
@UNHURRIED
@given(password=st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_a_password_of_any_characters_reaches_libpq(template: str, password: str) -> None:
    filled = with_master(template, {"PW": password})
    read_by_libpq = psycopg2.extensions.parse_dsn(filled)
    assert read_by_libpq.get("password", "") == password
    assert read_by_libpq["dbname"] == "shop"


# Which replications and tables


def test_select_without_names_returns_all_in_the_order_of_the_file() -> None:
    config = read("replications: {b: {master: a=b, slave: a=b}, a: {master: a=b, slave: a=b}}")
    assert [replication.name for replication in config.select([])] == ["b", "a"]


def test_select_returns_each_name_once() -> None:
    config = read("replications: {b: {master: a=b, slave: a=b}, a: {master: a=b, slave: a=b}}")
    assert [replication.name for replication in config.select(["a", "b", "a"])] == ["a", "b"]


def test_select_refuses_an_unknown_name_and_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        read(with_settings()).select(["shop", "shoop"])
    assert caught.value.line == "pyreplica.yaml: there is no replication named shoop"
    assert caught.value.hint == "known: shop"


def test_without_patterns_every_table_is_included() -> None:
    assert SHOP.includes("public", "orders")


@pytest.mark.parametrize(
    ("pattern", "schema", "table", "included"),
    [
        ("public.*", "public", "orders", True),
        ("public.*", "public", "", True),
        ("public.*", "publication", "orders", False),
        ("public*.*", "publication", "orders", True),
        ("*.orders", "x.y", "orders", True),
        ("*.orders", "public", "old.orders", False),
        ("public.old.*", "public", "old.orders", True),
        ("public.invoice_????", "public", "invoice_2008", True),
        ("public.invoice_????", "public", "invoice_20081", False),
        ("public.?", "public", "\n", True),
        ("public.orders", "public", "Orders", False),
        ("public.Orders", "public", "Orders", True),
        ("public.[ab]", "public", "a", False),
        ("public.[ab]", "public", "[ab]", True),
        ("public.a.c", "public", "abc", False),
        ("public.orders", "public", "orders\n", False),
    ],
)
def test_a_pattern_matches_like_a_shell(
    pattern: str, schema: str, table: str, included: bool
) -> None:
    assert dataclasses.replace(SHOP, tables=(pattern,)).includes(schema, table) is included


def test_one_matching_pattern_is_enough() -> None:
    replication = dataclasses.replace(SHOP, tables=("a.*", "public.*"))
    assert replication.includes("public", "orders")
    assert not replication.includes("b", "orders")


# Durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("1.5 s", 1.5), ("10min", 600.0), ("1h", 3600.0), ("2d", 172_800.0)],
)
def test_a_duration_is_a_number_and_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@UNHURRIED
@given(
    number=st.decimals(min_value=0, max_value=10**9, places=3),
    unit=st.sampled_from([("ms", 0.001), ("s", 1.0), ("min", 60.0), ("h", 3600.0), ("d", 86400.0)]),
    blanks=st.sampled_from(["", " ", "  "]),
)
def test_every_number_with_a_unit_is_a_duration(
    number: object, unit: tuple[str, float], blanks: str
) -> None:
    name, seconds = unit
    assert parse_duration(f"{number}{blanks}{name}") == pytest.approx(float(str(number)) * seconds)


@UNHURRIED
@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        assert parse_duration(text) >= 0
    except ValueError:
        assert not re.fullmatch(r"[0-9]+(ms|s|min|h|d)", text)


# The limits of the log


@pytest.mark.parametrize(
    ("text", "size"),
    [("1024kB", 1 << 20), ("1.5 MB", 3 << 19), ("20GB", 20 << 30), ("1TB", 1 << 40)],
)
def test_a_size_is_a_number_and_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert shop(f"max_log_size: {text}").max_log_size == size


@pytest.mark.parametrize(
    "value", ["20", "'20'", "20gb", "GB", "-1GB", "1kB", "2000TB", "off", "[]"]
)
def test_what_is_no_size_is_refused_with_the_units(value: str) -> None:
    error = refusal(with_settings(f"max_log_size: {value}"))
    assert error.what == (
        "replications.shop.max_log_size: expected a size from 1MB to 1024TB, such as 20GB, or none"
    )
    assert error.hint == "a size is a number and a unit: kB, MB, GB, TB"


def test_a_replication_may_have_no_limit_where_the_others_have_one() -> None:
    limits = "\ndefaults:\n  max_log_size: 1GB\n  max_log_age: 2d\n"
    limited = read(with_settings() + limits).replications["shop"]
    assert (limited.max_log_size, limited.max_log_age) == (1 << 30, 172_800)
    free = with_settings("max_log_size: none", "max_log_age: none") + limits
    assert read(free).replications["shop"] == SHOP


# Secrets

PASSWORDS = st.builds(
    # The marks make sure that a piece that is left over is noticed wherever it comes from.
    "{}hunter2{}".format,
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    st.text(st.characters(codec="utf-8", exclude_characters="\0")),
)


def quoted(value: str) -> str:
    return "'" + re.sub(r"[\\']", r"\\\g<0>", value) + "'"


def bare(value: str) -> str:
    return re.sub(r"[\\'\s]", r"\\\g<0>", value)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("host=db1 password=secret dbname=shop", "host=db1 password=*** dbname=shop"),
        ("host=db1 password='se cret' dbname=a", "host=db1 password=*** dbname=a"),
        (r"password='it\'s \\ se cret' dbname=a", "password=*** dbname=a"),
        (r"password=se\ cret\' dbname=a", "password=*** dbname=a"),
        ("password = 'secret' user = me", "password = *** user = me"),
        ("PASSWORD=secret", "PASSWORD=***"),
        ("sslpassword=secret password=secret", "sslpassword=*** password=***"),
        ("passfile=/etc/pgpass sslkey=/etc/key", "passfile=/etc/pgpass sslkey=/etc/key"),
        ("oauth_client_secret=secret user=me", "oauth_client_secret=*** user=me"),
        ("host=db1 dbname=shop", "host=db1 dbname=shop"),
        ("application_name='password=' password='se cret'", "application_name='password=***"),
        ("postgresql://me:secret@db1/shop", "postgresql://me:***@db1/shop"),
        ("postgres://me:se%40cret@db1:5432/shop", "postgres://me:***@db1:5432/shop"),
        ("postgresql://:secret@db1", "postgresql://:***@db1"),
        ("postgresql://me@db1:5432/shop?a=b", "postgresql://me@db1:5432/shop?a=b"),
        ("postgresql://[::1]:5432/shop", "postgresql://[::1]:5432/shop"),
        ("postgresql:///shop?password=secret&a=b", "postgresql:///shop?password=***&a=b"),
        ("postgresql:///?a=b&sslpassword=secret", "postgresql:///?a=b&sslpassword=***"),
        ("postgresql:///?passfile=/etc/pgpass", "postgresql:///?passfile=/etc/pgpass"),
        ("postgresql:///?p%61ssword=secret&a=b", "postgresql:///?p%61ssword=***&a=b"),
        ("", ""),
        ("shop", "shop"),
    ],
)
def test_redact_hides_the_secret_and_keeps_the_rest(written: str, shown: str) -> None:
    assert redact(written) == shown


@pytest.mark.parametrize(
    "written",
    [
        "password=my secret words host=db1",
        "password='it's my secret' host=db1",
        "password='my secret",
        "password=secret\\",
        "application_name='oops password=secret host=db1",
        "postgresql://me:my@secret@db1/shop",
        "postgresql://me:my/secret@db1/shop",
        "postgresql://me:my?secret@db1/shop",
        "postgresql://me@work:secret@db1/shop",
        "postgresql://me:a/?password=secret@db1/shop",
        "postgresql://me:a@db1/shop?password=my@secret&sslmode=require",
        "postgresql://me:a@db1/shop?password=my&secret",
        "postgresql://db1/shop password=secret",
        "postgresql://db1/shop?a=b password=secret",
        " postgresql://me:secret@db1/shop",
    ],
)
def test_redact_hides_badly_written_secrets_too(written: str) -> None:
    assert "secret" not in redact(written)


@UNHURRIED
@given(password=PASSWORDS, other=st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_no_password_of_pairs_survives_redact(password: str, other: str) -> None:
    for written in (quoted(password), bare(password)):
        for template in (
            "host=db1 application_name={other} password={written} dbname=shop",
            "password={written} application_name={other}",
            "application_name={other} sslpassword  =  {written}",
        ):
            text = template.format(written=written, other=quoted(other))
            psycopg2.extensions.parse_dsn(text)  # it is one that libpq understands
            assert "hunter2" not in redact(text)


@UNHURRIED
@given(password=PASSWORDS, other=st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_no_password_of_a_uri_survives_redact(password: str, other: str) -> None:
    for template in (
        "postgresql://{other}:{written}@db1:5432/shop?application_name={other}",
        "postgresql://me@db1/shop?application_name={other}&password={written}",
        "postgres://db1,db2/shop?sslpassword={written}&application_name={other}",
    ):
        text = template.format(written=quote(password, safe=""), other=quote(other, safe=""))
        psycopg2.extensions.parse_dsn(text)
        assert "hunter2" not in redact(text)


@UNHURRIED
@given(password=PASSWORDS)
def test_no_password_survives_redact_even_when_it_is_not_encoded(password: str) -> None:
    assert "hunter2" not in redact(f"postgresql://me:{password}@db1:5432/shop")


@UNHURRIED
@given(st.text())
def test_redact_takes_any_text_and_redacting_twice_changes_nothing(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


def test_a_replication_never_shows_a_password() -> None:
    config = read(
        "replications: {shop: {master: host=db1 password=hunter2 dbname=a,"
        " slave: 'postgresql://me:hunter2@db2/b'}}"
    )
    replication = config.replications["shop"]
    assert "hunter2" in replication.master
    for shown in (repr(replication), str(replication), repr(config), f"{replication}"):
        assert "hunter2" not in shown
        assert "host=db1 password=*** dbname=a" in shown
        assert "postgresql://me:***@db2/b" in shown
        assert "name='shop'" in shown
        assert "batch_rows=200000" in shown


@pytest.mark.parametrize(
    "text",
    [
        "replications: {shop: {master: hunter2, slave: hunter2}}",
        "replications: {shop: {master: {password: hunter2}, slave: dbname=b}}",
        "replications: {shop: {master: '${PW}', slave: dbname=b}}",
        "replications: {shop: {password=hunter2 host=db1: 5}}",
        "replications: {host=db1 password=hunter2: {}}",
        "replications:\n  shop:\n    master: password=hunter2: x: y",
        "replications:\n  shop:\n    master: password=hunter2\n  - x",
        "replications: {shop: {master: *hunter2, slave: dbname=b}}",
        "replications: {shop: {master: !hunter2!x a, slave: dbname=b}}",
        "replications: {a: &hunter2 {}, b: &hunter2 {}}",
        'replications: "password=hunter2 \x07"',
        "log_level: ${PW}",
        with_settings("keepalive: ${PW}"),
        with_settings("keepalive: hunter2"),
        with_settings("commit: ${PW}"),
        with_settings("batch_rows: ${PW}"),
        with_settings("tables: ['${PW}']"),
        with_settings("tables: hunter2"),
    ],
)
def test_no_error_shows_a_value(text: str) -> None:
    error = refusal(text, {"PW": "hunter2"})
    assert "hunter2" not in error.line + error.hint + error.details
    # Causes and contexts too, which a traceback in the log prints.
    assert "hunter2" not in "".join(traceback.format_exception(error))


def test_a_string_is_a_connection_string_by_its_looks() -> None:
    assert dsn.is_dsn("dbname=shop")
    assert dsn.is_dsn("postgresql://")
    assert not dsn.is_dsn("shop")
    assert not dsn.is_dsn("mysql://db1/shop")


# The sample and the reference

ROOT_KEYS = {setting.name for setting in dataclasses.fields(Config)} - {"source"} | {"defaults"}
REPLICATION_KEYS = {setting.name for setting in dataclasses.fields(ReplicationConfig)} - {"name"}


def sample_text() -> str:
    return (files("pyreplica") / "contrib" / "pyreplica.yaml").read_text(encoding="utf-8")


def reference_sections() -> dict[str, str]:
    """Return the sections of docs/configuration.md whose titles are keys."""
    path = Path(__file__).parents[2] / "docs" / "configuration.md"
    _, *pieces = re.split(r"^###? ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    titled = (piece.split("\n", 1) for piece in pieces)
    return {title.strip("`"): text for title, text in titled if title.startswith("`")}


SAMPLE_ENVIRON = {
    "SHOP_MASTER_PASSWORD": "it's",
    "ARCHIVE_MASTER_PASSWORD": "a@b",
    "MAIL_PASSWORD": "hunter2",
}


def test_the_sample_loads() -> None:
    config = read(sample_text(), SAMPLE_ENVIRON)
    passwords = {
        replication.name: psycopg2.extensions.parse_dsn(replication.master)["password"]
        for replication in config.select([])
    }
    assert passwords == {"shop": "it's", "archive": "a@b"}


def test_the_settings_that_the_sample_leaves_out_are_the_defaults() -> None:
    everything = re.sub(r"^(\s*)#(?=\w)", r"\1", sample_text(), flags=re.MULTILINE)
    assert everything != sample_text()
    changed = read(everything, SAMPLE_ENVIRON)
    assert changed.replications == read(sample_text(), SAMPLE_ENVIRON).replications
    assert changed.log_level == "info"
    assert changed.alerts == read(sample_text(), SAMPLE_ENVIRON).alerts


def test_the_sample_shows_every_key() -> None:
    shown = set(re.findall(r"^\s*#?(\w+):", sample_text(), flags=re.MULTILINE))
    assert shown >= ROOT_KEYS | REPLICATION_KEYS


def test_the_reference_describes_every_key_and_no_other() -> None:
    assert set(reference_sections()) == ROOT_KEYS | REPLICATION_KEYS


def test_the_reference_gives_the_defaults_that_hold() -> None:
    optional: dict[str, Any] = {
        setting.name: setting.default
        for setting in dataclasses.fields(ReplicationConfig)
        if setting.default is not dataclasses.MISSING and setting.default is not None
    }
    sections = reference_sections()
    for key, default in optional.items():
        found = re.search(r"Default:\s`([^`]+)`", sections[key])
        assert found, key
        assert getattr(shop(f"{key}: {found[1]}"), key) == default


# Conflicts


def test_conflicts_have_policies_each() -> None:
    made = shop("conflicts: {insert_exists: apply, update_differs: skip}", "on_error: quarantine")
    assert made.conflicts == Policies(
        insert_exists=Policy.APPLY,
        update_missing=Policy.WARN,
        delete_missing=Policy.WARN,
        update_differs=Policy.SKIP,
    )
    assert made.on_error is OnError.QUARANTINE
    assert shop().conflicts == Policies()


def test_conflicts_and_policies_that_do_not_exist_are_refused_with_those_that_do() -> None:
    for written, said in (
        ("{update_missed: warn}", "conflicts.update_missed: unknown conflict"),
        ("{update_missing: ignore}", "expected error, warn, apply, skip or transform"),
        ("warn", "expected a mapping of conflicts"),
    ):
        assert said in refusal(with_settings(f"conflicts: {written}")).what


def test_a_transform_settles_conflicts_only_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "shop.py"
    path.write_text("def conflict(conflict): return 'skip'")
    made = shop("conflicts: {update_differs: transform}", f"transform: {path}")
    assert made.conflicts.asked == ["update_differs"]
    said = refusal(with_settings("conflicts: {update_differs: transform}"))
    assert "update_differs is to be settled by a transform, and there is none" in said.what
    assert "`transform:`" in said.hint


# Filters


def test_filters_say_which_rows_and_columns_of_a_table() -> None:
    made = shop(
        "filters: {public.customer: {where: ' region = ''${REGION}'' '}, ",
        "  Sales.Order: {columns: [id]}}",
        environ={"REGION": "eu"},
    )
    assert made.filter_of("public", "customer") == TableFilter("region = 'eu'", None)
    assert made.filter_of("Sales", "Order") == TableFilter(None, ("id",))
    assert made.filter_of("sales", "order") == TableFilter()


def test_filters_that_say_nothing_are_refused() -> None:
    for written, said in (
        ("[public.customer]", "expected a mapping of schema.table"),
        ("{customer: {where: x}}", "expected the name of a table, schema.table"),
        ("{'public.\"A\"': {where: x}}", "names are written without quotes"),
        ("{public.a: {}}", "expected where or python, columns or both"),
        ("{public.a: {were: x}}", "unknown key"),
        ("{public.a: {where: ' '}}", "expected a condition in SQL"),
        ("{public.a: {where: true}}", "expected a condition in SQL"),
        ("{public.a: {columns: id}}", "expected a list of columns"),
        ("{public.a: {columns: []}}", "expected a list of columns"),
        ("{public.a: {columns: [id, id]}}", "expected the name of another column"),
    ):
        assert said in refusal(with_settings(f"filters: {written}")).what


def test_a_filter_may_be_in_python() -> None:
    written = "filters: {public.a: {python: '  new[\"id\"] > ${LEAST}', on_error: pass}, "
    made = shop(
        written + 'public.b: {python: "\\n  import re\\n  return True\\n", columns: [id]}}',
        environ={"LEAST": "7"},
    )
    first = made.filter_of("public", "a")
    assert (first.python, first.on_error, first.where) == ('new["id"] > 7', "pass", None)
    assert str(first) == 'in Python new["id"] > 7; on_error pass'
    second = made.filter_of("public", "b")
    assert second == TableFilter(None, ("id",), "import re\nreturn True", "stop")
    assert not first.same(TableFilter(python='new["id"] > 7'))
    assert not first.same(TableFilter('new["id"] > 7'))


def test_filters_in_python_that_cannot_be_are_refused() -> None:
    for written, said in (
        ("{public.a: {python: x, where: x}}", "a table has one condition: where, or python"),
        ("{public.a: {where: x, on_error: stop}}", "on_error is for a condition in Python"),
        ("{public.a: {on_error: stop}}", "on_error is for a condition in Python"),
        ("{public.a: {python: x, on_error: ignore}}", "expected stop or pass"),
        ("{public.a: {python: ' '}}", "expected a condition in Python"),
        ("{public.a: {python: true}}", "expected a condition in Python"),
    ):
        assert said in refusal(with_settings(f"filters: {written}")).what
    refused = refusal(with_settings("capture: plpgsql", "filters: {public.a: {python: x}}"))
    assert "the filter of public.a is in Python, which needs `capture: plpython3u`" in refused.what


def test_filters_are_the_same_whatever_order_their_columns_have() -> None:
    one = TableFilter("x", ("a", "b"))
    assert one.same(TableFilter("x", ("b", "a")))
    assert not one.same(TableFilter("x", ("a",)))
    assert not one.same(TableFilter("x"))
    assert not TableFilter("x").same(TableFilter("y"))
