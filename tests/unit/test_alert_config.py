"""The section `alerts:`: what is accepted, what is refused and how, and that no password shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from pyreplica.config import parse
from pyreplica.config.alerts import AlertsConfig, EmailConfig, Security, event_name, names
from pyreplica.errors import ConfigError
from pyreplica.model import EventKind

NOTHING_SET: Mapping[str, str] = {}
SECRET = "hunter2secret"
EMAIL = "host: mail.example.com, from: pyreplica@example.com, to: [dba@example.com]"


def alerts(*lines: str, environ: Mapping[str, str] = NOTHING_SET) -> AlertsConfig:
    """The section; its first line is line 3 of the file."""
    text = "replications: {shop: {master: dbname=a, slave: dbname=b}}\nalerts:\n"
    text += "\n".join(f"  {line}" for line in lines)
    found = parse(text, "a.yaml", environ).alerts
    assert found is not None
    return found


def email(more: str = "", environ: Mapping[str, str] = NOTHING_SET) -> EmailConfig:
    found = alerts(f"email: {{{EMAIL}{more and ', '}{more}}}", environ=environ).email
    assert found is not None
    return found


def refusal(*lines: str) -> str:
    """The line and the hint of the error."""
    with pytest.raises(ConfigError) as caught:
        alerts(*lines)
    return f"{caught.value.line} | {caught.value.hint}"


def test_there_are_no_alerts_without_the_section() -> None:
    text = "replications: {shop: {master: dbname=a, slave: dbname=b}}"
    assert parse(text, "a.yaml", {}).alerts is None


def test_host_from_and_to_are_enough_and_the_rest_has_defaults() -> None:
    assert alerts(f"email: {{{EMAIL}}}") == AlertsConfig(
        EmailConfig(
            host="mail.example.com",
            sender="pyreplica@example.com",
            to=("dba@example.com",),
            port=None,
            security=Security.STARTTLS,
            ca_file=None,
            user=None,
            password=None,
            timeout=30.0,
            subject_prefix="[pyreplica]",
        ),
        command=None,
        command_timeout=30.0,
        events=frozenset(EventKind),
        repeat=3600.0,
    )


@pytest.mark.parametrize(("security", "port"), [("starttls", 587), ("tls", 465), ("none", 25)])
def test_the_port_follows_the_security(security: str, port: int) -> None:
    assert email(f"security: {security}").server == ("mail.example.com", port)
    assert email(f"security: {security}, port: 2525").server == ("mail.example.com", 2525)


def test_all_settings_are_read() -> None:
    found = alerts(
        f"email: {{{EMAIL}, timeout: 10s, subject_prefix: ''}}",
        'command: [/usr/local/bin/page, dba, "7"]',
        "command_timeout: 1min",
        "events: [error, recovered, in_doubt]",
        "repeat: 4h",
    )
    assert found.email is not None
    assert (found.email.timeout, found.email.subject_prefix) == (10, "")
    assert found.command == ("/usr/local/bin/page", "dba", "7")
    assert (found.command_timeout, found.repeat) == (60, 14400)
    assert names(found.events) == "error, recovered, in_doubt"


def test_a_password_comes_from_the_environment_and_is_not_shown() -> None:
    found = email("user: me, password: '${MAIL_PASSWORD}'", {"MAIL_PASSWORD": SECRET})
    assert found.password == SECRET
    assert SECRET not in f"{found!r}{found}"


def test_a_certificate_file_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_text("-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n")
    assert email(f"ca_file: {path}").ca_file == path
    path.write_text("hello")
    said = refusal(f"email: {{{EMAIL}, ca_file: {path}}}")
    assert f"a.yaml:3: alerts.email.ca_file: there is no certificate in {path}" in said
    said = refusal(f"email: {{{EMAIL}, ca_file: {tmp_path}/none}}")
    assert f"ca_file: {tmp_path}/none cannot be read: No such file or directory" in said
    assert "the absolute path of a file" in refusal(f"email: {{{EMAIL}, ca_file: ca.pem}}")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("repeat: 1h", "a.yaml:2: alerts: has neither email nor command"),
        ("emial: {}", "a.yaml:3: alerts.emial: unknown key | did you mean email?"),
        ("email: {host: m, to: [a@b]}", "a.yaml:3: alerts.email.from: is missing"),
        ("email: {host: m, from: a@b}", "a.yaml:3: alerts.email.to: is missing"),
        (f"email: {{{EMAIL}, sender: a@b}}", "alerts.email.sender: unknown key"),
        ("email: {host: 'm:25', from: a@b, to: [a@b]}", "the port is a key of its own"),
        ("email: {host: 'm n', from: a@b, to: [a@b]}", "alerts.email.host: expected the name"),
        ("email: {host: m, from: 'A <a@b>', to: [a@b]}", "the address alone, without a name"),
        ("email: {host: m, from: dba, to: [a@b]}", "alerts.email.from: expected an email"),
        ("email: {host: m, from: a@b, to: []}", "alerts.email.to: expected at least one"),
        ("email: {host: m, from: a@b, to: a@b}", "alerts.email.to: expected a list of email"),
        ("email: {host: m, from: a@b, to: [a@b, ö@b]}", "alerts.email.to[2]: expected an email"),
        ('email: {host: m, from: "a@b\\nBcc: c@d", to: [a@b]}', "alerts.email.from: expected"),
        (f"email: {{{EMAIL}, security: ssl}}", "expected starttls, tls or none"),
        (f"email: {{{EMAIL}, port: 0}}", "alerts.email.port: expected a whole number from 1 to"),
        (f"email: {{{EMAIL}, timeout: 30}}", "alerts.email.timeout: expected a duration"),
        (f"email: {{{EMAIL}, user: me}}", "alerts.email.user: there is no password with it"),
        (f"email: {{{EMAIL}, password: {SECRET}}}", "password: there is no user with it"),
        (
            f"email: {{{EMAIL}, security: none, user: me, password: {SECRET}}}",
            "alerts.email.password: would be sent in the clear | choose security: starttls",
        ),
        (f"email: {{{EMAIL}, user: me, password: '{SECRET}ö'}}", "printable characters of ASCII"),
        (f'email: {{{EMAIL}, subject_prefix: "a\\nb"}}', "expected a text of up to 60"),
        ("command: page", "alerts.command: expected a list of a program and its arguments"),
        ("command: []", "alerts.command: expected a list of a program"),
        ("command: [page, 7]", "alerts.command[2]: expected text; put numbers in quotes"),
        ("command: [./page]", "alerts.command: the program's path must be absolute"),
        ('command: [page, "a\\0b"]', "alerts.command: holds a character"),
        ("events: []", "alerts.events: expected at least one event"),
        ("events: [errors]", "alerts.events[1]: expected the name of an event | did you mean"),
        ("repeat: 1s", "alerts.repeat: expected a duration from 1min to 7d"),
        ("command_timeout: none", "alerts.command_timeout: expected a duration"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(line: str, says: str) -> None:
    said = refusal(line)
    assert says in said
    assert SECRET not in said


def test_every_kind_of_event_can_be_named() -> None:
    for kind in EventKind:
        found = alerts("command: [page]", f"events: [{event_name(kind)}]")
        assert found.events == {kind}
