"""The section `http:` of the configuration: strictly checked, off by default."""

from __future__ import annotations

import pytest

from pyreplica.config import parse
from pyreplica.config.http import HttpConfig
from pyreplica.errors import ConfigError

BEFORE = """replications:
  shop: {master: host=a dbname=b, slave: host=c dbname=d}
"""


def http(text: str) -> HttpConfig | None:
    return parse(BEFORE + text, "shop.yaml", {"PORT": "8081", "HOST": "::1"}).http


def test_without_the_section_there_is_no_page() -> None:
    assert http("") is None


def test_a_port_is_enough_and_others_cannot_reach_it() -> None:
    assert http("http: {port: 8080}") == HttpConfig(8080, "127.0.0.1", ())


def test_all_keys_and_variables() -> None:
    found = http("http: {port: '${PORT}', host: '${HOST}', names: [Status.Example.com, db-1]}")
    assert found == HttpConfig(8081, "::1", ("status.example.com", "db-1"))


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("http:", "http: has no value; expected a mapping of settings", ""),
        ("http: {}", "http.port: is missing", ""),
        ("http: {port: 0}", "http.port: expected a whole number from 1 to 65,535", ""),
        ("http: {port: 65536}", "http.port: expected a whole number", ""),
        ("http: {port: '8080'}", "http.port: expected a whole number", ""),
        ("http: {prot: 8080}", "http.prot: unknown key", "did you mean port?"),
        ("http: {port: 80, host: '127.0.0.1:80'}", "http.host: expected a name", "a key of its"),
        ("http: {port: 80, host: 'a b'}", "http.host: expected a name", ""),
        ("http: {port: 80, host: 'http://a'}", "http.host: expected a name", ""),
        ("http: {port: 80, names: a.example.com}", "http.names: expected a list", ""),
        ("http: {port: 80, names: ['*']}", "http.names[1]: expected a name", "the name alone"),
        ("http: {port: 80, names: ['a:80']}", "http.names[1]: expected a name", "the name alone"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, says: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        http(text)
    assert f"shop.yaml:3: {says}" in caught.value.line
    assert hint in caught.value.hint
